"""A realm as one document: what is read, what is refused and where, and its one normal form."""

from __future__ import annotations

import json
from typing import Any

import pytest
from busbar.bus.json_schema import violation
from busbar.bus.routers.definitions import document_schema, normal, plain, pointers, read, read_all
from hypothesis import given, settings
from hypothesis import strategies as st

NAMES = st.sampled_from(["a", "b1", "web", "x-y"])
MQTT = {"type": "mqtt", "endpoint": {"type": "tcp", "port": 1883}}
MEMBERS = st.fixed_dictionaries({}, optional={"hardlimit": st.integers(3, 9), "softlimit": st.integers(0, 3)})
TEXTS: dict[str, Any] = {"label": st.text(max_size=5), "tags": st.lists(st.sampled_from("xyz"), max_size=2)}
GROUPS = st.fixed_dictionaries(
    {"scale": st.integers(0, 5)},
    optional={
        "runtime": st.sampled_from(["amqtt", "mosquitto"]),
        "transport": st.just(MQTT),
        "lost_after": st.integers(0, 60),
        "mesh": st.booleans(),
        "stopped": st.booleans(),
        "strategy": st.fixed_dictionaries({}, optional={"max_surge": st.integers(0, 2)}),
        **TEXTS,
    },
)
CLUSTERS = st.fixed_dictionaries(
    {},
    optional={
        "running": st.booleans(),
        "transport": st.just(MQTT),
        "nodes": st.dictionaries(NAMES, st.none() | MEMBERS, max_size=3),
        "groups": st.dictionaries(NAMES, GROUPS, max_size=3),
        **TEXTS,
    },
)
DOCUMENTS = st.fixed_dictionaries(
    {"busbar": st.just(1)},
    optional={
        "owner": NAMES,
        "$schema": st.just("./busbar.schema.json"),
        "clusters": st.dictionaries(NAMES, st.none() | CLUSTERS, max_size=3),
        "nodes": st.dictionaries(NAMES, st.none() | st.just({"labels": {"zone": "b", "a": "1"}}), max_size=2),
        "principals": st.dictionaries(NAMES, st.just({"role": "viewer"}), max_size=2),
    },
)


@settings(max_examples=60, deadline=None)
@given(DOCUMENTS)
def test_a_document_has_one_normal_form(value: dict[str, Any]) -> None:
    found = read(value)
    written = plain(found)
    assert read(written) == normal(found) == normal(normal(found))
    shuffled = dict(reversed(list(value.items())))
    assert json.dumps(plain(read(shuffled))) == json.dumps(written)
    assert (
        list(pointers(found)) and len(set(pointers(found))) == len(list(pointers(found)))
    ) or not found.clusters


@settings(max_examples=40, deadline=None)
@given(DOCUMENTS)
def test_editors_accept_what_is_read(value: dict[str, Any]) -> None:
    assert violation(value, document_schema()) is None
    assert violation(plain(read(value)), document_schema()) is None


@pytest.mark.parametrize(
    ("cluster", "pointer"),
    [
        ({"groups": {"web": {"scale": -1}}}, "/groups/web/scale"),
        ({"groups": {"web": {}}}, "/groups/web/scale"),
        ({"groups": {"web": {"scale": 1, "x/y": 1}}}, "/groups/web/x~1y"),
        ({"groups": {"web": 3}}, "/groups/web"),
        ({"groups": {"web": {"scale": 1, "runtime": "crossbar"}}}, "/groups/web/runtime"),
        ({"groups": {"web": {"scale": 1, "transport": {"type": "x"}}}}, "/groups/web/transport/type"),
        ({"groups": {"web": {"scale": 1, "strategy": {"max_unavailable": 0}}}}, "/groups/web/strategy"),
        ({"nodes": {"n1": {"hardlimit": 1, "softlimit": 2}}}, "/nodes/n1/softlimit"),
        ({"transport": {"type": "mqtt", "endpoint": {"type": "tcp", "port": 0}}}, "/transport/endpoint/port"),
        ({"bogus": 1}, "/bogus"),
        ([], ""),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_by_its_pointer(cluster: Any, pointer: str) -> None:
    _, errors = read_all({"busbar": 1, "clusters": {"edge": cluster}}, by_table=True)
    assert [error.pointers for error in errors] == [(f"/clusters/edge{pointer}",)]


def test_everything_that_is_wrong_is_found_at_once() -> None:
    value = {"busbar": 2, "clusters": {"a": {"x": 1}, "b": {"y": 1}}, "principals": {"p": {"role": "boss"}}}
    _, errors = read_all(value)
    found = [error.pointers[0] for error in errors]
    assert sorted(found) == ["/busbar", "/clusters/a/x", "/clusters/b/y", "/principals/p/role"]


def test_a_document_is_bounded() -> None:
    groups = {f"g{number}": {"scale": 1} for number in range(1000)}
    _, errors = read_all({"busbar": 1, "clusters": {"edge": {"groups": groups}}})
    assert [error.detail for error in errors] == ["1001 objects in one document; at most 1000: split it"]
