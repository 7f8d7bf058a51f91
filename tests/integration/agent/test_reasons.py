"""Reasons and conditions live as long as their cause."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from busbar.agent import service, supervisor
from busbar.agent.planner.lifecycle import WorkerTiming
from busbar.agent.processes import procfs
from busbar.agent.state import State
from busbar.agent.workers import identity
from busbar.bus.messages import Assignment

from tests.agents import Bench, bench, worker

PATIENT = WorkerTiming(live_every=0.2, live_misses=1000)
"""A worker that hangs is not restarted."""


@pytest.fixture
async def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(supervisor, "USAGE_S", 0.1)
    async with bench(tmp_path) as made:
        yield made


@pytest.fixture
def stranger(node: Bench) -> Iterator[subprocess.Popen[bytes]]:
    """A process that looks like a worker of this node in another store."""
    marks = {procfs.SCOPE: node.scope, procfs.WORKER: "web-9", procfs.TOKEN: f"busbar:{node.scope}:ff:o9:1:x"}
    marks |= {identity.STORE: "another", identity.OID: "o9", "PATH": os.environ["PATH"]}
    code = "import threading; threading.Event().wait()"
    process = subprocess.Popen([sys.executable, "-c", code], env=marks, start_new_session=True)
    yield process
    process.kill()
    process.wait()


@pytest.mark.fault(68, "H")
async def test_the_reason_of_a_worker_that_hung_is_gone_when_it_answers_again(node: Bench) -> None:
    await node.start(PATIENT)
    node.assign(worker())
    pid = (await node.state("web-1", "RUNNING", reason=None))["pid"]
    os.kill(pid, signal.SIGSTOP)
    await node.report(lambda last: last["workers"][0]["reason"])
    os.kill(pid, signal.SIGCONT)
    await node.state("web-1", "RUNNING", reason=None, pid=pid)


@pytest.mark.fault(28, "L")
async def test_a_state_folder_that_is_moved_away_is_told_until_it_is_back(node: Bench) -> None:
    def told(last: dict[str, Any]) -> bool:
        return any("was removed or replaced" in each for each in last["conditions"])

    await node.start()
    node.assign(worker())
    pid = (await node.state("web-1", "RUNNING"))["pid"]
    folder = node.folder / "state"
    folder.rename(node.folder / "moved")
    await node.report(told)
    (node.folder / "moved").rename(folder)
    last = await node.report(lambda last: not told(last))
    assert last["workers"][0]["pid"] == pid


@pytest.mark.fault(68, "H")
async def test_the_condition_of_foreign_workers_follows_them(
    node: Bench, stranger: subprocess.Popen[bytes]
) -> None:
    foreign = "1 worker of another store or agent runs on this host: left alone"
    await node.start()
    node.assign(worker())
    await node.report(lambda last: foreign in last["conditions"])
    stranger.kill()
    await node.report(lambda last: foreign not in last["conditions"])


@pytest.mark.fault(68, "H")
async def test_an_assignment_that_could_not_be_stored_is_stored_once_there_is_room(
    node: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, full = State.store_assignment, True

    def store(self: State, assignment: Assignment) -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, assignment)

    monkeypatch.setattr(State, "store_assignment", store)
    agent = await node.start()
    node.assign(worker())
    told = "assignment not stored: No space left on device"
    await node.report(lambda last: told in last["conditions"])
    full = False
    await node.report(lambda last: told not in last["conditions"])
    assert agent.state.assignment() == agent.supervisor.assignment


@pytest.mark.fault(68, "H")
async def test_a_refused_assignment_that_is_deleted_is_no_longer_told(node: Bench) -> None:
    await node.start()
    node.assign(worker())
    await node.state("web-1", "RUNNING")
    node.assign(store="s2", epoch=99)
    await node.report(lambda last: last["refused"])
    node.observer.post(node.topics.node("n1", "assignment"), b"", retain=True)
    await node.report(lambda last: last["refused"] is None)


@pytest.mark.fault(122, "H")
@pytest.mark.parametrize(
    ("host", "interface", "told"),
    [
        (None, "0.0.0.0", "127.0.0.1"),
        ("localhost", "0.0.0.0", "localhost"),
        ("node1.example", "0.0.0.0", None),
        (None, "127.0.0.1", None),
    ],
)
async def test_workers_that_are_advertised_where_nobody_reaches_them_are_told(
    node: Bench, host: str | None, interface: str, told: str | None
) -> None:
    transport = {"type": "tcp", "anonymous": True, "endpoint": {"type": "tcp", "interface": interface}}
    await node.start(host=host)
    node.assign(worker(transport=transport))
    last = await node.report(lambda r: r["workers"] and r["workers"][0]["state"] == "RUNNING")
    found = [each for each in last["conditions"] if "all interfaces" in each]
    assert len(found) == (told is not None)
    assert told is None or f"clients are told {told}, which is this host alone" in found[0]
    node.assign()
    await node.report(lambda r: not r["workers"] and not any("all interf" in c for c in r["conditions"]))


@pytest.mark.fault(119, "U L")
async def test_an_assignment_that_does_not_come_is_told_with_the_right_it_takes(
    node: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "UNHEARD_S", 0.5)
    await node.start()

    topic = node.topics.node("n1", "assignment")

    def told(last: dict[str, Any]) -> bool:
        said = f"no assignment has come: its user may have no right to read {topic};"
        return any(said in each for each in last["conditions"])

    await node.report(told)
    node.assign(worker())
    await node.report(lambda last: last["workers"] and not told(last))
