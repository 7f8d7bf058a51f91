"""A whole system with a group of nats workers on several nodes, and what may happen to it."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from tests.pace import bound
from tests.stack import NODES, Stack, stack

TRANSPORT = {"type": "mqtt", "listeners": {"mqtt": {}, "routes": {"type": "cluster"}}}


class Lab:
    """`edge/web` of so many workers on so many nodes, all of them running."""

    def __init__(
        self, made: Stack, workers: int, nodes: int, transport: dict[str, Any] | None = None
    ) -> None:
        self.made, self.nodes = made, NODES[:nodes]
        self.scale = workers
        made.start_manager()
        self.alice = made.client("alice")
        made.wait_manager(self.alice, 60)
        self.alice.subscribe("status", "#")
        cluster = self.alice.ok("create_routercluster", {"routercluster": {"name": "edge"}})
        self.of = {"routercluster_oid": cluster["oid"]}
        self.oids = {}
        for node in self.nodes:
            self.oids[node] = self.alice.ok("pair_node", {"node": {"name": node}})["oid"]
            self.alice.ok("add_routercluster_node", {**self.of, "node_oid": self.oids[node]})
            made.start_agent(node)
        for node in self.nodes:
            self.alice.status("_", "node", node, "online", timeout=60)
        kept = {"members": workers, "replicas": min(3, workers)}
        self.transport: dict[str, Any] = {**(transport or TRANSPORT), "options": kept}
        group = {"name": "web", "scale": workers, "runtime": "nats", "transport": self.transport}
        found = self.alice.ok("add_routercluster_workergroup", {**self.of, "workergroup": group})
        self.mine = {**self.of, "workergroup_oid": found["oid"]}
        self.alice.ok("start_routercluster", self.of)
        self.whole()

    def worker(self, number: int) -> dict[str, Any]:
        """The present status of a worker; empty for one that there is not."""
        found = self.alice.retained.get(self.alice.topic("status", "edge", "worker", f"web-{number}"))
        return found or {}

    def running(self, number: int, timeout: float = 90) -> dict[str, Any]:
        """The status of a worker, once it runs."""
        found: dict[str, Any] = self.alice.status(
            "edge", "worker", f"web-{number}", "RUNNING", timeout=timeout
        )
        return found

    def ports(self) -> list[int]:
        """Where clients reach the workers that are known, by their numbers."""
        found = []
        for number in range(1, self.scale + 1):
            url = (self.worker(number).get("listeners") or {}).get("mqtt")
            if url is not None:
                found.append(int(url.rpartition(":")[2]))
        return found

    def healthy(self, number: int) -> bool:
        """Whether a worker has all messages that it should have, and knows so many others."""
        url = (self.worker(number).get("listeners") or {}).get("monitoring")
        if url is None:
            return False
        try:
            with urllib.request.urlopen(f"{url}/healthz", timeout=3) as answer:
                answer.read()
            with urllib.request.urlopen(f"{url}/jsz", timeout=3) as answer:
                meta = json.load(answer).get("meta_cluster") or {}
        except (OSError, ValueError):
            return False
        return bool(meta.get("leader")) and meta.get("cluster_size") == self.scale

    def whole(self, timeout: float = 120) -> float:
        """Seconds until every worker runs and is healthy, twice in a row."""
        begun, times = time.monotonic(), 0
        while times < 2:
            assert time.monotonic() - begun < bound(timeout), self.made.logs()
            fine = all(
                self.worker(n).get("status") == "RUNNING" and self.healthy(n)
                for n in range(1, self.scale + 1)
            )
            times = times + 1 if fine else 0
            time.sleep(0.25)
        return time.monotonic() - begun

    def ask(self, op: str, params: dict[str, Any]) -> None:
        """Again where no manager has answered, as one may just have been killed."""
        for left in (2, 1, 0):
            try:
                self.alice.ok(op, params)
                return
            except AssertionError:
                if not left:
                    raise

    # --- what happens to it

    def signal_worker(self, number: int, what: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.running(number)["pid"], what)

    def kill_worker(self, number: int) -> None:
        self.signal_worker(number, signal.SIGKILL)

    def freeze_worker(self, number: int, seconds: float = 5.0) -> None:
        pid = self.running(number)["pid"]
        os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def kill_agent(self, number: int) -> None:
        node = self.running(number)["node"]
        self.made.kill(node)
        self.made.start_agent(node)

    def freeze_agent(self, number: int, seconds: float = 4.0) -> None:
        process = self.made.processes[self.running(number)["node"]]
        process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        process.send_signal(signal.SIGCONT)

    def kill_manager(self, _number: int = 0) -> None:
        self.made.kill("manager")
        self.made.start_manager()

    def freeze_manager(self, _number: int = 0, seconds: float = 4.0) -> None:
        process = self.made.processes["manager"]
        process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        process.send_signal(signal.SIGCONT)

    def kill_node(self, number: int) -> None:
        """The agent and its workers at once, which come back when it is started again."""
        node = self.running(number)["node"]
        statuses = [self.worker(each) for each in range(1, self.scale + 1)]
        pids = [each["pid"] for each in statuses if each.get("node") == node and each.get("pid")]
        self.made.kill(node)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.made.start_agent(node)

    def renew_worker(self, number: int) -> None:
        """An orderly restart, in lame duck mode."""
        status = self.running(number)
        mine = {**self.mine, "worker_oid": status["oid"]}
        self.ask("restart_routercluster_worker", mine)
        topic = self.alice.topic("status", "edge", "worker", f"web-{number}")
        self.alice.wait_retained(topic, partial(_is_new, status["pid"]), 120)

    def rescale(self, scale: int) -> None:
        before, self.scale = self.scale, scale
        self.ask("scale_routercluster_workergroup", {**self.mine, "scale": scale})
        for gone in range(scale + 1, before + 1):
            topic = self.alice.topic("status", "edge", "worker", f"web-{gone}")
            self.alice.wait_retained(topic, lambda value: not value, 180)
        self.whole()

    def update(self) -> None:
        """A rolling update of the whole group."""
        before = {n: self.running(n)["pid"] for n in range(1, self.scale + 1)}
        options = {**self.transport["options"], "max_connections": 1000 + before[1] % 1000}
        self.ask(
            "update_routercluster_workergroup",
            {**self.mine, "workergroup": {"transport": {**self.transport, "options": options}}},
        )
        for number, pid in before.items():
            topic = self.alice.topic("status", "edge", "worker", f"web-{number}")
            self.alice.wait_retained(topic, partial(_is_new, pid), 300)
        self.whole()

    def drain(self, node: str) -> None:
        """Move the workers of a node elsewhere; afterwards it takes workers again."""
        self.ask("drain_node", {"node_oid": self.oids[node], "reason": "measured"})
        topic = self.alice.topic("status", "_", "node", node)
        self.alice.wait_retained(topic, lambda value: value.get("drained") is True, 300)
        self.whole()
        self.ask("undrain_node", {"node_oid": self.oids[node]})


def _is_new(pid: int, status: dict[str, Any]) -> bool:
    return status.get("status") == "RUNNING" and status["pid"] != pid


@contextmanager
def lab(folder: Path, workers: int, nodes: int) -> Iterator[Lab]:
    """It ends with all that it has started."""
    with stack(folder) as made:
        yield Lab(made, workers, nodes)
