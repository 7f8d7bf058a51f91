"""Which routers let everybody in, and what has to be written out for it."""

from __future__ import annotations

from contextlib import suppress
from itertools import product
from typing import Any

import pytest
from busbar.bus.addresses import is_loopback
from busbar.bus.errors import BusError
from busbar.bus.routers.exposure import authenticates, check_exposure, is_exposed, is_loosened, open_condition

LOCAL = [None, "127.0.0.1", "127.8.9.10", "localhost", "::1", "0:0:0:0:0:0:0:1", "::ffff:127.0.0.1"]
OUTSIDE = ["0.0.0.0", "::", "10.0.0.5", "2001:db8::1", "::ffff:10.0.0.5", "eth0", "host.example", "127.1"]
PASSWORD = {"options": {"password_file": "users"}}


def made(interface: str | None, kind: str = "mqtt", **more: Any) -> dict[str, Any]:
    endpoint = {"type": "tcp"} if interface is None else {"type": "tcp", "interface": interface}
    return {"type": kind, "endpoint": endpoint, **more}


def refused(transport: dict[str, Any] | None, runtime: str | None) -> bool:
    try:
        check_exposure(transport, "/t", runtime)
    except BusError as error:
        assert (error.code, error.pointers) == ("invalid_configuration", ("/t/anonymous",))
        return True
    return False


@pytest.mark.fault(115, "W")
def test_loopback_is_told_from_the_rest() -> None:
    assert all(is_loopback(each) for each in LOCAL if each)
    assert not any(is_loopback(each) for each in OUTSIDE)


@pytest.mark.fault(115, "W")
@pytest.mark.parametrize("interface", [*LOCAL, *OUTSIDE])
@pytest.mark.parametrize("runtime", ["amqtt", "mosquitto", "crossbar", "nats"])
def test_open_to_other_hosts_is_refused_unless_written_out(runtime: str, interface: str | None) -> None:
    outside = interface in OUTSIDE
    kind = "web" if runtime == "crossbar" else "mqtt"
    password = {"options": {"auth_file": "users"}} if runtime == "nats" else PASSWORD
    for default in (runtime, None):
        assert refused(made(interface, kind), default) is outside
        assert not refused(made(interface, kind, anonymous=True), default)
    assert refused(made(interface, kind, anonymous=False), runtime), "it would not be true"
    assert (open_condition(made(interface, kind), runtime) is not None) is outside
    assert (open_condition(made(interface, kind, anonymous=True), runtime) is not None) is outside
    if runtime != "crossbar":
        assert not refused(made(interface, kind, **password), runtime)
        assert not refused(made(interface, kind, anonymous=False, **password), runtime)
        assert refused(made(interface, kind, anonymous=True, **password), runtime), "it would not be true"
        assert open_condition(made(interface, kind, **password), runtime) is None
    empty = made(interface, kind, options=dict.fromkeys(password["options"], ""))
    assert refused(empty, runtime) is outside, "an empty option authenticates nobody"


OPEN, NAMED = {"type": "websocket"}, {"type": "websocket", "auth": {"anonymous": {"role": "guest"}}}
CLOSED = {"type": "websocket", "auth": {"ticket": {"type": "static", "principals_file": "t"}}}
PAGE = {"type": "nodeinfo"}
UNSIGNED = {"type": "publisher", "realm": "realm1", "role": "anonymous"}
SIGNED = {**UNSIGNED, "credentials_file": "bridge.json"}


def test_a_proxy_asks_nobody_who_it_is() -> None:
    service = {"type": "reverseproxy", "host": "h", "port": 80}
    assert refused(web(CLOSED, service), "crossbar") and refused(web(NAMED, service), "crossbar")
    assert refused(web(CLOSED, {"type": "path", "paths": {"x": service}}), "crossbar")
    assert not refused(web(CLOSED, service) | {"anonymous": True}, "crossbar")


def test_a_path_of_the_http_bridge_is_open_without_credentials() -> None:
    assert refused(web(CLOSED, UNSIGNED), "crossbar") and refused(web(NAMED, UNSIGNED), "crossbar")
    assert authenticates(web(CLOSED, SIGNED), "crossbar") is True


def web(*services: dict[str, Any], at: str = "0.0.0.0", **more: Any) -> dict[str, Any]:
    """The last of the services stands on a nested path."""
    paths: dict[str, Any] = {f"p{index}": each for index, each in enumerate(services[:-1])}
    paths["deep"] = {"type": "path", "paths": {"x": services[-1]}}
    return made(at, "web", paths=paths, **more)


