"""Real processes: spawned, adopted, watched and stopped; foreign ones are never touched.

Without cgroups, which would find what other means have to find here: see test_cgroups.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import msgspec.structs
import pytest
from busbar.agent.processes import cgroups, exits, logs, procfs
from busbar.agent.processes.process import Process, SpawnError, SpawnSpec, WorkerProcesses
from busbar.agent.processes.procfs import ProcessRecord
from busbar.bus.clock import SystemClock

from tests.pace import bound

PYTHON = sys.executable
SCOPE = f"test/{uuid.uuid4().hex}"
READY_S = 10.0
CLOCK = SystemClock()


def start_of(tmp_path: Path, *argv: str, token: str | None = None, **more: object) -> SpawnSpec:
    return SpawnSpec(
        worker="web-1",
        token=token or uuid.uuid4().hex,
        argv=argv,
        folder=tmp_path,
        log_path=tmp_path / "worker.log",
        **more,  # type: ignore[arg-type]
    )


def script(tmp_path: Path, text: str, token: str | None = None, **more: object) -> SpawnSpec:
    return start_of(tmp_path, PYTHON, "-u", "-c", text, token=token, **more)


async def until(condition: Callable[[], object], timeout_s: float = READY_S) -> None:
    """Poll for what only /proc or a file shows; there is nothing to await."""
    async with asyncio.timeout(bound(timeout_s)):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def logged(start: SpawnSpec, text: str) -> Callable[[], bool]:
    return lambda: start.log_path.exists() and text in start.log_path.read_text()


def pids_with_token(token: str) -> list[int]:
    """Living processes with this token, found without the code under test."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            alive = entry.name.isdigit() and "\nState:\tZ" not in (entry / "status").read_text()
            if alive and f"={token}".encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


def alive(pid: int) -> bool:
    stat = procfs.read(pid)
    return stat is not None and not stat.dead


@pytest.fixture(autouse=True)
def no_cgroups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "parent", lambda: None)


@pytest.fixture
async def processes() -> AsyncIterator[WorkerProcesses]:
    made = WorkerProcesses(SCOPE, CLOCK)
    yield made
    for found in made.scan():
        await made.kill_by_token(found.token)
    assert made.scan() == []


@pytest.fixture
def foreign() -> Iterator[subprocess.Popen[bytes]]:
    """A foreign process that leads a session, as ours do."""
    child = subprocess.Popen(["sleep", "60"], start_new_session=True)
    end = time.monotonic() + READY_S
    while not procfs.environ(child.pid):  # empty during exec: it could not be told from one of ours
        assert time.monotonic() < end
        time.sleep(0.001)
    yield child
    child.kill()
    child.wait()


