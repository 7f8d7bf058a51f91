"""Groups of nats-server as one router, measured: `python -m tests.mesh --help`."""
