"""Several named listeners of one transport: what is accepted, in which order, and who may enter."""

from __future__ import annotations

from typing import Any

import pytest
from busbar.bus.errors import BusError
from busbar.bus.listeners import DEFAULT, Listener, listeners_of, overlap, primary
from busbar.bus.routers.exposure import (
    authenticates,
    check_exposure,
    exposed_on,
    is_exposed,
    is_loosened,
    open_condition,
)
from busbar.bus.routers.runtimes import check_for_runtime
from busbar.bus.routers.transport import check_transport

TLS = {"certificate": "r.crt", "key": "r.key"}
CERTAIN = {**TLS, "client_ca": "ca.crt", "client_certificates": "require"}


OUT = {"interface": "0.0.0.0"}
IDENTITY = "use_identity_as_username"


def raw(**auth: Any) -> dict[str, Any]:
    return {"type": "rawsocket", "auth": auth}


def mqtt(options: dict[str, Any] | None = None, /, **more: Any) -> dict[str, Any]:
    return {"type": "mqtt", **({} if options is None else {"options": options}), **more}


DYNAMIC = {"type": "dynamic", "authenticator": "a.b"}


def several(**parts: Any) -> dict[str, Any]:
    return {"type": "universal", **parts}


def made(kind: str = "mqtt", /, **listeners: Any) -> dict[str, Any]:
    return {"type": kind, "listeners": listeners}


def refused(transport: dict[str, Any], runtime: str = "mosquitto") -> str:
    with pytest.raises(BusError) as caught:
        check_for_runtime(check_transport(transport, ""), runtime, "")
    assert caught.value.code == "invalid_configuration"
    return caught.value.pointers[0]


def test_a_single_endpoint_is_the_listener_named_default() -> None:
    endpoint = {"type": "tcp", "port": 1883}
    for transport in ({"type": "mqtt", "endpoint": endpoint}, {"type": "mqtt"}, None):
        ((name, found),) = listeners_of(transport).items()
        assert (name, found.at, found.is_named) == (DEFAULT, "/endpoint", False)
    assert primary({"type": "mqtt", "endpoint": endpoint}) == Listener(DEFAULT, "mqtt", endpoint, "/endpoint")


def test_listeners_keep_their_order_and_have_the_transports_type_unless_they_name_one() -> None:
    plain = check_transport(made(z={}, a={"type": "websocket"}, m={"anonymous": False}), "")
    found = listeners_of({**plain, "anonymous": True})
    assert [(each.name, each.kind, each.at, each.anonymous) for each in found.values()] == [
        ("z", "mqtt", "/listeners/z", True),
        ("a", "websocket", "/listeners/a", True),
        ("m", "mqtt", "/listeners/m", False),
    ]


@pytest.mark.parametrize(
    ("transport", "pointer"),
    [
        ({**made(a={}), "endpoint": {"type": "tcp"}}, "/listeners"),
        (made(), "/listeners"),
        (made(**{f"l{number}": {} for number in range(9)}), "/listeners"),
        (made(Ws={}), "/listeners/Ws"),
        (made(**{"1": {}}), "/listeners/1"),
        (made(**{"a" * 33: {}}), "/listeners/" + "a" * 33),
        (made(**{"a/b": {}}), "/listeners/a~1b"),
        (made(**{"a\n": {}}), "/listeners/a\n"),
        (made(a={"prt": 1}), "/listeners/a/prt"),
        (made(a={"port": 0}), "/listeners/a/port"),
        (made(a={"port": "9-1"}), "/listeners/a/port"),
        (made(a=[]), "/listeners/a"),
        (made(a={"tls": {"certificate": "a"}}), "/listeners/a/tls/key"),
        (made(a={"tls": {**TLS, "client_certificates": "require"}}), "/listeners/a/tls/client_ca"),
        (made(a={"port": 1}, b={"port": 1}), "/listeners/b/port"),
        (made(a={"port": 1, "interface": "10.0.0.1"}, b={"port": 1, **OUT}), "/listeners/b/port"),
        (made(a={"port": 1, "interface": "::"}, b={"port": "1-1"}), "/listeners/b/port"),
        (made(a={"auth": {"anonymous": {}}}), "/listeners/a/auth"),
        (made(a={"serializers": ["json"]}), "/listeners/a/serializers"),
        (made(a={"interface": "eth0"}), "/listeners/a/interface"),
        (made(a={"shared": True, "port": 1}), "/listeners/a/shared"),
        (made(a={"type": "web"}), "/listeners/a/type"),
        (made(a={}, b={"tls": {**TLS, "chain": "c"}}), "/listeners/b/tls/chain"),
        (made(a={"options": {"persistence": True}}), "/listeners/a/options/persistence"),
        (made(a={"options": {"password_file": "../x"}}), "/listeners/a/options/password_file"),
        (made(a={"options": {IDENTITY: True}}), f"/listeners/a/options/{IDENTITY}"),
    ],
)  # fmt: skip
def test_what_is_refused_has_its_pointer(transport: dict[str, Any], pointer: str) -> None:
    assert refused(transport) == pointer


