"""A node agent on an in-memory broker, with real worker processes, for the integration tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

from busbar.agent.config import AgentConfig
from busbar.agent.planner.lifecycle import WorkerTiming
from busbar.agent.processes import cgroups
from busbar.agent.processes.procfs import scan
from busbar.agent.service import Agent
from busbar.agent.state import State
from busbar.bus.clock import SystemClock
from busbar.bus.connection.link import Message
from busbar.bus.decode import encode
from busbar.bus.messages import AssignedWorker, Assignment, Command
from busbar.bus.options import ConnectOptions
from busbar.bus.testing import MemoryBroker
from busbar.bus.topics import Topics

from tests.pace import bound

QUICK = WorkerTiming(live_every=0.2)
"""Liveness probes every 0.2 s; an unanswered one still takes 2 s."""

SERVER = """
import http.server, os, signal, socket, sys, threading
port, mode = int(sys.argv[1]), sys.argv[2]
print('worker', mode, 'began', flush=True)
if mode == 'crash':
    print('boom: cannot go on', flush=True)
    sys.exit(3)
if mode in ('slow', 'deaf'):
    threading.Event().wait()
if mode == 'flood':
    for _ in range(40000):
        print('x' * 99)
if mode == 'spill':
    for _ in range(4000):
        print('x' * 999)
    print('boom: cannot go on', flush=True)
    sys.exit(3)
if mode == 'stubborn':
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b'ok')
    def log_message(self, *arguments): pass
class Server(http.server.ThreadingHTTPServer):
    allow_reuse_port = mode == 'share'
    def server_bind(self):
        if self.allow_reuse_port:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()
server = Server(('127.0.0.1', port), Handler)
print('listening', flush=True)
server.serve_forever()
"""


def toml_of(folder: Path) -> Path:
    """An agent's configuration with one exec runtime per behaviour."""
    program = folder / "server.py"
    program.write_text(SERVER)
    text = ""
    for mode in ("serve", "crash", "slow", "deaf", "stubborn", "flood", "spill", "share"):
        argv = json.dumps([sys.executable, "-u", str(program), "{port}", mode])
        text += f'[runtimes.{mode}]\nargv = {argv}\nready = {{type = "http"}}\ngrace = 1\n'
        text += 'scheme = "http"\nstart_deadline = ' + ("1" if mode == "slow" else "20") + "\n"
    path = folder / "agent.toml"
    path.write_text(text)
    return path


def worker(name: str = "web-1", runtime: str = "serve", **more: Any) -> AssignedWorker:
    """An assigned worker; its oid is derived from its name."""
    values: dict[str, Any] = {"oid": f"oid-{name}", "cluster": "edge", "workergroup": "web"}
    values |= {"generation": 1, "digest": "d1", "transport": None, **more}
    return AssignedWorker(worker=name, runtime=runtime, **values)


