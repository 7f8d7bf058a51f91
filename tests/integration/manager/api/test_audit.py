"""Whatever is asked for is in the audit, refused requests too, however many there are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from busbar.bus.connection.link import Message
from busbar.manager.api import refusals
from busbar.manager.store.retention import Bounds, Retention

from tests.integration.manager.api.test_authority import TOPICS, Court, court
from tests.integration.manager.fixtures import Client, memory_net, rig_on

HOUR_S = 3600.0
EDGE = {"routercluster": {"name": "edge"}}


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with rig_on(memory_net(), tmp_path / "manager") as (_, made):
        yield made


async def refused(bench: Court) -> list[tuple[str, str, str, int]]:
    await bench.settle()
    bench.dispatch.refusals._flush()
    await bench.settle()
    rows = bench.store.reads.refusals(None, 10_000)
    return sorted((row.caller, row.op, row.outcome, row.count) for row in rows)


@pytest.mark.fault(88, "L")
async def test_every_way_to_be_refused_is_in_the_audit(tmp_path: Path) -> None:
    bench = await court(tmp_path / "m")
    bench.request("mallory", "list_nodes", {})
    bench.request("bob", "add_principal", {"principal": {"name": "x", "role": "owner"}}, id="mine")
    bench.request("bob", "no_such_thing", {})
    bench.request("bob", "create_routercluster", {"nonsense": 1})
    bench.request("bob", "create_routercluster", EDGE, id="once")
    bench.request("bob", "create_routercluster", {"routercluster": {"name": "two"}}, id="once")
    bench.dispatch.handle(Message(TOPICS.request("bob", "get_manager"), b"{"))
    bench.dispatch.handle(Message(TOPICS.request("bob", "list_nodes"), b"{}", retain=True))
    bench.request("alice", "set_principal_role", {"principal_name": "bob", "role": "viewer"})
    bench.request("bob", "create_routercluster", {"routercluster": {"name": "late"}})
    assert await refused(bench) == [
        ("bob", "add_principal", "not_authorized", 1),
        ("bob", "create_routercluster", "invalid_argument", 1),
        ("bob", "create_routercluster", "not_authorized", 1),
        ("bob", "create_routercluster", "request_id_reused", 1),
        ("bob", "get_manager", "malformed_request", 1),
        ("bob", "list_nodes", "malformed_request", 1),
        ("bob", "no_such_thing", "no_such_procedure", 1),
        ("mallory", "list_nodes", "no_such_principal", 1),
    ]
    bench.store.close()


async def test_the_audit_is_filtered_by_caller_operation_and_age(client: Client) -> None:
    for name, who in (("one", "alice"), ("two", "bob"), ("three", "alice")):
        await client.cluster(name, who=who)
    await client.node("n1")

    async def found(**more: Any) -> list[tuple[str, str]]:
        page = await client.call("vera", "list_audit", more)
        return [(entry["caller"], entry["operation"]) for entry in page]

    assert await found(caller="bob") == [("bob", "create_routercluster")]
    assert await found(operation="pair_node") == [("alice", "pair_node")]
    assert (
        await found(caller="alice", operation="create_routercluster")
        == [("alice", "create_routercluster")] * 2
    )
    assert len(await found(within_ms=3_600_000)) == 4 and await found(within_ms=0) == []
    newest = (await client.call("vera", "list_audit", {"caller": "alice", "limit": 1}))[0]
    assert await found(caller="alice", after=newest["id"]) == [("alice", "create_routercluster")] * 2
    assert await found(caller="nobody") == [] == await found(refused=True, caller="alice")


@pytest.mark.fault(88, "S")
async def test_refusals_without_end_are_a_few_rows(tmp_path: Path) -> None:
    """One row per hour for the same; a bound for what a caller invents, and one for callers."""
    bench = await court(tmp_path / "m")
    for _ in range(3):
        for _ in range(100):
            bench.request("mallory", "list_nodes", {})
        await refused(bench)
    assert await refused(bench) == [("mallory", "list_nodes", "no_such_principal", 300)]
    await bench.clock.advance(HOUR_S)
    for number in range(refusals.KINDS * 4):
        bench.request("mallory", f"op{number}", {})
    found = await refused(bench)
    assert len(found) == 1 + refusals.KINDS + 1
    assert ("mallory", "*", "*", refusals.KINDS * 3) in found
    await bench.clock.advance(HOUR_S)
    for number in range(refusals.CALLERS + 10):
        bench.request(f"m{number}", "list_nodes", {})
    found = await refused(bench)
    assert ("*", "list_nodes", "no_such_principal", 10) in found
    assert sum(count for *_, count in found) == 300 + refusals.KINDS * 4 + refusals.CALLERS + 10
    bench.store.close()


@pytest.mark.fault(88, "S")
async def test_refusals_push_no_change_out(tmp_path: Path) -> None:
    bench = await court(tmp_path / "m")
    bench.request("bob", "create_routercluster", EDGE)
    await bench.settle()
    for _ in range(20):
        bench.request("mallory", "list_nodes", {})
        bench.dispatch.refusals._flush()
        await bench.settle()
        await bench.clock.advance(HOUR_S)
    bounds = Bounds(audit=5, refusals=5)
    await Retention(bench.store, bench.clock, bounds).prune()
    assert len(bench.store.reads.audit_rows(None, 100)) == 1
    kept = bench.store.reads.refusals(None, 100)
    assert len(kept) == 5
    bench.store.close()


def full(point: str) -> None:
    """The disk is full."""
    if point == "before_commit":
        raise OSError(28, "no space left")


async def _settled(bench: Court) -> bool:
    bench.dispatch.refusals._flush()
    try:
        await bench.settle()
    except OSError:
        return False
    return True


@pytest.mark.fault(88, "L")
async def test_refusals_that_could_not_be_written_are_counted_with_the_next(tmp_path: Path) -> None:
    bench = await court(tmp_path / "m")

    bench.store.fault = full
    bench.request("mallory", "list_nodes", {})
    assert await _settled(bench) is False
    bench.store.fault = lambda point: None
    bench.request("mallory", "list_nodes", {})
    assert await refused(bench) == [("mallory", "list_nodes", "no_such_principal", 2)]
    bench.store.close()


@pytest.mark.fault(88, "L")
async def test_the_audit_is_read_in_pages_the_last_first(client: Client) -> None:
    for number in range(5):
        await client.cluster(f"c{number}", "bob")
    await client.refused("bob", "create_routercluster", {"routercluster": {"name": "c0"}})
    seen: list[dict[str, Any]] = []
    while True:
        more = {"after": seen[-1]["id"]} if seen else {}
        page = await client.call("vera", "list_audit", {"limit": 4, **more})
        seen += page
        if len(page) < 4:
            break
    assert [entry["outcome"] for entry in seen] == ["already_exists", *["ok"] * 5]
    assert [entry["operation"] for entry in seen] == ["create_routercluster"] * 6
    who = {row["name"]: row["oid"] for row in await client.call("vera", "list_principals")}
    assert {(entry["caller"], entry["caller_oid"], entry["role"]) for entry in seen} == {
        ("bob", who["bob"], "operator")
    }
    assert '"c4"' in seen[1]["params"]
    assert await client.call("vera", "list_audit", {"refused": True}) == []
