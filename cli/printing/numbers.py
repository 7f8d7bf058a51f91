"""Numbers for people: `28 MB`, `3 min`, `12 %`. JSON and YAML have exact ones. Pure."""

from __future__ import annotations


def duration(ms: int | float | None) -> str:
    """Milliseconds as `840 ms`, `12 s`, `3 min`, `5 h`, `2 d`."""
    if ms is None:
        return ""
    if ms < 1000:
        return f"{ms:.0f} ms"
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if ms / 1000 < limit:
            return f"{ms / 1000 / size:.0f} {unit}"
    return f"{ms / 86_400_000:.0f} d"


def size(count: int | None) -> str:
    """Bytes as `640 kB`, `28 MB`, `1.4 GB` (powers of 1000)."""
    if count is None:
        return ""
    if count < 1000:
        return f"{count} B"
    for limit, unit in ((1e6, "kB"), (1e9, "MB"), (1e12, "GB")):
        if count < limit * 0.9995:
            value = count / limit * 1000
            return f"{value:.1f} {unit}" if value < 9.95 and unit != "kB" else f"{value:.0f} {unit}"
    return f"{count / 1e12:.1f} TB"


def count(value: float | None) -> str:
    """A number of things as `640`, `9.1 k`, `28 k`, `1.4 M` (powers of 1000)."""
    if value is None:
        return ""
    if value < 999.5:
        return f"{value:.0f}"
    for limit, unit in ((1e6, "k"), (1e9, "M")):
        if value < limit * 0.9995:
            scaled = value / limit * 1000
            return f"{scaled:.1f} {unit}" if scaled < 9.95 else f"{scaled:.0f} {unit}"
    return f"{value / 1e9:.1f} G"


def seconds(value: float | None) -> str:
    """Seconds of processor time as `0.8 s`, `12 s`, `3 min`, `5 h`."""
    if value is None:
        return ""
    return f"{value:.1f} s" if value < 10 else duration(value * 1000)


def percent(share: float | None) -> str:
    """A share of one processor as `0.4 %` or `12 %`."""
    if share is None:
        return ""
    value = share * 100
    return f"{value:.1f} %" if value < 9.95 else f"{value:.0f} %"
