"""A service as PID 1, or as a subreaper: every child that it adopts is reaped."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from busbar.bus.system.reaper import Reaper

from tests.brokers import free_port
from tests.pace import bound

ORPHANS = """
import ctypes, os, subprocess, sys, time
from busbar.bus.system.reaper import Reaper
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
own = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"], start_new_session=True)
code = "import os\\nfor i in range(100):\\n if os.fork() == 0:\\n  i % 2 and os.setsid(); os._exit(0)"
forker = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
assert forker.wait() == 0
os.waitid(os.P_PID, own.pid, os.WEXITED | os.WNOWAIT)
reaper, reaped = Reaper(), 0
reaped += reaper.reap()
assert own.wait() == 3, "its exit code was lost"
for _ in range(200):
    reaped += reaper.reap()
    if reaped >= 100:
        break
    time.sleep(0.05)
assert reaped == 100, reaped
try:
    os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
except ChildProcessError:
    print("none left")
"""


@pytest.mark.fault(66, "L")
def test_orphans_are_reaped_and_the_exit_code_of_an_own_child_is_kept() -> None:
    done = subprocess.run([sys.executable, "-c", ORPHANS], capture_output=True, text=True, timeout=bound(60))
    assert "none left" in done.stdout, done.stderr


def test_without_children_there_is_nothing_to_do() -> None:
    assert Reaper().reap() >= 0


def only_child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())


def zombies(parent: int) -> int:
    found = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            found += fields[0] == "Z" and int(fields[1]) == parent
    return found


@pytest.mark.fault(66, "L")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a PID namespace")
@pytest.mark.parametrize("command", ["up", "agent", "broker"])
async def test_as_pid_1_it_reaps_every_orphan(command: str, tmp_path: Path) -> None:
    port = free_port()
    words = {
        "up": ["--port", "0", "--state", str(tmp_path)],
        "agent": ["--node", "n1", "--state", str(tmp_path / "a"), "--broker", f"mqtt://127.0.0.1:{port}"],
        "broker": ["--port", str(port), "--state", str(tmp_path)],
    }[command]
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("BUSBAR_", "XDG_"))}
    outer = await asyncio.create_subprocess_exec(
        *("unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable),
        *("-m", "busbar.cli.app", command, *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**clean, "HOME": str(tmp_path)},
    )
    assert outer.stdout is not None
    try:
        async with asyncio.timeout(bound(60)):
            while b"ready" not in (line := await outer.stdout.readline()):
                assert line, "it has ended"
            first = only_child(outer.pid)
            script = "for i in $(seq 50); do (setsid sleep 0.0$i &) ; (sleep 0.0$i &); done"
            inside = ("nsenter", "-t", str(first), "-p", "sh", "-c", script)
            assert await (await asyncio.create_subprocess_exec(*inside)).wait() == 0
            await asyncio.sleep(0.6)  # until the last of them has ended
            while zombies(first):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    finally:
        outer.kill()
        await outer.communicate()
