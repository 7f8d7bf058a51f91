"""The schemas of the built-in runtimes say what their checks say, as far as a schema can."""

from __future__ import annotations

import json
from typing import Any

import pytest
from busbar.bus.decode import encode
from busbar.bus.errors import BusError
from busbar.bus.json_schema import MAX_SCHEMA, mistakes, violation
from busbar.bus.routers.runtimes import BUILT_IN, check_for_runtime
from busbar.bus.routers.transport import check_transport
from busbar.bus.routers.transport_schema import known_schemas, runtime_schema
from hypothesis import given

from .test_runtimes import transports


@given(transports())
def test_a_schema_never_refuses_what_the_checks_accept(asked: tuple[str, dict[str, Any]]) -> None:
    runtime, transport = asked
    try:
        check_for_runtime(check_transport(transport, ""), runtime, "")
    except BusError:
        return
    assert violation(transport, runtime_schema(runtime), trusted=True) is None


LISTENERS: list[tuple[str, dict[str, Any], str | None]] = [
    (
        "mosquitto",
        {"plain": {"port": 1883}, "ws": {"type": "websocket", "options": {"max_connections": 9}}},
        None,
    ),
    ("mosquitto", {"plain": {"type": "web"}}, "/listeners/plain/type"),
    ("mosquitto", {"plain": {"options": {"max_connections": 0}}}, "/listeners/plain/options/max_connections"),
    ("amqtt", {"plain": {"tls": {"certificate": "a", "key": "b"}}}, "/listeners/plain/tls"),
    ("amqtt", {"plain": {}, "ws": {"type": "websocket"}}, None),
]


@pytest.mark.parametrize(("runtime", "listeners", "at"), LISTENERS)
def test_named_listeners_have_a_schema(runtime: str, listeners: dict[str, Any], at: str | None) -> None:
    transport = {"type": "mqtt", "listeners": listeners}
    found = violation(transport, runtime_schema(runtime))
    assert (None if found is None else found.pointer) == at
    try:
        check_for_runtime(check_transport(transport, ""), runtime, "")
        refused: tuple[str, ...] = ()
    except BusError as error:
        refused = tuple(error.pointers)
    assert refused == (() if at is None else (at,)), "the checks say the same"


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("amqtt", {"type": "mqtt", "endpoint": {"tls": {"certificate": "a", "key": "b"}}}),
    ("amqtt", {"type": "mqtt", "endpoint": {"port": 1883, "shared": True}}),
    ("amqtt", {"type": "mqtt", "options": {"persistence": True}}),
    ("amqtt", {"type": "mqtt", "listeners": {"a": {"type": "web"}}}),
    ("amqtt", {"type": "mqtt", "listeners": {"a": {"options": {"max_connections": 1}}}}),
    ("mosquitto", {"type": "mqtt", "listeners": {"a": {"port": 0}}}),
    ("mosquitto", {"type": "mqtt", "listeners": {"a": {"options": {"persistence": True}}}}),
    ("mosquitto", {"type": "mqtt", "options": {"max_packet_size": 1}}),
    ("mosquitto", {"type": "mqtt", "options": {"persistence": "yes"}}),
    ("crossbar", {"type": "web", "paths": {"a": {"type": "json", "value": 1, "options": {"prettify": 1}}}}),
    ("crossbar", {"type": "web", "paths": {"ws": {"type": "websocket", "options": {"prettify": True}}}}),
    ("crossbar", {"type": "web", "listeners": {"a": {"type": "nats"}}}),
    ("crossbar", {"type": "web", "listeners": {"a": {"type": "mqtt", "options": {"role": "anonymous"}}}}),
]


@pytest.mark.parametrize(("runtime", "transport"), REFUSED)
def test_both_refuse_the_same_member(runtime: str, transport: dict[str, Any]) -> None:
    with pytest.raises(BusError) as error:
        check_for_runtime(check_transport(transport, ""), runtime, "")
    found = violation(transport, runtime_schema(runtime))
    assert found is not None and (found.pointer,) == tuple(error.value.pointers)


@pytest.mark.parametrize("runtime", BUILT_IN)
def test_a_schema_can_be_reported(runtime: str) -> None:
    schema = runtime_schema(runtime)
    assert len(encode(schema)) < MAX_SCHEMA and json.loads(encode(schema)) == schema
    assert list(mistakes(schema)) == []
    assert known_schemas()[runtime].startswith("sha256:")