@pytest.mark.parametrize(
    ("runtime", "listener", "member"),
    [
        ("crossbar", {"type": "nats"}, "type"),
        ("crossbar", {"type": "universal", "auth": {"anonymous": {}}}, "auth"),
        ("crossbar", {"type": "universal", "serializers": ["json"]}, "serializers"),
        ("crossbar", {"type": "universal", "options": {}}, "options"),
        ("crossbar", {"type": "universal", "web": False}, "web"),
        ("crossbar", {"type": "web", "web": True}, "web"),
        ("crossbar", {"type": "web", "mqtt": {}}, "mqtt"),
        ("crossbar", {"type": "rawsocket", "rawsocket": {}}, "rawsocket"),
        ("crossbar", several(rawsocket={"auth": {}}), "rawsocket/auth"),
        ("crossbar", several(rawsocket={"options": {}}), "rawsocket/options"),
        ("crossbar", several(rawsocket={"auth": {"cookie": {}}}), "rawsocket/auth/cookie"),
        ("crossbar", several(mqtt={"options": {"realm": "other"}}), "mqtt/options/realm"),
        ("crossbar", several(mqtt={"auth": {"scram": {}}}), "mqtt/auth/scram/type"),
        ("crossbar", several(mqtt={"auth": {"wampcra": DYNAMIC}}), "mqtt/auth/wampcra"),
        ("crossbar", several(mqtt={"auth": {"tls": DYNAMIC}}), "mqtt/auth/tls"),
        ("crossbar", mqtt(auth={"tls": DYNAMIC}), "auth/tls"),
        ("mosquitto", {"type": "universal"}, "type"),
        ("crossbar", mqtt({"realm": "other"}), "options/realm"),
        ("crossbar", mqtt({"realm": ""}), "options/realm"),
        ("crossbar", mqtt({"role": "anonymous"}), "options/role"),
        ("crossbar", mqtt({"auth": {}}), "options/auth"),
        ("crossbar", mqtt({"payload_mapping": {}}), "options/payload_mapping"),
        ("crossbar", mqtt({"payload_mapping": {"": {"type": "dynamic"}}}), "options/payload_mapping//type"),
        (
            "crossbar",
            mqtt({"payload_mapping": {"a/b": {"type": "native"}}}),
            "options/payload_mapping/a~1b/serializer",
        ),
        (
            "crossbar",
            mqtt({"payload_mapping": {"a.": {"type": "passthrough", "serializer": "json"}}}),
            "options/payload_mapping/a./serializer",
        ),
        ("crossbar", mqtt({"payload_mapping": {"a b": {}}}), "options/payload_mapping/a b"),
        ("crossbar", mqtt({"payload_mapping": {"a": 5}}), "options/payload_mapping/a"),
        ("crossbar", mqtt({"payload_mapping": 5}), "options/payload_mapping"),
        ("crossbar", mqtt(auth={}), "auth"),
        ("crossbar", mqtt(auth={"anonymous": {"role": "nobody"}}), "auth/anonymous/role"),
        ("crossbar", mqtt(auth={"wampcra": {"type": "dynamic", "authenticator": "a.b"}}), "auth/wampcra"),
        ("crossbar", mqtt(auth={"ticket": {"type": "static"}}), "auth/ticket/principals_file"),
        ("crossbar", mqtt(serializers=["json"]), "serializers"),
        ("mosquitto", mqtt(auth={"anonymous": {}}), "auth"),
        ("crossbar", {"tls": {**CERTAIN, "client_certificates": "optional"}}, "tls/client_certificates"),
        ("crossbar", {"type": "web", "options": {}}, "options"),
        ("crossbar", raw(), "auth"),
        ("crossbar", raw(anonymous={"role": "nobody"}), "auth/anonymous/role"),
        ("crossbar", raw(tls={"type": "dynamic", "authenticator": "a.b"}), "auth/tls"),
        ("crossbar", raw(cookie={}), "auth/cookie"),
        ("amqtt", {"type": "mqtt", "tls": TLS}, "tls"),
        ("amqtt", {"type": "mqtt", "shared": True, "port": 9}, "shared"),
    ],
)  # fmt: skip
def test_what_a_runtime_can_t_do_is_refused_for_each_listener(
    runtime: str, listener: Any, member: str
) -> None:
    kind = "web" if runtime == "crossbar" else "mqtt"
    assert refused(made(kind, first={}, x=listener), runtime) == f"/listeners/x/{member}"


