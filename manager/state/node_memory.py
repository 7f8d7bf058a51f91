"""What the monitor and the reads need beside the store: liveness times, worker figures, times of statuses.

It is in memory only. Silence counts from the moment this process began to listen at the earliest, so neither
a restart nor an outage of the broker makes a node late at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import copy
from typing import Final, NamedTuple

from busbar.bus.clock import Clock
from busbar.bus.messages import Traffic
from busbar.bus.states import WorkerState
from msgspec import Struct
from msgspec.structs import replace

from ..planner.model import LivenessTiming

RAN_S: Final = 105.0
"""Seconds of failed starts after which a worker that was ready counts as failing where it is."""
GRACE: Final = 2
"""Length of the grace period after a (re)start of manager or broker, in lost thresholds."""


class WorkerStat(NamedTuple):
    """What an agent last measured of a worker: milliseconds since its start, CPU seconds, bytes resident, and
    what the worker said of its clients."""

    uptime_ms: int | None = None
    cpu_s: float | None = None
    rss: int | None = None
    traffic: Traffic | None = None


class _Node(Struct):
    """Times of one node, in monotonic seconds."""

    heard: float | None = None
    since: float = 0.0
    """When it was paired again: what was heard of it before does not count."""
    will: float | None = None
    refuses: float | None = None
    peers: float = -math.inf
    """When it was last told of peers."""


class NodeMemory:
    """The memory. `timing.grace_until` moves with `start_listening`; all times are monotonic seconds."""

    def __init__(self, clock: Clock, timing: LivenessTiming | None = None) -> None:
        self._clock = clock
        self._timing = timing or LivenessTiming()
        self._nodes: dict[str, _Node] = {}
        self._stats: dict[str, tuple[WorkerStat, float]] = {}
        self._since: dict[str, tuple[str, float]] = {}
        self._none_ready: dict[str, float] = {}
        self._failing: dict[str, tuple[int, float | None]] = {}
        self._avoided: dict[tuple[str, str], float] = {}
        self.listening_since = self.last_heard = 0.0
        self.hold: str | None = None
        """The reason of the mass failure hold, as last read from the store; None when there is none."""
        self.start_listening()

    @property
    def timing(self) -> LivenessTiming:
        return self._timing

    def start_listening(self) -> None:
        """The manager can hear nodes from now on: silence counts from here, with a grace period."""
        now = self._clock.monotonic()
        self.listening_since = now
        grace = GRACE * self._timing.lost_after * self._timing.heartbeat
        self._timing = replace(self._timing, grace_until=now + grace)

    def fork(self, clock: Clock) -> NodeMemory:
        """A copy with a clock of its own, for what is only tried."""
        other = copy(self)
        other.detach(clock)
        return other

    def detach(self, clock: Clock) -> None:
        """Part from what this is a copy of."""
        self._clock = clock
        self._nodes = {oid: replace(node) for oid, node in self._nodes.items()}
        self._stats, self._since = dict(self._stats), dict(self._since)
        self._none_ready, self._failing = dict(self._none_ready), dict(self._failing)
        self._avoided = dict(self._avoided)

    # --- nodes

    def record_heard(self, node_oid: str) -> None:
        """A sign of life: a will that arrived before it no longer counts."""
        node = self._node(node_oid)
        self.last_heard = node.heard = self._clock.monotonic()
        node.will = None

    def heard_at(self, node_oid: str) -> float | None:
        """The last sign of life; None when this process has heard none."""
        node = self._nodes.get(node_oid)
        return None if node is None else node.heard

    def silent_since(self, node_oid: str) -> float:
        """The last sign of life, or the time when listening began, whichever is later."""
        node = self._node(node_oid)
        return max(self.listening_since, node.since if node.heard is None else node.heard)

    def heard_once(self, node_oid: str) -> bool:
        """Whether it was heard since listening began."""
        heard = self.heard_at(node_oid)
        return heard is not None and heard >= self.listening_since

    def record_will(self, node_oid: str) -> None:
        """The will of the node's present connection arrived."""
        self._node(node_oid).will = self._clock.monotonic()

    def will_at(self, node_oid: str) -> float | None:
        return self._node(node_oid).will

    def refuses_since(self, node_oid: str, refuses: bool) -> float | None:
        """Record whether a node follows another manager; returns since when it does, None when it does not.

        What it said before listening began is no evidence of what it does now.
        """
        node = self._node(node_oid)
        if not refuses:
            node.refuses = None
            return None
        if node.refuses is None or node.refuses < self.listening_since:
            node.refuses = max(self._clock.monotonic(), self.listening_since)
        return node.refuses

    def told_peers(self, node_oid: str) -> None:
        """Its assignment says something else of meshed groups from now on."""
        self._node(node_oid).peers = self._clock.monotonic()

    def peers_told_at(self, node_oid: str) -> float:
        return self._node(node_oid).peers

    def paired(self, node_oid: str) -> None:
        """It was paired again: its silence counts from now on, and it was not heard yet."""
        self._nodes[node_oid] = _Node(since=self._clock.monotonic())

    def forget_node(self, node_oid: str) -> None:
        self._nodes.pop(node_oid, None)

    # --- workers

    def stat(self, worker_oid: str) -> WorkerStat:
        """A worker's last figures; its uptime is extrapolated to now."""
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
        self._failing.pop(worker_oid, None)

    def failing_since(self, worker_oid: str, generation: int, state: WorkerState) -> float | None:
        """Record a worker's state; returns since when it has failed to start as this generation.

        None where it has not failed since it was last ready. For one that was ready it lies RAN_S ahead: its
        program is the likelier cause, and what it stored is on that node.
        """
        known = self._failing.get(worker_oid)
        if known is not None and known[0] != generation:
            del self._failing[worker_oid]
            known = None
        if state is WorkerState.RUNNING:
            known = self._failing[worker_oid] = (generation, None)
        elif state is WorkerState.BACKOFF and (known is None or known[1] is None):
            patience = 0.0 if known is None else RAN_S
            known = self._failing[worker_oid] = (generation, self._clock.monotonic() + patience)
        return known[1] if known is not None else None

    # --- groups and clusters

    def since(self, oid: str) -> float | None:
        """Since when a group or cluster has had its status; None when this process has not seen it."""
        known = self._since.get(oid)
        return None if known is None else known[1]

    def entered(self, oid: str, status: str) -> float:
        """Record the status of a group or cluster; returns since when it has had it."""
        known = self._since.get(oid)
        if known is None or known[0] != status:
            known = self._since[oid] = (status, self._clock.monotonic())
        return known[1]

    def none_ready(self, group_oid: str, none: bool) -> float | None:
        """Record whether none of a group's workers is ready; returns since when, None while one is."""
        if not none:
            self._none_ready.pop(group_oid, None)
            return None
        return self._none_ready.setdefault(group_oid, self._clock.monotonic())

    def avoid(self, group_oid: str, node_oid: str, until: float) -> None:
        """A worker of the group could not start on that node."""
        self._avoided[group_oid, node_oid] = until

    def avoided(self) -> Mapping[tuple[str, str], float]:
        """Until when groups avoid nodes."""
        now = self._clock.monotonic()
        self._avoided = {key: until for key, until in self._avoided.items() if until > now}
        return self._avoided

    def forget(self, oid: str) -> None:
        """A group or cluster is gone."""
        self._since.pop(oid, None)
        self._none_ready.pop(oid, None)

    def _node(self, node_oid: str) -> _Node:
        node = self._nodes.get(node_oid)
        if node is None:
            node = self._nodes[node_oid] = _Node()
        return node
