"""Several realms on one bus: a manager and a SQLite file, an agent and an owner for each, as processes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from busbar.bus.broker.accounts import new_secret

from tests.clusters.engines import Account, Engine, engine
from tests.faults.census import Census, Life, until
from tests.faults.watcher import Watcher
from tests.faults.yard import write_runtimes
from tests.stack import Stack

BOUND_S = 60.0
"""Twenty processes start at once on what may be two cores."""


class Realm:
    """One realm: who is who there, and what it is made of."""

    def __init__(self, whole: Realms, name: str) -> None:
        self.whole, self.name = whole, name
        # Accounts are the broker's, and it knows no realms: names have to be unique over all of them.
        self.manager, self.owner, self.node = f"manager-{name}", f"owner-{name}", f"node-{name}"
        self.state = whole.stack.folder / f"manager-{name}"
        self.client: Watcher
        self.cluster = ""

    def connection(self, user: str) -> list[str]:
        words = self.whole.stack.connection(user)
        words[words.index("--realm") + 1] = self.name
        return words

    def start_manager(self) -> None:
        words = ["manager", "--owner", self.owner, "--state", str(self.state), "--heartbeat", "3"]
        self.whole.stack.spawn(self.manager, *words, *self.connection(self.manager))

    def start_agent(self) -> None:
        words = ["agent", "--node", self.node, "--state", str(self.whole.stack.folder / f"agent-{self.name}")]
        words += ["--runtimes", str(self.whole.toml)]
        self.whole.stack.spawn(self.node, *words, *self.connection(self.node))

    def connect(self) -> None:
        """The owner's client, who hears everything that he may."""
        port, secret = self.whole.stack.port_of(self.owner), self.whole.stack.secrets[self.owner]
        self.client = Watcher(port, self.owner, secret, self.name)
        self.whole.stack.clients.append(self.client)
        self.client.subscribe("event", "#")

    def sure(self, op: str, **params: Any) -> Any:
        return self.client.sure(op, params, timeout=BOUND_S)

    def pair(self) -> str:
        return str(self.sure("pair_node", node={"name": self.node})["oid"])

    def build(self, node_oid: str, name: str = "web", scale: int = 2) -> None:
        """A cluster with a group of light workers, started; its name is the same in every realm."""
        self.cluster = self.sure("create_routercluster", routercluster={"name": name})["oid"]
        self.sure("add_routercluster_node", routercluster_oid=self.cluster, node_oid=node_oid)
        self.group = self.sure(
            "add_routercluster_workergroup",
            routercluster_oid=self.cluster,
            workergroup={"name": "web", "scale": scale, "runtime": "serve"},
        )["oid"]
        self.sure("start_routercluster", routercluster_oid=self.cluster)

    def scale(self, scale: int) -> None:
        params = {"routercluster_oid": self.cluster, "workergroup_oid": self.group, "scale": scale}
        self.sure("scale_routercluster_workergroup", **params)

    def running(self, scale: int) -> dict[str, Life]:
        """Wait until so many workers are ready, and the kernel says the same."""

        def found() -> Any:
            stat = self.sure("stat_routercluster", routercluster_oid=self.cluster)
            living = self.lives()
            right = stat["status"] == "RUNNING" and stat["ready"] == scale == len(living)
            return living if right else None

        lives: dict[str, Life] = until(found, BOUND_S, f"{scale} workers of realm {self.name}")
        return lives

    def lives(self) -> dict[str, Life]:
        """This realm's living workers."""
        return {x.worker: x for x in self.whole.census.look() if x.leads and x.node == self.node}

    def known(self) -> dict[str, Any]:
        """What the manager knows and has said: epoch, clusters, events, the node's status."""
        return {
            "epoch": self.sure("get_manager")["epoch"],
            "clusters": self.sure("list_routerclusters", return_names=True),
            "events": [event["id"] for event in self.sure("get_events", since=0)],
            "nodes": self.sure("list_nodes", filter_by_status="online", return_names=True),
        }

    def rows(self, table: str) -> int:
        """Rows of a table in this realm's own file."""
        with closing(sqlite3.connect(f"file:{self.state / 'busbar.db'}?mode=ro", uri=True)) as found:
            count: int = found.execute(f"select count(*) from {table}").fetchone()[0]
        return count


class Realms:
    """Use `realms(...)` to make them."""

    def __init__(self, stack: Stack, brokers: Engine, names: list[str]) -> None:
        self.stack, self.brokers = stack, brokers
        self.census = Census(stack.folder)
        self.toml = write_runtimes(stack.folder)
        self.all = [Realm(self, name) for name in names]

    def start(self) -> None:
        """Everything at once; then a cluster with two workers in each."""
        for each in self.all:
            each.start_manager()
            each.start_agent()
            each.connect()
        oids = [each.pair() for each in self.all]
        for each, oid in zip(self.all, oids, strict=True):
            each.build(oid)
        for each in self.all:
            each.running(2)

    def close(self) -> None:
        self.census.close()


@contextmanager
def realms(folder: Path, kind: str, count: int) -> Iterator[Realms]:
    """So many realms on a bus of this kind (`engines.KINDS`), each with two light workers that run."""
    stack, made = Stack(folder, 1.0), None
    names = [f"r{number}" for number in range(count)]
    users = {f"{kind}-{name}": (kind, name) for kind in ("manager", "owner", "node") for name in names}
    accounts = {}
    for user, (role, realm) in users.items():
        stack.secrets[user] = new_secret()
        (folder / "secrets" / user).touch(mode=0o600)
        (folder / "secrets" / user).write_text(stack.secrets[user])
        accounts[user] = Account("person" if role == "owner" else role, stack.secrets[user], realm)
    try:
        with engine(kind, folder / "brokers", accounts, names) as brokers:
            stack.ports = brokers.ports
            stack.at = {user: number % len(brokers.nodes) for number, user in enumerate(users)}
            made = Realms(stack, brokers, names)
            made.start()
            yield made
    except AssertionError as error:
        raise AssertionError(f"{error}\n{stack.logs()[-8000:]}") from error
    finally:
        if made:
            made.close()
        stack.close()