async def test_spawned_process_leads_a_session_and_gets_a_clean_environment(
    processes: WorkerProcesses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUSBAR_PASSWORD", "hunter2")
    text = "import os, json; print(json.dumps([dict(os.environ), os.getsid(0), os.getpid(), os.getcwd()]))"
    start = script(tmp_path, text, env={"MODE": "quiet"}, marks={"BUSBAR_WORKER_DIGEST": "d1"})
    process = processes.spawn(start)
    assert (await process.wait()).code == 0
    environ, sid, pid, cwd = json.loads(start.log_path.read_text())
    assert sid == pid == process.record.pid
    assert cwd == str(tmp_path) == environ["HOME"]
    assert environ["BUSBAR_WORKER_TOKEN"] == start.token
    assert environ["BUSBAR_WORKER"] == "web-1"
    assert environ["BUSBAR_WORKER_DIGEST"] == "d1"
    assert environ["MODE"] == "quiet"
    assert "BUSBAR_PASSWORD" not in environ
    assert set(environ) - {"LC_CTYPE"} == {
        *("PATH", "HOME", "LANG", "SPT_NOENV", "MODE"),
        *("BUSBAR_WORKER_TOKEN", "BUSBAR_WORKER", "BUSBAR_NODE", "BUSBAR_WORKER_DIGEST"),
    }


async def test_runtime_variables_cannot_replace_the_identity(
    processes: WorkerProcesses, tmp_path: Path
) -> None:
    start = script(tmp_path, "import time; time.sleep(60)", env={"BUSBAR_WORKER_TOKEN": "forged"})
    process = processes.spawn(start)
    # The kernel shows no environment for a moment during exec.
    await until(lambda: pids_with_token(start.token) == [process.record.pid])
    await processes.stop(process, signal.SIGTERM, 5)


async def test_exit_codes_are_reported(processes: WorkerProcesses, tmp_path: Path) -> None:
    three = await processes.spawn(script(tmp_path, "raise SystemExit(3)")).wait()
    assert (three.code, three.reason) == (3, "exit code 3")
    killed = processes.spawn(start_of(tmp_path, "sleep", "60"))
    os.kill(killed.record.pid, signal.SIGKILL)
    assert (await killed.wait()).reason == "killed by SIGKILL"


async def test_a_process_that_exits_on_sigterm_is_not_killed(
    processes: WorkerProcesses, tmp_path: Path
) -> None:
    process = processes.spawn(start_of(tmp_path, "sleep", "60"))
    report = await processes.stop(process, signal.SIGTERM, 5)
    assert (report.signalled, report.killed, report.gone) == (1, 0, True)
    assert not process.running
    assert process.exited.result().code == -signal.SIGTERM
    # Reaped: no zombie is left behind.
    assert procfs.read(process.record.pid) is None


@pytest.mark.fault(33, "O")
async def test_ignored_sigterm_is_followed_by_sigkill(processes: WorkerProcesses, tmp_path: Path) -> None:
    text = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf'); time.sleep(60)"
    start = script(tmp_path, text)
    process = processes.spawn(start)
    await until(logged(start, "deaf"))
    report = await processes.stop(process, signal.SIGTERM, 0.2)
    assert (report.signalled, report.killed, report.gone) == (1, 1, True)
    assert process.exited.result().reason == "killed by SIGKILL"
    assert pids_with_token(start.token) == []


async def test_a_suspended_process_still_gets_its_grace_period(
    processes: WorkerProcesses, tmp_path: Path
) -> None:
    process = processes.spawn(start_of(tmp_path, "sleep", "60"))
    os.kill(process.record.pid, signal.SIGSTOP)
    await until(lambda: (stat := procfs.read(process.record.pid)) is not None and stat.state == "T")
    report = await processes.stop(process, signal.SIGTERM, 5)
    assert (report.killed, report.gone) == (0, True)


DAEMON = """
import os, sys, time, signal
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("grandchild", os.getpid(), flush=True)
        time.sleep(60)
    os._exit(0)
os.wait()
{then}
"""


OVERWRITTEN = """
import ctypes, os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        raw = open("/proc/self/stat").read().rpartition(")")[2].split()
        first, end = int(raw[47]), int(raw[48])  # env_start, env_end
        ctypes.memset(first, 120, end - first - 1)
        os.chdir("/")
        print("daemon", os.getpid(), flush=True)
        null = os.open("/dev/null", os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
        time.sleep(600)
    os._exit(0)
os.wait()
"""


@pytest.mark.fault(65, "O")
async def test_a_daemon_that_overwrote_its_environment_is_found(
    processes: WorkerProcesses, tmp_path: Path, foreign: subprocess.Popen[bytes]
) -> None:
    start = script(tmp_path, OVERWRITTEN)
    process = processes.spawn(start)
    assert (await process.wait()).code == 0
    await until(logged(start, "\n"))
    pid = int(start.log_path.read_text().split()[1])
    await until(lambda: b"xxxx" in (procfs.environ(pid) or b""))
    assert alive(pid) and pids_with_token(start.token) == []
    report = await processes.kill_leftovers(process.record)
    assert (report.killed, report.gone) == (1, True)
    assert not alive(pid)
    assert foreign.poll() is None
    limit = resource.getrlimit(10)
    assert limit[0] == limit[1], "the agent's own limit is restored"


@pytest.mark.fault(34, "O")
async def test_double_forked_grandchild_is_killed_by_token(
    processes: WorkerProcesses, tmp_path: Path
) -> None:
    start = script(tmp_path, DAEMON.format(then="time.sleep(60)"))
    process = processes.spawn(start)
    await until(logged(start, "grandchild"))
    assert len(pids_with_token(start.token)) == 2
    report = await processes.stop(process, signal.SIGTERM, 5)
    assert report.gone and report.killed == 1
    assert pids_with_token(start.token) == []


async def test_descendants_of_a_dead_leader_are_killed(processes: WorkerProcesses, tmp_path: Path) -> None:
    start = script(tmp_path, DAEMON.format(then="os._exit(1)"))
    process = processes.spawn(start)
    await process.wait()
    await until(logged(start, "grandchild"))
    assert len(pids_with_token(start.token)) == 1
    found = [each for each in processes.scan() if each.token == start.token]
    report = await processes.kill_leftovers(process.record)
    assert (report.killed, report.gone) == (1, True)
    assert pids_with_token(start.token) == []
    # The descendant leads a session of its own and may be the oldest left; it is killed either way.
    assert [len(each.pids) for each in found] == [1]


async def test_session_member_without_token_is_killed_with_its_leader(
    processes: WorkerProcesses, tmp_path: Path
) -> None:
    text = """
import subprocess, time
child = subprocess.Popen(["env", "-i", "sleep", "60"])
print("child", child.pid, flush=True)
time.sleep(60)
"""
    start = script(tmp_path, text)
    process = processes.spawn(start)
    await until(logged(start, "\n"))
    child = int(start.log_path.read_text().split()[1])
    report = await processes.stop(process, signal.SIGTERM, 0.5)
    assert report.gone
    assert not alive(child)


STARTER = """
import asyncio, json, msgspec.structs, os, signal, sys
from pathlib import Path
from busbar.bus.clock import SystemClock
from busbar.agent.processes.process import WorkerProcesses, SpawnSpec
async def main():
    folder = Path(sys.argv[1])
    start = SpawnSpec("web-1", sys.argv[2], ("sleep", "60"), folder, folder / "worker.log")
    process = WorkerProcesses(sys.argv[3], SystemClock()).spawn(start)
    print(json.dumps(msgspec.structs.asdict(process.record)), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


def record_of_killed_starter(tmp_path: Path, token: str) -> ProcessRecord:
    done = subprocess.run(
        [PYTHON, "-c", STARTER, str(tmp_path), token, SCOPE],
        capture_output=True,
        text=True,
        timeout=bound(30),
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    return ProcessRecord(**json.loads(done.stdout))


async def test_a_process_is_adopted_after_its_starter_was_killed(
    processes: WorkerProcesses, tmp_path: Path
) -> None:
    record = record_of_killed_starter(tmp_path, uuid.uuid4().hex)
    process = processes.adopt(record)
    assert process is not None and process.adopted and process.running
    report = await processes.stop(process, signal.SIGTERM, 5)
    assert report.gone and report.killed == 0
    assert process.exited.result().code is None
    assert pids_with_token(record.token) == []
    assert processes.adopt(record) is None


async def test_the_exit_of_an_adopted_process_is_noticed(processes: WorkerProcesses, tmp_path: Path) -> None:
    record = record_of_killed_starter(tmp_path, uuid.uuid4().hex)
    process = processes.adopt(record)
    assert process is not None
    os.kill(record.pid, signal.SIGKILL)
    async with asyncio.timeout(bound(5)):
        assert (await process.wait()).reason == "ended, exit code unknown"


async def test_process_of_a_killed_agent_is_found_by_its_token(
    processes: WorkerProcesses, tmp_path: Path
) -> None:
    token = uuid.uuid4().hex
    record = record_of_killed_starter(tmp_path, token)
    # The record is lost (the agent died between fork and storing the pid); the token was stored before.
    found = {each.token: each for each in processes.scan()}[token]
    assert found.leader is not None
    assert (found.worker, found.pids, found.leader.pid) == ("web-1", (record.pid,), record.pid)
    process = processes.adopt(found.leader)
    assert process is not None
    assert WorkerProcesses("test/another-node", CLOCK).scan() == []
    await processes.stop(process, signal.SIGTERM, 5)


@pytest.mark.parametrize("forgery", ["start_ticks", "token", "boot_id"])
@pytest.mark.fault(21, "O")
async def test_a_reused_pid_is_never_adopted_or_signalled(
    processes: WorkerProcesses, foreign: subprocess.Popen[bytes], forgery: str
) -> None:
    stat = procfs.read(foreign.pid)
    assert stat is not None
    truth = ProcessRecord("web-1", foreign.pid, procfs.boot_id(), stat.start_ticks, uuid.uuid4().hex)
    lies = {"start_ticks": stat.start_ticks - 1, "token": truth.token, "boot_id": "another-boot"}
    record = msgspec.structs.replace(truth, **{forgery: lies[forgery]})
    assert processes.adopt(record) is None
    report = await processes.stop(record, signal.SIGTERM, 0.2)
    assert (report.signalled, report.killed, report.gone) == (0, 0, True)
    await processes.kill_leftovers(record)
    assert foreign.poll() is None and alive(foreign.pid)


@pytest.mark.parametrize(
    "forgery", [{"start_ticks": 1}, {"boot_id": "another-boot"}, {"pid": 0}, {"pid_namespace": 1}]
)
async def test_token_alone_is_not_enough_to_adopt(
    processes: WorkerProcesses, tmp_path: Path, forgery: dict[str, int | str]
) -> None:
    process = processes.spawn(start_of(tmp_path, "sleep", "60"))
    forged = msgspec.structs.replace(process.record, **forgery)  # type: ignore[arg-type]
    assert processes.adopt(forged) is None
    await until(lambda: procfs.is_alive(process.record))  # the kernel shows its environment a moment later
    await processes.stop(process, signal.SIGTERM, 5)


async def test_a_reused_pid_is_spared_while_a_process_with_the_token_is_killed(
    processes: WorkerProcesses, foreign: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    start = start_of(tmp_path, "sleep", "60")
    process = processes.spawn(start)
    forged = msgspec.structs.replace(process.record, pid=foreign.pid)
    report = await processes.stop(forged, signal.SIGTERM, 0.2)
    assert (report.signalled, report.killed) == (0, 1)
    assert foreign.poll() is None
    assert pids_with_token(start.token) == []


WIPE = """
import ctypes, time
stat = open("/proc/self/stat").read().rpartition(")")[2].split()
begin, end = int(stat[47]), int(stat[48])
ctypes.memset(begin, 120, end - begin)
print("wiped", flush=True)
time.sleep(60)
"""


@pytest.mark.fault(125, "O")
async def test_nobody_is_signalled_for_a_pid_of_another_namespace(
    processes: WorkerProcesses, tmp_path: Path
) -> None:
    """What has overwritten its environment goes by its session, whose number means something else there."""
    other = processes.spawn(start := script(tmp_path, WIPE))
    await until(logged(start, "wiped"))
    here = ProcessRecord("web-1", other.record.pid, procfs.boot_id(), 1, uuid.uuid4().hex)
    there = msgspec.structs.replace(here, pid_namespace=1)
    assert procfs.member_pids(here) and not procfs.member_pids(there)
    report = await processes.stop(there, signal.SIGTERM, 0.2)
    assert (report.signalled, report.killed, report.gone) == (0, 0, True)
    assert other.running
    await processes.stop(other, signal.SIGTERM, 5)


@pytest.mark.fault(125, "B")
@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("exec sleep 60", True),
        ("exec sleep 60 >/dev/null 2>&1", True),
        (f"exec {PYTHON} -c 'import os, time; os.closerange(3, 4096); time.sleep(60)'", True),
        ("sleep 60 & exit 0", True),
        (f"exec {PYTHON} -c 'import os, time; os.closerange(0, 4096); time.sleep(60)'", False),
    ],
)
async def test_a_worker_s_log_is_held_until_its_last_process_has_ended(
    processes: WorkerProcesses, tmp_path: Path, text: str, held: bool
) -> None:
    start = start_of(tmp_path, "/bin/sh", "-c", text)
    process = processes.spawn(start)
    began = logs.hold_of(start.log_path)
    assert began is not None and began.held
    if "exit" in text:
        await process.wait()
    if not held:
        await until(lambda: logs.hold_of(start.log_path) == began._replace(held=False))
    elif PYTHON in text:
        await until(lambda: len(os.listdir(f"/proc/{process.record.pid}/fd")) == 3)
    assert logs.hold_of(start.log_path) == began._replace(held=held)
    assert logs.held_in(tmp_path) == ([start.log_path] if held else [])
    await processes.stop(process, signal.SIGTERM, 5)
    assert logs.hold_of(start.log_path) == began._replace(held=False)


async def test_a_process_that_overwrote_its_environment_is_still_adopted(
    processes: WorkerProcesses, tmp_path: Path
) -> None:
    # As programs do that set their title: they overwrite the environment's memory.
    start = script(tmp_path, WIPE)
    process = processes.spawn(start)
    await until(logged(start, "wiped"))
    assert pids_with_token(start.token) == []
    process.close()
    adopted = processes.adopt(process.record)
    assert adopted is not None
    report = await processes.stop(adopted, signal.SIGTERM, 5)
    assert report.signalled == 1 and report.gone
    assert not alive(process.record.pid)
    assert processes.adopt(msgspec.structs.replace(process.record, start_ticks=1)) is None


@pytest.mark.fault(41, "O")
async def test_zombie_counts_as_dead(processes: WorkerProcesses, tmp_path: Path) -> None:
    child = subprocess.Popen(  # noqa: ASYNC220
        ["sleep", "60"], start_new_session=True, env={"BUSBAR_WORKER_TOKEN": "t1", "PATH": "/usr/bin:/bin"}
    )
    stat = procfs.read(child.pid)
    assert stat is not None
    record = ProcessRecord("web-1", child.pid, procfs.boot_id(), stat.start_ticks, "t1")
    await until(lambda: procfs.is_alive(record))  # the kernel shows its environment a moment later
    child.kill()
    await until(lambda: (now := procfs.read(child.pid)) is not None and now.dead)
    assert not procfs.is_alive(record)
    assert processes.adopt(record) is None
    report = await processes.stop(record, signal.SIGTERM, 5)
    assert report.gone
    child.wait()


async def test_exits_are_noticed_without_pidfd(
    processes: WorkerProcesses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_pid: int) -> int:
        raise OSError(errno.ENOSYS, "no pidfd")

    monkeypatch.setattr(os, "pidfd_open", refused)
    ended = processes.spawn(script(tmp_path, "raise SystemExit(4)"))
    async with asyncio.timeout(bound(5)):
        assert (await ended.wait()).code == 4
    process = processes.spawn(start_of(tmp_path, "sleep", "60"))
    report = await processes.stop(process, signal.SIGTERM, 5)
    assert (report.signalled, report.killed, report.gone) == (1, 0, True)


async def test_spawn_errors_name_the_reason(processes: WorkerProcesses, tmp_path: Path) -> None:
    plain = tmp_path / "plain.txt"
    plain.write_text("#!/bin/sh\n")
    cases = {
        ("/no/such/program",): "not found: /no/such/program",
        (str(plain),): f"no permission: {plain}",
        ("sleep", "a\0b"): "can't start sleep: embedded null byte",
    }
    for argv, reason in cases.items():
        with pytest.raises(SpawnError) as caught:
            processes.spawn(start_of(tmp_path, *argv))
        assert str(caught.value) == reason
    with pytest.raises(SpawnError, match=r"not found: .*/gone"):
        processes.spawn(start_of(tmp_path / "gone", "sleep", "1"))
    (tmp_path / "worker.log").unlink()
    os.mkfifo(tmp_path / "worker.log")
    with pytest.raises(SpawnError, match=rf"can't start sleep: {tmp_path}/worker.log: no regular file"):
        processes.spawn(start_of(tmp_path, "sleep", "1"))


LIMITED = """
import asyncio, os, resource, sys
from pathlib import Path
from busbar.bus.clock import SystemClock
from busbar.agent.processes.process import WorkerProcesses, SpawnError, SpawnSpec
async def main():
    folder = Path(sys.argv[1])
    open_now = len(os.listdir("/proc/self/fd")) - 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 1, 4096))
    for round in range(20):
        try:
            start = SpawnSpec("w", sys.argv[2], ("sleep", "60"), folder, folder / "w.log")
            WorkerProcesses("test/limited", SystemClock()).spawn(start)
        except SpawnError as error:
            print(error)
        else:
            print("started")
