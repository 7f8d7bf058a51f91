"""The user that a runtime's workers run as. Pure."""

from __future__ import annotations

from msgspec import Struct


class RunAs(Struct, frozen=True):
    """A user of this host with all groups that it is in."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
