"""The machine that a service runs on: files, programs, service manager, certificates, log lines."""
