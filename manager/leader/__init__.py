"""One manager at a time: file lock, epochs, and a watchdog for the manager's own connection."""