asyncio.run(main())
"""


@pytest.mark.fault(30, "L")
async def test_the_descriptor_limit_is_a_reason_and_leaks_nothing(
    processes: WorkerProcesses, tmp_path: Path
) -> None:
    token = uuid.uuid4().hex
    command = [PYTHON, "-c", LIMITED, str(tmp_path), token]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=bound(30))
    try:
        expected = "can't start sleep: the agent has no file descriptor left"
        assert done.stdout.splitlines() == [expected] * 20, done.stderr
        assert pids_with_token(token) == []
    finally:
        await processes.kill_by_token(token)


async def test_cancelled_wait_leaves_the_process_alone(processes: WorkerProcesses, tmp_path: Path) -> None:
    process = processes.spawn(start_of(tmp_path, "sleep", "60"))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await process.wait()
    assert process.running and alive(process.record.pid)
    await processes.stop(process, signal.SIGTERM, 5)


async def test_stop_of_many_is_prompt_and_complete(processes: WorkerProcesses, tmp_path: Path) -> None:
    started: list[Process] = [processes.spawn(start_of(tmp_path, "sleep", "60")) for _ in range(8)]
    reports = await asyncio.gather(*(processes.stop(each, signal.SIGTERM, 5) for each in started))
    assert all(report.gone and report.killed == 0 for report in reports)
    assert not any(alive(each.record.pid) for each in started)


async def test_a_worker_that_keeps_forking_is_stopped_within_bounds(
    processes: WorkerProcesses, tmp_path: Path
) -> None:
    # Each keeps replacing itself by a fork in a new session that ignores SIGTERM.
    text = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("running", flush=True)
while True:
    if os.fork():
        time.sleep(0.05)
        os._exit(0)
    os.setsid()
"""
    start = script(tmp_path, text)
    process = processes.spawn(start)
    await until(logged(start, "running"))
    async with asyncio.timeout(bound(10)):
        report = await processes.stop(process, signal.SIGTERM, 0.1)
    assert report.gone
    assert pids_with_token(start.token) == []


