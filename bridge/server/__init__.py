"""The websocket server: connections, sessions, and the separators that they share."""
