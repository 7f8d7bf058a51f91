"""Strict JSON: each kind of bad input gets its code and the pointer to the member at fault."""

from __future__ import annotations

import json

import pytest
from busbar.bus.decode import MAX_DEPTH, MAX_PAYLOAD, convert, digest, encode, parse
from busbar.bus.errors import BusError, pointer_step
from busbar.bus.messages import Request
from busbar.bus.params import (
    AddGroup,
    AddNode,
    AddPrincipal,
    ApplyRebalance,
    CreateCluster,
    LabelNode,
    ListNodes,
    NodeByName,
    NodeRef,
    PairNode,
    Params,
)
from hypothesis import given
from hypothesis import strategies as st

DEEP = b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1)
MALFORMED = {
    "empty": b"",
    "blank": b"   ",
    "not json": b"hello",
    "array": b"[]",
    "string": b'"x"',
    "null": b"null",
    "trailing": b"{} {}",
    "truncated": b'{"a": ',
    "truncated utf-8": b'{"a": "\xc3"}',
    "utf-16": '{"a": 1}'.encode("utf-16"),
    "nan": b'{"a": NaN}',
    "infinity": b'{"a": -Infinity}',
    "overflow": b'{"a": 1e999}',
    "5,000 digits": b'{"a": ' + b"9" * 5000 + b"}",
    "twice": b'{"a": 1, "a": 2}',
    "twice, nested": b'{"p": [{"a": 1, "a": 2}]}',
    "half a surrogate": rb'{"a": "\ud800"}',
    "too deep": DEEP,
    "far too deep": b"[" * 10_000,
    "deep and open": b'{"a":' * 10_000,
}


@pytest.mark.parametrize("payload", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed(payload: bytes) -> None:
    with pytest.raises(BusError) as caught:
        parse(payload)
    assert caught.value.code == "malformed_request"
    assert caught.value.detail


def test_depth_counts_brackets_in_structure_alone() -> None:
    assert parse(b'{"a": "' + b"[" * 100 + b'"}') == {"a": "[" * 100}
    allowed = b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH
    assert parse(allowed)
    assert parse(b'{"a": [' + b"{}," * 99 + b"{}]}")


def test_size_is_checked_before_parsing() -> None:
    with pytest.raises(BusError) as caught:
        parse(b"x" * (MAX_PAYLOAD + 1))
    assert caught.value.code == "payload_too_large"
    assert parse(b'{"a": "' + b"x" * (MAX_PAYLOAD - 9) + b'"}')


@given(st.binary(max_size=200))
def test_any_bytes_give_an_object_or_an_error_of_the_contract(payload: bytes) -> None:
    try:
        assert isinstance(parse(payload), dict)
    except BusError as error:
        assert error.code == "malformed_request"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=5))
def test_what_we_write_we_read(value: dict[str, object]) -> None:
    assert parse(encode(value)) == value
    assert parse(json.dumps(value).encode()) == value


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=5))
def test_a_digest_does_not_depend_on_the_order_of_members(value: dict[str, object]) -> None:
    assert digest(value) == digest(dict(reversed(value.items())))
    assert digest(value) != digest(value, 1)


@pytest.mark.parametrize(
    ("value", "pointer"),
    [
        ({"routercluster": {}}, "/params/routercluster/name"),
        ({}, "/params/routercluster"),
        ({"routercluster": {"name": 1}}, "/params/routercluster/name"),
        ({"routercluster": {"name": "Bad"}}, "/params/routercluster/name"),
        ({"routercluster": {"name": "a\n"}}, "/params/routercluster/name"),
        ({"routercluster": {"name": "a" * 65}}, "/params/routercluster/name"),
        ({"routercluster": {"name": "a", "zz": 1}}, "/params/routercluster/zz"),
        ({"routercluster": {"name": "a", "tags": ["x", 2]}}, "/params/routercluster/tags/1"),
        ({"routercluster": []}, "/params/routercluster"),
        ({"routercluster": {"name": "a"}, "more": 1}, "/params/more"),
    ],
)
def test_pointer_to_the_member_at_fault(value: dict[str, object], pointer: str) -> None:
    with pytest.raises(BusError) as caught:
        convert(value, CreateCluster, "/params")
    assert (caught.value.code, caught.value.pointers) == ("invalid_argument", (pointer,))