async def test_a_scan_that_was_too_slow_to_read_a_process_does_not_end_the_kill(
    processes: WorkerProcesses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that exits between listing and reading may have been ours, with a child that was not listed."""
    process = processes.spawn(start_of(tmp_path, "sleep", "60"))
    exited = subprocess.Popen(["true"])  # noqa: ASYNC220
    exited.wait()
    listed, slow_scans = procfs.pids, iter(range(3))
    monkeypatch.setattr(procfs, "pids", lambda: listed() if next(slow_scans, None) is None else [exited.pid])
    assert (await processes.kill_leftovers(process.record)).killed == 1
    assert not alive(process.record.pid)


async def test_usage_sums_all_processes_of_a_worker(processes: WorkerProcesses, tmp_path: Path) -> None:
    text = """
import os, time
if os.fork() == 0:
    end = time.process_time() + 0.3
    while time.process_time() < end: pass
    print("burnt", flush=True)
time.sleep(60)
"""
    start = script(tmp_path, text)
    process = processes.spawn(start)
    await until(logged(start, "burnt"))
    usage = (await processes.usage([process.record]))[start.token]
    assert usage.processes == 2
    assert 0.25 <= usage.cpu_s < 10
    assert usage.rss_bytes > 4 << 20
    await processes.stop(process, signal.SIGTERM, 5)
    assert (await processes.usage([process.record]))[start.token].processes == 0


@pytest.mark.fault(39, "L")
async def test_a_flood_of_output_is_bounded_by_rotation(processes: WorkerProcesses, tmp_path: Path) -> None:
    start = start_of(tmp_path, "yes", "flood")
    process = processes.spawn(start)
    limit = 200_000
    rotations = 0
    async with asyncio.timeout(bound(20)):
        while rotations < 5:
            rotations += logs.rotate_if_needed(start.log_path, max_bytes=limit, keep=2) is not None
            await asyncio.sleep(0)
    await processes.stop(process, signal.SIGTERM, 5)
    logs.rotate_if_needed(start.log_path, max_bytes=limit, keep=2)
    sizes = {name: os.stat(tmp_path / name).st_size for name in os.listdir(tmp_path)}
    assert sorted(sizes) == ["worker.log", "worker.log.1", "worker.log.2"]
    assert max(sizes.values()) <= limit
    # It went on writing at the new end, without a hole before it.
    assert b"\0" not in start.log_path.with_name("worker.log.1").read_bytes()


@pytest.mark.fault(107, "L")
@pytest.mark.parametrize("folder_too", [False, True])
async def test_the_output_of_a_worker_whose_log_was_removed_is_bounded_and_comes_back(
    processes: WorkerProcesses, tmp_path: Path, folder_too: bool
) -> None:
    (tmp_path / "logs").mkdir()
    path = tmp_path / "logs" / "worker.log"
    start = msgspec.structs.replace(start_of(tmp_path, "yes", "flood"), log_path=path)
    process = processes.spawn(start)
    held = Path(f"/proc/{process.record.pid}/fd/1")
    await until(lambda: path.stat().st_size > 0)
    path.unlink()
    if folder_too:
        path.parent.rmdir()
    for _ in range(3):
        await until(lambda: os.stat(held).st_size > 1000)
        os.kill(process.record.pid, signal.SIGSTOP)
        await until(lambda: (stat := procfs.read(process.record.pid)) is not None and stat.state == "T")
        logs.take_from_removed(path, process.record.pid, max_bytes=1000)
        assert os.stat(held).st_size == 0
        assert folder_too or path.stat().st_size <= 3000
        os.kill(process.record.pid, signal.SIGCONT)
    assert logs.tail(path, 1) == ([] if folder_too else ["flood"])
    await processes.stop(process, signal.SIGTERM, 5)


async def test_only_a_removed_log_is_emptied(processes: WorkerProcesses, tmp_path: Path) -> None:
    mine = script(tmp_path, "import os, time; print('mine', flush=True); time.sleep(60)")
    process = processes.spawn(mine)
    await until(lambda: mine.log_path.read_text() == "mine\n")
    logs.take_from_removed(mine.log_path, process.record.pid)
    assert mine.log_path.read_text() == "mine\n"
    mine.log_path.rename(tmp_path / "moved")
    (tmp_path / "moved").unlink()
    logs.take_from_removed(mine.log_path, process.record.pid)
    assert not mine.log_path.exists(), "it was moved away by somebody"
    await processes.stop(process, signal.SIGTERM, 5)
    logs.take_from_removed(mine.log_path, process.record.pid)


async def test_a_worker_outlives_its_watcher(processes: WorkerProcesses, tmp_path: Path) -> None:
    process = processes.spawn(start_of(tmp_path, "sleep", "60"))
    process.close()
    assert alive(process.record.pid)
    adopted = processes.adopt(process.record)
    assert adopted is not None
    assert (await processes.stop(adopted, signal.SIGTERM, 5)).gone


async def test_worker_without_any_environment_is_adopted(processes: WorkerProcesses, tmp_path: Path) -> None:
    """As every process is for a moment during exec, when the kernel shows no environment."""
    process = processes.spawn(start_of(tmp_path, "env", "-i", "sleep", "60"))
    program = Path(f"/proc/{process.record.pid}/cmdline")
    await until(lambda: program.read_bytes().startswith(b"sleep"))
    assert procfs.environ(process.record.pid) == b""
    adopted = processes.adopt(process.record)
    assert adopted is not None
    assert (await processes.stop(adopted, signal.SIGTERM, 5)).gone


def test_a_log_is_never_opened_through_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "worker.log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        logs.open_append(tmp_path / "worker.log")
    assert not (tmp_path / "elsewhere").exists()
    assert exits.POLL_S <= 0.2
