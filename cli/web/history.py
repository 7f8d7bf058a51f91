"""Processor and memory of workers and nodes over the last hour, from what nodes report. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from busbar.bus.messages import Reported, ReportedWorker

Point = tuple[float, float, int]
"""A moment (seconds on the server's clock), the share of one processor, bytes."""

HOUR_S: Final = 3600.0
STEP_S: Final = 15.0
"""Seconds between two points of a line: more than one report in that time makes one point."""
POINTS: Final = int(HOUR_S / STEP_S)
LINES: Final = 4_000
"""Workers and nodes; the one that was reported longest ago is forgotten."""
SHORT_MS: Final = 1_000
"""Between two reports of a worker; less is too short to tell a share."""


@dataclass(slots=True)
class _Line:
    points: deque[Point] = field(default_factory=lambda: deque(maxlen=POINTS))
    pid: int | None = None
    cpu_s: float = 0.0
    uptime_ms: int = 0
    cpu: float = 0.0


class History:
    """Lines by key, as the page has them: `worker/edge/web-1`, `node/n1`. Any number of sessions feed it."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}

    def report(self, node: str, report: Reported, now: float) -> dict[str, tuple[float, int]]:
        """Take a node's report; returns share of a processor and bytes by key, the node's sum included."""
        found: dict[str, tuple[float, int]] = {}
        for worker in report.workers:
            if worker.cluster is None or worker.cpu_s is None or worker.uptime_ms is None:
                continue
            line = self._line(f"worker/{worker.cluster}/{worker.worker}")
            cpu = _share(line, worker, worker.cpu_s, worker.uptime_ms)
            found[f"worker/{worker.cluster}/{worker.worker}"] = (cpu, worker.rss or 0)
        total = (sum(cpu for cpu, _ in found.values()), sum(rss for _, rss in found.values()))
        found[f"node/{node}"] = total
        for key, (cpu, rss) in found.items():
            line = self._line(key)
            if not line.points or now - line.points[-1][0] >= STEP_S:
                line.points.append((now, cpu, rss))
        return found

    def points(self, key: str, now: float) -> list[Point]:
        """The line of the last hour; its moments are seconds before now."""
        line = self._lines.get(key)
        points = line.points if line is not None else ()
        return [(now - at, cpu, rss) for at, cpu, rss in points if now - at <= HOUR_S]

    def _line(self, key: str) -> _Line:
        line = self._lines.pop(key, None) or _Line()
        self._lines[key] = line
        if len(self._lines) > LINES:
            del self._lines[next(iter(self._lines))]
        return line


def _share(line: _Line, worker: ReportedWorker, cpu_s: float, uptime_ms: int) -> float:
    """Since the report before of the same process, or else since its start."""
    same = line.pid == worker.pid and uptime_ms >= line.uptime_ms
    used, ms = (cpu_s - line.cpu_s, uptime_ms - line.uptime_ms) if same else (cpu_s, uptime_ms)
    if ms < SHORT_MS:
        return line.cpu if same else 0.0
    line.pid, line.cpu_s, line.uptime_ms = worker.pid, cpu_s, uptime_ms
    line.cpu = max(0.0, used) / ms * 1000
    return line.cpu
