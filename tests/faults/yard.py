"""The whole system with a proxy per service, real agents, real workers and a census of them."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.faults.census import Census, Life, until
from tests.faults.proxy import Proxy
from tests.faults.watcher import BOUND_S, Watcher
from tests.pace import bound
from tests.stack import AnyProcess, Stack, stack, start_embedded

HEARTBEAT_S = 0.25
WORKER = Path(__file__).with_name("worker.py")
MODES = ("serve", "stubborn", "family", "crash", "early", "deaf", "flood")


class Yard:
    """Broker, manager, agents, proxies and an owner's client; made by `yard(...)`."""

    def __init__(self, made: Stack) -> None:
        self.stack = made
        self.census = Census(made.folder)
        self.proxies: dict[str, Proxy] = {}
        self.oids: dict[str, str] = {}
        self._names = itertools.count(1)
        self.toml = write_runtimes(made.folder)
        self.alice = self.watcher("alice")

    # --- services

    def proxy(self, name: str) -> Proxy:
        """The proxy through which a service, or a client, reaches the broker."""
        if name not in self.proxies:
            self.proxies[name] = Proxy(self.stack.port)
        return self.proxies[name]

    def watcher(self, user: str, port: int | None = None) -> Watcher:
        made = Watcher(port or self.stack.port, user, self.stack.secrets[user])
        self.stack.clients.append(made)
        return made

    def spawn(self, name: str, arguments: list[str], *before: str) -> AnyProcess:
        """Start `busbar` with arguments, prefixed by `before`: a wrapper or a failing program."""
        return self.stack.spawn(name, *arguments, before=before)

    @staticmethod
    def stack_command() -> list[str]:
        """The command line of `busbar`, for a wrapper."""
        return [sys.executable, "-m", "busbar.cli.app"]

    def connection(self, user: str, port: int) -> list[str]:
        words = self.stack.connection(user)
        words[words.index("--broker") + 1] = f"mqtt://127.0.0.1:{port}"
        return words

    def start_manager(
        self,
        *before: str,
        state: str = "manager-state",
        name: str = "manager",
        adopt_realm: bool = False,
    ) -> None:
        words = ["manager", "--owner", "alice", "--state", str(self.stack.folder / state)]
        words += ["--heartbeat", str(self.stack.heartbeat), *(["--adopt-realm"] if adopt_realm else [])]
        self.spawn(name, [*words, *self.connection("manager", self.proxy("manager").port)], *before)

    def start_agent(
        self, node: str, *before: str, state: str | None = None, name: str | None = None
    ) -> AnyProcess:
        folder = self.stack.folder / (state or f"agent-{node}")
        words = ["agent", "--node", node, "--state", str(folder), "--runtimes", str(self.toml)]
        return self.spawn(name or node, [*words, *self.connection(node, self.proxy(node).port)], *before)

    def start_broker(self) -> None:
        start_embedded(self.stack)

    def kill(self, name: str) -> None:
        """SIGKILL a service and wait until it has exited."""
        self.stack.kill(name)

    def pid(self, name: str) -> int:
        return self.stack.processes[name].pid

    def log(self, name: str) -> str:
        return (self.stack.folder / f"{name}.log").read_text(errors="replace")

    def log_mark(self, name: str) -> int:
        """The present end of a service's log."""
        return len(self.log(name))

    @contextmanager
    def paused(self, *names: str) -> Iterator[None]:
        """SIGSTOP while the block runs."""
        pids = [self.pid(name) for name in names]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    # --- desired state

    def cluster(
        self,
        scale: int = 2,
        runtime: str = "serve",
        nodes: tuple[str, ...] = ("n1", "n2"),
        start: bool = True,
        transport: dict[str, Any] | None = None,
        **group: Any,
    ) -> Cluster:
        """A cluster with one group `web`."""
        name = f"c{next(self._names)}"
        definition: dict[str, Any] = {"name": name}
        if transport is not None:
            definition["transport"] = transport
        made = Cluster(
            self, name, self.alice.sure("create_routercluster", {"routercluster": definition})["oid"]
        )
        for node in nodes:
            self.alice.sure(
                "add_routercluster_node", {"routercluster_oid": made.oid, "node_oid": self.oids[node]}
            )
        wish = {"name": "web", "scale": scale, "runtime": runtime, **group}
        made.group = self.alice.sure(
            "add_routercluster_workergroup", {"routercluster_oid": made.oid, "workergroup": wish}
        )["oid"]
        if start:
            made.start()
        return made

    def node(self, name: str, *statuses: str, timeout: float = BOUND_S) -> dict[str, Any]:
        """Wait until the manager gives one of these statuses for a node."""

        def found() -> Any:
            node = self.alice.sure("get_node", {"node_oid": self.oids[name]})
            return node["status"] in statuses and node

        answer: dict[str, Any] = until(found, timeout, f"node {name} is {' or '.join(statuses)}")
        return answer

    def manager_is_up(self, timeout: float = BOUND_S) -> None:
        self.alice.sure("get_manager", timeout=timeout)

    def all_online(self) -> None:
        for node in self.oids:
            self.node(node, "online")

    def check(self) -> None:
        """Check that no worker was ever seen twice."""
        assert not self.census.doubles, self.census.doubles[:3]

    def close(self) -> None:
        self.census.close()
        for proxy in self.proxies.values():
            proxy.close()


