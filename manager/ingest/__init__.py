"""Reports in: what nodes say, turned into changes of the store."""
