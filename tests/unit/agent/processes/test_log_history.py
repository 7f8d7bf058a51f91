"""Positions in a worker's log stay valid through rotations, and what was written since a time is found."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest
from busbar.agent.processes import logs
from busbar.agent.processes.log_history import TIMES, LogHistory
from busbar.agent.reporting.log_stream import read_lines


@pytest.mark.parametrize("seed", range(20))
def test_each_line_is_read_once_and_in_order_whatever_is_rotated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(logs, "MAX_BYTES", 2000)
    monkeypatch.setattr(logs.rotate_if_needed, "__defaults__", (2000, 3))
    random, path, history = Random(seed), tmp_path / "w.log", LogHistory()
    at, written, read = history.end(path), 0, list[str]()
    for _ in range(300):
        with path.open("a") as file:
            for _ in range(random.randint(0, 12)):
                file.write(f"line {written}\n")
                written += 1
        if random.random() < 0.5:
            history.rotate(path)
        if random.random() < 0.7:
            lines, dropped, at = read_lines(history, path, at, 1000)
            assert not dropped
            read += lines
    read += read_lines(history, path, at, 1000)[0]
    assert read == [f"line {number}" for number in range(written)]


def test_what_two_rotations_took_away_is_told(tmp_path: Path) -> None:
    path, history = tmp_path / "w.log", LogHistory()
    path.write_text("first\n" * 10)
    at = history.end(path)
    for _ in range(2):
        with path.open("a") as file:
            file.write("x" * (logs.MAX_BYTES + 1) + "\n")
        assert history.rotate(path)
    with path.open("a") as file:
        file.write("last\n")
    lines, dropped, _ = read_lines(history, path, at)
    assert lines[-1] == "last" and dropped >= 1


def test_output_since_a_time_is_found_through_a_rotation(tmp_path: Path) -> None:
    path, history = tmp_path / "w.log", LogHistory()
    path.write_text("before the agent\n")
    os.utime(path, (100, 100))
    history.note(path, 1000)
    for second in range(1001, 1005):
        with path.open("a") as file:
            file.write(f"at {second}\n")
        history.note(path, second)

    def since(time: float) -> list[bytes] | None:
        begin = history.since(path, time)
        return None if begin is None else history.read(path, begin, 10_000).data.splitlines()

    assert since(99) is None, "of what was there before the agent, only the last write is known"
    assert since(500) == [b"at 1001", b"at 1002", b"at 1003", b"at 1004"]
    assert since(1003) == [b"at 1004"] and since(1004) == []
    with path.open("ab") as file:
        file.write(b"y" * logs.MAX_BYTES + b"\n")
    assert history.rotate(path)
    history.note(path, 1006)
    with path.open("a") as file:
        file.write("at 1007\n")
    history.note(path, 1007)
    assert since(1006) == [b"at 1007"]


def test_what_is_remembered_of_a_log_is_bounded(tmp_path: Path) -> None:
    path, history = tmp_path / "w.log", LogHistory()
    for second in range(3 * TIMES):
        with path.open("a") as file:
            file.write("line\n")
        history.note(path, second)
    known = history._known(path)
    assert len(known.times) <= TIMES
    assert history.since(path, 3 * TIMES - 2) == history.end(path) - 5, "the latest moments are exact"
