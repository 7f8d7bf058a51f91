"""What the messages of a node may hold: one rule for admission and placement. Pure.

Sizes are bytes of JSON.

An assignment holds definitions and workers, a report holds workers. A quarter of a packet is for the large
definitions of all clusters that may run on a node, which bounds them wherever workers are placed; the rest
is for workers, each with a small definition, which bounds their number on a node.
"""

from __future__ import annotations

from math import ceil
from typing import Final

from busbar.bus.decode import MAX_REPORT

ENVELOPE: Final = 512
"""Topic, packet header and the members of an assignment or report besides workers and definitions."""
SMALL: Final = 256
"""A definition up to this size counts as part of its worker."""
WORKER: Final = 640 + SMALL
"""The most that one worker takes, in an assignment (with the longest names) or in a shortened report."""

PEER: Final = 560
"""What a node is told of one worker of a meshed group, with four listeners; counted as a definition."""


def definitions_limit(max_packet: int) -> int:
    """Bytes for all large definitions of a node."""
    return min(max_packet, MAX_REPORT) // 4


def workers_limit(max_packet: int) -> int:
    """The number of workers on a node, of all clusters together; at least 1."""
    return max(1, (min(max_packet, MAX_REPORT) - definitions_limit(max_packet) - ENVELOPE) // WORKER)


def fullest(scale: int, members: int) -> int:
    """Workers of a cluster on its fullest node when they are spread evenly."""
    return ceil(scale / members) if members else 0