def test_mqtt_clients_of_a_crossbar_need_a_realm_and_a_role_in_it() -> None:
    realms = ["open", {"name": "shop", "roles": [{"name": "guest"}]}]

    def at(**listener: Any) -> str:
        return refused({**made("web", x={"type": "mqtt", **listener}), "realms": realms}, "crossbar")

    guest = {"anonymous": {"role": "guest"}}
    assert (
        at() == at(options={"payload_mapping": {"": {"type": "passthrough"}}}) == "/listeners/x/options/realm"
    )
    assert at(options={"realm": "shop"}) == "/listeners/x/auth"
    assert at(options={"realm": "shop"}, auth={"anonymous": {}}) == "/listeners/x/auth/anonymous/role"
    assert at(options={"realm": "open"}, auth=guest) == "/listeners/x/auth/anonymous/role"
    for good in ({"options": {"realm": "open"}}, {"options": {"realm": "shop"}, "auth": guest}):
        transport = {**made("web", x={"type": "mqtt", **good}), "realms": realms}
        check_for_runtime(check_transport(transport, ""), "crossbar", "")


def test_a_transport_of_type_universal_is_refused_with_what_to_write() -> None:
    with pytest.raises(BusError, match="type of a listener"):
        check_transport(made("universal", x={}), "")


OPEN_PATH = {"paths": {"ws": {"type": "websocket"}}}
CLOSED_PATH = {"paths": {"ws": {"type": "websocket", "auth": {"ticket": DYNAMIC}}}}
TICKET: dict[str, Any] = {"auth": {"ticket": DYNAMIC}}


@pytest.mark.parametrize(
    ("parts", "paths", "closed"),
    [
        ({"rawsocket": TICKET, "mqtt": TICKET}, CLOSED_PATH, True),
        ({"rawsocket": {}, "mqtt": TICKET}, CLOSED_PATH, False),
        ({"rawsocket": TICKET, "mqtt": {}}, CLOSED_PATH, False),
        ({"rawsocket": TICKET, "mqtt": TICKET}, OPEN_PATH, False),
        ({"web": False, "rawsocket": TICKET, "mqtt": TICKET}, {}, True),
        ({"rawsocket": TICKET}, {}, False),
    ],
)
def test_a_universal_listener_is_as_open_as_the_most_open_of_its_protocols(
    parts: dict[str, Any], paths: dict[str, Any], closed: bool
) -> None:
    transport = {**made("web", x={**several(**parts), **OUT}), **paths}
    check_for_runtime(check_transport(transport, ""), "crossbar", "")
    assert authenticates(transport, "crossbar") is closed
    assert opened(transport, "crossbar") == (None if closed else "/listeners/x/anonymous")
    transport["listeners"]["x"]["anonymous"] = True
    assert (opened(transport, "crossbar") is None) is not closed


def test_a_protocol_that_opens_on_a_universal_listener_is_loosened() -> None:
    def x(**parts: Any) -> dict[str, Any]:
        return {**made("web", x=several(**parts)), **CLOSED_PATH}

    before = x(rawsocket=TICKET, mqtt=TICKET)
    assert is_loosened(before, x(rawsocket=TICKET, mqtt=TICKET), "crossbar", "crossbar") is None
    for after in (x(rawsocket={}, mqtt=TICKET), x(rawsocket=TICKET, mqtt={})):
        assert is_loosened(before, after, "crossbar", "crossbar") is not None


def test_paths_need_a_listener_that_serves_them() -> None:
    transport = {**made("web", x={"type": "rawsocket"}), "paths": {"ws": {"type": "websocket"}}}
    assert refused(transport, "crossbar") == "/paths"
    transport["listeners"]["y"] = {}
    check_for_runtime(check_transport(transport, ""), "crossbar", "")


