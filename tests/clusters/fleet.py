"""A whole system on a cluster of brokers: manager, agents and people each begin at a node of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.clusters.engines import Engine
from tests.faults.watcher import Watcher
from tests.faults.yard import Yard
from tests.pace import bound
from tests.stack import Stack, cluster

MANAGER_AT: Final = 0
HEARTBEAT_S: Final = 0.5
BOUND_S: Final = 120.0
"""Of one convergence: a NATS server that is down makes the others refuse subscriptions for a while."""
PATIENCE_S: Final = 3.0
"""Until a person tries the next broker."""


class Roamer(Watcher):
    """A person's client, who goes to the next broker when nobody answers, as a new command would."""

    def __init__(self, ports: list[int], user: str, password: str) -> None:
        self._ports = ports
        self._at = 1 % len(ports)
        super().__init__(ports[self._at], user, password)

    def ask(
        self, op: str, params: dict[str, Any] | None = None, *, timeout: float = BOUND_S, **more: Any
    ) -> dict[str, Any]:
        request_id = more.pop("id", None) or next(self._ids)
        end = time.monotonic() + bound(timeout)
        while time.monotonic() < end:
            try:
                return self.insist(op, params, PATIENCE_S, id=request_id, **more)
            except AssertionError:
                self.go_on()
        raise AssertionError(f"{op} was not answered within {timeout:g} s")

    def go_on(self) -> None:
        """To the next broker."""
        self._at = (self._at + 1) % len(self._ports)
        self.client.connect_async("127.0.0.1", self._ports[self._at], 30)
        with contextlib.suppress(OSError):
            self.client.reconnect()


class Fleet(Yard):
    """Use `fleet(...)` to make one. Services are told of all brokers, and move on by themselves."""

    def __init__(self, made: Stack, brokers: Engine) -> None:
        super().__init__(made)
        self.brokers = brokers
        self.spoken: list[str] = []
        """Said to the services: aedes hangs on MQTT 5, so that they would go to the next broker."""

    def start_manager(self, *before: str, state: str = "manager-state", name: str = "manager") -> None:
        words = ["manager", "--owner", "alice", "--state", str(self.stack.folder / state)]
        words += ["--heartbeat", str(self.stack.heartbeat), *self.spoken, *self.stack.connection("manager")]
        self.spawn(name, words, *before)

    def start_agent(
        self, node: str, *before: str, state: str | None = None, name: str | None = None
    ) -> subprocess.Popen[bytes]:
        folder = self.stack.folder / (state or f"agent-{node}")
        words = ["agent", "--node", node, "--state", str(folder), "--runtimes", str(self.toml)]
        return self.spawn(name or node, [*words, *self.spoken, *self.stack.connection(node)], *before)

    def watcher(self, user: str, port: int | None = None) -> Watcher:
        """A client at one broker, or, if no port is named, one that goes from broker to broker."""
        ports = [port] if port else self.stack.ports
        made = Roamer(ports, user, self.stack.secrets[user])
        self.stack.clients.append(made)
        return made

    def pids(self) -> dict[str, int]:
        """The services' own processes."""
        return {name: process.pid for name, process in self.stack.processes.items()}

    def connected_to(self, name: str) -> str:
        """The broker that a service says in its log it is connected to."""
        said = [line for line in self.log(name).splitlines() if "connected to " in line]
        return said[-1].rpartition(" ")[2]


@contextmanager
def fleet(folder: Path, kind: str) -> Iterator[Fleet]:
    """On a cluster of this kind (`engines.KINDS`): n1 at its last node, n2 at the last but one."""
    made = Stack(folder, HEARTBEAT_S)
    here: Fleet | None = None
    try:
        with cluster(made, kind) as brokers:
            made.at = {"manager": MANAGER_AT, "n1": len(brokers.nodes) - 1, "n2": len(brokers.nodes) - 2}
            made.at["alice"] = 1
            here = Fleet(made, brokers)
            here.spoken = ["--mqtt", "3.1.1"] if kind == "aedes" else []
            here.start_manager()
            here.manager_is_up(BOUND_S)
            for node in ("n1", "n2"):
                here.oids[node] = here.alice.sure("pair_node", {"node": {"name": node}})["oid"]
                here.start_agent(node)
            for node in here.oids:
                here.node(node, "online", timeout=BOUND_S)
            yield here
    except AssertionError as error:
        raise AssertionError(f"{error}\n{made.logs()}") from error
    finally:
        if here:
            here.close()
        made.close()
        for life in here.census.look() if here else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(life.pid, signal.SIGKILL)
