"""What became of a recorded worker of which an agent sees no process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from busbar.agent.processes.logs import LogHold
from busbar.agent.workers.unseen import Fate, Here, fate, reason

from tests.unit.agent.test_state import record

HERE = Here("boot", 41)
ELSEWHERE: dict[str, Any] = {"pid": 7, "boot_id": "boot", "pid_namespace": 40, "log_inode": 3}
FREE, HELD, REPLACED = LogHold(3, False), LogHold(3, True), LogHold(4, False)


@pytest.mark.fault(125, "B C")
@pytest.mark.parametrize(
    ("more", "log", "found"),
    [
        ({}, HELD, Fate.LIVES),
        ({}, FREE, Fate.GONE),
        ({}, REPLACED, Fate.UNKNOWN),
        ({}, REPLACED._replace(held=True), Fate.LIVES),
        ({}, None, Fate.UNKNOWN),
        ({"log_inode": 0}, FREE, Fate.UNKNOWN),
        ({"log_inode": 0}, HELD, Fate.LIVES),
        # Nothing was forked, or the agent was killed just after.
        ({"pid": 0, "log_inode": 0}, HELD, Fate.LIVES),
        ({"pid": 0, "log_inode": 0}, FREE, Fate.GONE),
        ({"pid": 0, "log_inode": 0}, None, Fate.GONE),
    ],
)
def test_what_is_known_of_a_worker_in_another_namespace(
    more: dict[str, Any], log: LogHold | None, found: Fate
) -> None:
    assert fate(record(**{**ELSEWHERE, **more}), HERE, log) is found


@pytest.mark.parametrize("log", [HELD, FREE, REPLACED, None], ids=str)
@pytest.mark.parametrize(
    "more",
    [
        {"pid_namespace": 41},
        {"pid_namespace": 0},
        {"boot_id": "another"},
        {"boot_id": ""},
        {"stopped": True},
    ],
    ids=str,
)
def test_here_or_after_another_boot_what_is_not_seen_is_gone(
    more: dict[str, Any], log: LogHold | None
) -> None:
    """An earlier version did not record its namespace, which counts as this one."""
    assert fate(record(**{**ELSEWHERE, **more}), HERE, log) is Fate.GONE


def test_where_the_own_namespace_is_unknown_the_log_alone_tells() -> None:
    here = Here("boot", 0)
    assert fate(record(**ELSEWHERE), here, HELD) is Fate.LIVES
    assert fate(record(**ELSEWHERE), here, None) is Fate.UNKNOWN


def test_a_reason_says_what_to_do() -> None:
    kept, path = record(**ELSEWHERE), Path("/var/lib/busbar/records/o1.json")
    assert reason(kept, Fate.LIVES, path) == (
        "it runs in another PID namespace (as process 7 there), out of this agent's reach: run the agent"
        " there again, or end it there"
    )
    assert reason(kept, Fate.UNKNOWN, path) == (
        "it may run in another PID namespace (as process 7 there), out of this agent's sight: run the agent"
        f" there again, or make sure that it has ended there and then remove {path}"
    )
    assert "process" not in reason(record(**{**ELSEWHERE, "pid": 0}), Fate.LIVES, path)
