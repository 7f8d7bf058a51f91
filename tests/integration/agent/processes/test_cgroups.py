"""Workers in cgroups of their own: real processes that today's other means do not find."""

from __future__ import annotations

import os
import pwd
import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec.structs
import pytest
from busbar.agent.processes import cgroups, procfs
from busbar.agent.processes.process import SpawnError, SpawnSpec, WorkerProcesses
from busbar.agent.processes.users import RunAs

from tests.integration.agent.processes.test_process import (
    CLOCK,
    OVERWRITTEN,
    alive,
    logged,
    pids_with_token,
    script,
    start_of,
    until,
)

SCOPE = f"test/{uuid.uuid4().hex}"
UNTRACEABLE = OVERWRITTEN.replace("os.chdir", "resource.setrlimit(10, (9, 9)); os.chdir").replace(
    "import ctypes", "import resource, ctypes"
)
"""A daemon with neither session, token nor the inherited limit."""


@pytest.fixture
def place() -> Path:
    found = cgroups.parent()
    if found is None:
        pytest.skip("no cgroup v2 that this process may divide is mounted here")
    return found


@pytest.fixture
async def processes(place: Path) -> AsyncIterator[WorkerProcesses]:
    made = WorkerProcesses(SCOPE, CLOCK)
    yield made
    for found in made.scan():
        await made.kill_by_token(found.token)
    assert made.scan() == [] and ours(place) == []


@pytest.fixture
def elsewhere(place: Path) -> Iterator[Path]:
    """Where an agent would make cgroups that was restarted in another session."""
    folder = place / f"test-{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    yield folder
    folder.rmdir()


def ours(place: Path) -> list[Path]:
    return list(place.glob(cgroups.name_of(SCOPE, "*").replace("%2A", "*")))


async def daemon(start: SpawnSpec) -> int:
    await until(logged(start, "\n"))
    return int(start.log_path.read_text().split()[1])


@pytest.mark.fault(65, "O")
async def test_a_daemon_that_hides_from_all_other_means_is_found(
    processes: WorkerProcesses, place: Path, tmp_path: Path
) -> None:
    start = script(tmp_path, UNTRACEABLE)
    process = processes.spawn(start)
    assert (await process.wait()).code == 0
    pid = await daemon(start)
    assert alive(pid) and pids_with_token(start.token) == []
    (folder,) = ours(place)
    assert cgroups.pids_in(folder) == {pid}
    used = await processes.usage([process.record])
    assert used[start.token].processes == 1
    report = await processes.kill_leftovers(process.record)
    assert (report.killed, report.gone) == (1, True)
    assert not alive(pid) and not folder.exists()


@pytest.mark.fault(65, "O")
async def test_an_agent_that_lost_its_records_finds_it(
    processes: WorkerProcesses, place: Path, tmp_path: Path
) -> None:
    start = script(tmp_path, UNTRACEABLE)
    await processes.spawn(start).wait()
    pid = await daemon(start)
    later = WorkerProcesses(SCOPE, CLOCK)
    (found,) = later.scan()
    assert (found.token, found.pids) == (start.token, (pid,))
    assert WorkerProcesses("test/another-node", CLOCK).scan() == []
    assert (await later.kill_by_token(found.token)).gone
    assert not alive(pid) and ours(place) == []


