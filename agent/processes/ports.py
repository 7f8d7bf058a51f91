"""Chooses a worker's port. Pure: whether a port can be bound is a function argument."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

DEFAULT_LOW: Final = 20000
DEFAULT_HIGH: Final = 29999
"""Default range when the transport names no port; below Linux's ephemeral ports (from 32768)."""
LOOPBACK: Final = "127.0.0.1"
"""Default interface: a worker is reachable from outside only if its transport says so."""


class NoPortError(Exception):
    """All requested ports are taken; the text is the worker's reason."""


@dataclass(frozen=True, slots=True)
class PortRequest:
    """The ports a worker may listen on, both ends included, on one interface.

    `shared`: several workers of this node listen on the one port (SO_REUSEPORT).
    """

    low: int
    high: int
    shared: bool = False
    interface: str = LOOPBACK

    @property
    def fixed(self) -> bool:
        """Whether only one port is requested."""
        return self.low == self.high


def choose_port(
    request: PortRequest,
    taken: Collection[int],
    free: Callable[[int], bool],
    *,
    offset: int = 0,
    prefer: int | None = None,
) -> int:
    """Choose a port: `prefer` (the last one) if it is available, else the first free one from `offset` on.

    `taken` are the ports of this agent's other workers, `free` tells whether a port can be bound now. Give
    each worker its own `offset` (a hash of its name), so that agents on one host rarely race for a port.

    Raises:
        NoPortError: none is available.
    """
    for port in _candidates(request, offset, prefer):
        if (request.shared or port not in taken) and free(port):
            return port
    raise NoPortError(_none_left(request, taken))


def _candidates(request: PortRequest, offset: int, prefer: int | None) -> list[int]:
    size = request.high - request.low + 1
    start = offset % size
    ports = [request.low + (start + step) % size for step in range(size)]
    if prefer is not None and request.low <= prefer <= request.high:
        ports.remove(prefer)
        ports.insert(0, prefer)
    return ports


def _none_left(request: PortRequest, taken: Collection[int]) -> str:
    low, high, interface = request.low, request.high, request.interface
    if not request.fixed:
        ours = sum(1 for port in taken if low <= port <= high)
        return f"no free port in {low}-{high} on {interface} ({ours} held by this node's workers)"
    if low in taken and not request.shared:
        return f"port {low} is held by another worker of this node (a range or 'shared' allows several)"
    return f"port {low} on {interface} is in use by another program"
