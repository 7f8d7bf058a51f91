"""A compromised agent with the credentials of one node can affect only that node.

Also persons: who may call what, by role and by ownership. On both brokers, with a real manager.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from busbar.bus.contract import OPERATIONS

from tests.pace import bound
from tests.plain import Plain
from tests.stack import FakeNode, Stack, stack

BIG = 500_000
"""Bytes: a broker may disconnect a client that sends more."""
pytestmark = pytest.mark.timeout(120)


@dataclass
class Lab:
    """A manager, two nodes that follow their assignments, and a running cluster with a worker on each."""

    stack: Stack
    alice: Plain
    nodes: dict[str, FakeNode]
    oids: dict[str, str]
    cluster: dict[str, Any]

    @contextlib.contextmanager
    def as_node(self, node: str = "n1") -> Iterator[Plain]:
        """Another connection with a node's credentials."""
        with Plain(self.stack.port, node, self.stack.secrets[node]) as client:
            assert client.refused is None
            yield client

    def publish(self, topic: str, body: Any, retain: bool = False, node: str = "n1") -> None:
        """Publish with a node's credentials, each on a new connection: a broker may drop a violator."""
        with self.as_node(node) as client:
            if len(body) < BIG:
                client.publish(topic, body, retain=retain)
                return
            info, end = client.client.publish(topic, body, 0, retain), time.monotonic() + bound(5)
            while not info.is_published() and client.client.is_connected() and time.monotonic() < end:
                time.sleep(0.01)

    def settle(self) -> None:
        """Wait until all earlier messages are processed: the manager has one queue."""
        self.alice.ok("get_manager")
        self.alice.ok("create_routercluster", {"routercluster": {"name": self.fresh()}})

    def fresh(self) -> str:
        self._count = getattr(self, "_count", 0) + 1
        return f"settle{self._count}"


@pytest.fixture(scope="module", params=["embedded", pytest.param("mosquitto", marks=pytest.mark.mosquitto)])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with stack(tmp_path_factory.mktemp(request.param), request.param) as made:
        made.start_manager()
        alice = made.client("alice")
        made.wait_manager(alice)
        made.add_principals(alice)
        alice.subscribe("status", "#")
        alice.subscribe("event", "#")
        oids = {name: alice.ok("pair_node", {"node": {"name": name}})["oid"] for name in ("n1", "n2")}
        nodes = {name: FakeNode(made, name).start() for name in ("n1", "n2")}
        for name in nodes:
            alice.status("_", "node", name, "online")
        cluster = alice.ok("create_routercluster", {"routercluster": {"name": "edge"}})
        ref = {"routercluster_oid": cluster["oid"]}
        for name in nodes:
            alice.ok("add_routercluster_node", {**ref, "node_oid": oids[name]})
        group = {"name": "web", "scale": 2, "runtime": "amqtt", "lost_after": 3600}
        alice.ok("add_routercluster_workergroup", {**ref, "workergroup": group})
        alice.ok("start_routercluster", ref)
        alice.status("edge", "routercluster", "edge", "RUNNING")
        yield Lab(made, alice, nodes, oids, cluster)
        for node in nodes.values():
            node.stop()


def others(lab: Lab) -> dict[str, Any]:
    """All state of the manager and the broker that n1 must not affect."""
    alice = lab.alice
    stat = alice.ok("stat_routercluster", {"routercluster_oid": lab.cluster["oid"]})
    steady = ("oid", "name", "node", "state", "generation", "address", "pid", "restarts", "reason")
    workers = [{k: row[k] for k in steady} for row in stat["workers"] if row["node"] == "n2"]
    node = alice.ok("get_node", {"node_oid": lab.oids["n2"]})
    node = {k: node[k] for k in ("name", "status", "labels", "boot", "runtimes", "workers", "conditions")}
    info = alice.ok("get_manager")
    manager = {k: info[k] for k in ("manager", "store", "epoch", "brake", "conditions", "state")}
    with Plain(lab.stack.port, "n2", lab.stack.secrets["n2"]) as client:
        client.subscribe("node", "n2", "assignment")
        assignment = client.wait_retained(client.topic("node", "n2", "assignment"), bool)
    assert len(workers) == 1
    return {"workers": workers, "node": node, "manager": manager, "assignment": assignment}


