"""A principal is its oid: who gets the name of a removed one gets nothing of what was its."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from busbar.bus.connection import rpc
from busbar.bus.connection.rpc import Caller
from busbar.bus.decode import parse
from busbar.bus.testing import MemoryBroker
from busbar.manager.publish.publisher import Publisher
from busbar.manager.publish.statuses import StatusBuilder
from busbar.manager.store import Store, files
from busbar.manager.store.migrations import migrations

from tests.integration.manager.api.test_authority import TOPICS, Court, court
from tests.integration.manager.fixtures import CLOCK, Client, memory_net, new_id, rig_on

CREATE = "create_routercluster"


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with rig_on(memory_net(), tmp_path / "manager") as (_, made):
        yield made


async def again(bench: Court) -> str:
    """Remove bob and give his name to somebody else; returns the oid."""
    bench.request("alice", "remove_principal", {"principal_name": "bob"})
    new = {"name": "bob", "role": "operator"}
    bench.request("alice", "add_principal", {"principal": new, "reuse": True})
    await bench.settle()
    row = bench.store.reads.principal("bob")
    assert row is not None
    return row.oid


def edge(name: str = "edge") -> dict[str, Any]:
    return {"routercluster": {"name": name}}


@pytest.mark.fault(85, "P")
async def test_a_stored_reply_is_its_principals_alone(tmp_path: Path) -> None:
    """The same id is another request of another principal, whatever its name: no reply and no conflict."""
    bench = await court(tmp_path / "m")
    bench.request("bob", CREATE, edge("secret"), id="b1")
    await bench.settle()
    oid = await again(bench)
    bench.request("bob", CREATE, edge("secret"), id="b1", principal=oid)
    bench.request("bob", CREATE, edge("own"), id="b1", principal=oid)
    await bench.settle()
    outcomes = [(caller, op, outcome) for caller, _, op, outcome, _ in bench.audit() if caller == "bob"]
    assert outcomes == [("bob", CREATE, "ok"), ("bob", CREATE, "already_exists")]
    assert [each["error"]["code"] for each in bench.refused] == ["request_id_reused"]
    bench.store.close()


@pytest.mark.parametrize("settled", range(4))
@pytest.mark.fault(85, "P")
async def test_a_request_runs_as_who_asked_or_not_at_all(tmp_path: Path, settled: int) -> None:
    """Wherever a commit falls between asking, the removal and the new holder."""
    bench = await court(tmp_path / "m")
    steps: list[tuple[str, str, dict[str, Any]]] = [
        ("bob", CREATE, edge("before")),
        ("alice", "remove_principal", {"principal_name": "bob"}),
        ("bob", CREATE, edge("between")),
        ("alice", "add_principal", {"principal": {"name": "bob", "role": "operator"}, "reuse": True}),
        ("bob", CREATE, edge("after")),
    ]
    for number, (who, op, params) in enumerate(steps):
        bench.request(who, op, params, id=f"r{number}")
        if number == settled:
            await bench.settle()
    await bench.settle()
    assert [row.name for row in bench.store.reads.clusters()] == ["before"]
    assert len(bench.refused) == 2
    bench.store.close()


@pytest.mark.parametrize("whose", ["nobody", "former", "present"])
@pytest.mark.fault(85, "P")
async def test_what_a_former_holder_left_at_the_broker_does_not_run(tmp_path: Path, whose: str) -> None:
    """A delayed will can't know who has the name when it is published."""
    bench = await court(tmp_path / "m")
    former = bench.store.reads.principal("bob")
    assert former is not None
    oid = await again(bench)
    envelope = {"nobody": {}, "former": {"principal": former.oid}, "present": {"principal": oid}}[whose]
    bench.request("bob", CREATE, edge(), **envelope)
    await bench.settle()
    assert (bench.store.reads.cluster_by_name("edge") is not None) == (whose == "present")
    codes = {"nobody": ["not_authorized"], "former": ["no_such_principal"], "present": []}[whose]
    assert [each["error"]["code"] for each in bench.refused] == codes
    bench.store.close()


@pytest.mark.fault(79, "P")
@pytest.mark.parametrize("one_commit", [True, False])
async def test_replies_that_wait_in_the_outbox_go_with_their_principal(
    tmp_path: Path, one_commit: bool
) -> None:
    """Also those that the publisher holds in memory; what follows for the name's new holder is delivered."""
    bench = await court(tmp_path / "m")
    broker = MemoryBroker()
    publisher = Publisher(bench.store, broker.link("m1"), StatusBuilder(bench.store, 5000), bench.clock)
    bench.request("bob", CREATE, edge(), id="b1", reply="secret")
    bench.request("carol", CREATE, edge("carols"), id="c1")
    if not one_commit:
        await bench.settle()
        publisher._queue.extend(bench.store.reads.outbox(0, 100))
    oid = await again(bench)
    bench.request("bob", CREATE, edge("own"), id="b2", principal=oid)
    await bench.settle()
    held = [row.topic for row in (*publisher._queue, *bench.store.reads.outbox(0, 100))]
    assert TOPICS.response("bob", "secret") not in held
    assert held.count(TOPICS.response("bob", "default")) == 1
    assert TOPICS.response("carol", "default") in held
    bench.store.close()


