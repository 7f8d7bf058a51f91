"""Changes tried on a copy of the state: what the monitor would do with them."""
