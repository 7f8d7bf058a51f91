"""A definition is judged by what the cluster's nodes have reported that they accept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from busbar.bus.decode import digest
from busbar.bus.errors import BusError
from busbar.bus.messages import RuntimeDetail
from busbar.bus.routers.transport_schema import known_schemas
from busbar.manager.api.operations.workergroups import result
from busbar.manager.publish.statuses import StatusBuilder

from tests.integration.manager.control.test_group_orders import order
from tests.integration.watching import Agent, Watch, fleet, watching

NEWER = {"properties": {"options": {"properties": {"threads": {"type": "integer"}}}}}
OLDER = {"properties": {"options": {"properties": {"password_file": {}}, "additionalProperties": False}}}
WITH_THREADS = {"type": "mqtt", "options": {"threads": 2}}


async def report(watch: Watch, agent: Agent, schema: dict[str, Any], **more: Any) -> None:
    """A report with that schema of amqtt, and the schema itself once it is asked for."""
    before = len(watch.commands)
    facts = {"details": {"amqtt": RuntimeDetail(version="9.9", schema=digest(schema))}, **more}
    agent.tell(**facts)
    await watch.rest()
    if any(digest(schema) in command.schemas for _, command in watch.commands[before:]):
        agent.tell(**facts, schemas={digest(schema): schema})
        await watch.rest()


async def update(watch: Watch, transport: Any, **group: Any) -> Any:
    return await order(
        watch,
        "update_routercluster_workergroup",
        workergroup_oid=watch.group().oid,
        workergroup={"transport": transport, **group},
    )


def conditions(watch: Watch) -> list[str]:
    builder = StatusBuilder(watch.store, 1000)
    _, payload = builder.status(("workergroup", watch.group().oid), builder.stamp()) or ("", b"{}")
    found: list[str] = json.loads(payload)["conditions"]
    return found


async def test_what_all_nodes_refuse_is_refused_with_the_pointer(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        for agent in await fleet(watch, 2):
            await report(watch, agent, OLDER)
        with pytest.raises(BusError) as error:
            await update(watch, WITH_THREADS)
        assert error.value.code == "invalid_configuration"
        assert list(error.value.pointers) == ["/params/workergroup/transport/options/threads"]


async def test_what_one_node_accepts_is_accepted_and_the_others_are_named(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        first, second = await fleet(watch, 2)
        await report(watch, first, NEWER)
        await report(watch, second, OLDER)
        asked = [command.schemas for _, command in watch.commands if command.schemas]
        assert asked == [[digest(NEWER)], [digest(OLDER)]], "each is asked for once"
        await update(watch, WITH_THREADS)
        told = [text for text in conditions(watch) if text.startswith("not accepted")]
        assert told == ["not accepted by n2: /options/threads: unknown member (known: password_file)"]
        assert watch.group().transport == WITH_THREADS
        assert result(watch.store.reads, watch.group()).refused_by == ["n2"]
        await report(watch, second, NEWER)
        assert result(watch.store.reads, watch.group()).refused_by == []
        assert not [text for text in conditions(watch) if text.startswith("not accepted")]


async def test_workers_are_placed_where_the_transport_is_accepted(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        first, second = await fleet(watch, 2, scale=1)
        await report(watch, first, NEWER)
        await report(watch, second, OLDER)
        await update(watch, WITH_THREADS)
        await watch.scale(3)
        assert {name: where for name, where in watch.states().items() if name != "web-1"} == {
            "web-2": "STARTING n1",
            "web-3": "STARTING n1",
        }
        first.state("disconnected")
        await watch.until(lambda: watch.node("n1").status == "offline")
        await watch.scale(4)
        await watch.until(lambda: watch.states().get("web-4") == "PENDING")
        why = "n2 does not accept its transport (/options/threads: unknown member (known: password_file))"
        assert watch.worker("web-4").reason == f"n1 is offline; {why}"
        await report(watch, second, NEWER)
        await watch.until(lambda: watch.states()["web-4"] == "STARTING n2")


@pytest.mark.parametrize(
    "more", [{"details": None}, {"details": {}}, {"details": {"amqtt": RuntimeDetail(version="1")}}]
)
async def test_a_node_that_reports_no_schema_is_judged_by_the_managers_table(
    tmp_path: Path, more: dict[str, Any]
) -> None:
    async with watching(tmp_path) as watch:
        first, second = await fleet(watch, 2)
        await report(watch, first, {"type": "string"})
        second.tell(**more)
        await watch.rest()
        await update(watch, {"type": "mqtt", "options": {"password_file": "p"}})
        with pytest.raises(BusError, match="unknown option"):
            await update(watch, WITH_THREADS)


async def test_a_node_that_is_gone_blocks_nothing(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        first, second = await fleet(watch, 2)
        await report(watch, first, {"type": "string"})
        await report(watch, second, {"type": "string"})
        with pytest.raises(BusError):
            await update(watch, {"type": "mqtt", "options": {"password_file": "p"}})
        second.state("disconnected")
        await watch.until(lambda: watch.node("n2").status == "offline")
        await update(watch, {"type": "mqtt", "options": {"password_file": "p"}})


async def test_a_schema_is_stored_by_what_it_says_not_by_what_the_node_says(tmp_path: Path) -> None:
    """A node can't put a schema of its own in the place of another's."""
    async with watching(tmp_path) as watch:
        first, second = await fleet(watch, 2)
        forged = {"amqtt": RuntimeDetail(schema=digest(NEWER))}
        first.tell(details=forged, schemas={digest(NEWER): {"type": "string"}})
        await watch.rest()
        assert watch.store.reads.known_schemas([digest(NEWER), digest({"type": "string"})]) == set()
        await report(watch, second, NEWER)
        await update(watch, WITH_THREADS)


async def test_schemas_that_no_node_has_any_more_are_dropped(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        (agent,) = await fleet(watch, 1)
        await report(watch, agent, NEWER)
        await report(watch, agent, OLDER)
        known = watch.store.reads.known_schemas([digest(NEWER), digest(OLDER)])
        assert known == {digest(OLDER)}
        row = watch.node("n1")
        assert row.runtime_details == {"amqtt": {"version": "9.9", "schema": digest(OLDER)}}
        agent.tell(details=None)
        await watch.rest()
        assert watch.node("n1").runtime_details == row.runtime_details, "a shortened report keeps them"
        agent.tell(details={"amqtt": RuntimeDetail(schema=known_schemas()["amqtt"])})
        await watch.rest()
        assert watch.store.reads.known_schemas([digest(OLDER)]) == set(), "this version's own is not stored"