@pytest.mark.fault(85, "P")
@pytest.mark.parametrize("page", [1, 32])
async def test_a_name_is_not_given_again_by_mistake(
    client: Client, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr(rpc, "PAGE", page)
    await client.call("alice", "remove_principal", {"principal_name": "bob"})
    new = {"principal": {"name": "bob", "role": "operator"}}
    error = await client.refused("alice", "add_principal", new)
    assert (error.code, error.pointers) == ("already_exists", ("/params/principal/name",))
    made = await client.call("alice", "add_principal", new | {"reuse": True})
    # The client of the new holder finds out which principal it is, and says so from then on.
    assert (await client.call("bob", CREATE, edge()))["owner_oid"] == made["oid"]
    await client.call("alice", "remove_principal", {"principal_name": "bob"})
    await client.call("alice", "add_principal", new | {"reuse": True})
    assert (await client.refused("bob", CREATE, edge("two"))).code == "no_such_principal"
    later = Caller(client.link, TOPICS, "bob", "t2", CLOCK, new_id, Random(2))
    assert (await later.call(CREATE, edge("two")))["name"] == "two"


@pytest.mark.fault(85, "P")
async def test_what_a_removed_principal_owned_is_handed_over(client: Client) -> None:
    mine, other = await client.cluster("mine", "bob"), await client.cluster("other", "bob")
    node = await client.call("bob", "pair_node", {"node": {"name": "n1"}})
    gone = await client.call("alice", "remove_principal", {"principal_name": "bob"})
    assert (gone["clusters"], gone["nodes"]) == (2, 1)
    who = {row["name"]: row["oid"] for row in await client.call("vera", "list_principals")}
    refs = [{"routercluster_oid": other["oid"]}, {"from_name": "bob"}]
    assert (
        await client.refused("carol", "transfer_principal", refs[0] | {"principal_name": "carol"})
    ).code == "not_authorized"
    counts = [
        await client.call("alice", "transfer_principal", ref | {"principal_name": "carol"}) for ref in refs
    ]
    assert [(given["clusters"], given["nodes"]) for given in counts] == [(1, 0), (1, 1)]
    for cluster in (mine, other):
        found = await client.call("carol", "get_routercluster", {"routercluster_oid": cluster["oid"]})
        assert (found["owner_oid"], found["version"]) == (who["carol"], 2)
        await client.call("carol", "delete_routercluster", {"routercluster_oid": cluster["oid"]})
    await client.call("carol", "drain_node", {"node_oid": node["oid"]})
    assert client.event_names().count("principal_transferred") == 2


@pytest.mark.fault(85, "P")
async def test_a_transfer_names_one_source_that_exists(client: Client) -> None:
    to = {"principal_name": "carol"}
    oid = "3eccb1fd-251b-4eda-bee9-06b3d24b1c5e"
    cases: list[tuple[dict[str, str], str, str]] = [
        (to, "invalid_argument", "/params"),
        (to | {"from_name": "bob", "from_oid": oid}, "invalid_argument", "/params"),
        (to | {"from_name": "nobody"}, "no_such_object", "/params/from_name"),
        (to | {"from_oid": oid}, "no_such_object", "/params/from_oid"),
        (to | {"routercluster_oid": oid}, "no_such_object", "/params/routercluster_oid"),
        (to | {"node_oid": oid}, "no_such_object", "/params/node_oid"),
        ({"principal_name": "nobody", "from_name": "bob"}, "no_such_object", "/params/principal_name"),
    ]
    for params, code, pointer in cases:
        error = await client.refused("alice", "transfer_principal", params)
        assert (error.code, error.pointers) == (code, (pointer,)), params


def test_an_older_store_keeps_the_replies_that_are_surely_its_principals(tmp_path: Path) -> None:
    """A name's reply that is older than its principal's last change may be a former holder's."""
    path = tmp_path / "m" / "busbar.db"
    files.make_private(path)
    db = files.connect(path)
    migrations.apply(db, stop_before="principal_identity")
    db.execute("INSERT INTO principals (oid, name, role, changed) VALUES ('oid-bob', 'bob', 'operator', 50)")
    reply = "INSERT INTO requests (caller, id, digest, reply, created) VALUES (?, ?, 'd', x'7b7d', ?)"
    for caller, request_id, created in (("bob", "old", 49), ("bob", "new", 50), ("gone", "r", 60)):
        db.execute(reply, (caller, request_id, created))
    body = '{"data": {"oid": "oid-gone", "name": "gone"}}'
    topic = "busbar/v1/lab/event/_/principal/gone/removed"
    db.execute(
        "INSERT INTO events (sequence, time, topic, payload) VALUES (1, 40, ?, ?)", (topic, body.encode())
    )
    db.close()
    ids = itertools.count()
    store = Store.open(path, CLOCK, lambda: f"oid-{next(ids)}", TOPICS)
    assert store.reads.db.execute("SELECT caller, id FROM requests").fetchall() == [("oid-bob", "new")]
    assert store.reads.former_principals("name", "gone") == [("oid-gone", "gone", 40)]
    row = store.reads.principal("bob")
    assert row is not None and not row.reused
    store.close()
    assert parse(body.encode())
