"""Streams a worker's log while somebody follows it: the last lines, then new ones."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from busbar.bus.clock import Clock
from busbar.bus.connection.link import Link
from busbar.bus.decode import encode
from busbar.bus.messages import LogChunk
from busbar.bus.topics import Topics

from ..processes import logs

log = logging.getLogger("busbar.agent")

PACKET_OVERHEAD: Final = 64
"""Bytes of a packet besides topic and payload."""
INTERVAL_S: Final = 0.25
MAX_LINES: Final = 100
"""Lines published per `INTERVAL_S`; more are dropped and counted."""
MAX_READ: Final = 64 * 1024
MAX_CHARS: Final = 1000
"""Characters per line."""
MAX_FOLLOWED: Final = 16
"""Workers followed at the same time."""


@dataclass(slots=True)
class _Lease:
    until: float
    task: asyncio.Task[None] | None = None


class LogStreamer:
    """Streams logs. `find` gives the log of a worker by name and cluster, or None."""

    def __init__(
        self,
        link: Link,
        topics: Topics,
        node: str,
        clock: Clock,
        find: Callable[[str, str | None], Path | None],
    ) -> None:
        self._link, self._topics, self._node, self._clock = link, topics, node, clock
        self._find = find
        self._leases: dict[tuple[str, str | None], _Lease] = {}

    def follow(self, worker: str, cluster: str | None, lines: int, lease_ms: int) -> None:
        """Start a stream or extend its lease (0 ends it). Unknown workers, and too many, are ignored."""
        key, until = (worker, cluster), self._clock.monotonic() + lease_ms / 1000
        lease = self._leases.get(key)
        if lease is not None:
            lease.until = until
        elif lease_ms > 0 and len(self._leases) < MAX_FOLLOWED and self._find(worker, cluster) is not None:
            lease = self._leases[key] = _Lease(until)
            lease.task = asyncio.create_task(self._run(key, lease, lines), name=f"follow {worker}")

    def close(self) -> None:
        """End all streams."""
        for lease in self._leases.values():
            if lease.task is not None:
                lease.task.cancel()

    async def _run(self, key: tuple[str, str | None], lease: _Lease, lines: int) -> None:
        try:
            await self._tail(key, lease, lines)
        except Exception:
            log.exception("following %s failed", key[0])
        finally:
            self._leases.pop(key, None)

    async def _tail(self, key: tuple[str, str | None], lease: _Lease, lines: int) -> None:
        path = self._find(*key)
        if path is None:
            return
        at = _size(path)
        self._publish(key, logs.tail(path, min(lines, MAX_LINES * 10), MAX_READ), 0)
        while self._clock.monotonic() < lease.until:
            await self._clock.sleep(INTERVAL_S)
            fresh, dropped, at = read_lines(path, at)
            if fresh or dropped:
                self._publish(key, fresh, dropped)

    def _publish(self, key: tuple[str, str | None], lines: list[str], dropped: int) -> None:
        worker, cluster = key
        topic = self._topics.node_log(self._node, worker)
        room = self._link.max_packet - len(topic) - PACKET_OVERHEAD
        while True:
            payload = encode(LogChunk(lines=lines, worker=worker, cluster=cluster, dropped=dropped))
            if len(payload) <= room or not lines:
                break
            cut = (len(lines) + 1) // 2
            lines, dropped = lines[cut:], dropped + cut
        self._link.post(topic, payload, qos=0)


def read_lines(path: Path, at: int) -> tuple[list[str], int, int]:
    """Complete lines after byte `at`: the last `MAX_LINES`, how many were dropped, and the next offset.

    Of more than `MAX_READ` bytes the first are skipped and count as one dropped line.
    """
    size = _size(path)
    at = 0 if size < at else at
    skipped = 0
    if size - at > MAX_READ:
        at, skipped = size - MAX_READ, 1
    raw = _read(path, at, size - at)
    end = raw.rfind(b"\n") + 1 or (len(raw) if len(raw) >= MAX_READ else 0)
    lines = [_clean(line) for line in raw[:end].decode(errors="replace").splitlines()]
    return lines[-MAX_LINES:], skipped + max(0, len(lines) - MAX_LINES), at + end


def _clean(line: str) -> str:
    """Remove control characters: a worker's output must not control a reader's terminal."""
    return "".join(char for char in line if char.isprintable() or char == "\t")[:MAX_CHARS]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _read(path: Path, at: int, count: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(at)
            return file.read(count)
    except OSError:
        return b""
