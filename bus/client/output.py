"""A worker's output, published by its node while somebody keeps asking for it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from msgspec import structs

from ..clock import Clock
from ..connection.link import Message
from ..decode import read
from ..errors import BusError
from ..messages import LogChunk
from .subscriptions import Subscriptions, Watch

LEASE_MS: Final = 30_000
"""How long a node keeps sending without being asked again."""
QUIET_S: Final = 1.0
"""Without `follow`, output has ended when nothing came for so long."""
CHUNKS: Final = 1000
"""Chunks that were not read yet; beyond it the oldest are dropped, and counted."""

Ask = Callable[[int, int], Awaitable[object]]
"""Asks the manager for so many past lines, and for new ones during so many milliseconds."""


class OutputWatch(Watch[LogChunk]):
    """Chunks of output; `dropped` in a chunk counts the lines that are missing before it."""

    def __init__(
        self,
        subscriptions: Subscriptions,
        pattern: str,
        cluster: str,
        clock: Clock,
        ask: Ask,
        reader: str,
        lines: int,
        follow: bool,
    ) -> None:
        self._cluster, self._clock, self._ask = cluster, clock, ask
        self._lines, self._follow = lines, follow
        self._reader, self._answered = reader, False
        self._chunks: deque[LogChunk] = deque()
        self._dropped = 0
        self._renew_at = clock.monotonic()
        super().__init__(subscriptions, pattern, 0)

    def note(self, message: Message) -> None:
        """Keep a chunk until it is read."""
        try:
            chunk = read(message.payload, LogChunk)
        except BusError:
            return
        if chunk.cluster not in (None, self._cluster) or chunk.reader not in (None, self._reader):
            return
        if chunk.reader is None and chunk.stream is not None and not self._answered:
            return  # of a log that others follow: the answer has these lines too
        self._answered = True
        if len(self._chunks) >= CHUNKS:
            oldest = self._chunks.popleft()
            self._dropped += len(oldest.lines) + oldest.dropped
        self._chunks.append(chunk)
        self._news.set()

    def take(self) -> LogChunk | None:
        """The oldest chunk."""
        if not self._chunks:
            return None
        chunk = self._chunks.popleft()
        missing, self._dropped = self._dropped, 0
        return structs.replace(chunk, dropped=chunk.dropped + missing) if missing else chunk

    async def __anext__(self) -> LogChunk:
        while True:
            chunk = self.take()
            if chunk is not None:
                return chunk
            if self._closed:
                raise StopAsyncIteration
            if self._clock.monotonic() >= self._renew_at:
                await self._ask(self._lines, LEASE_MS)
                self._lines = 0
                self._renew_at = self._clock.monotonic() + LEASE_MS / 2000
            if not await self._wait(self._renew_at - self._clock.monotonic()) and not self._follow:
                raise StopAsyncIteration

    async def _wait(self, seconds: float) -> bool:
        """Whether something came before the lease is to be renewed (or, not following, within a moment)."""
        if not self._chunks and not self._closed:
            self._news.clear()
        try:
            async with asyncio.timeout(max(0.0, seconds) if self._follow else QUIET_S):
                await self._news.wait()
        except TimeoutError:
            return False
        return True
