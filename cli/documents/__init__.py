"""Definitions in files and in the realm."""