OID = "3eccb1fd-251b-4eda-bee9-06b3d24b1c5e"
REQUIRE: dict[str, object] = {"rack": ["1"], "zone": ["a", 5]}
OF_MANY: list[tuple[type[Params], dict[str, object], str, str]] = [
    (
        PairNode,
        {"node": {"name": "n1", "labels": {"a": "1", "b": 2, "c": "3"}}},
        "/node/labels/b",
        "got 'int'",
    ),
    (LabelNode, {"node_oid": OID, "labels": {"a": "x" * 300, "b": "y"}}, "/labels/a", "length <= 256"),
    (
        LabelNode,
        {"node_oid": OID, "labels": {"ok": "1", "Rack 7": "x"}},
        "/labels/Rack 7",
        "'Rack 7' is not of",
    ),
    (LabelNode, {"node_oid": OID, "labels": {"a/b~": "x", "ok": "1"}}, "/labels/a~1b~0", "'a/b~' is not of"),
    (ApplyRebalance, {"moves": {OID: "n2"}, "fence": {}}, f"/moves/{OID}", "'n2' is not an object id"),
    (
        AddGroup,
        {"routercluster_oid": OID, "workergroup": {"scale": 1, "placement": {"require": REQUIRE}}},
        "/workergroup/placement/require/zone/1",
        "got 'int'",
    ),
]


@pytest.mark.parametrize(("kind", "value", "pointer", "detail"), OF_MANY)
def test_the_member_at_fault_of_an_object_with_any_members_is_named(
    kind: type[Params], value: dict[str, object], pointer: str, detail: str
) -> None:
    with pytest.raises(BusError) as caught:
        convert(value, kind)
    assert caught.value.pointers == (pointer,) and detail in caught.value.detail


@given(st.dictionaries(st.text(), st.text() | st.integers(), min_size=1))
def test_the_pointer_is_that_of_a_member_that_is_there(labels: dict[str, object]) -> None:
    try:
        convert({"node": {"name": "n1", "labels": labels}}, PairNode)
    except BusError as error:
        (pointer,) = error.pointers
        assert pointer == "/node/labels" or pointer in {
            f"/node/labels/{pointer_step(each)}" for each in labels
        }


def test_a_value_that_is_none_of_a_list_is_told_the_list() -> None:
    with pytest.raises(BusError, match=r"'ONLINE': it is one of late, lost, offline, online, unpaired"):
        convert({"filter_by_status": "ONLINE"}, ListNodes)
    with pytest.raises(BusError, match=r"'admin': it is one of operator, owner, viewer"):
        convert({"principal": {"name": "a", "role": "admin"}}, AddPrincipal)


@pytest.mark.parametrize("limit", [-1, 1.5, True, "2", 10_001])
def test_limits_are_whole_numbers(limit: object) -> None:
    oid = "3eccb1fd-251b-4eda-bee9-06b3d24b1c5e"
    with pytest.raises(BusError):
        convert({"routercluster_oid": oid, "node_oid": oid, "config": {"hardlimit": limit}}, AddNode)


@pytest.mark.parametrize(
    "oid", ["", "x", "3eccb1fd251b4edabee906b3d24b1c5e", "3eccb1fd-251b-4eda-bee9-06b3d24b1c5e\n"]
)
def test_an_oid_is_a_uuid(oid: str) -> None:
    with pytest.raises(BusError, match="not an object id"):
        convert({"routercluster_oid": oid, "node_oid": oid}, AddNode)


def test_the_envelope_ignores_unknown_members_but_not_wrong_types() -> None:
    assert convert({"id": "1", "more": 1}, Request).id == "1"
    for bad in ({"id": 1}, {"id": ""}, {"id": "x" * 65}, {"reply": "a/b"}, {"params": []}, {"ttl_ms": 0}):
        with pytest.raises(BusError) as caught:
            convert(bad, Request)
        assert caught.value.pointers == (f"/{next(iter(bad))}",)


def test_what_a_text_should_look_like_is_said_in_words() -> None:
    with pytest.raises(BusError) as name:
        convert({"node_name": "A b"}, NodeByName)
    assert name.value.detail == "'A b' is not of the form [a-z0-9][a-z0-9_-]{0,63}"
    with pytest.raises(BusError) as oid:
        convert({"node_oid": "n1"}, NodeRef)
    assert oid.value.detail == "'n1' is not an object id: a UUID in lower case"
