"""What passes between a router of a meshed group and each of the others. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

_UNITS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}
_PART: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(h|ms|m|s|µs|ns)")
_DURATION: Final = re.compile(rf"(?:{_PART.pattern})+")


class MeshLink(Struct, frozen=True):
    """Connections of a router to one other: messages since they were made, bytes that wait to be sent, and
    the round trip of the slowest, seconds, where it is known."""

    messages_in: int = 0
    messages_out: int = 0
    pending: int = 0
    rtt_s: float | None = None

    def __add__(self, other: MeshLink) -> MeshLink:
        known = [each for each in (self.rtt_s, other.rtt_s) if each is not None]
        return MeshLink(
            self.messages_in + other.messages_in,
            self.messages_out + other.messages_out,
            self.pending + other.pending,
            max(known, default=None),
        )


MeshLinks = Mapping[str, MeshLink]
"""By the names of the workers that a router is connected to."""


def seconds(duration: str) -> float | None:
    """A duration as Go writes it (`1m2.5s`, `329µs`), in seconds; None for none.

    Source: `time.Duration.String` of Go's standard library.
    """
    if not _DURATION.fullmatch(duration):
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(duration))
