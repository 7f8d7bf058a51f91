"""One system per broker for the contract suite: real broker, real manager, agents in plain MQTT."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.plain import Plain
from tests.stack import FakeNode, Stack, stack


@dataclass
class Lab:
    """Clients of four persons, and two nodes that follow their assignments."""

    stack: Stack
    alice: Plain
    bob: Plain
    carol: Plain
    vic: Plain
    nodes: dict[str, FakeNode]
    oids: dict[str, str]
    _names: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def name(self, stem: str = "c") -> str:
        """A unique name."""
        return f"{stem}{next(self._names)}"

    def cluster(self, client: Plain | None = None, **more: Any) -> dict[str, Any]:
        """A new cluster with a unique name."""
        name = self.name()
        made: dict[str, Any] = (client or self.alice).ok(
            "create_routercluster", {"routercluster": {"name": name, **more}}
        )
        return made

    def group(self, cluster: dict[str, Any], **more: Any) -> dict[str, Any]:
        params = {"routercluster_oid": cluster["oid"], "workergroup": {"scale": 2, **more}}
        made: dict[str, Any] = self.alice.ok("add_routercluster_workergroup", params)
        return made

    def join(self, cluster: dict[str, Any], node: str, **config: int) -> dict[str, Any]:
        params = {"routercluster_oid": cluster["oid"], "node_oid": self.oids[node], "config": config}
        made: dict[str, Any] = self.alice.ok("add_routercluster_node", params)
        return made

    def running(self, scale: int = 2) -> tuple[dict[str, Any], dict[str, Any]]:
        """A cluster with a group over both nodes, RUNNING."""
        cluster = self.cluster()
        for node in self.nodes:
            self.join(cluster, node)
        group = self.group(cluster, name="web", scale=scale)
        self.alice.ok("start_routercluster", {"routercluster_oid": cluster["oid"]})
        self.alice.status(cluster["name"], "routercluster", cluster["name"], "RUNNING")
        return cluster, group

    def stop(self, cluster: dict[str, Any]) -> None:
        self.alice.ok("stop_routercluster", {"routercluster_oid": cluster["oid"]})
        self.alice.status(cluster["name"], "routercluster", cluster["name"], "STOPPED")


BROKERS = os.environ.get("BUSBAR_BROKERS", "embedded,mosquitto").split(",")
"""`make scale` names nats-server and clusters of brokers here, for the whole suite."""
NATS = "nats-server"
ON_NATS_TOO = "tests.contract.test_requests"
"""What depends on the broker: topics, rights, retained messages, wills. `make scale` runs all on it."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test on each broker."""
    if "lab" in metafunc.fixturenames:
        own = "BUSBAR_BROKERS" not in os.environ and metafunc.module.__name__ == ON_NATS_TOO
        more = [pytest.param(NATS, marks=pytest.mark.nats)] if own else []
        metafunc.parametrize("lab", [*BROKERS, *more], indirect=True, scope="package")


@pytest.fixture(scope="package")
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The system on the embedded broker, on another one with the generated ACL, or on a cluster of them."""
    with stack(tmp_path_factory.mktemp(request.param), request.param) as made:
        made.start_manager()
        alice = made.client("alice")
        try:
            made.wait_manager(alice)
        except AssertionError as error:
            raise AssertionError(made.logs()) from error
        made.add_principals(alice)
        alice.subscribe("status", "#")
        alice.subscribe("event", "#")
        names = ("n1", "n2")
        oids = {name: alice.ok("pair_node", {"node": {"name": name}})["oid"] for name in names}
        nodes = {name: FakeNode(made, name).start() for name in names}
        for name in names:
            alice.status("_", "node", name, "online")
        yield Lab(made, alice, made.client("bob"), made.client("carol"), made.client("vic"), nodes, oids)
        for node in nodes.values():
            node.stop()
