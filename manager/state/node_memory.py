"""What the monitor reads of what was heard, in memory only: signs of life, figures, and since when things are
as they are.

A restart forgets all of it. What this process did not witness counts from the moment it began to listen, so a
restart, or a broker that was away, makes nobody late at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from busbar.bus.clock import Clock

from ..planner.model import Timing

GRACE: Final = 2
"""How many times the lost threshold lasts the grace after a (re)start of manager or broker."""


class WorkerStat(NamedTuple):
    """What an agent last measured of a worker: milliseconds since its start, CPU seconds, bytes resident."""

    uptime_ms: int | None = None
    cpu_s: float | None = None
    rss: int | None = None


@dataclass(slots=True)
class _Node:
    """Memory of one node. Times are monotonic seconds."""

    heard: float | None = None
    will: float | None = None


class Observed:
    """The memory. `timing` are the constants; its grace moves with `listen`."""

    def __init__(self, clock: Clock, timing: Timing | None = None) -> None:
        self._clock = clock
        self._timing = timing or Timing()
        self._nodes: dict[str, _Node] = {}
        self._stats: dict[str, tuple[WorkerStat, float]] = {}
        self._since: dict[str, tuple[str, float]] = {}
        self._none_ready: dict[str, float] = {}
        self.listening_since = self.last_heard = 0.0
        self.brake: str | None = None
        """Why nothing is moved, as last read from the store; None when the brake is off."""
        self.listen()

    @property
    def timing(self) -> Timing:
        return self._timing

    def listen(self) -> None:
        """The manager hears the broker from now on: silence is counted anew, and leniently for a while."""
        now = self._clock.monotonic()
        self.listening_since = now
        grace = GRACE * self._timing.lost_after * self._timing.heartbeat
        self._timing = replace(self._timing, grace_until=now + grace)

    # --- nodes

    def heard(self, node_oid: str) -> None:
        """A sign of life: whatever will came before it no longer counts."""
        node = self._node(node_oid)
        self.last_heard = node.heard = self._clock.monotonic()
        node.will = None

    def heard_at(self, node_oid: str) -> float | None:
        """The last sign of life; None when this process has heard none."""
        node = self._nodes.get(node_oid)
        return None if node is None else node.heard

    def silent_since(self, node_oid: str) -> float:
        """The last sign of life, or the time when listening began, whichever is later."""
        heard = self.heard_at(node_oid)
        return self.listening_since if heard is None else max(heard, self.listening_since)

    def heard_once(self, node_oid: str) -> bool:
        """Whether it was heard since listening began."""
        heard = self.heard_at(node_oid)
        return heard is not None and heard >= self.listening_since

    def will(self, node_oid: str) -> None:
        """The node's will arrived."""
        self._node(node_oid).will = self._clock.monotonic()

    def will_at(self, node_oid: str) -> float | None:
        return self._node(node_oid).will

    def forget_node(self, node_oid: str) -> None:
        self._nodes.pop(node_oid, None)

    # --- workers

    def stat(self, worker_oid: str) -> WorkerStat:
        """Uptime (ms, counted on since the report), CPU seconds and resident bytes of a worker."""
        stat, at = self._stats.get(worker_oid, (WorkerStat(), 0.0))
        if stat.uptime_ms is None:
            return stat
        return stat._replace(uptime_ms=stat.uptime_ms + int((self._clock.monotonic() - at) * 1000))

    def set_stats(self, stats: Mapping[str, WorkerStat]) -> None:
        now = self._clock.monotonic()
        for worker_oid, stat in stats.items():
            self._stats[worker_oid] = (stat, now)

    def forget_worker(self, worker_oid: str) -> None:
        self._stats.pop(worker_oid, None)

    # --- groups and clusters

    def since(self, oid: str) -> float | None:
        """Since when a group or cluster has had its status, as far as this process saw."""
        known = self._since.get(oid)
        return None if known is None else known[1]

    def entered(self, oid: str, status: str) -> float:
        """Note the status that a group or cluster has; return since when it has had it."""
        known = self._since.get(oid)
        if known is None or known[0] != status:
            known = self._since[oid] = (status, self._clock.monotonic())
        return known[1]

    def none_ready(self, group_oid: str, none: bool) -> float | None:
        """Note whether none of a group's workers is ready; return since when that has been so."""
        if not none:
            self._none_ready.pop(group_oid, None)
            return None
        return self._none_ready.setdefault(group_oid, self._clock.monotonic())

    def forget(self, oid: str) -> None:
        """A group or cluster is gone."""
        self._since.pop(oid, None)
        self._none_ready.pop(oid, None)

    def _node(self, node_oid: str) -> _Node:
        node = self._nodes.get(node_oid)
        if node is None:
            node = self._nodes[node_oid] = _Node()
        return node