class Cluster:
    """One cluster of a yard."""

    def __init__(self, made: Yard, name: str, oid: str) -> None:
        self.yard, self.name, self.oid = made, name, oid
        self.group = ""

    def stat(self) -> dict[str, Any]:
        found: dict[str, Any] = self.yard.alice.sure("stat_routercluster", {"routercluster_oid": self.oid})
        return found

    def start(self) -> None:
        self.yard.alice.sure("start_routercluster", {"routercluster_oid": self.oid})

    def is_(self, *statuses: str, ready: int | None = None, timeout: float = BOUND_S) -> dict[str, Any]:
        """Wait until the manager gives one of these statuses (and so many ready workers)."""
        seen: dict[str, Any] = {}

        def found() -> Any:
            seen.update(self.stat())
            right = seen["status"] in statuses and (ready is None or seen["ready"] == ready)
            return dict(seen) if right else None

        try:
            answer: dict[str, Any] = until(found, timeout, f"{self.name} is {' or '.join(statuses)}")
        except AssertionError as error:
            rows = [(w["name"], w["state"], w["node"], w["reason"]) for w in seen.get("workers", [])]
            raise AssertionError(f"{error}; it is {seen.get('status')}: {rows}") from None
        return answer

    def running(self, scale: int, timeout: float = BOUND_S) -> dict[str, Life]:
        """Wait until so many are ready, in /proc too; returns the living workers by name."""
        self.is_("RUNNING", ready=scale, timeout=timeout)

        def found() -> Any:
            living = self.yard.census.leaders(self.name)
            return living if len(living) == scale else None

        living: dict[str, Life] = until(found, timeout, f"{scale} processes of {self.name}")
        return living

    def scale(self, scale: int, **more: Any) -> dict[str, Any]:
        params = {"routercluster_oid": self.oid, "workergroup_oid": self.group, "scale": scale}
        found: dict[str, Any] = self.yard.alice.sure("scale_routercluster_workergroup", params, **more)
        return found

    def update(self, port: int, max_unavailable: int = 1, max_surge: int = 0, **more: Any) -> dict[str, Any]:
        """Have the workers listen on one of 20 ports from this one; returns the group."""
        transport = {"type": "tcp", "endpoint": {"type": "tcp", "port": f"{port}-{port + 19}"}}
        params = {"routercluster_oid": self.oid, "workergroup_oid": self.group}
        params |= {"workergroup": {"transport": transport}}
        params |= {"max_unavailable": max_unavailable, "max_surge": max_surge}
        found: dict[str, Any] = self.yard.alice.sure("update_routercluster_workergroup", params, **more)
        return found

    def updated(self, revision: int, timeout: float = BOUND_S) -> dict[str, Life]:
        """Wait until that revision's update is complete; returns the living workers by name."""
        topic = self.yard.alice.topic("status", self.name, "workergroup", "web")
        status = self.yard.alice.wait_retained(
            topic, lambda value: value.get("revision") == revision and "updated" not in value, timeout
        )
        return self.running(status["scale"], timeout)

    def ports(self) -> dict[str, int]:
        """The port of each living worker, from its command line."""
        found = {}
        for name, life in self.yard.census.leaders(self.name).items():
            with contextlib.suppress(OSError, ValueError, IndexError):
                found[name] = int(Path(f"/proc/{life.pid}/cmdline").read_bytes().split(b"\0")[4])
        return found

    def stop(self, timeout: float = BOUND_S) -> None:
        """Stop it and wait until no process has its token."""
        self.yard.alice.sure("stop_routercluster", {"routercluster_oid": self.oid})
        self.gone(timeout)

    def gone(self, timeout: float = BOUND_S) -> None:
        self.is_("STOPPED", timeout=timeout)
        until(lambda: not self.yard.census.processes(self.name), 10, f"nothing is left of {self.name}")

    def pids(self) -> set[tuple[int, int]]:
        return self.yard.census.keys(self.name)

    def kept(self, before: dict[str, Life]) -> None:
        """Check that exactly these processes live, and no other ever did since."""
        now = self.yard.census.leaders(self.name)
        assert {n: x.key for n, x in now.items()} == {n: x.key for n, x in before.items()}, "K: restarted"
        started = self.yard.census.ever(self.name)
        assert started >= {x.key for x in before.values()}
        self.yard.check()


