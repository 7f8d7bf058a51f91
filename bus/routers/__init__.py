"""What a router may be asked to do: its transports, options and permissions, in definitions."""
