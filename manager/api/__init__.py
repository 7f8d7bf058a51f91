"""Requests in: decode, authorise, run one operation, reply."""
