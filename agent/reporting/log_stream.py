"""Streams a worker's log while somebody follows it: the last lines, then new ones."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from busbar.bus.clock import Clock
from busbar.bus.connection.link import Link
from busbar.bus.decode import encode
from busbar.bus.messages import Command, LogChunk
from busbar.bus.topics import Topics
from msgspec import Struct

from ..processes.log_history import LogHistory

log = logging.getLogger("busbar.agent")

PACKET_OVERHEAD: Final = 64
"""Bytes of a packet besides topic and payload."""
INTERVAL_S: Final = 0.25
MAX_LINES: Final = 100
"""Lines published per `INTERVAL_S`; more are dropped and counted."""
ALL_LINES: Final = 1600
"""The same, of all logs that are followed together."""
PAST_LINES: Final = 1000
"""Past lines of one answer."""
MAX_READ: Final = 64 * 1024
MAX_CHARS: Final = 1000
"""Characters per line."""
MAX_FOLLOWED: Final = 64
"""Workers followed at the same time."""

_Key = tuple[str, str | None]


class _Stream(Struct):
    id: str
    until: float
    path: Path
    at: int = 0
    """The position up to which its lines have been published."""
    number: int = 0
    """Of the last chunk."""
    task: asyncio.Task[None] | None = None


class LogStreamer:
    """Streams logs. `find` gives the log of a worker by name and cluster, or None."""

    def __init__(
        self,
        link: Link,
        topics: Topics,
        node: str,
        clock: Clock,
        history: LogHistory,
        find: Callable[[str, str | None], Path | None],
        new_id: Callable[[], str],
    ) -> None:
        self._link, self._topics, self._node, self._clock = link, topics, node, clock
        self._history, self._find, self._new_id = history, find, new_id
        self._streams: dict[_Key, _Stream] = {}

    def follow(self, asked: Command) -> None:
        """Start a stream or extend its lease (0 ends it), and answer the reader. Unknown workers, and too
        many, are ignored."""
        key = (asked.follow or "", asked.follow_cluster)
        until = self._clock.monotonic() + asked.lease_ms / 1000
        stream = self._streams.get(key)
        if stream is not None:
            stream.until = until
            if asked.lease_ms > 0 and asked.reader is not None:
                self._answer(key, stream, asked)
            return
        path = self._find(*key)
        if asked.lease_ms > 0 and len(self._streams) < MAX_FOLLOWED and path is not None:
            stream = self._streams[key] = _Stream(self._new_id()[:8], until, path, self._end(path))
            self._answer(key, stream, asked)
            stream.task = asyncio.create_task(self._run(key, stream), name=f"follow {key[0]}")

    def close(self) -> None:
        """End all streams."""
        for stream in self._streams.values():
            if stream.task is not None:
                stream.task.cancel()

    def _end(self, path: Path) -> int:
        """The position behind the last whole line."""
        output = self._history.read(path, 0, MAX_READ)
        return output.end - (len(output.data) - output.data.rfind(b"\n") - 1)

    def _answer(self, key: _Key, stream: _Stream, asked: Command) -> None:
        lines, dropped = self._past(stream, asked)
        self._publish(key, stream, lines, dropped, asked.reader)

    def _past(self, stream: _Stream, asked: Command) -> tuple[list[str], int]:
        """The last lines before those that come, and whether some that were asked for are gone (1)."""
        wanted = min(asked.lines, PAST_LINES)
        if not wanted:
            return [], 0
        begin = None
        if asked.since_ms is not None:
            begin = self._history.since(stream.path, self._clock.time_ns() / 1e9 - asked.since_ms / 1000)
        output = self._history.read(stream.path, min(begin or 0, stream.at), MAX_READ, stream.at)
        lines = output.data.decode(errors="replace").splitlines()
        if output.missing and len(lines) > 1:
            del lines[0]  # which began before
        lines = [_clean(line) for line in lines if line.strip()]
        cut = output.missing or len(lines) > wanted
        return lines[-wanted:], int(cut and asked.since_ms is not None)

    async def _run(self, key: _Key, stream: _Stream) -> None:
        try:
            while self._clock.monotonic() < stream.until:
                await self._clock.sleep(INTERVAL_S)
                self._read_on(key, stream)
        except Exception:
            log.exception("following %s failed", key[0])
        finally:
            self._streams.pop(key, None)

    def _read_on(self, key: _Key, stream: _Stream) -> None:
        most = min(MAX_LINES, ALL_LINES // len(self._streams))
        lines, dropped, stream.at = read_lines(self._history, stream.path, stream.at, most)
        path = self._find(*key)
        if path is not None and path != stream.path:  # another worker of the same name
            stream.path, stream.at = path, 0
        if lines or dropped:
            stream.number += 1
            self._publish(key, stream, lines, dropped, None)

    def _publish(
        self, key: _Key, stream: _Stream, lines: list[str], dropped: int, reader: str | None
    ) -> None:
        worker, cluster = key
        topic = self._topics.node_log(self._node, worker)
        room = self._link.max_packet - len(topic) - PACKET_OVERHEAD
        while True:
            chunk = LogChunk(lines, worker, cluster, dropped, stream.id, stream.number, reader)
            payload = encode(chunk)
            if len(payload) <= room or not lines:
                break
            cut = (len(lines) + 1) // 2
            lines, dropped = lines[cut:], dropped + cut
        self._link.post(topic, payload, qos=0)


def read_lines(history: LogHistory, path: Path, at: int, most: int = MAX_LINES) -> tuple[list[str], int, int]:
    """Complete lines after a position: the last `most`, how many were dropped, and the next position.

    What was rotated meanwhile is read from its copy. Of more than `MAX_READ` bytes, and of what is gone, the
    first are skipped and count as one dropped line.
    """
    output = history.read(path, at, MAX_READ)
    end = output.data.rfind(b"\n") + 1 or (len(output.data) if len(output.data) >= MAX_READ else 0)
    lines = [_clean(line) for line in output.data[:end].decode(errors="replace").splitlines()]
    dropped = int(output.missing) + max(0, len(lines) - most)
    return lines[-most:], dropped, output.end - (len(output.data) - end)


def _clean(line: str) -> str:
    """Remove control characters: a worker's output must not control a reader's terminal."""
    return "".join(char for char in line if char.isprintable() or char == "\t")[:MAX_CHARS]
