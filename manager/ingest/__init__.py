"""Reports in: messages of nodes, turned into changes of the store."""