def write_runtimes(folder: Path) -> Path:
    """One exec runtime per behaviour, and some that can't work."""
    text = ""
    for mode in MODES:
        argv = json.dumps([sys.executable, "-I", "-S", str(WORKER), "{port}", mode])
        text += f'[runtimes.{mode}]\nargv = {argv}\nready = {{type = "http"}}\nscheme = "http"\ngrace = 1\n'
        text += f"start_deadline = {2 if mode == 'deaf' else 20}\n"
    locked = folder / "not-executable"
    locked.write_text("nothing\n")
    locked.chmod(0o644)
    text += '[runtimes.nowhere]\nargv = ["/no/such/program"]\nready = {type = "tcp"}\n'
    text += f'[runtimes.forbidden]\nargv = ["{locked}"]\nready = {{type = "tcp"}}\n'
    path = folder / "agent.toml"
    path.write_text(text)
    return path


@contextmanager
def yard(
    folder: Path,
    nodes: tuple[str, ...] = ("n1", "n2"),
    broker: str = "embedded",
    heartbeat: float = HEARTBEAT_S,
) -> Iterator[Yard]:
    """A running system with every node online."""
    with stack(folder, broker, heartbeat) as made:
        here = Yard(made)
        try:
            here.start_manager()
            here.manager_is_up()
            here.alice.subscribe("status", "#")
            here.alice.subscribe("event", "#")
            for node in nodes:
                here.oids[node] = here.alice.sure("pair_node", {"node": {"name": node}})["oid"]
                here.start_agent(node)
            here.all_online()
            yield here
        except AssertionError as error:
            raise AssertionError(f"{error}\n{made.logs()}") from error
        finally:
            here.close()
            for life in here.census.look():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(life.pid, signal.SIGKILL)


def threads(work: list[Any]) -> None:
    """Run each in a thread; raises the first failure."""
    failed: list[BaseException] = []

    def run(each: Any) -> None:
        try:
            each()
        except BaseException as error:
            failed.append(error)

    running = [threading.Thread(target=run, args=(each,), daemon=True) for each in work]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(bound(120))
    if failed:
        raise failed[0]
