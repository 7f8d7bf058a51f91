"""Faults with real processes, which are killed, suspended, partitioned or deceived; see the catalogue."""
