"""The agent as a process of its own, on a real broker: killed, stopped, started again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from busbar.agent.state import State
from busbar.bus.clock import SystemClock
from busbar.bus.connection.link import Message
from busbar.bus.connection.mqtt_link import MqttLink
from busbar.bus.decode import encode
from busbar.bus.messages import AssignedWorker, Assignment
from busbar.bus.options import ConnectOptions
from busbar.cli.services.specs import REFUSED

from tests.agents import Bench, bench, worker
from tests.brokers import free_port, mosquitto
from tests.pace import bound


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench(tmp_path) as made:
        yield made


@contextlib.asynccontextmanager
async def agent(
    node: Bench, port: int, *, stop: bool = False, name: str = "n1", state: Path | None = None
) -> AsyncIterator[Process]:
    """`busbar agent` as operators run it; killed at the end if it still lives."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("BUSBAR_", "XDG_"))}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "busbar.cli.app", "agent", "--node", name),
        *(
            "--state",
            str(state or node.folder / "state"),
            "--runtimes",
            str(node.toml),
            "--realm",
            node.realm,
        ),
        *("--broker", f"mqtt://127.0.0.1:{port}", "--stop-workers" if stop else "--keep-workers"),
        stderr=PIPE,
        env={**clean, "HOME": str(node.folder)},
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def until(condition: Callable[[], Any], timeout: float = 15) -> Any:
    """Poll for what only /proc or a file shows."""
    async with asyncio.timeout(bound(timeout)):
        while not (found := condition()):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        return found


async def logged(process: Process, text: str) -> None:
    """Wait for a line of an agent's log."""
    assert process.stderr is not None
    async with asyncio.timeout(bound(15)):
        while text not in (line := (await process.stderr.readline()).decode()):
            assert line, f"the agent ended without '{text}'"


def record(node: Bench) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(
            (node.folder / "state" / "records" / "oid-web-1.json").read_bytes()
        )
        return found
    except OSError:
        return {}


async def ready(node: Bench) -> int:
    pid: int = await until(lambda: record(node).get("ready") and record(node)["pid"])
    return pid


@pytest.mark.fault(18, "K B")
async def test_a_killed_agent_leaves_its_worker_and_the_next_one_adopts_it(node: Bench) -> None:
    node.store(worker())
    nowhere = free_port()
    async with agent(node, nowhere) as first:
        pid = await ready(node)
        first.kill()
        await first.wait()
    assert node.living() == {pid}
    before = record(node)
    async with agent(node, nowhere) as second:
        await logged(second, "adopted")
        os.kill(pid, signal.SIGKILL)
        after = await until(lambda: record(node).get("restarts") == 1 and record(node))
        assert after["token"] != before["token"]
        assert after["port"] == before["port"]


@pytest.mark.fault(20, "O")
async def test_an_agent_killed_during_a_stop_completes_it_after_its_restart(node: Bench) -> None:
    node.store(worker(runtime="stubborn"))
    nowhere = free_port()
    async with agent(node, nowhere) as first:
        await ready(node)
        first.kill()
        await first.wait()
    node.store()
    async with agent(node, nowhere) as second:
        await logged(second, "stop: no longer assigned")
        second.kill()
        await second.wait()
    assert node.living(), "the stop was over before the agent could be killed"
    async with agent(node, nowhere):
        await until(lambda: not node.living(), 10)


@pytest.mark.fault(31, "K")
async def test_sigterm_keeps_or_stops_the_workers_as_configured(node: Bench) -> None:
    node.store(worker())
    nowhere = free_port()
    async with agent(node, nowhere) as first:
        pid = await ready(node)
        first.terminate()
        assert await asyncio.wait_for(first.wait(), bound(10)) == 0
    assert node.living() == {pid}
    async with agent(node, nowhere, stop=True) as second:
        await logged(second, "adopted")
        second.terminate()
        assert await asyncio.wait_for(second.wait(), bound(15)) == 0
    assert node.living() == set()


@pytest.mark.fault(22, "B")
async def test_a_second_agent_logs_in_one_line_why_it_does_not_start(node: Bench) -> None:
    nowhere = free_port()
    async with agent(node, nowhere) as first:
        lock = node.folder / "state" / "lock"
        await until(lambda: lock.exists() and lock.read_text().strip() == str(first.pid))
        async with agent(node, nowhere) as second:
            _, stderr = await asyncio.wait_for(second.communicate(), bound(10))
            assert second.returncode == REFUSED
            text = stderr.decode()
            assert "ERROR busbar.service: agent: state folder " in text
            assert f"(pid {first.pid})" in text
            assert "Traceback" not in text
    node.toml.write_text("[agent]\nhots = 1\n")
    async with agent(node, nowhere) as third:
        _, stderr = await asyncio.wait_for(third.communicate(), bound(10))
        assert third.returncode == REFUSED
        assert "agent.hots: unknown key" in stderr.decode()


