"""What a reader of a worker's output is told to be missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from busbar.agent.processes.log_history import LogHistory
from busbar.agent.reporting.log_stream import LogStreamer
from busbar.bus.messages import Command
from busbar.bus.testing import FakeClock
from busbar.bus.topics import Topics


@pytest.mark.parametrize(
    ("written", "asked", "missing"),
    [
        (50, {"lines": 100}, 0),
        (50, {"lines": 20}, 0),  # as many as were asked for
        (50, {"lines": 100, "since_ms": 3_600_000}, 0),
        (50, {"lines": 20, "since_ms": 3_600_000}, 1),  # of a log that is younger than that
    ],
)
async def test_past_lines_of_a_time_that_are_left_out_are_told(
    tmp_path: Path, written: int, asked: dict[str, Any], missing: int
) -> None:
    path, clock, history = tmp_path / "log", FakeClock(), LogHistory()
    path.write_text("".join(f"line {number}\n" for number in range(written)))
    nobody: Any = None
    streamer = LogStreamer(nobody, Topics("lab"), "n1", clock, history, lambda *_: path, lambda: "s")
    sent: list[tuple[list[str], int]] = []
    streamer._publish = lambda key, stream, lines, dropped, reader: sent.append((lines, dropped))  # type: ignore[method-assign]
    streamer.follow(Command(follow="web-1", lease_ms=1000, reader="r", **asked))
    streamer.close()
    ((lines, dropped),) = sent
    assert (len(lines), dropped) == (min(written, asked["lines"]), missing)