@pytest.mark.fault(65, "O")
async def test_an_agent_in_another_cgroup_finds_it(
    processes: WorkerProcesses, elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = script(tmp_path, UNTRACEABLE)
    process = processes.spawn(start)
    await process.wait()
    pid = await daemon(start)
    with monkeypatch.context() as patch:
        patch.setattr(cgroups, "parent", lambda: elsewhere)
        report = await processes.kill_leftovers(process.record)
    assert (report.killed, report.gone) == (1, True)
    assert not alive(pid)


@pytest.mark.fault(65, "O")
async def test_without_cgroups_a_daemon_is_found_by_what_it_inherits(
    processes: WorkerProcesses, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "parent", lambda: None)
    start = script(tmp_path, OVERWRITTEN)
    process = processes.spawn(start)
    await process.wait()
    pid = await daemon(start)
    assert ours(place) == []
    report = await processes.kill_leftovers(process.record)
    assert (report.killed, report.gone) == (1, True)
    assert not alive(pid)


async def test_one_that_forks_without_end_is_killed_at_once(
    processes: WorkerProcesses, place: Path, tmp_path: Path
) -> None:
    text = """
import os, sys
print("running", flush=True)
for _ in range(20000):
    if os.fork() == 0:
        os.setsid()
    else:
        os._exit(0)
"""
    start = script(tmp_path, text)
    process = processes.spawn(start)
    await process.wait()
    (folder,) = ours(place)
    cgroups.kill(folder)
    await until(lambda: not cgroups.pids_in(folder))
    assert (await processes.kill_leftovers(process.record)).gone


async def test_a_stop_lets_it_end_by_itself_and_removes_its_cgroup(
    processes: WorkerProcesses, place: Path, tmp_path: Path
) -> None:
    process = processes.spawn(start_of(tmp_path, "sleep", "60"))
    (folder,) = ours(place)
    assert cgroups.pids_in(folder) == {process.record.pid}
    assert os.getpid() not in cgroups.pids_in(folder)
    report = await processes.stop(process, signal.SIGTERM, 5)
    assert (report.signalled, report.killed, report.gone) == (1, 0, True)
    assert not folder.exists()


async def test_what_it_made_inside_its_cgroup_ends_with_it(
    processes: WorkerProcesses, place: Path, tmp_path: Path
) -> None:
    """As a container engine does that runs as a worker."""
    process = processes.spawn(start_of(tmp_path, "sleep", "60"))
    (folder,) = ours(place)
    (folder / "inner").mkdir()
    (folder / "inner/cgroup.procs").write_text(str(process.record.pid))
    assert cgroups.pids_in(folder) == {process.record.pid}
    assert (await processes.stop(process, signal.SIGTERM, 5)).gone
    assert not folder.exists()


async def test_a_worker_that_took_another_environment_is_adopted(
    processes: WorkerProcesses, tmp_path: Path
) -> None:
    start = start_of(tmp_path, "env", "-i", "PATH=/usr/bin:/bin", "sleep", "60")
    process = processes.spawn(start)
    await until(lambda: (procfs.environ(process.record.pid) or b"").startswith(b"PATH=/usr/bin:/bin\0"))
    await until(lambda: not pids_with_token(start.token))
    process.close()
    adopted = processes.adopt(process.record)
    assert adopted is not None
    report = await processes.stop(adopted, signal.SIGTERM, 5)
    assert report.signalled == 1 and report.gone


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may start a process as another user")
async def test_a_worker_of_another_user_is_in_its_cgroup(
    processes: WorkerProcesses, place: Path, tmp_path: Path
) -> None:
    nobody = pwd.getpwnam("nobody")
    user = RunAs("nobody", nobody.pw_uid, nobody.pw_gid, ())
    start = msgspec.structs.replace(start_of(tmp_path, "sleep", "60", run_as=user), folder=Path("/"))
    process = processes.spawn(start)
    (folder,) = ours(place)
    assert cgroups.pids_in(folder) == {process.record.pid}
    assert (await processes.stop(process, signal.SIGTERM, 5)).gone


async def test_a_program_that_is_missing_leaves_no_cgroup(
    processes: WorkerProcesses, place: Path, tmp_path: Path
) -> None:
    with pytest.raises(SpawnError, match="not found"):
        processes.spawn(start_of(tmp_path, "/nowhere/routerd"))
    assert ours(place) == []


async def test_a_cgroup_that_a_killed_agent_left_is_removed(processes: WorkerProcesses, place: Path) -> None:
    folder = place / cgroups.name_of(SCOPE, "t")
    folder.mkdir()
    processes.scan()
    assert not folder.exists()
