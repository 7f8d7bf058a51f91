"""The commands, one file for each word that follows `busbar`."""
