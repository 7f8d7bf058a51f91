"""Pure decisions: assignment, workers and a time in, steps out. Imports no other wing."""
