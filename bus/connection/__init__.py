"""The connection to a broker: link, reconnects, broker rotation, calls."""
