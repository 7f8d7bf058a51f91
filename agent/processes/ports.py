"""Chooses a worker's port. Pure: whether a port can be bound is a function argument."""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Final

from busbar.bus.listeners import overlap
from msgspec import Struct

DEFAULT_LOW: Final = 20000
DEFAULT_HIGH: Final = 29999
"""Default range when the transport names no port; below Linux's ephemeral ports (from 32768)."""
PRIVILEGED: Final = 1024
"""Linux permits lower ports to root only, unless it is told otherwise."""
LOOPBACK: Final = "127.0.0.1"
"""Default interface: a worker is reachable from outside only if its transport says so."""


class NoPortError(Exception):
    """No requested port can be bound; the text is the worker's reason."""


class PortRequest(Struct, frozen=True):
    """The ports a worker may listen on, both ends included, on one interface.

    `shared`: several workers of this node listen on the one port (SO_REUSEPORT).
    """

    low: int
    high: int
    shared: bool = False
    interface: str = LOOPBACK

    @property
    def size(self) -> int:
        """How many ports."""
        return self.high - self.low + 1

    @property
    def fixed(self) -> bool:
        """Whether only one port is requested."""
        return self.low == self.high


BindError = Callable[[int], OSError | None]
"""Why a port can't be bound now; None when it can."""
_NO_ADDRESS: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_PER_PORT: Final = (errno.EADDRINUSE, errno.EACCES, errno.EPERM)
"""With every other error the remaining ports of a range would fail as well."""


def choose_port(
    request: PortRequest,
    taken: Collection[int],
    bind_error: BindError,
    *,
    offset: int = 0,
    prefer: int | None = None,
) -> int:
    """Choose a port: `prefer` (the last one) if it is available, else the first free one from `offset` on.

    `taken` are the ports of this agent's other workers. Give each worker its own `offset` (a hash of its
    name), so that agents on one host rarely race for a port.

    Raises:
        NoPortError: none is available, and why.
    """
    errors: dict[int, OSError] = {}
    for port in _candidates(request, offset, prefer):
        if port in taken and not request.shared:
            continue
        error = bind_error(port)
        if error is None:
            return port
        if error.errno not in _PER_PORT:
            raise NoPortError(_describe(request.interface, port, error))
        errors[port] = error
    raise NoPortError(_none_left(request, taken, errors))


def choose_ports(
    requests: Mapping[str, PortRequest],
    taken: Collection[int],
    bind_error: Callable[[PortRequest, int], OSError | None],
    *,
    offset: int = 0,
    prefer: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Choose a port for each listener of one worker, no two the same where their interfaces overlap.

    Raises:
        NoPortError: there is none for one of them, and why.
    """
    # A shared port can't give way, a range can.
    narrow = sorted(requests, key=lambda name: (requests[name].size, not requests[name].shared))
    try:
        return _choose(narrow, requests, taken, bind_error, offset, prefer or {})
    except NoPortError:
        if len(requests) == 1:
            raise
    # What was preferred may stand in another one's way. This order finds a choice if there is one.
    by_end = sorted(requests, key=lambda name: requests[name].high)
    return _choose(by_end, requests, taken, bind_error, 0, {})


def _choose(
    order: Sequence[str],
    requests: Mapping[str, PortRequest],
    taken: Collection[int],
    bind_error: Callable[[PortRequest, int], OSError | None],
    offset: int,
    prefer: Mapping[str, int],
) -> dict[str, int]:
    chosen: dict[str, int] = {}
    for name in order:
        request = requests[name]
        kept = {other: prefer[other] for other in order if other != name and other in prefer} | chosen
        own = {port for other, port in kept.items() if overlap(requests[other].interface, request.interface)}
        try:
            chosen[name] = choose_port(
                request,
                {*taken, *own},
                partial(bind_error, request),
                offset=offset,
                prefer=prefer.get(name),
            )
        except NoPortError as error:
            raise (error if len(requests) == 1 else NoPortError(f"listener '{name}': {error}")) from None
    return {name: chosen[name] for name in requests}


def _candidates(request: PortRequest, offset: int, prefer: int | None) -> list[int]:
    size = request.size
    start = offset % size
    ports = [request.low + (start + step) % size for step in range(size)]
    if prefer is not None and request.low <= prefer <= request.high:
        ports.remove(prefer)
        ports.insert(0, prefer)
    return ports


def _none_left(request: PortRequest, taken: Collection[int], errors: Mapping[int, OSError]) -> str:
    low, high, interface = request.low, request.high, request.interface
    if request.fixed:
        if low in errors:
            return _describe(interface, low, errors[low])
        return f"port {low} is held by another worker of this node (a range or 'shared' allows several)"
    denied = [port for port, error in errors.items() if error.errno != errno.EADDRINUSE]
    if len(denied) == high - low + 1:
        return f"no port in {low}-{high}: {_describe(interface, min(denied), errors[min(denied)])}"
    ours = sum(1 for port in taken if low <= port <= high)
    about = f"{ours} held by this node's workers"
    if denied:
        about += f", {len(denied)} not permitted to this agent"
    return f"no free port in {low}-{high} on {interface} ({about})"


def _describe(interface: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {interface} is in use by another program"
    if error.errno in _NO_ADDRESS:
        return f"this node has no address {interface} to listen on ({error.strerror})"
    if error.errno in (errno.EACCES, errno.EPERM):
        hint = "it takes root, CAP_NET_BIND_SERVICE or a lower net.ipv4.ip_unprivileged_port_start"
        about = f": {hint}" if port < PRIVILEGED else ""
        return f"no permission to listen on port {port} on {interface}{about}"
    return f"can't listen on port {port} on {interface}: {error.strerror}"
