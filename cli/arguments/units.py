"""Ages as people write them."""

from __future__ import annotations

import re
from typing import Final

from busbar.bus.clock import moment_ns

from ..errors import usage

_AGE: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(ms|s|m|min|h|d|w)?")
_MS: Final = {
    "ms": 1,
    "s": 1000,
    "m": 60_000,
    "min": 60_000,
    "h": 3_600_000,
    "d": 86_400_000,
    "w": 604_800_000,
}


def age_ms(text: str, now_ns: int, option: str = "--since") -> int:
    """Milliseconds ago: `90`, `90s`, `5m`, `2h`, `1d`, or a moment in RFC 3339.

    Raises:
        CliError: it is neither, or lies ahead.
    """
    match = _AGE.fullmatch(text.strip())
    if match:
        return int(float(match[1]) * _MS[match[2] or "s"])
    try:
        ago = (now_ns - moment_ns(text.strip())) // 1_000_000
    except ValueError:
        raise usage(
            f"{option} {text!r}: say how long ago (90s, 5m, 2h, 1d) or when (2026-01-31T12:00)"
        ) from None
    if ago < 0:
        raise usage(f"{option} {text!r} lies ahead")
    return ago
