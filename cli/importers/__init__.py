"""Configurations of other programs, read as definitions."""
