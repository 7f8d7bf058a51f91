"""Line plots on logarithmic axes, written as SVG by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 44, 52
COLOURS = ("#1f6feb", "#d1490c", "#2a8a4a", "#8250df", "#946c00")


@dataclass(frozen=True)
class Series:
    """A named line. A `dashed` one is a yardstick or a goal."""

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis from one power of ten to another, on pixels from `start` to `end`."""

    low: int
    high: int
    start: float
    end: float

    def at(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        return [(self.at(10.0**power), _label(10.0**power)) for power in range(self.low, self.high + 1)]


def plot(title: str, x_label: str, y_label: str, series: Sequence[Series]) -> str:
    """A whole SVG document. Points with a value of zero or less are left out."""
    shown = [Series(s.name, [(x, y) for x, y in s.points if x > 0 and y > 0], s.dashed) for s in series]
    x_axis = _axis([x for s in shown for x, _ in s.points], LEFT, WIDTH - RIGHT)
    y_axis = _axis([y for s in shown for _, y in s.points], HEIGHT - BOTTOM, TOP)
    parts = [*_frame(title, x_label, y_label), *_grid(x_axis, y_axis)]
    for number, line in enumerate(shown):
        parts += _line(line, COLOURS[number % len(COLOURS)], x_axis, y_axis)
        parts += _legend(line, COLOURS[number % len(COLOURS)], number)
    return "\n".join([*parts, "</svg>", ""])


def _axis(values: Sequence[float], start: float, end: float) -> Axis:
    low = math.floor(math.log10(min(values, default=1)) + 1e-9)
    high = math.ceil(math.log10(max(values, default=10)) - 1e-9)
    return Axis(low, max(high, low + 1), start, end)


def _frame(title: str, x_label: str, y_label: str) -> list[str]:
    middle = (TOP + HEIGHT - BOTTOM) / 2
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" font-family="sans-serif" font-size="12" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="18" font-size="14" font-weight="bold" fill="#222">{escape(title)}</text>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle" fill="#444">'
        f"{escape(x_label)}</text>",
        f'<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle" fill="#444">'
        f"{escape(y_label)}</text>",
    ]


def _grid(x_axis: Axis, y_axis: Axis) -> list[str]:
    parts = []
    for x, label in x_axis.ticks():
        parts.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}" stroke="#e4e4e4"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle" fill="#444">{label}</text>'
        )
    for y, label in y_axis.ticks():
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#444">{label}</text>')
    return parts


def _line(line: Series, colour: str, x_axis: Axis, y_axis: Axis) -> list[str]:
    spots = [(x_axis.at(x), y_axis.at(y)) for x, y in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
    dash = ' stroke-dasharray="6 4"' if line.dashed else ""
    parts = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>']
    if not line.dashed:
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in spots]
    return parts


def _legend(line: Series, colour: str, number: int) -> list[str]:
    x, y = LEFT + 8 + number * 150, 34
    dash = ' stroke-dasharray="6 4"' if line.dashed else ""
    return [
        f'<line x1="{x}" y1="{y - 4}" x2="{x + 18}" y2="{y - 4}" stroke="{colour}" stroke-width="2"{dash}/>',
        f'<text x="{x + 22}" y="{y}" fill="#222" font-size="11">{escape(line.name)}</text>',
    ]


def _label(value: float) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"
