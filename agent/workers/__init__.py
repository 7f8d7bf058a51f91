"""One worker's life: launch, adopt, probe, stop, recover."""
