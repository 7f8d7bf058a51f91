"""The manager for Prometheus: `families` of this moment, `recorder` of what happened, `serving` of both."""
