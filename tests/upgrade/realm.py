"""A realm whose parts are of the releases that a test chooses, and the main job run in it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from tests import forked
from tests.faults.census import Census, until
from tests.faults.yard import write_runtimes
from tests.pace import bound
from tests.plain import Plain
from tests.stack import ROOT, AnyProcess, Stack, stack, start_embedded
from tests.upgrade.releases import NEW, Release

NODES = ("n1", "n2")
HEARTBEAT_S = 0.5
EVERY_S = 0.5
"""Between two counts of processes, which read all of /proc."""
BOUND_S = 30.0


class Realm:
    """Broker, manager, agents and the command line, each of a release; made by `realm(...)`."""

    def __init__(self, made: Stack) -> None:
        self.stack = made
        self.census = Census(made.folder, EVERY_S)
        self.toml = write_runtimes(made.folder)
        self.cli = NEW
        self.said: list[str] = []
        """Every command so far, and what it printed."""

    # --- services

    def broker(self, release: Release) -> None:
        """Run the broker, in place of the one that runs, as that release."""
        self.end("broker")
        self.__dict__.pop("alice", None)
        start_embedded(self.stack, **release.env())

    def manager(self, release: Release) -> None:
        """Run the manager, in place of the one that runs, as that release, and wait until it serves."""
        self.end("manager")
        with self.taking_over(release.name):
            self.spawn_manager(release)

    @contextmanager
    def taking_over(self, name: str) -> Iterator[None]:
        """Wait until a manager serves that did not before the block."""
        starts = self._ready_managers()
        yield
        until(lambda: self._ready_managers() > starts, BOUND_S, f"the {name} manager is ready")

    def spawn_manager(self, release: Release) -> AnyProcess:
        """Start a manager of that release without waiting."""
        words = ["manager", "--owner", "alice", "--state", str(self.state)]
        words += ["--heartbeat", str(HEARTBEAT_S), *self.stack.connection("manager")]
        return self.stack.spawn("manager", *words, **release.env())

    def _ready_managers(self) -> int:
        return self.log("manager").count("manager is ready")

    @cached_property
    def alice(self) -> Plain:
        """An owner's client, of no release, for what is asked over and over."""
        return self.stack.client()

    @property
    def state(self) -> Path:
        """The manager's folder."""
        return self.stack.folder / "manager-state"

    def agents(self, release: Release) -> None:
        """Run the agents, in place of those that run, as that release, and wait until all are online."""
        former = {row["boot"] for row in self.nodes()}
        for node in NODES:
            self.end(node)
            words = ["agent", "--node", node, "--state", str(self.stack.folder / f"agent-{node}")]
            words += ["--runtimes", str(self.toml), *self.stack.connection(node)]
            self.stack.spawn(node, *words, **release.env())
        self.online(former)

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes, as the manager tells of them."""
        return [self.alice.ok("get_node", {"node_oid": oid}) for oid in self.alice.ok("list_nodes")]

    def online(self, former: Collection[str | None] = ()) -> None:
        """Wait until the manager has all nodes online, by agents whose starts are not among `former`."""

        def found() -> bool:
            rows = self.nodes()
            return all(row["status"] == "online" and row["boot"] not in former for row in rows)

        until(found, BOUND_S, f"{NODES} are online")

    def end(self, name: str) -> None:
        if name in self.stack.processes:
            self.stack.kill(name, signal.SIGTERM)

    def log(self, name: str) -> str:
        path = self.stack.folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    # --- the command line

    def run(self, *words: str, release: Release | None = None) -> subprocess.CompletedProcess[str]:
        """One command of a release, by default `cli`, as alice."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith("BUSBAR_")}
        release = release or self.cli
        env = {**clean, "BUSBAR_TIMEOUT": str(bound(10)), **release.env()}
        argv = [sys.executable, "-P", "-m", "busbar.cli.app", *words]
        if release == NEW:
            done = forked.run(*words, env=env, timeout=bound(90))
        else:
            done = subprocess.run(
                argv,
                capture_output=True,
                text=True,
                env=env,
                cwd=ROOT,
                timeout=bound(90),
                stdin=subprocess.DEVNULL,
            )
        self.said.append(f"{' '.join(words)}: {done.returncode} {done.stdout[-500:]}{done.stderr[-500:]}")
        assert "Traceback" not in done.stderr, self.said[-1]
        return done

    def ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        """One command that goes to the broker."""
        return self.run(*words, *self.stack.connection("alice"))

    def ok(self, *words: str) -> str:
        done = self.ask(*words)
        assert done.returncode == 0, self.said[-1]
        return done.stdout

    def json(self, *words: str) -> Any:
        return json.loads(self.ok(*words, "-o", "json"))

    def workers(self, cluster: str) -> dict[str, dict[str, Any]]:
        """The workers of a cluster by name, as the command line tells of them."""
        return {row["name"]: row for row in self.json("worker", "list", "-c", cluster)}

    def settled(self, cluster: str, keys: set[tuple[int, int]]) -> None:
        """Wait until a cluster's workers are ready; they must be these processes, and no other ever was."""
        self.ok("wait", "cluster", cluster, "--timeout", str(bound(BOUND_S)))
        assert self.census.keys(cluster) == keys, "workers were replaced"
        assert self.census.ever(cluster) == keys, "workers were started besides"