@pytest.mark.fault(67, "O L")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGQUIT], ids=lambda each: each.name)
async def test_every_stop_signal_is_a_clean_stop(node: Bench, signum: signal.Signals) -> None:
    node.store(worker())
    async with agent(node, free_port(), stop=True) as process:
        await ready(node)
        process.send_signal(signum)
        assert await asyncio.wait_for(process.wait(), bound(15)) == 0
    assert node.living() == set()


@pytest.mark.fault(67, "K L")
async def test_without_a_terminal_sighup_reloads_the_file_and_nothing_is_restarted(node: Bench) -> None:
    node.store(worker(), worker("web-2", "later"))
    async with agent(node, free_port(), stop=True) as process:
        pid = await ready(node)
        for signum in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE):
            process.send_signal(signum)
        await logged(process, "SIGUSR2 has no meaning here")
        before = node.toml.read_text()
        node.toml.write_text("[agent]\nhots = 1\n")
        process.send_signal(signal.SIGHUP)
        await logged(process, f"not reloaded: {node.toml}: agent.hots")
        node.toml.write_text(before + "[runtimes.other]\n")
        process.send_signal(signal.SIGHUP)
        await logged(process, f"not reloaded: {node.toml}: runtimes.other.argv")
        text = '[agent]\nlog_level = "debug"\n' + before.replace("[runtimes.serve]", "[runtimes.later]")
        node.toml.write_text(text)
        for _ in range(5):
            process.send_signal(signal.SIGHUP)
        await logged(process, "later")
        later = node.folder / "state" / "records" / "oid-web-2.json"
        await until(lambda: later.exists() and json.loads(later.read_bytes()).get("ready"), 30)
        assert pid in node.living() and record(node)["pid"] == pid
        process.terminate()
        process.send_signal(signal.SIGHUP)
        assert await asyncio.wait_for(process.wait(), bound(15)) == 0
    assert node.living() == set()


@pytest.mark.fault(67, "O")
async def test_when_its_terminal_is_closed_the_agent_stops_cleanly(node: Bench) -> None:
    node.store(worker())
    ours, theirs = os.openpty()
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("BUSBAR_", "XDG_"))}
    command = ["busbar.cli.app", "agent", "--node", "n1", "--state", str(node.folder / "state")]
    command += ["--runtimes", str(node.toml), "--realm", node.realm, "--stop-workers"]
    command += ["--broker", f"mqtt://127.0.0.1:{free_port()}"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", IN_TERMINAL, os.ttyname(theirs), sys.executable, "-m", *command),
        start_new_session=True,
        env={**clean, "HOME": str(node.folder)},
    )
    os.close(theirs)
    try:
        await ready(node)
        os.close(ours)  # the kernel sends SIGHUP
        process.send_signal(signal.SIGHUP)  # and so does the shell
        assert await asyncio.wait_for(process.wait(), bound(15)) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    assert node.living() == set()


@pytest.mark.fault(64, "B O K")
async def test_a_copied_folder_does_not_touch_the_workers_of_the_original(node: Bench) -> None:
    node.store(worker())
    state, copy = node.folder / "state", node.folder / "copy"
    async with agent(node, free_port()):
        pid = await ready(node)
        shutil.copytree(state, copy)
        for name in ("n1", "n2"):
            async with agent(node, free_port(), stop=True, name=name, state=copy) as second:
                _, stderr = await asyncio.wait_for(second.communicate(), bound(15))
                assert second.returncode == REFUSED
                assert "made for node n1" in stderr.decode() and "busbar agent reset" in stderr.decode()
        assert node.living() == {pid}
        command = (sys.executable, "-m", "busbar.cli.app", "agent", "reset", "--state", str(copy))
        assert await (await asyncio.create_subprocess_exec(*command)).wait() == 0
        async with agent(node, free_port(), stop=True, state=copy) as second:
            await logged(second, "agent is ready")
            second.terminate()
            assert await asyncio.wait_for(second.wait(), bound(15)) == 0
        assert node.living() == {pid}, "a folder of the same scope stopped what is not its own"


IN_TERMINAL = """
import os, sys
terminal = os.open(sys.argv[1], os.O_RDWR)  # the first one that a session leader opens controls it
for fd in range(3):
    os.dup2(terminal, fd)
os.execv(sys.argv[2], sys.argv[2:])
"""