@contextlib.contextmanager
def nothing_happens(lab: Lab) -> Iterator[None]:
    """Check that the block changes nothing but n1, and publishes no event about anything else."""
    before, mark = others(lab), len(lab.alice.messages)
    yield
    lab.settle()
    assert others(lab) == before
    for topic, payload, _ in lab.alice.messages[mark:]:
        if "/event/" in topic:
            event = json.loads(payload)
            assert "n2" not in event["subject"] and event["data"].get("node") != "n2", event
    assert all(row["name"] != "evil" for row in map(_cluster(lab), lab.alice.ok("list_routerclusters")))


def _cluster(lab: Lab) -> Any:
    return lambda oid: lab.alice.ok("get_routercluster", {"routercluster_oid": oid})


EVIL = {"id": "evil", "params": {"routercluster": {"name": "evil"}}}
FORGED: dict[str, Any] = {
    "request/alice/create_routercluster": EVIL,
    "request/bob/create_routercluster": EVIL,
    "request/manager/create_routercluster": EVIL,
    "response/alice/box": {"id": "x", "ok": True},
    "manager/m1/state": {"state": "online", "manager": "m1", "store": "STORE", "epoch": 2**50},
    "manager/evil/state": {"state": "online", "manager": "evil", "store": "STORE", "epoch": 2**50},
    "node/n2/assignment": {"store": "STORE", "epoch": 2**50, "version": 1, "workers": []},
    "node/n2/command": {"resync": True},
    "node/n2/state": {"state": "lost", "boot": "BOOT", "conn": 1},
    "node/n2/reported": {"boot": "BOOT", "conn": 2**40, "workers": []},
    "node/n2/heartbeat": {"boot": "evil", "conn": 1},
    "node/n2/log/web-1": {"lines": ["evil"], "worker": "web-1"},
    "node/n1/assignment": {"store": "STORE", "epoch": 2**50, "version": 1, "workers": []},
    "status/edge/routercluster/edge": {"status": "STOPPED", "name": "edge"},
    "status/_/node/n2": {"status": "lost", "name": "n2"},
    "event/edge/routercluster/edge/deleted": {"type": "busbar.on_routercluster_deleted"},
}


def forged(lab: Lab) -> Iterator[tuple[str, Any]]:
    """Forged messages with the real store id and boot id, which it is assumed to know."""
    store = lab.alice.ok("get_manager")["store"]
    for tail, body in FORGED.items():
        text = json.dumps(body).replace("STORE", store).replace("BOOT", lab.nodes["n2"].boot)
        yield lab.alice.topic(*tail.split("/")), text


@pytest.mark.parametrize("retain", [False, True], ids=["live", "retained"])
def test_a_node_cannot_publish_as_anybody_else(lab: Lab, retain: bool) -> None:
    with nothing_happens(lab):
        for topic, body in forged(lab):
            lab.publish(topic, body, retain)


def test_a_node_cannot_publish_as_anybody_else_by_its_will(lab: Lab) -> None:
    from paho.mqtt import client as paho
    from paho.mqtt.enums import CallbackAPIVersion

    with nothing_happens(lab):
        for topic, body in forged(lab):
            dying = paho.Client(CallbackAPIVersion.VERSION2)
            dying.username_pw_set("n1", lab.stack.secrets["n1"])
            dying.will_set(topic, body, 1, True)
            dying.connect("127.0.0.1", lab.stack.port)
            dying.loop(0.2)
            sock = dying.socket()
            if sock is not None:
                sock.close()


def test_a_node_receives_only_its_own_messages(lab: Lab) -> None:
    with lab.as_node() as spy:
        for wanted in ("#", "busbar/#", "+/+/+/#"):
            spy.client.subscribe(wanted, 1)
        for tail in ("#", "request/#", "response/#", "node/#", "status/#", "event/#", "node/+/assignment",
                     "node/n2/#", "response/alice/+"):  # fmt: skip
            spy.subscribe(*tail.split("/"))
        lab.settle()
        lab.nodes["n2"].report()
        lab.alice.code("create_routercluster", {"routercluster": {"name": "edge"}})
        spy.code("list_nodes")  # its own reply: everything before it has arrived
        heard = {message[0] for message in spy.messages}
    own = ("response/n1/", "node/n1/", "manager/")
    assert [t for t in heard if not t.startswith(tuple(lab.alice.topic(*o.split("/")) for o in own))] == []