def wait() -> tuple[str, ...]:
    """Words that have a command wait for its goal."""
    return "--wait", "--timeout", str(bound(BOUND_S))


def kept(here: Realm, cluster: str) -> set[tuple[int, int]]:
    """Make a running cluster on the first node, which no job drains; returns its processes."""
    here.ok("cluster", "create", cluster)
    here.ok("cluster", "add-node", cluster, NODES[0])
    here.ok("group", "add", f"{cluster}/web", "--runtime", "serve")
    here.ok("cluster", "start", cluster, *wait())
    return here.census.keys(cluster)


def main_job(here: Realm, cluster: str) -> None:
    """Create, add nodes and a group, start, scale, restart of a killed worker, logs, drain, stop, delete."""
    here.ok("cluster", "create", cluster)
    for node in NODES:
        here.ok("cluster", "add-node", cluster, node)
    here.ok("group", "add", f"{cluster}/web", "--runtime", "serve")
    here.ok("cluster", "start", cluster, *wait())
    here.ok("group", "scale", f"{cluster}/web", "2", *wait())
    workers = here.workers(cluster)
    assert [row["state"] for row in workers.values()] == ["RUNNING"] * 2
    assert NODES[1] in {row["node"] for row in workers.values()}
    killed_and_restarted(here, cluster, next(iter(workers)))
    assert "worker serve began" in here.ok("logs", cluster)
    here.ok("node", "drain", NODES[1], "--reason", "upgrade", *wait())
    assert {row["node"] for row in here.workers(cluster).values()} == {NODES[0]}
    here.ok("node", "undrain", NODES[1])
    here.ok("cluster", "stop", cluster, *wait())
    until(lambda: not here.census.processes(cluster), BOUND_S, f"nothing is left of {cluster}")
    here.ok("cluster", "delete", cluster)
    assert not here.census.doubles, here.census.doubles


def killed_and_restarted(here: Realm, cluster: str, worker: str) -> None:
    """A worker that is killed has a successor that the manager knows."""
    life = here.census.leaders(cluster)[worker]
    here.census.kill(life)

    def found() -> bool:
        row = here.alice.ok("get_worker", {"worker_oid": life.oid})
        return row["state"] == "RUNNING" and row["pid"] not in (None, life.pid)

    until(found, BOUND_S, f"{worker} runs again")
    assert here.census.leaders(cluster)[worker].pid == here.workers(cluster)[worker]["pid"]


@contextmanager
def realm(folder: Path, broker: Release, manager: Release, agents: Release, cli: Release) -> Iterator[Realm]:
    """A running realm of these releases with its nodes online."""
    folder.mkdir(exist_ok=True)
    with stack(folder, heartbeat=HEARTBEAT_S) as made:
        here = Realm(made)
        here.cli = cli
        try:
            if broker != NEW:
                here.broker(broker)
            here.manager(manager)
            for node in NODES:
                here.ok("node", "pair", node)
            here.agents(agents)
            yield here
        except AssertionError as error:
            raise AssertionError(f"{error}\n" + "\n".join(here.said[-8:]) + f"\n{made.logs()}") from error
        finally:
            here.census.close()
            for life in here.census.look():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(life.pid, signal.SIGKILL)
