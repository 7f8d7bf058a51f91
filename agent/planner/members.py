"""Which members of a cluster of routers are gone for good, so that the others no longer count on them. Pure.

A router that is merely away comes back with what it has, and stays a member. One whose slot is closed does
not, and a majority of all members, it included, would have to be there for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from busbar.bus.messages import Members
from busbar.bus.routers.router_options import tail

LOOKS: Final = 3
"""One is removed when so many looks in a row have found it gone: an assignment may be on its way."""


def leaves(oid: str, worker: str, cluster: str, members: Members) -> bool:
    """Whether a worker that is to be stopped leaves its group for good, which goes on without it."""
    others = members.get(f"{cluster}/{worker.rpartition('-')[0]}")
    return bool(others) and oid not in (others or ())


def group_of(oid: str, members: Members) -> list[str]:
    """The members of the group of a worker, itself included; none where it is none."""
    return next((each for each in members.values() if oid in each), [])


def gone(away: Iterable[str], members: Iterable[str]) -> set[str]:
    """Those of the routers that do not answer which belong to no member. Routers have their worker's name, a
    dot and the tail of its oid; others are not ours."""
    known = {tail(oid) for oid in members}
    return {name for name in away if (found := name.partition(".")[2]) and found not in known}


def counted(before: Mapping[str, int], found: Iterable[str]) -> dict[str, int]:
    """In how many looks in a row each was found gone."""
    return {name: before.get(name, 0) + 1 for name in found}


def due(counts: Mapping[str, int]) -> list[str]:
    """Those that are to be removed now."""
    return sorted(name for name, looks in counts.items() if looks >= LOOKS)