class Manager:
    """The manager's side, over a real broker."""

    def __init__(self, node: Bench, port: int) -> None:
        self.node = node
        self.link = MqttLink(ConnectOptions(port=port), clock=SystemClock(), random=Random(1))
        self.latest: dict[str, dict[str, Any]] = {}
        self.states: list[dict[str, Any]] = []
        self.link.subscribe(f"{node.topics.prefix}/node/#", self._on_message)
        self._run: asyncio.Task[None] | None = None

    def _on_message(self, message: Message) -> None:
        leaf = message.topic.rsplit("/", 1)[1]
        if message.payload:
            self.latest[leaf] = json.loads(message.payload)
            if leaf == "state":
                self.states.append(self.latest[leaf])

    async def __aenter__(self) -> Manager:
        self._run = asyncio.create_task(self.link.run())
        await self.link.wait_connected(bound(10))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._run is not None
        self._run.cancel()
        await asyncio.wait({self._run})

    async def assign(self, *workers: AssignedWorker) -> None:
        self.node.version += 1
        new = Assignment("s1", 1, self.node.version, list(workers), heartbeat_ms=300)
        await self.link.publish(self.node.topics.node("n1", "assignment"), encode(new), retain=True)

    async def running(self) -> dict[str, Any]:
        def found() -> Any:
            workers = self.latest.get("reported", {}).get("workers", [])
            return workers and workers[0]["state"] == "RUNNING" and workers[0]

        found_: dict[str, Any] = await until(found)
        return found_


@pytest.mark.mosquitto
@pytest.mark.fault(18, "K")
async def test_over_mosquitto_a_killed_agent_is_lost_and_back_with_the_same_worker(node: Bench) -> None:
    with mosquitto(node.folder) as port:
        async with Manager(node, port) as manager:
            async with agent(node, port) as first:
                await manager.assign(worker())
                found = await manager.running()
                birth = manager.states[-1]
                assert birth["state"] == "ready"
                first.kill()
                await until(lambda: manager.states[-1]["state"] == "lost")
                assert manager.states[-1] == {**birth, "state": "lost"}
            manager.latest.clear()
            async with agent(node, port) as second:
                again = await manager.running()
                assert (again["pid"], again["restarts"]) == (found["pid"], found["restarts"])
                assert manager.states[-1]["boot"] != birth["boot"]
                second.terminate()
                await asyncio.wait_for(second.wait(), bound(10))
                await until(lambda: manager.states[-1]["state"] == "disconnected")
            assert node.living() == {found["pid"]}


@pytest.mark.mosquitto
@pytest.mark.fault(42, "C K")
async def test_over_mosquitto_an_agent_republishes_to_a_broker_that_lost_its_state(node: Bench) -> None:
    port = free_port()
    async with agent(node, port):
        with mosquitto(node.folder, port=port):
            async with Manager(node, port) as manager:
                await manager.assign(worker())
                found = await manager.running()
        assert node.living() == {found["pid"]}
        with mosquitto(node.folder, port=port):
            async with Manager(node, port) as manager:
                again = await manager.running()
                assert (again["pid"], again["restarts"]) == (found["pid"], found["restarts"])
                assert manager.latest["state"]["state"] == "ready"
                assert manager.latest["state"]["conn"] == manager.latest["reported"]["conn"]


HEAVY = ("amqtt", "sqlite3", "sqlite_utils", "rich", "typer", "pydantic", "busbar.manager", "busbar.cli")


async def test_the_agent_stays_light() -> None:
    code = (
        "import sys, busbar.agent.service, busbar.bus.connection.mqtt_link\n"
        f"print([name for name in {HEAVY} if name in sys.modules])\n"
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmRSS')).split()[1])"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=PIPE, cwd=Path(__file__).parents[3]
    )
    stdout, _ = await asyncio.wait_for(process.communicate(), bound(20))
    heavy, kilobytes = stdout.decode().split("\n")[:2]
    assert heavy == "[]"
    assert int(kilobytes) < 45_000


@pytest.mark.fault(31, "K")
async def test_a_record_with_members_of_a_newer_version_is_read(tmp_path: Path) -> None:
    state = State.open(tmp_path / "state", "0" * 16)
    path = tmp_path / "state" / "records" / "o1.json"
    known = {"oid": "o1", "worker": "w-1", "cluster": "c", "generation": 1, "digest": "d", "token": "t"}
    path.write_text(json.dumps({**known, "later": True}))
    assert [each.oid for each in state.records()] == ["o1"]
    state.close()
