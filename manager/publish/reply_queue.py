"""Replies in turn: of each caller so many are unacknowledged at a time, and so many wait. Pure.

Where a broker takes replies more slowly than a caller asks, that caller's wait for each other. Those of other
callers go past them, and memory stays.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from busbar.bus.connection.link import Properties

WINDOW: Final = 64
"""Unacknowledged replies of one caller: `tests.bench requests` has as many requests in flight."""
WINDOW_BYTES: Final = 1024 * 1024
"""Bytes of these; one may be larger."""
MOST: Final = 1_024
"""Replies of one caller that wait: four times the changes that it may have in flight."""
MOST_BYTES: Final = 4 * 1024 * 1024


class Reply(NamedTuple):
    """A message to a caller."""

    topic: str
    payload: bytes
    properties: Properties


class ReplyQueueFullError(Exception):
    """More replies of a caller wait than are kept."""


class _Caller:
    """One caller's replies."""

    __slots__ = ("in_flight", "in_flight_bytes", "waiting", "waiting_bytes")

    def __init__(self) -> None:
        self.waiting: deque[Reply] = deque()
        self.in_flight = self.in_flight_bytes = self.waiting_bytes = 0

    @property
    def has_room(self) -> bool:
        return self.in_flight < WINDOW and self.in_flight_bytes < WINDOW_BYTES

    def sent(self, reply: Reply) -> Reply:
        self.in_flight += 1
        self.in_flight_bytes += len(reply.payload)
        return reply


class ReplyQueues:
    """Says which reply is to be sent next, on one connection. Callers with none are not remembered."""

    def __init__(self) -> None:
        self._callers: dict[str, _Caller] = {}

    def __len__(self) -> int:
        """Callers with a reply that is not acknowledged."""
        return len(self._callers)

    def add(self, caller: str, reply: Reply) -> Reply | None:
        """A reply, when it is to be sent now; else it waits.

        Raises:
            ReplyQueueFullError: it is dropped.
        """
        state = self._callers.get(caller)
        if state is None:
            state = self._callers[caller] = _Caller()
        if state.has_room:  # then none waits: `done` has filled it
            return state.sent(reply)
        if len(state.waiting) >= MOST or state.waiting_bytes + len(reply.payload) > MOST_BYTES:
            raise ReplyQueueFullError
        state.waiting.append(reply)
        state.waiting_bytes += len(reply.payload)
        return None

    def done(self, caller: str, size: int) -> list[Reply]:
        """A reply of `size` bytes was acknowledged, or has failed: the caller's next ones, to be sent now."""
        state = self._callers[caller]
        state.in_flight -= 1
        state.in_flight_bytes -= size
        following = []
        while state.waiting and state.has_room:
            reply = state.waiting.popleft()
            state.waiting_bytes -= len(reply.payload)
            following.append(state.sent(reply))
        if not state.in_flight:
            del self._callers[caller]
        return following
