"""The operating system: processes, /proc, logs, ports, sockets."""
