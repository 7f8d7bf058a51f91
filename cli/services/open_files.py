"""How many files a service may open: raised where that is allowed, and told where too few are left."""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
from collections.abc import Callable, Mapping
from typing import Any, Final

from busbar.bus.buckets import Buckets

from ..errors import CliError, ExitCode

NEEDED: Final[Mapping[str, int]] = {
    "broker": 256,  # it keeps half of them for files and strangers (bus.broker.limits.fitted)
    "broker-program": 256,
    "manager": 64,
    "agent": 64,
    "web": 64,
}
"""What a service starts with, by its kind; each one beyond it is a connection, a worker or a page more."""
_WANTED: Final[Mapping[str, int]] = {"broker": 4096 + 128}  # as many connections as its limits allow
_ENOUGH: Final = 1024
_OWN: Final = 16
_PER_SERVICE: Final = 8  # of `busbar up`: its socket, its output, its log and its process
_TELL_S: Final = 300.0
_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE)

log = logging.getLogger("busbar.service")


def ensure(kind: str) -> None:
    """Let this service open as many files as it can use, as far as the hard limit allows.

    Raises:
        CliError: even so they are too few to start.
    """
    _ensure(f"the {kind}", NEEDED[kind], _WANTED.get(kind, _ENOUGH))


def ensure_for_up(kinds: list[str]) -> None:
    """The same for `busbar up`, and for the services that will inherit its limit. Raises so."""
    most = max(kinds, key=NEEDED.__getitem__)
    _ensure(f"its {most}", NEEDED[most], _ENOUGH)
    own = _OWN + _PER_SERVICE * len(kinds)
    _ensure(f"'busbar up' with {len(kinds)} services", own, max(_ENOUGH, own))


def raised(soft: int, hard: int, wanted: int) -> int:
    """The soft limit to set: no lower than it is, and no more than is wanted. Pure.

    It may be less than `hard`: programs that workers are take what they inherit for what they have to close.
    """
    if soft == resource.RLIM_INFINITY:
        return soft
    return max(soft, wanted if hard == resource.RLIM_INFINITY else min(wanted, hard))


def too_few(who: str, have: int, need: int, wanted: int) -> str | None:
    """What to do where `have` files are too few for it; None where they are enough. Pure."""
    if have == resource.RLIM_INFINITY or have >= need:
        return None
    return (
        f"the limit of open files is {have}, and {who} needs {need} to start: raise it, with 'ulimit -Hn"
        f" {wanted}' as root before it is started, or with LimitNOFILE={wanted} in its systemd unit"
    )


def on_loop_error(now: Callable[[], float]) -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """A loop's exception handler that tells of used-up files in one line, and seldom: asyncio would write a
    traceback each second in which a listener can't accept."""
    told = Buckets(1, 1 / _TELL_S)

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in _EXHAUSTED and "socket" in context):
            loop.default_exception_handler(context)
        elif told.take(error.errno, now()):
            log.error("no connection can be accepted: %s; raise LimitNOFILE= or 'ulimit -n'", error.strerror)

    return handle


def _ensure(who: str, need: int, wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = raised(soft, hard, wanted)
    if target != soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    if text := too_few(who, target, need, wanted):
        raise CliError(text, ExitCode.CONFLICT, "too_few_open_files")
