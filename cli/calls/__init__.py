"""Calls to the manager: the connection, waiting, watching, and what a change would do."""