def test_a_node_is_not_a_principal(lab: Lab) -> None:
    with lab.as_node() as client:
        assert {client.code(operation, {}) for operation in OPERATIONS} == {"no_such_principal"}


def report(lab: Lab, **more: Any) -> dict[str, Any]:
    node = lab.nodes["n1"]
    return {"boot": node.boot, "conn": node.conn, "workers": [], "runtimes": ["amqtt"], **more}


def test_a_node_can_report_only_its_own_workers(lab: Lab) -> None:
    """By name, by cluster and name, by oid: reports about another node's worker are ignored."""
    victim = others(lab)["workers"][0]
    with nothing_happens(lab):
        for state in ("STOPPED", "RUNNING", "BACKOFF"):
            claim = {"worker": victim["name"], "state": state, "generation": victim["generation"] + 5,
                     "pid": 1, "address": "mqtt://evil:1", "restarts": 99, "reason": "evil"}  # fmt: skip
            for more in ({}, {"cluster": "edge"}, {"oid": victim["oid"]}):
                body = report(lab, workers=[{**claim, **more}])
                lab.publish(lab.alice.topic("node", "n1", "reported"), body, True)
    lab.nodes["n1"].report()
    lab.alice.status("edge", "routercluster", "edge", "RUNNING")


def test_false_claims_of_a_node_affect_only_that_node(lab: Lab) -> None:
    """A huge epoch does not fence the manager, and big lists are cheap for it."""
    top = {"epoch": 2**53, "version": 2**53}
    bodies = [
        report(lab, applied=top, store=lab.alice.ok("get_manager")["store"]),
        report(lab, applied=top, store="sevil"),
        report(lab, conditions=["x" * 4096] * 64, refused="y" * 4096),
        report(
            lab, runtimes=[f"r{n}" for n in range(256)], labels={"a": "b"}, capacity={"max_workers": 10**9}
        ),
        report(lab, workers=[{"worker": f"w-{n}", "state": "RUNNING"} for n in range(5_000)]),
        report(lab, boot="another", conn=2**53),
    ]
    with nothing_happens(lab):
        for body in bodies:
            lab.publish(lab.alice.topic("node", "n1", "reported"), body, True)
        for body in ({"boot": "x", "conn": 0, "seq": 2**53}, {"boot": "y", "conn": 2**53}):
            lab.publish(lab.alice.topic("node", "n1", "heartbeat"), body)
        for state in ("lost", "disconnected", "ready", "evil"):
            body = {"state": state, "boot": lab.nodes["n1"].boot, "conn": 10**6}
            lab.publish(lab.alice.topic("node", "n1", "state"), body, True)


GARBAGE = [
    b"", b"{", b"[]", b"null", b"\xff\xfe", b"\x00" * 100, b'{"boot": 1}', b'{"a": NaN}', b'{"a":1,"a":2}',
    b"[" * 10_000, b'{"a":' * 10_000, b'{"boot":"' + b"9" * 5_000, b'{"conn":' + b"9" * 5_000 + b"}",
    b'{"boot":"b","conn":1,"workers":[' + b'{"worker":"w-1","state":"RUNNING"},' * 40_000,
    b'{"boot":"b","conn":1,"workers":[{"worker":"../../etc","state":"RUNNING"}]}', b"x" * 4_000_000,
]  # fmt: skip


@pytest.mark.parametrize("leaf", ["reported", "heartbeat", "state", "log/w-1"])
def test_garbage_crashes_nothing(lab: Lab, leaf: str) -> None:
    with nothing_happens(lab):
        for body in GARBAGE:
            lab.publish(lab.alice.topic("node", "n1", *leaf.split("/")), body, True)
        lab.publish(lab.alice.topic("node", "n1", *leaf.split("/")), b"", True)


def test_an_unpaired_node_is_ignored(lab: Lab) -> None:
    """Credentials at the broker are not enough: n3 has them, but was never paired."""
    with nothing_happens(lab):
        body = {"boot": "b", "conn": 1, "workers": [], "runtimes": ["amqtt"]}
        lab.publish(lab.alice.topic("node", "n3", "reported"), body, True, node="n3")
        lab.publish(
            lab.alice.topic("node", "n3", "state"), {"state": "ready", "boot": "b", "conn": 1}, True, "n3"
        )
    assert sorted(lab.alice.ok("list_nodes", {"return_names": True})) == ["n1", "n2"]


