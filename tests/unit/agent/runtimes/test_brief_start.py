"""A program that is started for a moment ends with what it has started."""

from __future__ import annotations

import os
from pathlib import Path

from busbar.agent.routers.brief_start import start_briefly

from tests.brokers import until
from tests.pace import bound


async def test_a_wrapper_that_never_ends_is_ended_with_what_it_has_started(tmp_path: Path) -> None:
    program, pid = tmp_path / "mosquitto", tmp_path / "pid"
    program.write_text(f"#!/bin/sh\nsleep 600 &\necho $! > {pid}\nwait\n")
    program.chmod(0o755)
    started = start_briefly(str(program), tmp_path / "none.conf", bound(0.3))
    assert not started.ran and not started.lines
    child = int(pid.read_text())
    await until(lambda: not os.path.exists(f"/proc/{child}") or _is_zombie(child))


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
