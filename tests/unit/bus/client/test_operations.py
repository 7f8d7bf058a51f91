"""The client has a typed method for every operation of the contract, and a blocking one too."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import busbar
import msgspec
import pytest
from busbar.bus.client import blocking
from busbar.bus.client.client import BusClient
from busbar.bus.client.connect import connect
from busbar.bus.client.operations.base import plain
from busbar.bus.contract import OPERATIONS
from busbar.bus.errors import BusError
from busbar.bus.params import Params

from tests.unit.bus.client.harness import CLUSTER, GROUP, OID, World, play

ROOT = Path(__file__).parents[4]
ENVELOPE = {"expect_version", "timeout", "request_id"}


def test_the_generated_methods_are_up_to_date() -> None:
    script = [sys.executable, str(ROOT / "docs" / "client_methods.py")]
    result = subprocess.run(script, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def members(struct: type[Params]) -> set[str]:
    """The parameters' members, those of definitions among them."""
    found: set[str] = set()
    hints = typing.get_type_hints(struct)
    for name, kind in hints.items():
        options = typing.get_args(kind) or (kind,)
        inner = [each for each in options if isinstance(each, type) and issubclass(each, Params)]
        found |= members(inner[0]) if inner else {name}
    return found


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_has_its_method_with_the_contracts_parameters_and_result(name: str) -> None:
    row, method = OPERATIONS[name], getattr(BusClient, name)
    signature = inspect.signature(method)
    envelope = ENVELOPE if row.change else {"timeout"}
    assert set(signature.parameters) - {"self"} == members(row.params) | envelope
    kinds = {each.kind for each in signature.parameters.values() if each.name != "self"}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}
    assert typing.get_type_hints(method)["return"] == row.result
    text = inspect.getdoc(method) or ""
    assert text.startswith(row.help) and all(f"`{code}`" in text for code in row.errors)


ASYNC_ALONE = {"dynamic_security", "fetch_each", "probe"}


