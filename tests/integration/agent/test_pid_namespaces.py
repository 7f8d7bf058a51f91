"""An agent without cgroups that starts again in another PID namespace, where it can't see its workers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.agents import Bench, bench, worker
from tests.brokers import mosquitto
from tests.integration.agent.test_agent_process import Manager, record, until
from tests.pace import bound

CONTAINER = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child")
HOST: tuple[str, ...] = ()
WITHOUT_CGROUPS = """
import runpy
from busbar.agent.processes import cgroups
cgroups.parent = lambda: None
runpy.run_module("busbar.cli.app", run_name="__main__")
"""


@cache
def permitted() -> bool:
    return subprocess.run([*CONTAINER, "true"], capture_output=True).returncode == 0


pytestmark = [
    pytest.mark.mosquitto,
    pytest.mark.skipif(not permitted(), reason="unshare of user and PID namespaces is not permitted here"),
]


class Trial:
    """A node, its manager over a broker, and one agent at a time."""

    def __init__(self, node: Bench, manager: Manager, port: int) -> None:
        self.node, self.manager, self.port = node, manager, port

    @contextlib.asynccontextmanager
    async def agent(self, place: tuple[str, ...]) -> AsyncIterator[Process]:
        """An agent in that place, which is killed at the end; what it reports comes anew."""
        self.manager.latest.clear()
        node = self.node
        clean = {key: text for key, text in os.environ.items() if not key.startswith(("BUSBAR_", "XDG_"))}
        process = await asyncio.create_subprocess_exec(
            *(*place, sys.executable, "-c", WITHOUT_CGROUPS, "agent", "--node", "n1", "--realm", node.realm),
            *("--state", str(node.folder / "state"), "--runtimes", str(node.toml), "--keep-workers"),
            *("--broker", f"mqtt://127.0.0.1:{self.port}"),
            env={**clean, "HOME": str(node.folder)},
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def first_run(self, place: tuple[str, ...]) -> int:
        """Have an agent start the worker there, and be killed; returns the worker's pid on the host."""
        async with self.agent(place):
            await self.manager.assign(worker())
            await self.manager.running()
            (pid,) = self.node.living()
            return pid

    async def reported(self, wanted: Callable[[list[dict[str, Any]]], Any]) -> list[dict[str, Any]]:
        """Wait for a report of such workers."""
        latest = self.manager.latest

        def found() -> Any:
            workers = latest.get("reported", {}).get("workers")
            return workers is not None and wanted(workers) and [workers]

        return (await until(found))[0]  # type: ignore[no-any-return]

    async def held(self) -> dict[str, Any]:
        """Wait until it tells that it starts nothing, and why."""
        (found,) = await self.reported(
            lambda workers: workers and "another PID namespace" in (workers[0]["reason"] or "")
        )
        assert (found["state"], found["pid"]) == ("STOPPING", None)
        return found

    async def reset(self, place: tuple[str, ...]) -> str:
        """Try to make the folder new there, which must be refused; returns what is said."""
        command = (*place, sys.executable, "-m", "busbar.cli.app", "agent", "reset")
        process = await asyncio.create_subprocess_exec(
            *command, "--state", str(self.node.folder / "state"), stderr=asyncio.subprocess.PIPE
        )
        _, stderr = await asyncio.wait_for(process.communicate(), bound(20))
        assert process.returncode == 1
        return " ".join(stderr.decode().split())

    def log(self) -> Path:
        return self.node.folder / "state" / "logs" / "oid-web-1.log"


@pytest.fixture
async def trial(tmp_path: Path) -> AsyncIterator[Trial]:
    async with bench(tmp_path) as node:
        with mosquitto(tmp_path) as port:
            async with Manager(node, port) as manager:
                yield Trial(node, manager, port)


@pytest.mark.fault(125, "B K C")
async def test_a_worker_of_another_pid_namespace_is_not_started_again_while_it_lives(trial: Trial) -> None:
    pid = await trial.first_run(HOST)
    assert f"hold {trial.log()}: stop them there first" in await trial.reset(CONTAINER)
    async with trial.agent(CONTAINER):
        reason = (await trial.held())["reason"]
        assert f"as process {pid} there" in reason and "end it there" in reason
        assert trial.node.living() == {pid}
    async with trial.agent(HOST):
        again = await trial.manager.running()
        assert (again["pid"], again["restarts"]) == (pid, 0), "it is adopted where it can be seen"
    async with trial.agent(CONTAINER):
        await trial.held()
        assert trial.node.living() == {pid}
        os.kill(pid, signal.SIGKILL)
        await trial.manager.running()
        assert len(trial.node.living()) == 1


@pytest.mark.fault(125, "B C")
async def test_a_worker_of_another_pid_namespace_is_gone_once_it_has_ended(trial: Trial) -> None:
    pid = await trial.first_run(HOST)
    async with trial.agent(CONTAINER) as second:
        await trial.held()
        await trial.manager.assign()
        applied = {"epoch": 1, "version": trial.node.version}
        await until(lambda: trial.manager.latest["reported"]["applied"] == applied)
        await trial.held()
        assert trial.node.living() == {pid}
        (inner,) = (int(each) for each in children(second.pid))
        os.kill(inner, signal.SIGTERM)
        await asyncio.wait_for(second.wait(), bound(20))
        assert trial.manager.states[-1]["leaves"] == "running", "the manager must not start it elsewhere"
    async with trial.agent(CONTAINER):
        await trial.held()
        os.kill(pid, signal.SIGKILL)
        await trial.reported(lambda workers: not workers)
        assert trial.node.living() == set()


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.mark.fault(125, "C")
async def test_what_has_ended_with_its_pid_namespace_is_started_in_the_next_one(trial: Trial) -> None:
    pid = await trial.first_run(CONTAINER)
    await until(lambda: pid not in trial.node.living())
    async with trial.agent(CONTAINER):
        await trial.manager.running()
        assert len(trial.node.living()) == 1


@pytest.mark.fault(125, "B C")
async def test_where_nothing_tells_whether_it_ended_the_operator_does(trial: Trial) -> None:
    pid = await trial.first_run(HOST)
    trial.log().unlink()
    async with trial.agent(CONTAINER):
        reason, path = (await trial.held())["reason"], trial.node.folder / "state/records/oid-web-1.json"
        assert f"remove {path}" in reason
        assert trial.node.living() == {pid} and record(trial.node)["pid"] == pid
        os.kill(pid, signal.SIGKILL)
        path.unlink()
        await trial.manager.running()
        assert len(trial.node.living()) == 1
