"""Marks that another user of the host has put on its own process: the agent neither takes nor stops it."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from busbar.agent.processes import cgroups, procfs
from busbar.agent.processes.process import SpawnSpec, WorkerProcesses
from busbar.agent.processes.procfs import ProcessRecord
from busbar.agent.processes.run_as import run_as

from tests.integration.agent.processes.test_process import CLOCK, alive, until

SCOPE = f"test/{uuid.uuid4().hex}"
OTHER = 65_533
"""A user that no runtime has."""
HOLD = "import sys; print('up', flush=True); sys.stdin.read()"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


@pytest.fixture
def token() -> str:
    return f"token-{uuid.uuid4().hex}"


@pytest.fixture
def forged(token: str) -> Iterator[int]:
    """A process of another user, with every mark of a worker: environment, inherited limit, session."""
    env = {"PATH": os.environ["PATH"], procfs.SCOPE: SCOPE, procfs.WORKER: "web-1", procfs.TOKEN: token}
    limit = f"--locks={procfs.inherited_mark(token)}:"
    command = ["prlimit", limit, "setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups"]
    with subprocess.Popen(
        [*command, sys.executable, "-S", "-c", HOLD],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield process.pid
        process.stdin.close()


async def test_a_process_of_another_user_is_no_worker_whatever_it_says(forged: int, token: str) -> None:
    processes = WorkerProcesses(SCOPE, CLOCK)
    record = ProcessRecord("web-1", -1, procfs.boot_id(), 0, token)
    assert processes.scan() == []
    assert procfs.member_pids(record) == []
    assert procfs.usage([record])[token].processes == 0
    await processes.kill_by_token(token)
    assert alive(forged)


async def test_it_does_not_stand_before_the_worker_whose_token_it_has(
    forged: int, token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "parent", lambda: None)
    processes = WorkerProcesses(SCOPE, CLOCK)
    argv = (sys.executable, "-S", "-c", "import time; time.sleep(600)")
    made = processes.spawn(SpawnSpec("web-2", token, argv, tmp_path, tmp_path / "log", {}))
    (group,) = processes.scan()
    assert group.leader is not None and (group.leader.pid, group.worker) == (made.record.pid, "web-2")
    assert (await processes.stop(made, 15, 5.0)).gone
    assert alive(forged)


async def test_a_runtime_s_user_is_one_of_ours(token: str, tmp_path: Path) -> None:
    processes, user = WorkerProcesses(SCOPE, CLOCK), run_as("nobody")
    argv = ("sleep", "600")
    made = processes.spawn(SpawnSpec("web-3", token, argv, Path("/"), tmp_path / "log", {}, run_as=user))
    await until(lambda: procfs.member_pids(made.record) == [made.record.pid])
    assert [group.token for group in processes.scan()] == [token]
    assert (await processes.kill_by_token(token)).gone