def test_the_blocking_client_has_each_method_with_the_same_parameters() -> None:
    def public(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    hers, ours = public(BusClient), public(blocking.SyncBusClient)
    assert hers - ours - ASYNC_ALONE == {"close"}, "the block's end closes it"
    for name in ours - {"connected"}:
        mine, theirs = (
            inspect.signature(getattr(kind, name)) for kind in (blocking.SyncBusClient, BusClient)
        )
        assert set(mine.parameters) - {"idle"} == set(theirs.parameters), name
    assert inspect.signature(blocking.connect_sync).parameters == inspect.signature(connect).parameters


def test_every_exported_name_is_there_and_importing_busbar_is_light() -> None:
    assert all(getattr(busbar, name) is not None for name in busbar.__all__)
    assert set(busbar.__all__) <= set(dir(busbar))
    with pytest.raises(AttributeError):
        busbar.nonesuch  # noqa: B018
    code = "import sys, busbar; print({'msgspec', 'asyncio', 'paho'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


def sent(operation: str, result: Any, /, **arguments: Any) -> tuple[dict[str, Any], Any]:
    """What a method sends, and what it returns."""

    async def work(world: World) -> Any:
        found = await getattr(world.bus, operation)(**arguments)
        return world.requests[0], found

    found: tuple[dict[str, Any], Any] = play(work, lambda _op, _params: result)
    return found


def test_definitions_are_put_together_and_what_was_not_given_is_left_out() -> None:
    request, made = sent("create_routercluster", CLUSTER, name="edge", tags=["a"], expect_version=0)
    assert request["params"] == {"routercluster": {"name": "edge", "tags": ["a"]}}
    assert request["expect"] == {"version": 0} and request["id"] == "r1"
    assert isinstance(made, busbar.Cluster) and made.version == 3
    request, _ = sent(
        "add_routercluster_node", {**both(), "hardlimit": 0, "softlimit": None}, **oids(), hardlimit=0
    )
    assert request["params"] == {**oids(), "config": {"hardlimit": 0}}
    request, _ = sent("add_routercluster_node", {**both(), "hardlimit": None, "softlimit": None}, **oids())
    assert request["params"] == oids()


def oids() -> dict[str, str]:
    return {"routercluster_oid": OID, "node_oid": OID}


def both() -> dict[str, str]:
    return {"cluster_oid": OID, "node_oid": OID}


def test_an_update_can_take_things_away() -> None:
    ref = {"routercluster_oid": OID, "workergroup_oid": OID}
    request, group = sent("update_routercluster_workergroup", GROUP, **ref, label=None, max_surge=0)
    assert request["params"] == {**ref, "workergroup": {"label": None}, "max_surge": 0}
    assert isinstance(group, busbar.Group)


def test_a_request_id_of_ones_own_is_used_as_it_is() -> None:
    request, _ = sent("start_routercluster", accepted(), routercluster_oid=OID, request_id="mine-7")
    assert request["id"] == "mine-7"


def accepted() -> dict[str, Any]:
    who = {"authid": "alice", "authrole": "owner", "session": "box"}
    return {"changed": 1, "oid": OID, "status": "STARTING", "who": who, "version": 4}


@pytest.mark.parametrize("result", [{}, [], "x", {**CLUSTER, "version": "3"}])
def test_a_result_of_another_form_is_told_to_be_one(result: Any) -> None:
    with pytest.raises(busbar.ResultError, match="another version"):
        sent("get_routercluster", result, routercluster_oid=OID)


def test_members_of_a_newer_manager_are_ignored() -> None:
    _, found = sent("get_routercluster", {**CLUSTER, "colour": "red"}, routercluster_oid=OID)
    assert found.name == "edge"


def test_a_refusal_has_code_pointers_and_detail() -> None:
    def refuse(_op: str, _params: dict[str, Any]) -> Any:
        raise BusError("invalid_argument", "not a name", ["/params/routercluster/name"])

    async def work(world: World) -> None:
        await world.bus.create_routercluster(name="No Name")

    with pytest.raises(BusError) as caught:
        play(work, refuse)
    assert (caught.value.code, caught.value.detail) == ("invalid_argument", "not a name")
    assert caught.value.pointers == ("/params/routercluster/name",)


def test_without_an_answer_it_says_which_managers_the_broker_knows() -> None:
    async def work(world: World) -> Any:
        world.manager.post(world.bus.topics.manager_state("m1"), b'{"state": "offline"}', retain=True)
        try:
            await world.bus.get_manager(timeout=3.0)
        except busbar.CallTimeoutError as error:
            return error, world.requests

    error, requests = play(work)
    assert error.managers == {"m1": "offline"}
    assert str(error) == "no manager answered get_manager in 3 s in realm 'lab' (manager m1 is offline)"
    assert {request["id"] for request in requests} == {error.request_id} and len(requests) == 2


def test_a_broker_that_is_out_of_reach_is_told_at_the_deadline() -> None:
    async def work(world: World) -> float:
        world.link.reachable.clear()
        world.broker.drop("alice")
        began = world.loop.now
        with pytest.raises(busbar.BusOfflineError):
            await world.bus.list_nodes(timeout=2.0)
        return world.loop.now - began

    assert play(work) == pytest.approx(2.0)


def test_many_objects_are_fetched_in_order_without_those_that_are_gone() -> None:
    def answer(_op: str, params: dict[str, Any]) -> Any:
        if params["routercluster_oid"] == "7":
            raise BusError("no_such_object", "gone")
        return {**CLUSTER, "name": f"c{params['routercluster_oid']}"}

    async def work(world: World) -> list[str]:
        oids = [str(number) for number in range(50)]
        found = await world.bus.fetch_each(
            oids, lambda oid: world.bus.get_routercluster(routercluster_oid=oid)
        )
        return [cluster.name for cluster in found]

    assert play(work, answer) == [f"c{number}" for number in range(50) if number != 7]


def test_references_are_names_or_oids() -> None:
    def answer(op: str, params: dict[str, Any]) -> Any:
        return GROUP if "workergroup" in op else CLUSTER

    async def work(world: World) -> Any:
        bus = world.bus
        await bus.find_cluster("edge")
        await bus.find_cluster(OID)
        assert await bus.cluster_oid(OID) == OID and await bus.cluster_oid("edge") == OID
        await bus.find_group("edge/web")
        await bus.find_group("web", "edge")
        await bus.find_group(OID, "edge")
        await bus.find_group(f"{OID}/web")
        for wrong in ("web", "edge/web"):
            with pytest.raises(ValueError):
                await bus.find_group(wrong, "core" if "/" in wrong else None)
        return [op for op, _ in world.asked]

    by_name, by_oid = "get_routercluster_by_name", "get_routercluster"
    group_by_name = "get_routercluster_workergroup_by_name"
    group = [group_by_name, group_by_name, by_name, "get_routercluster_workergroup", by_oid, group_by_name]
    assert play(work, answer) == [by_name, by_oid, by_name, *group]


def test_only_defaults_are_left_out_of_parameters() -> None:
    from busbar.bus import params as p

    assert plain(p.UnpairNode(node_oid="x")) == {"node_oid": "x"}
    assert plain(p.UnpairNode(node_oid="x", keep_account=True)) == {"node_oid": "x", "keep_account": True}
    assert plain(p.ScaleGroup("c", "g", 0)) == {"routercluster_oid": "c", "workergroup_oid": "g", "scale": 0}
    assert plain(p.UpdateGroup("c", "g", p.GroupUpdate())) == {
        "routercluster_oid": "c",
        "workergroup_oid": "g",
        "workergroup": {},
    }
    assert msgspec.json.schema(p.GroupUpdate)


async def test_a_client_needs_a_name_that_the_contract_allows() -> None:
    for wrong in ("", "a/b", "#", "A"):
        with pytest.raises(ValueError, match="not a name"):
            async with connect("mqtt://127.0.0.1:1", username=wrong):
                pass
    for url in ("gopher://x", "mqtt://a:b@c"):
        with pytest.raises(ValueError):
            async with connect(url, username="alice"):
                pass


async def test_a_password_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("x")
    file.chmod(0o644)
    with pytest.raises(ValueError, match="can be read by others"):
        async with connect("mqtt://127.0.0.1:1", username="alice", password_file=file):
            pass


async def test_a_broker_that_is_not_there_is_told_soon() -> None:
    async with asyncio.timeout(20):
        with pytest.raises(busbar.BusOfflineError, match="can't be reached: connection refused"):
            async with connect("mqtt://127.0.0.1:1", username="alice"):
                pass
        with pytest.raises(busbar.BusOfflineError, match="none of the brokers"):
            async with connect("mqtt://127.0.0.1:1,mqtt://127.0.0.1:2", username="alice"):
                pass


def test_the_blocking_client_tells_it_too() -> None:
    with (
        pytest.raises(busbar.BusOfflineError, match="connection refused"),
        busbar.connect_sync("mqtt://127.0.0.1:1", username="alice"),
    ):
        pass
