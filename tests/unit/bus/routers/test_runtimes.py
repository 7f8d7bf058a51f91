"""What an agent would refuse whatever its node has, the manager has refused before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from busbar.agent.runtimes.amqtt import AmqttRuntime
from busbar.agent.runtimes.base import RuntimeConfigError, WorkerSpec
from busbar.agent.runtimes.crossbar import CrossbarRuntime
from busbar.agent.runtimes.mosquitto import MosquittoRuntime
from busbar.agent.runtimes.nats import NatsRuntime
from busbar.bus.errors import BusError
from busbar.bus.routers.router_options import OPTIONS_OF, options_schema
from busbar.bus.routers.runtimes import BUILT_IN, PATH_OPTIONS, check_for_runtime
from busbar.bus.routers.transport import check_transport
from busbar.manager.planner.admission import unoffered
from hypothesis import assume, given
from hypothesis import strategies as st

NODE = Path("/srv")
PEM = b"".join(
    b"-----BEGIN %b-----\nMIIB\n-----END %b-----\n" % (each, each)
    for each in (b"CERTIFICATE", b"PRIVATE KEY")
)
RUNTIMES = {
    "amqtt": AmqttRuntime(secrets_root=NODE),
    "crossbar": CrossbarRuntime(static_root=NODE, secrets_root=NODE, read=lambda _: PEM),
    "mosquitto": MosquittoRuntime(secrets_root=NODE),
    "nats": NatsRuntime(secrets_root=NODE),
}
NAMES = sorted(
    {
        "nonsense",
        *(name for each in PATH_OPTIONS.values() for name in each),
        *(name for each in OPTIONS_OF.values() for name in each.__struct_fields__),
    }
)
VALUES = st.sampled_from([1, 0, -1, 2**60, True, "text", "14d", "../up", "", 1.5, None, ["a"], {}])
options = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=2)
optional = {"options": options}
services = st.one_of(
    st.fixed_dictionaries({"type": st.just("static"), "directory": st.just("www")}, optional=optional),
    st.fixed_dictionaries({"type": st.just("json"), "value": VALUES}, optional=optional),
    st.fixed_dictionaries({"type": st.sampled_from(["websocket", "nodeinfo"])}, optional=optional),
)
paths = st.dictionaries(st.sampled_from(["ws", "info", "a"]), services, min_size=1, max_size=2)
nested = st.one_of(
    paths, paths.map(lambda inner: {"deep": {"type": "path", "paths": inner}, "ws": {"type": "websocket"}})
)
endpoints = st.fixed_dictionaries(
    {"type": st.just("tcp")},
    optional={
        "port": st.sampled_from([1883, "2000-2010"]),
        "shared": st.booleans(),
        "tls": st.fixed_dictionaries(
            {"certificate": st.just("a.crt"), "key": st.just("a.key")},
            optional={
                "chain": st.just("chain.pem"),
                "client_ca": st.just("ca.crt"),
                "client_certificates": st.sampled_from(["optional", "require"]),
            },
        ).filter(lambda tls: ("client_ca" in tls) == ("client_certificates" in tls)),
        "interface": st.sampled_from(["127.0.0.1", "::1", "localhost", "eth0", "router.example"]),
    },
)


MQTT_OPTIONS: list[dict[str, Any]] = [
    {"realm": "realm1"},
    {"realm": "other"},
    {"payload_mapping": {"": {"type": "native", "serializer": "json"}, "a.": {"type": "passthrough"}}},
    {"payload_mapping": {"": {"type": "native"}}},
]
listeners = st.dictionaries(
    st.sampled_from(["a", "b", "ws-1"]),
    st.tuples(
        endpoints.map(lambda found: {name: value for name, value in found.items() if name != "type"}),
        st.fixed_dictionaries(
            {},
            optional={
                "type": st.sampled_from(["mqtt", "websocket", "web", "rawsocket", "tcp"]),
                "anonymous": st.booleans(),
                "options": options | st.sampled_from(MQTT_OPTIONS),
                "auth": st.just({"anonymous": {}}),
                "serializers": st.just(["cbor"]),
            },
        ),
    ).map(lambda both: both[0] | both[1]),
    min_size=1,
    max_size=3,
)


@st.composite
def transports(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A built-in runtime, and a transport that the contract allows."""
    runtime = draw(st.sampled_from(BUILT_IN))
    found: dict[str, Any] = {"type": "web" if runtime == "crossbar" else "mqtt"}
    if runtime == "crossbar":
        found |= draw(st.fixed_dictionaries({}, optional={"paths": nested}))
    more: dict[str, Any] = {"options": options}
    more |= {"listeners": listeners} if draw(st.booleans()) else {"endpoint": endpoints}
    found |= draw(st.fixed_dictionaries({}, optional=more))
    try:
        check_transport(found, "")
    except BusError as error:
        assume(False)
        raise AssertionError from error
    return runtime, found


