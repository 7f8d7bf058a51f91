"""What a command prints: tables, objects, numbers, the terminal's streams."""
