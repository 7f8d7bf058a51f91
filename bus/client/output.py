"""A worker's output, published by its node while somebody keeps asking for it."""

from __future__ import annotations

import asyncio
import logging
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

log = logging.getLogger("busbar.client")

LEASE_MS: Final = 30_000
"""How long a node keeps sending without being asked again."""
QUIET_S: Final = 1.0
"""Without `follow`, output has ended when nothing came for so long."""
ANSWER_S: Final = 5.0
"""A node answers with what there is, be it nothing: so long is waited for that."""
CHUNKS: Final = 1000
"""Chunks that were not read yet; beyond it the oldest are dropped, and counted."""

Ask = Callable[[int, int], Awaitable[object]]
"""Asks the manager for so many past lines, and for new ones during so many milliseconds."""


class OutputWatch(Watch[LogChunk]):
    """Chunks of output; `dropped` in a chunk counts the lines that are missing before it.

    `heard`: whether the node has answered, which it does even where there is no output; `silence` says why it
    may not have, and is logged once where output is followed.
    """

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
        silence: str = "the node does not answer",
    ) -> None:
        self._cluster, self._clock, self._ask = cluster, clock, ask
        self._lines, self._follow = lines, follow
        self._reader, self._answered = reader, False
        self._chunks: deque[LogChunk] = deque()
        self._dropped = 0
        self.heard, self.silence = False, silence
        self._asked = 0
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
        self.heard = True
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
                if self._asked == 1 and not self.heard:
                    log.warning("%s", self.silence)
                self._asked += 1
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
            quiet = QUIET_S if self.heard else ANSWER_S
            async with asyncio.timeout(max(0.0, seconds) if self._follow else quiet):
                await self._news.wait()
        except TimeoutError:
            return False
        return True
