"""One active manager: file lock, epochs, and a watchdog for the manager's own connection."""
