"""When certificates end: words it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from busbar.bus.clock import rfc3339
from busbar.bus.system.x509 import SOON_S

_NAMED: Final = 2


def ending(ends: Mapping[str, float], used_by: Mapping[str, Sequence[str]], now: float) -> dict[str, str]:
    """What to tell of each file whose certificate ends soon or has ended, the first to end first.

    `used_by`: names of the workers that use it; times are seconds since 1970.
    """
    soon = sorted((end, path) for path, end in ends.items() if end - now <= SOON_S)
    return {path: _text(path, end, used_by.get(path, ()), now) for end, path in soon}


def _text(path: str, end: float, workers: Iterable[str], now: float) -> str:
    names = sorted(set(workers))
    of = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    days = int((end - now) // 86_400)
    when = "has ended" if end <= now else f"ends in {days} days" if days != 1 else "ends in 1 day"
    return f"certificate {path} {when} ({rfc3339(int(end) * 10**9)[:10]}): {of}"
