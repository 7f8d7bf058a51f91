"""Real faults: real processes that are killed, paused, cut off, lied to; the catalogue says which."""
