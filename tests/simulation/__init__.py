"""A seeded, single-threaded simulation of the real manager and agents: faults in, invariants held.

One event loop in virtual time carries everything: an in-memory broker with bad weather, processes that crash,
hang and ignore signals, and every Busbar program as a `Program` that can be killed between any two of its
steps. Run it with `python -m tests.simulation --help`.
"""