class Bench:
    """One node: its folder, its broker, its messages. Realms are random, so benches never interfere."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.realm = f"t{secrets.token_hex(6)}"
        self.topics = Topics(self.realm)
        self.broker = MemoryBroker()
        self.observer = self.broker.link("observer")
        self.reports: list[dict[str, Any]] = []
        self.messages: list[Message] = []
        self._news = asyncio.Condition()
        self.toml = toml_of(folder)
        self.version = 0
        self._tasks: list[asyncio.Task[None]] = []
        self.agent: Agent | None = None
        self._stop = asyncio.Event()
        self._run: asyncio.Task[None] | None = None

    @property
    def scope(self) -> str:
        return f"{self.realm}/n1"

    def config(self, **more: Any) -> AgentConfig:
        base: dict[str, Any] = {"state": self.folder / "state", "node": "n1", "realm": self.realm}
        return AgentConfig(**{**base, "connect": ConnectOptions(), "runtimes": self.toml, **more})

    async def open(self) -> None:
        self.observer.subscribe(f"{self.topics.prefix}/node/#", self._on_message)
        self._tasks.append(asyncio.create_task(self.observer.run()))
        await self.observer.wait_connected(bound(5))

    def _on_message(self, message: Message) -> None:
        self.messages.append(message)
        if message.topic == self.topics.node("n1", "reported"):
            self.reports.append(json.loads(message.payload))
        asyncio.get_running_loop().create_task(self._notify())

    async def _notify(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def start(self, timing: WorkerTiming = QUICK, broker: bool = True, **more: Any) -> Agent:
        """Start the agent, and wait until it is ready."""
        ready = asyncio.Event()
        agent = Agent(
            self.config(**more),
            lambda will: self.broker.link("n1", will=will),
            SystemClock(),
            Random(7),
            lambda: secrets.token_hex(8),
            timing,
        )
        if not broker:
            agent.link.reachable.clear()  # type: ignore[attr-defined]
        self._stop = asyncio.Event()
        self._run = asyncio.create_task(agent.run(self._stop, ready.set))
        await asyncio.wait_for(ready.wait(), bound(10))
        self.agent = agent
        return agent

    async def stop(self) -> None:
        """Stop the agent as SIGTERM does."""
        self._stop.set()
        if self._run is not None:
            await asyncio.wait_for(self._run, bound(20))
        self.agent = None

    def assign(self, *workers: AssignedWorker, store: str = "s1", epoch: int = 1, **more: Any) -> None:
        """Publish a retained assignment with the next version."""
        self.version += 1
        values = {"version": self.version, "heartbeat_ms": 200, **more}
        payload = encode(Assignment(store=store, epoch=epoch, workers=list(workers), **values))
        self.observer.post(self.topics.node("n1", "assignment"), payload, retain=True)

    def store(self, *workers: AssignedWorker) -> None:
        """Store an assignment in the agent's folder, as an earlier agent would have."""
        self.version += 1
        state = State.open(self.folder / "state", secrets.token_hex(8))
        state.store_assignment(Assignment(store="s1", epoch=1, version=self.version, workers=list(workers)))
        state.close()

    def command(self, **more: Any) -> None:
        self.observer.post(self.topics.node("n1", "command"), encode(Command(**more)))

    async def report(self, wanted: Callable[[dict[str, Any]], Any], timeout: float = 15) -> dict[str, Any]:
        """Wait until the latest report satisfies `wanted`."""
        return await self._wait(
            lambda: self.reports and wanted(self.reports[-1]) and self.reports[-1], timeout
        )

    async def state(self, name: str, state: str, timeout: float = 15, **more: Any) -> dict[str, Any]:
        """Wait until a worker is reported in that state (with those members)."""

        def found() -> Any:
            for each in self.reports[-1]["workers"] if self.reports else ():
                if each["worker"] == name and each["state"] == state:
                    return all(each[key] == value for key, value in more.items()) and each
            return None

        return await self._wait(found, timeout)

    async def message(self, wanted: Callable[[Message], Any], timeout: float = 15) -> Message:
        """Wait for a message of the agent, earlier ones included."""
        return await self._wait(lambda: next((each for each in self.messages if wanted(each)), None), timeout)

    async def until(self, found: Callable[[], Any], timeout: float = 15) -> Any:
        """Wait for what a file or /proc shows; every report is a moment to look."""
        return await self._wait(found, timeout)

    async def _wait(self, found: Callable[[], Any], timeout: float) -> Any:
        try:
            async with asyncio.timeout(bound(timeout)), self._news:
                while not (value := found()):
                    await self._news.wait()
                return value
        except TimeoutError:
            raise AssertionError(
                f"not seen within {bound(timeout):g} s; last report: {self.reports[-1:]}"
            ) from None

    def living(self) -> set[int]:
        """Every process of this node."""
        return {pid for each in scan(self.scope) for pid in each.pids}

    async def close(self) -> None:
        """Stop everything, in any state."""
        with contextlib.suppress(Exception):
            await self.stop()
        if self._run is not None:
            self._run.cancel()
        for task in self._tasks:
            task.cancel()
        for pid in self.living():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        cgroups.remove_empty(self.scope, None)


def _own_ports() -> Any:
    """A port range per process of the suite: the oids, which spread the ports, are the same in all.

    Above `brokers.free_port` and agents that are processes of their own, below what the kernel gives.
    """
    low = 30_000 + 450 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    return mock.patch.multiple("busbar.agent.runtimes.transport", DEFAULT_LOW=low, DEFAULT_HIGH=low + 449)


@contextlib.asynccontextmanager
async def bench(folder: Path) -> AsyncIterator[Bench]:
    """A bench whose processes are killed at the end."""
    made = Bench(folder)
    with _own_ports():
        await made.open()
        try:
            yield made
        finally:
            await made.close()
