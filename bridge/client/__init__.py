"""Separators that run on a server, used from here."""
