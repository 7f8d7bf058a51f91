"""Workers that run as another user than the agent, which is root: what they are and what they reach."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from busbar.agent.processes import procfs
from busbar.agent.processes.process import Process, SpawnError, SpawnSpec, WorkerProcesses
from busbar.agent.processes.run_as import files_as, hand_over, run_as
from busbar.agent.runtimes import LaunchSpec, RuntimesError, WorkerSpec, load_runtimes, prepare
from busbar.agent.state import State
from busbar.agent.workers.probes import probe
from busbar.bus.clock import SystemClock
from busbar.bus.system.files import write_atomically

from tests.brokers import free_port, lacking, until
from tests.pace import bound

USER = "nobody"
OID = "3f0c8a34-0000-4000-8000-000000000001"
CLOCK = SystemClock()
SCOPE = f"as/{uuid.uuid4().hex}"
SECRETS = ("secret", "joined.json", "folder_id", "ca.crt", "assignment.json", "records/x.json", "logs/x.log")


@pytest.fixture
def here() -> Iterator[State]:
    """The state folder of an agent whose workers run as others, where everybody can come to it."""
    if os.geteuid() != 0:
        lacking("this test needs root")
    folder = Path(tempfile.mkdtemp(prefix="as-"))
    folder.chmod(0o755)
    state = State.open(folder / "state", uuid.uuid4().hex)
    state.let_through(True)
    for name in SECRETS:
        write_atomically(state.folder / name, b"")
    yield state
    state.close()
    shutil.rmtree(folder)


Start = Callable[..., tuple[Process, LaunchSpec]]


@pytest.fixture
async def start(here: State) -> Any:
    processes = WorkerProcesses(SCOPE, CLOCK)

    def starting(
        runtime: str, tables: Mapping[str, Any], transport: Any = None
    ) -> tuple[Process, LaunchSpec]:
        folder = here.worker_folder(OID)
        spec = WorkerSpec("web-1", OID, "edge", "web", 1, transport)
        launch = load_runtimes(tables)[runtime].render(spec, "127.0.0.1", {"default": free_port()}, folder)
        prepare(launch, folder)
        log = here.log_path(OID)
        wanted = SpawnSpec(
            "web-1", uuid.uuid4().hex, launch.argv, folder, log, launch.env, run_as=launch.run_as
        )
        return processes.spawn(wanted), launch

    yield starting
    for found in processes.scan():
        await processes.kill_by_token(found.token)
    assert processes.scan() == []


def script(text: str, **more: Any) -> dict[str, Any]:
    argv = ["/bin/sh", "-c", text]
    return {
        "echo": {"argv": argv, "port": False, "user": USER, "ready": {"type": "log", "pattern": "x"}} | more
    }


@pytest.mark.fault(90, "S")
async def test_a_worker_of_another_user_reads_no_secret_and_owns_its_folder(
    here: State, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUSBAR_PASSWORD", "of the agent")
    text = (
        "id -u; id -g; id -G; pwd; env | grep -c PASSWORD; cat settings; echo own > made && cat made;"
        f"for f in {' '.join(SECRETS)}; do cat ../../$f && echo READ $f; done;"
        "ls ../.. && echo LISTED; ls .. && echo LISTED; ls ../../logs && echo LISTED;"
        "echo x > ../../made && echo WROTE; echo x > ../made && echo WROTE;"
        f"cat /proc/{os.getpid()}/environ && echo READ environ; ls /proc/self/fd | wc -l"
    )
    process, _ = start("echo", script(text, config_file="settings", config_template="rendered\n"))
    async with asyncio.timeout(bound(10)):
        await process.wait()
    process.close()
    log = here.log_path(OID)
    said = [line for line in log.read_text().splitlines() if "denied" not in line]
    nobody = pwd.getpwnam(USER)
    groups = " ".join(map(str, os.getgrouplist(USER, nobody.pw_gid)))
    folder = here.worker_folder(OID)
    first = [str(nobody.pw_uid), str(nobody.pw_gid), groups, str(folder), "0", "rendered", "own"]
    assert said == [*first, "5"]  # stdin, stdout, stderr, its log once more and the one of ls itself
    assert folder.stat().st_uid == (folder / "settings").stat().st_uid == nobody.pw_uid
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert log.stat().st_uid == 0 and stat.S_IMODE(log.stat().st_mode) == 0o600


@pytest.mark.fault(90, "S")
async def test_a_worker_of_another_user_is_found_by_its_token_and_stopped(start: Start) -> None:
    process, launch = start("echo", script("trap '' TERM; setsid sleep 60 & sleep 60; :"))
    processes = WorkerProcesses(SCOPE, CLOCK)
    await until(lambda: sum(len(group.pids) for group in processes.scan()) == 3)
    report = await processes.stop(process, launch.stop_signal, 0.1)
    assert report.gone and report.killed == 3
    process.close()
    assert processes.scan() == []


@pytest.mark.mosquitto
async def test_mosquitto_keeps_its_data_as_the_user(here: State, start: Start) -> None:
    if shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin") is None:
        lacking("the program mosquitto is not installed")
    transport = {"type": "mqtt", "options": {"persistence": True}}
    process, launch = start("mosquitto", {"mosquitto": {"user": USER}}, transport)
    log = here.log_path(OID)
    async with asyncio.timeout(bound(20)):
        while await probe(launch.ready, launch.probe_host, launch.port, log, 2.0, log_from=0) is not None:
            assert process.running, log.read_text()
            await asyncio.sleep(0.02)
    found = procfs.PROC / str(process.record.pid)
    assert found.stat().st_uid == pwd.getpwnam(USER).pw_uid
    await WorkerProcesses(SCOPE, CLOCK).stop(process, launch.stop_signal, bound(launch.grace_s))
    process.close()
    assert (here.worker_folder(OID) / "mosquitto.db").stat().st_uid == pwd.getpwnam(USER).pw_uid


@pytest.mark.fault(90, "S")
def test_links_in_a_worker_s_folder_lead_the_agent_nowhere(here: State) -> None:
    target = here.folder / "records"
    launch = load_runtimes(script("x", config_file="conf/a.json", config_template="x"))["echo"].render(
        WorkerSpec("web-1", OID, "edge", "web", 1, None), "127.0.0.1", {"default": 0}, here.worker_folder(OID)
    )
    folder = here.worker_folder(OID)
    hand_over(folder, launch.run_as)
    (folder / "conf").symlink_to(target)
    with pytest.raises((OSError, ValueError)):
        prepare(launch, folder)
    assert not (target / "a.json").exists()
    (folder / "conf").unlink()
    (folder / "linked").hardlink_to(here.folder / "secret")
    (folder / "to").symlink_to(here.folder / "secret")
    prepare(launch, folder)
    hand_over(folder, None)
    assert (folder / "conf" / "a.json").stat().st_uid == folder.stat().st_uid == 0
    hand_over(folder, run_as("daemon"))
    hand_over(folder, run_as(USER))
    assert (folder / "conf" / "a.json").stat().st_uid == pwd.getpwnam(USER).pw_uid


def test_files_are_opened_with_the_user_s_rights_and_then_the_agent_s_again(here: State) -> None:
    secret = here.folder / "secret"
    with files_as(run_as(USER)):
        with pytest.raises(PermissionError):
            secret.read_bytes()
        with pytest.raises(PermissionError):
            (here.folder / "made").touch()
    with pytest.raises(RuntimeError), files_as(run_as(USER)):
        raise RuntimeError
    assert secret.read_bytes() == b""


def test_a_file_of_others_stays_theirs_when_a_folder_changes_hands(here: State) -> None:
    folder, secret = here.worker_folder(OID), here.folder / "secret"
    hand_over(folder, run_as(USER))
    (folder / "linked").hardlink_to(secret)
    (folder / "to").symlink_to(secret)
    hand_over(folder, run_as("daemon"))
    assert secret.stat().st_uid == 0
    assert folder.stat().st_uid == pwd.getpwnam("daemon").pw_uid


def test_a_folder_or_program_out_of_the_user_s_reach_is_said(here: State, start: Start) -> None:
    here.let_through(False)
    with pytest.raises(ValueError, match=f"user 'nobody' can't enter {here.folder}/workers"):
        start("echo", script("true"))
    here.let_through(True)
    closed = here.folder / "records" / "prog"
    closed.write_text("#!/bin/sh\n")
    closed.chmod(0o755)
    with pytest.raises(SpawnError, match=f"no permission: {closed}"):
        start("echo", {"echo": script("x")["echo"] | {"argv": [str(closed)]}})


@pytest.mark.fault(90, "S")
@pytest.mark.parametrize("runtime", ["amqtt", "mosquitto", "crossbar", "nats", "echo"])
@pytest.mark.parametrize(
    ("root", "user", "why"),
    [
        (True, "no-such-user", "runtimes.{}.user: this host has no user 'no-such-user'"),
        (True, "root", "runtimes.{}.user: 'root' is root, as the agent is: leave it out"),
        (False, "nobody", "runtimes.{}.user: only an agent that runs as root can start workers as 'nobody'"),
        (True, "", "runtimes.{}.user: Expected 'str' of length >= 1"),
    ],
)
def test_a_user_that_cannot_be_is_refused(
    monkeypatch: pytest.MonkeyPatch, runtime: str, root: bool, user: str, why: str
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0 if root else 1000)
    table = {"user": user} | ({"argv": ["/bin/true"]} if runtime == "echo" else {})
    with pytest.raises(RuntimesError) as refused:
        load_runtimes({runtime: table})
    assert str(refused.value) == why.format(runtime)


def test_a_change_of_the_user_outdates_running_workers_and_nothing_else_does() -> None:
    def digest(tables: Mapping[str, Any]) -> str:
        spec = WorkerSpec("web-1", OID, "edge", "web", 1, None)
        return load_runtimes(tables)["echo"].render(spec, "127.0.0.1", {"default": 0}, Path("/f")).digest

    if os.geteuid() != 0:
        lacking("this test needs root")
    plain = script("x")
    del plain["echo"]["user"]
    assert len({digest(plain), digest(script("x")), digest(script("x", user="daemon"))}) == 3


@pytest.mark.fault(90, "S")
def test_without_other_users_the_state_folder_is_closed(here: State) -> None:
    here.let_through(False)
    parts = (here.folder, *(here.folder / name for name in ("workers", "records", "logs", "www")))
    assert [stat.S_IMODE(part.stat().st_mode) for part in parts] == [0o700] * 5