def test_one_port_on_two_interfaces_is_no_collision() -> None:
    apart = made(a={"port": 1, "interface": "127.0.0.1"}, b={"port": 1, "interface": "10.0.0.1"})
    check_for_runtime(check_transport(apart, ""), "mosquitto", "")
    check_transport(made(a={"port": "1-9"}, b={"port": "1-9"}), "")
    pairs = [
        ("localhost", "127.0.0.1", True), ("0.0.0.0", "10.0.0.1", True), ("0.0.0.0", "::1", False),
        ("::", "10.0.0.1", True), ("::1", "127.0.0.1", False), ("0:0::1", "::1", True), ("::", "::1", True),
    ]  # fmt: skip
    for one, other, both in pairs:
        assert overlap(one, other) is overlap(other, one) is both, (one, other)


PASSWORD = {"password_file": "users"}


def opened(transport: dict[str, Any], runtime: str = "mosquitto") -> str | None:
    try:
        check_exposure(check_transport(transport, ""), "", runtime)
    except BusError as error:
        return error.pointers[0]
    return None


def test_every_listener_has_to_be_closed_on_loopback_or_written_out() -> None:
    closed, local = {**OUT, "tls": CERTAIN}, {}
    assert opened(made(a=closed, b=local)) is None
    assert opened(made(a=closed, b=OUT)) == "/listeners/b/anonymous"
    assert opened(made(a=closed, b={**OUT, "anonymous": True})) is None
    assert opened({**made(a=closed, b=OUT), "anonymous": True}) is None
    assert opened({**made(a=closed, b=OUT), "anonymous": False}) == "/anonymous"
    assert opened(made(a=closed, b={**OUT, "anonymous": False})) == "/listeners/b/anonymous"
    assert opened({**made(a=closed, b=closed), "anonymous": True}) == "/anonymous", "it would not be true"
    assert opened(made(a={**closed, "anonymous": True}, b=local)) == "/listeners/a/anonymous"


@pytest.mark.parametrize("runtime", ["mosquitto", "amqtt"])
def test_a_listener_may_let_in_everybody_where_the_others_ask_for_a_password(runtime: str) -> None:
    whole = {**made(a=OUT, b=OUT), "options": PASSWORD}
    assert opened(whole, runtime) is None and authenticates(whole, runtime) is True
    whole["listeners"]["b"] = {**OUT, "anonymous": True}
    assert opened(whole, runtime) is None and authenticates(whole, runtime) is False
    condition = open_condition(whole, runtime)
    assert condition == f"open access: {runtime} on 0.0.0.0 (listener b) without authentication, as defined"


def test_a_password_file_of_its_own_closes_one_listener() -> None:
    whole = made(a={**OUT, "options": PASSWORD}, b=OUT)
    assert opened(whole) == "/listeners/b/anonymous"
    assert exposed_on(whole, "mosquitto") == "0.0.0.0 (listener b)"
    condition = open_condition(whole, "mosquitto")
    assert condition == "open access: mosquitto on 0.0.0.0 (listener b) without authentication"
    emptied = made(a=OUT, b={**OUT, "options": {"password_file": ""}})
    assert opened({**emptied, "options": PASSWORD}) == "/listeners/b/anonymous"


@pytest.mark.parametrize("kind", ["rawsocket", "mqtt"])
def test_a_listener_without_paths_is_as_open_as_its_auth(kind: str) -> None:
    ticket = {"ticket": {"type": "static", "principals_file": "t"}}
    for auth, written, closed in (
        (None, False, False),
        ({"anonymous": {}}, True, False),
        (ticket, True, True),
    ):
        raw = {"type": kind, **OUT, **({"auth": auth} if auth else {})}
        transport = made("web", local={}, raw=raw)
        assert opened(transport, "crossbar") == (None if written else "/listeners/raw/anonymous")
        assert is_exposed(transport, "crossbar") is not closed
    web = {"ws": {"type": "websocket", "auth": ticket}}
    assert authenticates({**made("web", a=OUT), "paths": web}, "crossbar") is True


def test_one_more_open_listener_loosens() -> None:
    closed = made(a={**OUT, "tls": CERTAIN})
    both = made(a={**OUT, "tls": CERTAIN}, b={**OUT, "anonymous": True})
    local = made(a={**OUT, "tls": CERTAIN}, b={})
    assert is_loosened(closed, both, "mosquitto", "mosquitto")
    assert is_loosened(local, both, "mosquitto", "mosquitto") == (
        "routers on 0.0.0.0 (listener b) would let everybody in"
    )
    assert is_loosened(both, closed, "mosquitto", "mosquitto") is None
