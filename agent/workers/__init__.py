"""One worker's life: start, adopt, probe, stop."""