def pointer_of(runtime: str, transport: dict[str, Any]) -> str | None:
    """Where the agent's runtime refuses it; None when it renders it."""
    worker = WorkerSpec("web-1", "o", "edge", "web", transport=transport)
    try:
        needed = RUNTIMES[runtime].ports_needed(transport)
        ports = {name: 1883 + index for index, name in enumerate(needed)}
        RUNTIMES[runtime].render(worker, "127.0.0.1", ports, Path("/run/w"))
    except RuntimeConfigError as error:
        return error.pointer
    return None


@pytest.mark.fault(97, "K")
@given(transports())
def test_the_manager_refuses_what_an_agent_would(asked: tuple[str, dict[str, Any]]) -> None:
    runtime, transport = asked
    plain = check_transport(transport, "/transport")
    refused = None
    try:
        check_for_runtime(plain, runtime, "/transport")
    except BusError as error:
        (refused,) = error.pointers
        assert error.code == "invalid_configuration"
    there = pointer_of(runtime, plain)
    assert there is None or refused is not None or "default_file" in there or "allowed_origins" in there
    assert refused is None or there is not None, "and nothing else"


@pytest.mark.fault(97, "K")
def test_a_runtime_that_no_node_has_reported_is_a_slip() -> None:
    assert unoffered("nonesuch", {"amqtt", "serve"}) == (
        "no node offers runtime 'nonesuch' (known: amqtt, crossbar, mosquitto, nats, serve)"
    )
    for runtime, offered in (("serve", {"serve"}), ("crossbar", {"amqtt"}), ("serve", set())):
        assert unoffered(runtime, offered) is None


def test_the_options_of_a_router_are_described_by_what_decodes_them() -> None:
    for runtime, kind in OPTIONS_OF.items():
        (described,) = options_schema(runtime)["$defs"].values()
        assert set(described["properties"]) == set(kind.__struct_fields__)
        assert described["additionalProperties"] is False
    (mosquitto,) = options_schema("mosquitto")["$defs"].values()
    assert mosquitto["properties"]["max_packet_size"]["minimum"] == 20


@pytest.mark.parametrize(
    ("options", "pointer", "detail"),
    [
        ({"conf": "x"}, "conf", "unknown option (known: acl_file, max_connections"),
        ({"max_connections": 0}, "max_connections", "Expected 'int' >= 1"),
        ({"max_connections": "9"}, "max_connections", "Expected 'int', got 'str'"),
        (
            {"persistent_client_expiration": "1d\nuser root"},
            "persistent_client_expiration",
            "not of the form",
        ),
        ({"acl_file": "../acl"}, "acl_file", "without '..'"),
        ({"acl_file": "a\nuser root"}, "acl_file", "control characters"),
        ({"use_identity_as_username": True}, "use_identity_as_username", "client_certificates 'require'"),
    ],
)
def test_an_option_that_no_mosquitto_would_get_is_told_in_words(
    options: dict[str, Any], pointer: str, detail: str
) -> None:
    with pytest.raises(BusError) as caught:
        check_for_runtime({"type": "mqtt", "options": options}, "mosquitto", "/t")
    assert caught.value.pointers == (f"/t/options/{pointer}",)
    assert detail in caught.value.detail


@pytest.mark.parametrize(
    ("tls", "pointer"),
    [
        ({"client_ca": "ca.crt", "client_certificates": "optional"}, "client_certificates"),
        ({"chain": "chain.pem"}, "chain"),
    ],
)
def test_tls_that_mosquitto_could_not_serve_is_refused(tls: dict[str, str], pointer: str) -> None:
    endpoint = {"tls": {"certificate": "a.crt", "key": "a.key", **tls}}
    with pytest.raises(BusError) as caught:
        check_for_runtime({"type": "mqtt", "endpoint": endpoint}, "mosquitto", "/t")
    assert caught.value.pointers == (f"/t/endpoint/tls/{pointer}",)
