"""Mutation testing of the files that decide: small faults are made in them, and the unit tests must notice.

Run it with `python -m tests.mutants --help`, or `make mutants`; it is no part of the suite.
"""
