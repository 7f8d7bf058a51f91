"""The client of the bus, for programs: typed operations, watching, waiting (docs/howto/python-client.md)."""
