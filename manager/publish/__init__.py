"""Everything that the manager publishes: no other wing publishes."""
