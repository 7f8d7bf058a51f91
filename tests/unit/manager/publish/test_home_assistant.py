"""What Home Assistant is told: names, ids and templates of every entity, whatever objects are called."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from busbar.bus.access.home_assistant import HomeAssistant
from busbar.bus.messages import Request
from busbar.bus.topics import Topics
from busbar.manager.publish.home_assistant import Device, Discovery, Realm, _literal, difference
from hypothesis import given
from hypothesis import strategies as st

jinja2 = pytest.importorskip("jinja2", reason="templates are tried with Jinja2, which the extra 'web' brings")
from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: E402

ENV = ImmutableSandboxedEnvironment()  # as Home Assistant's own is made
ENV.globals["utcnow"] = lambda: datetime.now(UTC)
MAKE = Discovery(HomeAssistant("ha"), Topics("lab"), "m1", "1.2")
EDGE = Device("c1", "edge", (("g1", "web"), ("g2", "api")), "owner-1")
REALM = Realm((Device("o1", "n1"),), (EDGE,), "p1", "owner")

names = st.text("ab0_-", max_size=6).map("x".__add__)
oids = st.uuids().map(str)
groups = st.lists(st.tuples(oids, names), max_size=3, unique_by=(lambda g: g[0], lambda g: g[1])).map(tuple)
nodes = st.lists(st.builds(Device, oids, names), max_size=3, unique_by=(lambda d: d.oid, lambda d: d.name))
clusters = st.lists(
    st.builds(Device, oids, names, groups), max_size=3, unique_by=(lambda d: d.oid, lambda d: d.name)
)
realms = st.builds(
    Realm,
    nodes.map(tuple),
    clusters.map(tuple),
    st.none() | oids,
    st.sampled_from(["owner", "operator", "viewer"]),
)


def decoded(realm: Realm) -> dict[str, dict[str, Any]]:
    return {topic: json.loads(payload) for topic, payload in MAKE.messages(realm).items()}


def of(leaf: str, realm: Realm = REALM) -> dict[str, Any]:
    (found,) = [body for topic, body in decoded(realm).items() if topic.split("/")[3] == leaf]
    return found


def rendered(template: str, status: Any) -> str:
    known = {} if status is None else {"value_json": status}
    return str(ENV.from_string(template).render(value="", **known)).strip()


@given(realms)
def test_every_entity_has_a_topic_and_an_id_of_its_own_that_home_assistant_takes(realm: Realm) -> None:
    found = decoded(realm)
    buttons = sum(topic.startswith("homeassistant/button/") for topic in found)
    asked = sum(topic.endswith("-request/config") for topic in found)
    groups = sum(len(cluster.groups) for cluster in realm.clusters)
    assert len(found) == 3 * len(realm.nodes) + 4 * len(realm.clusters) + 3 * groups + buttons + asked
    assert len({body["unique_id"] for body in found.values()}) == len(found)
    for topic, body in found.items():
        assert re.fullmatch(
            r"homeassistant/(binary_sensor|sensor|button)/busbar-lab/[a-zA-Z0-9_-]+/config", topic
        )
        assert body["device"]["identifiers"] and body["name"]
        for member, text in body.items():
            if member.endswith("_template"):
                ENV.from_string(text)


@given(realms, realms)
def test_a_broker_holds_what_is_wanted_once_the_difference_is_published(before: Realm, after: Realm) -> None:
    held, wanted = MAKE.messages(before), MAKE.messages(after)
    for topic, payload in difference(held, wanted):
        assert held.get(topic, b"") != payload, "nothing is published for nothing"
        held[topic] = payload
    assert {topic: payload for topic, payload in held.items() if payload} == wanted
    assert list(difference(wanted, wanted)) == []


@given(st.text())
def test_no_text_becomes_a_part_of_the_template_that_it_stands_in(text: str) -> None:
    assert json.loads(ENV.from_string(_literal(text), globals={}).render() or '""') == text


@pytest.mark.parametrize(
    ("leaf", "status", "shown"),
    [
        ("o1-online", {"status": "online"}, "ON"),
        ("o1-online", {"status": "late"}, "OFF"),
        ("o1-problem", {"status": "online", "conditions": []}, "OFF"),
        ("o1-problem", {"status": "online", "conditions": ["two agents have this id"]}, "ON"),
        ("o1-problem", {"status": "online", "conditions": ["cordoned: x"], "cordoned": "x"}, "OFF"),
        ("o1-problem", {"status": "offline", "conditions": ["offline: x"]}, "OFF"),
        ("o1-problem", {"status": "lost", "conditions": []}, "ON"),
        ("o1-status", {"status": "late"}, "late"),
        ("c1-running", {"status": "RUNNING"}, "ON"),
        ("c1-running", {"status": "DEGRADED"}, "ON"),
        ("c1-running", {"status": "STARTING"}, "OFF"),
        ("c1-problem", {"status": "ERROR"}, "ON"),
        ("g1-problem", {"status": "STOPPED"}, "OFF"),
        ("g1-ready", {"status": "RUNNING", "ready": 3}, "3"),
        ("c1-request", {"ok": True, "result": {}}, "ok"),
        ("c1-request", {"ok": False, "error": {"code": "cannot_start"}}, "cannot_start"),
    ],
)
def test_what_an_entity_shows_of_a_message(leaf: str, status: dict[str, Any], shown: str) -> None:
    assert rendered(of(leaf)["value_template"], status) == shown
    assert rendered(of(leaf)["value_template"], None) == "", "an object that was deleted has no state"


def test_attributes_are_an_object_whatever_a_status_lacks() -> None:
    for body in decoded(REALM).values():
        if template := body.get("json_attributes_template"):
            assert isinstance(json.loads(rendered(template, {"status": "RUNNING", "name": "x"})), dict)
            assert json.loads(rendered(template, None)) == {}


def test_each_press_is_a_request_of_its_own_to_the_ordinary_topic() -> None:
    button = of("g1-restart")
    assert button["command_topic"] == "busbar/v1/lab/request/ha/restart_routercluster_workergroup"
    presses = [json.loads(rendered(button["command_template"], None)) for _ in range(20)]
    assert len({press["id"] for press in presses}) == 20
    for press in presses:
        assert len(press["id"]) <= 64
        assert press["params"] == {"routercluster_oid": "c1", "workergroup_oid": "g1"}
        assert press["principal"] == "p1"
        assert set(press) <= set(Request.__struct_fields__)
    assert of("c1-request")["state_topic"] == f"busbar/v1/lab/response/ha/{presses[0]['reply']}"


@pytest.mark.parametrize(
    ("principal", "role", "owner", "has"),
    [
        ("p1", "owner", "other", True),
        ("p1", "operator", "p1", True),
        ("p1", "operator", "other", False),
        ("p1", "viewer", "p1", False),
        (None, "", None, False),
    ],
)
def test_who_could_not_restart_gets_no_button(
    principal: str | None, role: str, owner: str | None, has: bool
) -> None:
    cluster = Device("c1", "edge", (("g1", "web"),), owner)
    found = decoded(Realm((), (cluster,), principal, role))
    assert any("/button/" in topic for topic in found) is has
    assert any("-request/" in topic for topic in found) is has
