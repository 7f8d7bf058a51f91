"""What `busbar top` shows: workers and nodes with what they use, from statuses and reports. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from busbar.bus.messages import Traffic
from msgspec import Struct

from . import numbers


class Sample(Struct, frozen=True):
    """The usage of a worker's processes. `pid` tells whose, and so does an `uptime_ms` that begins anew."""

    pid: int | None
    uptime_ms: int | None
    cpu_s: float | None
    rss: int | None
    traffic: Traffic | None = None


class WorkerRow(Struct, frozen=True):
    """A worker. `cpu` is the share of one processor since the report before, or else since its start.

    `messages_in` and `messages_out` are those a second of its clients, over the same time; null: it does not
    tell them.
    """

    worker: str
    status: str
    node: str | None
    cpu: float | None
    rss: int | None
    uptime_ms: int | None
    restarts: int
    reason: str | None
    connections: int | None = None
    messages_in: float | None = None
    messages_out: float | None = None


class NodeRow(Struct, frozen=True):
    """A node, with the sums of its workers."""

    node: str
    status: str
    workers: int
    cpu: float
    rss: int


class Picture(Struct, frozen=True):
    """All that is shown at one moment."""

    realm: str
    nodes: list[NodeRow]
    workers: list[WorkerRow]


@dataclass(slots=True)
class _Worker:
    status: str = ""
    node: str | None = None
    reason: str | None = None
    restarts: int = 0
    pid: int | None = None
    sample: Sample | None = None
    cpu: float | None = None
    rates: tuple[float, float] | None = None


SORTS: Final[dict[str, Callable[[WorkerRow], tuple[object, ...]]]] = {
    "cpu": lambda row: (-(row.cpu or 0), row.worker),
    "memory": lambda row: (-(row.rss or 0), row.worker),
    "restarts": lambda row: (-row.restarts, row.worker),
    "name": lambda row: (row.worker,),
}


class Board:
    """What is known of workers and nodes now."""

    def __init__(self, realm: str) -> None:
        self._realm = realm
        self._workers: dict[str, _Worker] = {}
        self._nodes: dict[str, str] = {}

    def node(self, name: str, status: str | None) -> None:
        """A node's status; None: it is gone."""
        if status is None:
            self._nodes.pop(name, None)
        else:
            self._nodes[name] = status

    def worker(
        self,
        name: str,
        status: str | None,
        node: str | None,
        reason: str | None,
        restarts: int,
        pid: int | None,
    ) -> None:
        """A worker's status; None: it is gone."""
        if status is None:
            self._workers.pop(name, None)
            return
        known = self._workers.setdefault(name, _Worker())
        known.status, known.node, known.reason = status, node, reason
        known.restarts, known.pid = restarts, pid
        if node is None or (known.sample is not None and known.sample.pid != pid):
            known.sample = known.cpu = known.rates = None

    def usage(self, name: str, sample: Sample) -> None:
        """What a worker uses, as its node reports it."""
        known = self._workers.get(name)
        if known is None or sample.cpu_s is None or sample.uptime_ms is None:
            return
        before = known.sample if known.sample and known.sample.pid == sample.pid else None
        if before is not None and sample.uptime_ms < (before.uptime_ms or 0):
            before = None  # another process of that number
        used, ms = sample.cpu_s, sample.uptime_ms
        if before is not None and before.cpu_s is not None and before.uptime_ms is not None:
            used, ms = used - before.cpu_s, ms - before.uptime_ms
            if ms < 1000:
                return  # too short to tell
        known.cpu = max(0.0, used) / ms * 1000 if ms > 0 else None
        known.rates = _rates(before, sample)
        known.sample = sample

    def picture(self, sort: str, cluster: str | None = None, node: str | None = None) -> Picture:
        """What is to be shown, filtered and sorted."""
        rows = [
            WorkerRow(
                name, w.status, w.node, w.cpu, w.sample.rss if w.sample else None,
                w.sample.uptime_ms if w.sample else None, w.restarts, w.reason,
                w.sample.traffic.connections if w.sample and w.sample.traffic else None,
                *(w.rates or (None, None)),
            )
            for name, w in self._workers.items()
            if (cluster is None or name.startswith(f"{cluster}/")) and node in (None, w.node)
        ]  # fmt: skip
        rows.sort(key=SORTS[sort])
        nodes = [
            self._sum(name, status, [row for row in rows if row.node == name])
            for name, status in sorted(self._nodes.items())
            if node in (None, name)
        ]
        return Picture(self._realm, nodes, rows)

    def _sum(self, name: str, status: str, rows: list[WorkerRow]) -> NodeRow:
        return NodeRow(name, status, len(rows), sum(r.cpu or 0 for r in rows), sum(r.rss or 0 for r in rows))


def _rates(before: Sample | None, now: Sample) -> tuple[float, float] | None:
    """Messages a second, in and out: since the sample before where that has them, or else since the start."""
    if now.traffic is None or not now.uptime_ms:
        return None
    ms, known = now.uptime_ms, (0, 0)
    if before is not None and before.traffic is not None and before.uptime_ms is not None:
        ms, known = ms - before.uptime_ms, (before.traffic.messages_in, before.traffic.messages_out)
    counts = (now.traffic.messages_in - known[0], now.traffic.messages_out - known[1])
    return max(0, counts[0]) / ms * 1000, max(0, counts[1]) / ms * 1000


def head(picture: Picture) -> str:
    """One line about all of it."""
    return (
        f"realm {picture.realm}: {_counts('node', [n.status for n in picture.nodes])}; "
        f"{_counts('worker', [w.status for w in picture.workers])}; "
        f"CPU {numbers.percent(sum(n.cpu for n in picture.nodes))}, "
        f"memory {numbers.size(sum(n.rss for n in picture.nodes))}"
    )


def _counts(what: str, statuses: Iterable[str]) -> str:
    found: dict[str, int] = {}
    for status in statuses:
        found[status] = found.get(status, 0) + 1
    total = sum(found.values())
    parts = ", ".join(f"{count} {status}" for status, count in sorted(found.items()))
    return f"{total} {what}{'s'[total == 1 :]}" + (f" ({parts})" if parts else "")
