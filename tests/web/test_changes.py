"""Changes on the page: planned first, done as planned, and of nobody who may not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from busbar.bus.contract import OPERATIONS
from busbar.bus.errors import BusError
from busbar.cli.web.actions import DEEDS, VALUED

from tests.unit.cli.realm import result_of
from tests.unit.cli.test_text_of_others import HOSTILE, hostile, is_clean
from tests.web.asgi import Client
from tests.web.test_requests import House, answer
from tests.web.test_requests import house as house

OBJECTS = {
    "routercluster": "routercluster/edge",
    "workergroup": "workergroup/edge/web",
    "worker": "worker/edge/web-1",
    "node": "node/n1",
}
DONE = {
    ("start", "routercluster"): "start_routercluster",
    ("stop", "routercluster"): "stop_routercluster",
    ("rollback", "routercluster"): "rollback_routercluster",
    ("start", "workergroup"): "start_routercluster_workergroup",
    ("stop", "workergroup"): "stop_routercluster_workergroup",
    ("scale", "workergroup"): "scale_routercluster_workergroup",
    ("restart", "workergroup"): "restart_routercluster_workergroup",
    ("restart", "worker"): "restart_routercluster_worker",
    ("drain", "node"): "drain_node",
    ("undrain", "node"): "undrain_node",
}
STEP = {"order": 1, "worker": "edge/web-1", "action": "restart", "node": "n1", "reason": HOSTILE}


def manager(operation: str, given: dict[str, Any]) -> Any:
    """Of a realm with a cluster `edge`, whose group `old` has come since revision 3."""
    if operation == "list_routercluster_revisions":
        (one,) = result_of(operation, hostile)
        return [{**one, "revision": number} for number in (4, 3)]
    if operation == "stat_routercluster":
        found = answer(operation, given)
        return {**found, "workers": [{**found["workers"][0], "name": "web-1"}]}
    if operation == "plan_operation":
        return {"workers": [STEP], "version": 7, "complete": True}
    found = answer(operation, given)
    if operation == "plan_routercluster_rollback":
        return {**found, "fence": {"/clusters/edge": 7}}
    if operation == "get_routercluster_revision":
        return {**found, "definition": {"groups": {"web": {"scale": 5}}, "nodes": {"n1": {}}}}
    if operation in ("get_routercluster_workergroup_by_name", "get_routercluster_workergroup"):
        return {**found, "name": "web"}
    return found


def form(action: str, kind: str, **more: str) -> dict[str, str]:
    return {"action": action, "object": OBJECTS[kind], **({"value": "3"} if action in VALUED else {}), **more}


async def ready(house: House, role: str | None = "owner") -> tuple[Client, str]:
    """A signed-in browser, once the manager has said what the user is; None: nobody."""

    def known(operation: str, given: dict[str, Any]) -> Any:
        found = manager(operation, given)
        if operation != "list_principals":
            return found
        return [{**each, "role": role or "owner", **({} if role else {"name": "bob"})} for each in found]

    house.realm.answer = known
    client, token = await house.signed_in()
    async with client.stream("/live") as events:
        await role_is(events, role)
    return client, token


async def role_is(events: AsyncIterator[tuple[str, Any]], role: str | None) -> None:
    async for _, news in events:
        state = news.get("state", {})
        if state.get("manager") and state["role"] == role:
            return


@pytest.mark.parametrize(("action", "kind"), DEEDS)
async def test_a_change_is_planned_without_any_effect_and_done_at_that_version(
    house: House, action: str, kind: str
) -> None:
    client, token = await ready(house)
    planned = await client.ask("POST", "/plan", form(action, kind), x_busbar_token=token)
    assert planned.status == 200 and planned.json["lines"], planned.body
    assert all(is_clean(line) for line in (*planned.json["lines"], *planned.json["refused"]))
    asked = [name for name, _ in house.realm.calls]
    assert not [name for name in asked if OPERATIONS[name].change]
    assert planned.json["version"] == 7
    fences = []
    house.realm.heard = lambda request: fences.append(request.get("expect"))
    done = await client.ask("POST", "/do", form(action, kind, version="7"), x_busbar_token=token)
    assert done.status == 200, done.body
    changes = [(name, given) for name, given in house.realm.calls if OPERATIONS[name].change]
    assert [name for name, _ in changes] == [DONE[action, kind]] and fences[-1] == {"version": 7}
    if action in VALUED:
        assert 3 in changes[0][1].values()


async def test_a_plan_is_the_managers_of_the_very_deed(house: House) -> None:
    client, token = await ready(house)
    for action, kind in DEEDS:
        if action == "rollback":
            continue
        planned = await client.ask("POST", "/plan", form(action, kind), x_busbar_token=token)
        assert planned.json["lines"][0].startswith("1. restart edge/web-1 on n1: ")
        assert planned.json["lines"][1].endswith("have to connect again")
        (asked,) = [given for name, given in house.realm.calls if name == "plan_operation"]
        await client.ask("POST", "/do", form(action, kind, version="7"), x_busbar_token=token)
        done = next((name, given) for name, given in house.realm.calls if OPERATIONS[name].change)
        assert (asked["operation"], asked["params"]) == done
        house.realm.calls.clear()


async def test_a_manager_that_can_not_plan_is_asked_for_nothing(house: House) -> None:
    client, token = await ready(house)

    def earlier(operation: str, given: dict[str, Any]) -> Any:
        if operation.startswith("plan_"):
            raise BusError("no_such_procedure", f"no operation '{operation}'")
        return manager(operation, given)

    house.realm.answer = earlier
    for action, kind in DEEDS:
        found = await client.ask("POST", "/plan", form(action, kind), x_busbar_token=token)
        assert found.status == 404 and found.json["code"] == "no_such_procedure"
    assert not [name for name, _ in house.realm.calls if OPERATIONS[name].change]


async def test_a_rollback_is_planned_by_the_manager(house: House) -> None:
    client, token = await ready(house)
    planned = await client.ask("POST", "/plan", form("rollback", "routercluster"), x_busbar_token=token)
    assert planned.status == 200 and planned.json["lines"]
    asked = [given for name, given in house.realm.calls if name == "plan_routercluster_rollback"]
    assert [given["revision"] for given in asked] == [3]
    found = await client.ask("GET", "/revisions?object=edge")
    assert [each["revision"] for each in found.json] == [3], "the last one is as it is now"
    assert is_clean(found.json[0]["caller"])


@pytest.mark.parametrize("path", ["/plan", "/do"])
@pytest.mark.parametrize("role", ["viewer", None])
async def test_a_viewer_changes_nothing(house: House, path: str, role: str | None) -> None:
    client, token = await ready(house, role)
    for action, kind in DEEDS:
        found = await client.ask("POST", path, form(action, kind), x_busbar_token=token)
        assert found.status == 403 and b"may not change" in found.body
    assert not [name for name, _ in house.realm.calls if OPERATIONS[name].change or name.startswith("plan_")]


async def test_a_change_needs_the_token_of_the_page(house: House) -> None:
    client, _ = await ready(house)
    for token in ("", "guessed"):
        found = await client.ask("POST", "/do", form("drain", "node"), x_busbar_token=token)
        assert found.status == 403
    assert (await client.ask("GET", "/do?action=drain&object=node/n1")).status == 405
    assert not [name for name, _ in house.realm.calls if OPERATIONS[name].change]


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"action": "drain", "object": "worker/edge/web-1"},
        {"action": "delete", "object": "routercluster/edge"},
        {"action": "scale", "object": "workergroup/edge/web"},
        {"action": "scale", "object": "workergroup/edge/web", "value": "-1"},
        {"action": "scale", "object": "workergroup/edge/web", "value": "٣"},
        {"action": "scale", "object": "workergroup/edge/web", "value": "9999999"},
        {"action": "stop", "object": "routercluster/edge", "value": "1"},
        {"action": "stop", "object": "routercluster/edge", "version": "x"},
    ],
)
async def test_what_is_no_change_is_refused(house: House, wrong: dict[str, str]) -> None:
    client, token = await ready(house)
    for path in ("/plan", "/do"):
        assert (await client.ask("POST", path, wrong, x_busbar_token=token)).status == 400


async def test_the_managers_refusal_is_told_in_clean_text(house: House) -> None:
    client, token = await ready(house)

    def refuse(operation: str, given: dict[str, Any]) -> Any:
        raise BusError("version_conflict", f"it has changed {HOSTILE}")

    house.realm.answer = refuse
    found = await client.ask("POST", "/do", form("drain", "node"), x_busbar_token=token)
    assert found.status == 409 and found.json["code"] == "version_conflict"
    assert is_clean(found.json["error"]) and "it has changed" in found.json["error"]
