"""Pure decisions: a snapshot and a time in, actions out. Imports no other wing."""