@pytest.mark.parametrize("runtime", ["crossbar", None])
def test_a_web_transport_is_as_open_as_its_most_open_path(runtime: str | None) -> None:
    for services in product([OPEN, NAMED, CLOSED, PAGE], repeat=3):
        transport, local = web(*services), web(*services, at="127.0.0.1")
        closed = CLOSED in services and OPEN not in services and NAMED not in services
        written = not closed and OPEN not in services and NAMED in services
        assert authenticates(transport, runtime) is closed
        assert refused(transport, runtime) is not (closed or written)
        assert not refused(local, runtime)
        assert refused({**transport, "anonymous": True}, runtime) is closed, "it would not be true"
        told = open_condition(transport, "crossbar")
        assert (told is None) is closed and (told or "").endswith(", as defined") is written
        assert open_condition(local, "crossbar") is None


def test_client_certificates_close_every_path_of_a_web_transport() -> None:
    transport = web(OPEN, OPEN)
    transport["endpoint"]["tls"] = {"certificate": "c", "key": "k"}
    assert authenticates(transport, "crossbar") is False
    transport["endpoint"]["tls"] |= {"client_ca": "a", "client_certificates": "require"}
    assert authenticates(transport, "crossbar") is True and not refused(transport, "crossbar")


def test_a_required_certificate_is_a_credential_and_tls_alone_is_none() -> None:
    tls = {"certificate": "a.crt", "key": "a.key"}
    required = {**tls, "client_ca": "ca.crt", "client_certificates": "require"}
    for given, open_to_all in ((tls, True), ({**required, "client_certificates": "optional"}, True)):
        transport = {"type": "mqtt", "endpoint": {"interface": "0.0.0.0", "tls": given}}
        assert refused(transport, "mosquitto") is open_to_all
        assert not refused({**transport, "anonymous": True}, "mosquitto")
    closed = {"type": "mqtt", "endpoint": {"interface": "0.0.0.0", "tls": required}}
    for runtime in ("mosquitto", None):
        assert not refused(closed, runtime)
        assert refused({**closed, "anonymous": True}, runtime), "it would not be true"
    assert open_condition(closed, "mosquitto") is None
    assert is_loosened(closed, made("0.0.0.0"), "mosquitto", "mosquitto")


def test_an_acl_alone_lets_everybody_connect() -> None:
    assert refused(made("0.0.0.0", options={"acl_file": "acl"}), "mosquitto")


@pytest.mark.fault(115, "W")
@pytest.mark.parametrize("interface", [*LOCAL, *OUTSIDE])
def test_who_comes_as_another_worker_is_kept_out_by_certificates_alone(interface: str | None) -> None:
    """A password file is for clients: a route brings the messages of all of them."""
    at = {} if interface is None else {"interface": interface}

    def member(**more: Any) -> dict[str, Any]:
        listeners = {"mqtt": {**at}, "routes": {"type": "cluster", **at, **more}}
        return {"type": "mqtt", "listeners": listeners, "options": {"auth_file": "users"}}

    outside = interface in OUTSIDE
    with suppress(BusError):
        check_exposure(member(), "/t", "nats")
        assert not outside
    condition = open_condition(member(), "nats")
    assert (condition is not None and "listener routes" in condition) is outside
    for closed in (member(tls=TLS), member(anonymous=True) if outside else member()):
        check_exposure(closed, "/t", "nats")
    assert authenticates(member(tls=TLS), "nats")
    assert bool(is_loosened(member(tls=TLS), member(tls=NO_CERTIFICATE), "nats", "nats"))


@pytest.mark.fault(115, "W")
def test_a_runtime_of_the_operator_s_is_not_judged_by_the_manager() -> None:
    for written in ({}, {"anonymous": True}, {"anonymous": False}):
        assert not refused(made("0.0.0.0", **written), "echo")
    assert authenticates(made("0.0.0.0"), "echo") is None
    assert not refused(None, "amqtt") and not refused(None, None)


@pytest.mark.fault(114, "W")
def test_what_lets_in_more_clients_loosens() -> None:
    closed = [made(at, **PASSWORD) for at in (None, "0.0.0.0")]
    local, everybody = made(None), made("0.0.0.0")
    for was, becomes in product([*closed, local, everybody, None], repeat=2):
        loosened = is_loosened(was, becomes, "amqtt", "amqtt") is not None
        wanted = (was in closed and becomes not in closed) or (becomes == everybody and was != everybody)
        assert loosened is wanted, (was, becomes)
    assert is_loosened(closed[1], closed[1], "amqtt", "crossbar"), "crossbar knows no password file"
    assert is_exposed(everybody, "amqtt") and not is_exposed(local, "amqtt")


