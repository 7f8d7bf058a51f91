"""Choose a worker's port. Pure: whether a port can be bound is asked through an argument."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

DEFAULT_LOW: Final = 20000
DEFAULT_HIGH: Final = 29999
"""Where ports are taken from when the transport names none; below Linux's ephemeral ports (from 32768)."""
LOOPBACK: Final = "127.0.0.1"
"""The interface when the transport names none: nothing becomes reachable from outside by omission."""


class NoPortError(Exception):
    """Every wanted port is taken; the text says which, for the worker's reason."""


@dataclass(frozen=True, slots=True)
class PortWish:
    """The ports a worker may listen on, both ends included, on one interface.

    `shared`: several workers of this node listen on the one port (SO_REUSEPORT).
    """

    low: int
    high: int
    shared: bool = False
    interface: str = LOOPBACK

    @property
    def fixed(self) -> bool:
        """Whether there is but one port to choose."""
        return self.low == self.high


def choose(
    wish: PortWish,
    taken: Collection[int],
    free: Callable[[int], bool],
    *,
    offset: int = 0,
    prefer: int | None = None,
) -> int:
    """Choose a port: `prefer` (the last one) if it can be had, else the first free one from `offset` on.

    `taken` are the ports of this agent's other workers, `free` tells whether a port can be bound now. Give
    each worker its own `offset` (a hash of its name), so that agents on one host rarely race for one port.

    Raises:
        NoPortError: none can be had.
    """
    for port in _candidates(wish, offset, prefer):
        if (wish.shared or port not in taken) and free(port):
            return port
    raise NoPortError(_none_left(wish, taken))


def _candidates(wish: PortWish, offset: int, prefer: int | None) -> list[int]:
    size = wish.high - wish.low + 1
    start = offset % size
    ports = [wish.low + (start + step) % size for step in range(size)]
    if prefer is not None and wish.low <= prefer <= wish.high:
        ports.remove(prefer)
        ports.insert(0, prefer)
    return ports


def _none_left(wish: PortWish, taken: Collection[int]) -> str:
    if not wish.fixed:
        ours = sum(1 for port in taken if wish.low <= port <= wish.high)
        return (
            f"no free port in {wish.low}-{wish.high} on {wish.interface} ({ours} held by this node's workers)"
        )
    if wish.low in taken and not wish.shared:
        return f"port {wish.low} is held by another worker of this node (a range or 'shared' allows several)"
    return f"port {wish.low} on {wish.interface} is in use by another program"
