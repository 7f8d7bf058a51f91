"""The monitor, and what it writes."""
