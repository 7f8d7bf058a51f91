"""What a command looks at before it asks for a change that would do harm."""
