"""Clients: separators whose network runs on a server."""
