"""Reaches one worker on a port that several share: the kernel spreads connections over their listeners.

Connections are opened until one is accepted by a process of this worker; the others are closed unused. So
what a probe says is about this worker, and never about another one.
"""

from __future__ import annotations

import asyncio
from typing import Final

from ..processes import procfs
from ..processes.procfs import ProcessRecord

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

PER_LISTENER: Final = 16
"""Connections per listener: with n of them, one reaches this worker but for a chance of (1 - 1/n)^(16 n)."""
MAX_CONNECTIONS: Final = 256
_BATCH: Final = 4
_PAUSE_S: Final = 0.02
_LIMIT: Final = 16 * 1024


async def connect(record: ProcessRecord, host: str, port: int) -> Streams:
    """A connection that was accepted by a process of this worker; the caller bounds the wait.

    Raises:
        OSError: nothing listens, or /proc can't be read.
    """
    search = _Search(record, host, port)
    try:
        return await search.run()
    finally:
        search.close()


class _Search:
    def __init__(self, record: ProcessRecord, host: str, port: int) -> None:
        self._record, self._host, self._port = record, host, port
        self._opening: set[asyncio.Task[Streams]] = set()
        self._open: dict[int, Streams] = {}
        self._opened = 0

    async def run(self) -> Streams:
        pids = await asyncio.to_thread(procfs.member_pids, self._record)
        limit = max(1, len(procfs.listening_inodes(self._port))) * PER_LISTENER
        while True:
            if self._opened < min(limit, MAX_CONNECTIONS):
                self._open_some()
            await asyncio.wait(self._opening or {asyncio.create_task(asyncio.sleep(0))}, timeout=_PAUSE_S)
            self._take_opened()
            found = await self._ours(pids)
            if found is not None:
                return found
            # An event can't tell when the kernel hands a connection over: its table has to be read again.
            await asyncio.wait({asyncio.get_running_loop().create_future()}, timeout=_PAUSE_S)

    def _open_some(self) -> None:
        for _ in range(_BATCH if self._opened else 1):
            self._opened += 1
            opening = asyncio.open_connection(self._host, self._port, limit=_LIMIT)
            self._opening.add(asyncio.create_task(opening))

    def _take_opened(self) -> None:
        for task in [each for each in self._opening if each.done()]:
            self._opening.discard(task)
            streams = task.result()
            self._open[streams[1].get_extra_info("sockname")[1]] = streams

    async def _ours(self, pids: list[int]) -> Streams | None:
        accepted = procfs.accepted_inodes(self._port, self._open)
        for client, inode in accepted.items():
            streams = self._open.pop(client)
            if await asyncio.to_thread(procfs.any_has_socket, pids, inode):
                return streams
            streams[1].close()
        return None

    def close(self) -> None:
        for task in self._opening:
            task.add_done_callback(_close_late)
            task.cancel()
        for _, writer in self._open.values():
            writer.close()


def _close_late(task: asyncio.Task[Streams]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result()[1].close()