def test_one_node_cannot_trigger_the_mass_failure_hold_and_it_recovers(lab: Lab) -> None:
    """After all of this n1 reports correctly again, and the state is restored."""
    for leaf in ("reported", "state", "heartbeat"):
        lab.publish(lab.alice.topic("node", "n1", leaf), b"", True)
    lab.nodes["n1"].boot = "b-honest"
    lab.nodes["n1"].state("ready")
    lab.nodes["n1"].report()
    assert lab.alice.ok("get_manager")["brake"] is None
    lab.alice.status("_", "node", "n1", "online")
    lab.alice.status("edge", "routercluster", "edge", "RUNNING")


# --- people ------------------------------------------------------------------------------------------------

OWNERS_ONLY = {"unpair_node", "add_principal", "set_principal_role", "remove_principal", "transfer_principal"}


def allowed(role: str, operation: str) -> bool:
    """The contract, restated independently."""
    reads = operation.startswith(("list_", "get_", "stat_", "explain"))
    return reads or role == "owner" or (role == "operator" and operation not in OWNERS_ONLY)


@pytest.mark.parametrize(("person", "role"), [("alice", "owner"), ("bob", "operator"), ("vic", "viewer")])
def test_roles(lab: Lab, person: str, role: str) -> None:
    client = lab.alice if person == "alice" else lab.stack.client(person)
    for operation in OPERATIONS:
        reply = client.call(operation, {})
        code = None if reply["ok"] else reply["error"]["code"]
        assert (code == "not_authorized") != allowed(role, operation), (operation, code)


def test_a_user_without_a_role_may_do_nothing(lab: Lab) -> None:
    client = lab.stack.client("nobody")
    assert {client.code(operation, {}) for operation in OPERATIONS} == {"no_such_principal"}


def test_an_operator_cannot_change_another_operators_cluster(lab: Lab) -> None:
    carol, bob = lab.stack.client("carol"), lab.stack.client("bob")
    made = carol.ok("create_routercluster", {"routercluster": {"name": f"carols{lab.stack.port}"}})
    ref = {"routercluster_oid": made["oid"]}
    group = carol.ok("add_routercluster_workergroup", {**ref, "workergroup": {"scale": 0}})
    of_group = {**ref, "workergroup_oid": group["oid"]}
    tries: dict[str, dict[str, Any]] = {
        "update_routercluster": {**ref, "routercluster": {"label": "mine"}},
        "start_routercluster": ref,
        "rollback_routercluster": {**ref, "revision": 1},
        "stop_routercluster": ref,
        "add_routercluster_node": {**ref, "node_oid": lab.oids["n2"]},
        "remove_routercluster_node": {**ref, "node_oid": lab.oids["n2"]},
        "add_routercluster_workergroup": {**ref, "workergroup": {"name": "x", "scale": 1}},
        "scale_routercluster_workergroup": {**of_group, "scale": 3},
        "update_routercluster_workergroup": {**of_group, "workergroup": {"runtime": "mosquitto"}},
        "restart_routercluster_workergroup": of_group,
        "restart_routercluster_worker": {**of_group, "worker_oid": group["oid"]},
        "start_routercluster_workergroup": of_group,
        "stop_routercluster_workergroup": of_group,
        "remove_routercluster_workergroup": of_group,
        "delete_routercluster": ref,
    }
    assert set(tries) == {name for name, row in OPERATIONS.items() if row.owned == "cluster"}
    for operation, params in tries.items():
        assert bob.code(operation, params) == "not_authorized", operation
        assert carol.call(operation, params).get("error", {}).get("code") != "not_authorized", operation
    assert not carol.call("get_routercluster", ref)["ok"], "its owner could delete it"


@pytest.mark.fault(80, "P")
def test_an_operator_cannot_empty_the_nodes_of_others(lab: Lab) -> None:
    carol = lab.stack.client("carol")
    for name in sorted(lab.oids):
        ref = {"node_oid": lab.oids[name]}
        for operation in ("drain_node", "undrain_node", "cordon_node", "uncordon_node", "unpair_node"):
            assert carol.code(operation, ref) == "not_authorized", (operation, name)
        assert carol.code("label_node", ref | {"labels": {"zone": "a"}}) == "not_authorized", name
