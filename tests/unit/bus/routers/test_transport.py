"""The shared transport: what is accepted, and what is refused with a pointer."""

from __future__ import annotations

from typing import Any

import pytest
from busbar.bus.errors import BusError
from busbar.bus.listeners import port_range
from busbar.bus.routers.transport import check_transport

WEB: dict[str, Any] = {
    "type": "web",
    "endpoint": {"type": "tcp", "port": 8080, "shared": True},
    "paths": {
        "/": {"type": "static", "directory": "www"},
        "ws": {"type": "websocket"},
        "info": {"type": "nodeinfo"},
        "data": {"type": "json", "value": {"a": 1}},
        "old": {"type": "redirect", "url": "/new"},
        "deep": {"type": "path", "paths": {"x": {"type": "nodeinfo"}}},
    },
}


def tls(**members: Any) -> dict[str, Any]:
    """A transport with TLS; a member that is None is left out."""
    given = {"certificate": "router.crt", "key": "router.key"} | members
    found = {name: value for name, value in given.items() if value is not None}
    return {"type": "mqtt", "endpoint": {"port": 8883, "tls": found}}


def test_tls_names_files_and_no_refusal_repeats_what_was_given_for_one() -> None:
    for given in (tls(), tls(chain="x/chain.pem", client_ca="ca.pem", client_certificates="require")):
        assert check_transport(given, "/t") == given
    for secret in ("-----BEGIN PRIVATE KEY-----\nMIIEv", "../MIIEv", "MIIEv\x7f", "MIIEv" * 300):
        with pytest.raises(BusError) as caught:
            check_transport(tls(key=secret), "/t")
        assert "MIIEv" not in caught.value.detail


def test_a_whole_web_transport_comes_back_as_given() -> None:
    assert check_transport(WEB, "/t") == WEB
    assert check_transport({"type": "mqtt", "endpoint": {"port": "20000-20010"}}, "/t")


PROXY: dict[str, Any] = {"type": "reverseproxy", "host": "app.internal", "port": 80}


def nested(service: dict[str, Any]) -> dict[str, Any]:
    inner = {"type": "path", "paths": {"c": service}}
    return {"type": "web", "paths": {"a": {"type": "path", "paths": {"b": inner}}}}


@pytest.mark.parametrize("kind", ["wsgi", "cgi", "resource", "guest", "container", "manhole", "function"])
def test_what_runs_code_is_refused_wherever_it_stands(kind: str) -> None:
    with pytest.raises(BusError, match="would run code on the node"):
        check_transport(nested({"type": kind}), "/t")


def test_a_proxy_may_say_where_it_stands() -> None:
    check_transport(nested(PROXY), "/t")
    check_transport(
        nested({**PROXY, "path": "/app", "forwarded_port": 443, "forwarded_proto": "https"}), "/t"
    )


@pytest.mark.parametrize(
    ("transport", "pointer"),
    [
        ({}, "/t/type"),
        ({"type": "shell"}, "/t/type"),
        ({"type": "web", "argv": ["sh"]}, "/t/argv"),
        ({"type": "web", "endpoint": {"port": 0}}, "/t/endpoint/port"),
        ({"type": "web", "endpoint": {"port": 70000}}, "/t/endpoint/port"),
        ({"type": "web", "endpoint": {"port": "9-1"}}, "/t/endpoint/port"),
        ({"type": "web", "endpoint": {"port": [1, 2, 3]}}, "/t/endpoint/port"),
        ({"type": "web", "endpoint": {"port": "; rm"}}, "/t/endpoint/port"),
        ({"type": "web", "endpoint": {"interface": "127.0.0.1\nuser root"}}, "/t/endpoint/interface"),
        ({"type": "mqtt", "paths": {}}, "/t/paths"),
        ({"type": "web", "paths": {"a": {"type": "cgi"}}}, "/t/paths/a/type"),
        ({"type": "web", "paths": {"a": {"type": "static"}}}, "/t/paths/a/directory"),
        ({"type": "web", "paths": {"a": {"type": "websocket", "url": "/"}}}, "/t/paths/a/url"),
        ({"type": "web", "paths": {"a": {"type": "static", "directory": "../etc"}}}, "/t/paths/a/directory"),
        ({"type": "web", "paths": {"a": {"type": "static", "directory": "a\0"}}}, "/t/paths/a/directory"),
        ({"type": "web", "paths": {"..": {"type": "nodeinfo"}}}, "/t/paths/.."),
        ({"type": "web", "paths": {"a/b": {"type": "nodeinfo"}}}, "/t/paths/a~1b"),
        ({"type": "web", "paths": {"a": {"type": "redirect", "url": "javascript:1"}}}, "/t/paths/a/url"),
        ({"type": "web", "paths": {"a": {"type": ["cgi"]}}}, "/t/paths/a/type"),
        (nested({"type": "wsgi", "module": "m", "object": "o"}), "/t/paths/a/paths/b/paths/c/type"),
        (nested({"type": "longpoll"}), "/t/paths/a/paths/b/paths/c/type"),
        (nested({"type": "upload", "directory": "d"}), "/t/paths/a/paths/b/paths/c/type"),
        (
            nested({"type": "websocket", "auth": {"ticket": {"type": "function", "create": "m.f"}}}),
            "/t/paths/a/paths/b/paths/c/auth/ticket/type",
        ),
        (nested({"type": "reverseproxy", "host": "h"}), "/t/paths/a/paths/b/paths/c/port"),
        (nested({**PROXY, "host": "::1"}), "/t/paths/a/paths/b/paths/c/host"),
        (nested({**PROXY, "host": "a b"}), "/t/paths/a/paths/b/paths/c/host"),
        (nested({**PROXY, "path": "/a HTTP/1.1\r\nX: y"}), "/t/paths/a/paths/b/paths/c/path"),
        (nested({**PROXY, "path": "a"}), "/t/paths/a/paths/b/paths/c/path"),
        (nested({**PROXY, "forwarded_proto": "ftp"}), "/t/paths/a/paths/b/paths/c/forwarded_proto"),
        (nested({**PROXY, "url": "http://h/"}), "/t/paths/a/paths/b/paths/c/url"),
        (tls(key=None), "/t/endpoint/tls/key"),
        (tls(certificate="-----BEGIN\nabc"), "/t/endpoint/tls/certificate"),
        (tls(certificate=""), "/t/endpoint/tls/certificate"),
        (tls(key="../../etc/key.pem"), "/t/endpoint/tls/key"),
        (tls(chain="a/../../b"), "/t/endpoint/tls/chain"),
        (tls(password="x"), "/t/endpoint/tls/password"),
        (tls(min_version="1.0"), "/t/endpoint/tls/min_version"),
        (tls(client_certificates="maybe"), "/t/endpoint/tls/client_certificates"),
        (tls(client_certificates="require"), "/t/endpoint/tls/client_ca"),
        (tls(client_certificates="optional"), "/t/endpoint/tls/client_ca"),
        (tls(client_ca="ca.pem"), "/t/endpoint/tls/client_certificates"),
    ],
)
def test_refused_with_a_pointer(transport: dict[str, Any], pointer: str) -> None:
    with pytest.raises(BusError) as caught:
        check_transport(transport, "/t")
    assert (caught.value.code, caught.value.pointers) == ("invalid_configuration", (pointer,))


def test_port_wishes() -> None:
    assert port_range(8080) == (8080, 8080)
    assert port_range([1, 9]) == (1, 9)
    assert port_range("20-30") == (20, 30)