TLS = {"certificate": "c", "key": "k", "client_ca": "a", "client_certificates": "require"}
NO_CERTIFICATE = TLS | {"client_certificates": "none"}


@pytest.mark.fault(114, "W")
@pytest.mark.parametrize("at", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"options": {"password_file": "p", "acl_file": "acl"}}, {"options": {"password_file": "p"}}),
        ({"options": {"password_file": "p", "acl_file": "acl"}}, {"options": {"acl_file": ""}}),
        ({"options": {"acl_file": "acl"}, "anonymous": True}, {"anonymous": True}),
        ({"endpoint": {"tls": TLS}, **PASSWORD}, PASSWORD),
        ({"endpoint": {"tls": TLS}, **PASSWORD}, {"endpoint": {"tls": NO_CERTIFICATE}}),
        ({"endpoint": {"tls": NO_CERTIFICATE}, **PASSWORD}, PASSWORD),
        (
            {"listeners": {"a": {"tls": NO_CERTIFICATE}, "b": {}}, **PASSWORD},
            {"listeners": {"a": {}}, **PASSWORD},
        ),
    ],
)
def test_a_check_of_clients_that_is_dropped_beside_others_loosens(
    at: str, before: dict[str, Any], after: dict[str, Any]
) -> None:
    was, becomes = (
        {
            "type": "mqtt",
            **each,
            **({} if "listeners" in each else {"endpoint": {"interface": at, **each.get("endpoint", {})}}),
        }
        for each in (before, after)
    )
    assert is_loosened(was, becomes, "mosquitto", "mosquitto")
    assert is_loosened(was, becomes, None, None), "of a cluster"
    assert not is_loosened(was, was, "mosquitto", "mosquitto")
    if "anonymous" not in before:
        assert not is_loosened(becomes, was, "mosquitto", "mosquitto")


@pytest.mark.fault(114, "W")
@pytest.mark.parametrize("runtime", ["crossbar", None])
def test_a_path_that_is_opened_beside_an_open_one_loosens(runtime: str | None) -> None:
    for first, second in product([OPEN, NAMED, CLOSED, PAGE, SIGNED, UNSIGNED], repeat=2):
        was, becomes = web(OPEN, first, at="127.0.0.1"), web(OPEN, second, at="127.0.0.1")
        wanted = first in (CLOSED, SIGNED) and second in (OPEN, NAMED, UNSIGNED)
        assert (is_loosened(was, becomes, runtime, runtime) is not None) is wanted, (first, second)


@pytest.mark.fault(114, "W")
def test_a_runtime_whose_checks_are_not_known_loosens_what_was_closed() -> None:
    closed = made("0.0.0.0", **PASSWORD)
    assert is_loosened(closed, closed, "mosquitto", "own")
    assert not is_loosened(closed, closed, "own", "own") and not is_loosened(closed, closed, "own", "amqtt")


@pytest.mark.fault(114, "W")
def test_a_check_that_one_of_several_listeners_loses_loosens() -> None:
    acl, tls = {"options": {"acl_file": "acl"}}, {"tls": TLS}

    def several(**listeners: dict[str, Any]) -> dict[str, Any]:
        return {"type": "mqtt", "listeners": listeners, **PASSWORD}

    whole = several(a=tls | acl, b=acl)
    for becomes, what in (
        (several(a=acl, b=acl), "clients of listener 'a' would no longer need a certificate"),
        (several(a=tls | acl, b={}), "clients would no longer be kept to an ACL"),
        (several(a=tls | acl, b=acl, c={}), "clients would no longer be kept to an ACL"),
    ):
        assert is_loosened(whole, becomes, "mosquitto", "mosquitto") == what
        assert not is_loosened(becomes, whole, "mosquitto", "mosquitto")
    half = several(a=acl, b={})
    loses = "clients of listener 'a' would no longer be kept to an ACL"
    assert is_loosened(half, several(a={}, b={}), "mosquitto", "mosquitto") == loses


@pytest.mark.fault(114, "W")
@pytest.mark.parametrize("kind", ["rawsocket", "mqtt"])
def test_a_rawsocket_listener_that_is_opened_beside_an_open_path_loosens(kind: str) -> None:
    def made_of(way: dict[str, Any]) -> dict[str, Any]:
        raw = {"type": kind, **({"auth": way["auth"]} if "auth" in way else {})}
        listeners = {"ws": {"type": "web"}, "raw": raw}
        return {"type": "web", "listeners": listeners, "paths": {"ws": OPEN}}

    was, becomes = made_of(CLOSED), made_of(OPEN)
    assert "listener 'raw'" in (is_loosened(was, becomes, "crossbar", "crossbar") or "")
    assert not is_loosened(becomes, was, "crossbar", "crossbar")
