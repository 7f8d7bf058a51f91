"""`busbar import`: what is taken over of an existing router's configuration, and what is told instead."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from busbar.bus.listeners import listeners_of
from busbar.bus.routers.exposure import authenticates, check_exposure, is_exposed, not_written_out
from busbar.bus.routers.runtimes import check_for_runtime
from busbar.bus.routers.transport import check_transport
from busbar.cli.importers.crossbar import import_crossbar
from busbar.cli.importers.definition import Imported, NotImportedError
from busbar.cli.importers.mosquitto import import_mosquitto
from hypothesis import given
from hypothesis import strategies as st

from tests.pace import bound

ROLES = [
    {
        "name": "backend",
        "permissions": [
            {"uri": "com.", "match": "prefix", "allow": {"call": True}},
            {"uri": "x", "validate": {"call": "t"}, "allow": {"call": True}},
        ],
    },
    {"name": "guest", "authorizer": "com.example.may"},
]
TICKETS = {"type": "static", "principals": {"joe": {"ticket": "geheim", "role": "backend"}}}
FUNCTION = {"type": "function", "create": "a.b", "config": {"x": "geheim"}}
PATHS: dict[str, Any] = {
    "/": {"type": "static", "directory": "../web", "options": {"mime_types": {}}},
    "ws": {"type": "websocket", "debug": True, "auth": {"ticket": TICKETS, "wampcra": FUNCTION}},
    "fn": {"type": "websocket", "auth": {"wampcra": FUNCTION}},
    "deep": {"type": "path", "paths": {"ws": {"type": "websocket", "auth": {"wampcra": FUNCTION}}}},
    "call": {
        "type": "caller",
        "realm": "shop",
        "role": "backend",
        "options": {"key": "k", "secret": "geheim"},
    },
    "app": {"type": "wsgi", "module": "m", "object": "o"},
    "lp": {"type": "longpoll"},
    "old": {"type": "reverseproxy", "host": "127.0.0.1", "port": 9000, "path": "/x"},
}
TLS = {"key": "server.key", "certificate": "server.crt", "dhparam": "d.pem", "ca_certificates": ["a", "b"]}


def config(**changes: Any) -> dict[str, Any]:
    transport = {
        "type": "web",
        "endpoint": {"type": "tcp", "port": 8080, "tls": TLS, "user_timeout": 3},
        "paths": PATHS,
        **changes.pop("transport", {}),
    }
    router = {
        "type": "router",
        "id": "r1",
        "realms": [{"id": "x", "name": "shop", "roles": ROLES}],
        "transports": [transport, {"type": "rawsocket"}],
        "components": [{"type": "class", "classname": "a.B", "extra": "geheim"}],
        **changes,
    }
    return {"version": 2, "controller": {"id": "n"}, "workers": [{"type": "guest", "x": "geheim"}, router]}


def test_a_crossbar_configuration_becomes_a_definition() -> None:
    found = import_crossbar(config())
    assert found.transport == {
        "type": "web",
        "realms": [
            {"name": "shop", "roles": [{**ROLES[0], "permissions": ROLES[0]["permissions"][:1]}, ROLES[1]]}
        ],
        "endpoint": {
            "type": "tcp",
            "interface": "0.0.0.0",
            "port": 8080,
            "tls": {
                "certificate": "tls/certificate.pem",
                "key": "tls/key.pem",
                "client_ca": "tls/client_ca.pem",
                "client_certificates": "require",
            },
        },
        "paths": {
            "/": {"type": "static", "directory": "web", "options": {}},
            "ws": {
                "type": "websocket",
                "auth": {"ticket": {"type": "static", "principals_file": "auth/ws-ticket.json"}},
            },
            "deep": {"type": "path", "paths": {}},
            "call": {
                "type": "caller",
                "realm": "shop",
                "role": "backend",
                "options": {},
                "credentials_file": "auth/call.json",
            },
            "old": {"type": "reverseproxy", "host": "127.0.0.1", "port": 9000, "path": "/x"},
        },
    }
    transport = "/workers/1/transports/0"
    assert {where for where, _ in found.left} == {
        "/workers/0",
        "/workers/1/components",
        "/workers/1/transports/1",
        f"{transport}/endpoint/tls/dhparam",
        f"{transport}/endpoint/user_timeout",
        f"{transport}/paths/ws/debug",
        "/workers/1/realms/0/roles/0/permissions/1/validate",
        f"{transport}/paths/~1/options/mime_types",
        f"{transport}/paths/ws/auth/wampcra/type",
        f"{transport}/paths/fn/auth/wampcra/type",
        f"{transport}/paths/fn/auth",
        f"{transport}/paths/deep/paths/ws/auth/wampcra/type",
        f"{transport}/paths/deep/paths/ws/auth",
        f"{transport}/paths/app/type",
        f"{transport}/paths/lp/type",
    }
    assert any("127.0.0.1:9000 in proxy_to" in each for each in found.files)
    assert any(f"{transport}/paths/ws/auth/ticket/principals" in each for each in found.files)
    assert "geheim" not in repr(found)


def test_what_was_open_stays_open_and_says_so() -> None:
    paths = {"ws": {"type": "websocket"}}
    realms = [{"name": "shop", "roles": [{"name": "anonymous", "permissions": []}]}]
    found = import_crossbar(
        config(realms=realms, transport={"paths": paths, "endpoint": {"type": "tcp", "port": 1}})
    )
    assert found.transport["anonymous"] is True and found.transport["endpoint"]["interface"] == "0.0.0.0"


def listening(*transports: dict[str, Any]) -> dict[str, Any]:
    realms = [{"name": "shop", "roles": [*ROLES, {"name": "anonymous", "permissions": []}]}]
    return config(realms=realms, transports=list(transports), components=[])


def made(port: int, paths: Any = None, interface: str = "127.0.0.1", /, **more: Any) -> dict[str, Any]:
    endpoint = {"type": "tcp", "port": port, "interface": interface, **more.pop("endpoint", {})}
    return {
        "type": "web" if paths else "rawsocket",
        "endpoint": endpoint,
        **({"paths": paths} if paths else {}),
        **more,
    }


OPEN = {"ws": {"type": "websocket"}}
OTHER = {"info": {"type": "nodeinfo"}}
RAW = {"auth": {"ticket": TICKETS}, "serializers": ["cbor"], "max_message_size": 1048576}


def test_every_transport_of_a_crossbar_becomes_a_listener() -> None:
    tls = {"key": "server.key", "certificate": "server.crt"}
    other = {"key": "other/server.key", "certificate": "server.crt"}
    found = import_crossbar(
        listening(
            made(8080, OPEN, id="plain_web"),
            made(8443, OPEN, "0.0.0.0", endpoint={"tls": tls}),
            made(9443, OPEN, endpoint={"tls": other}),
            made(9000, **RAW),
            made(9001, endpoint={"interface": "127.0.0.1", "user_timeout": 3}),
        )
    )
    assert found.transport["paths"] == OPEN
    assert found.transport["listeners"] == {
        "plain-web": {"interface": "127.0.0.1", "port": 8080},
        "web-tls": {
            "interface": "0.0.0.0",
            "port": 8443,
            "tls": {"certificate": "tls/certificate.pem", "key": "tls/key.pem"},
            "anonymous": True,
        },
        "web-tls-2": {
            "interface": "127.0.0.1",
            "port": 9443,
            "tls": {"certificate": "tls/certificate.pem", "key": "tls/2-key.pem"},
        },
        "rawsocket": {
            "type": "rawsocket",
            "interface": "127.0.0.1",
            "port": 9000,
            "auth": {"ticket": {"type": "static", "principals_file": "auth/rawsocket/3-ticket.json"}},
            "serializers": ["cbor"],
        },
        "rawsocket-2": {"type": "rawsocket", "interface": "127.0.0.1", "port": 9001},
    }
    assert {where for where, _ in found.left if "transports" in where} == {
        "/workers/1/transports/3/max_message_size", "/workers/1/transports/4/endpoint/user_timeout"
    }  # fmt: skip
    must_be_good(found)


def broker(port: int, options: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**made(port, **more), "type": "mqtt", "options": options}


DYNAMIC = {"type": "dynamic", "encoder": "a.b", "decoder": "a.c"}
NATIVE = {"type": "native", "serializer": "json"}


def test_an_mqtt_transport_of_a_crossbar_becomes_a_listener() -> None:
    auth = {"ticket": TICKETS, "wampcra": FUNCTION}
    options = {"realm": "shop", "role": "backend", "payload_mapping": {"com.": NATIVE}, "auth": auth}
    found = import_crossbar(
        listening(
            broker(1883, options, max_connections=9),
            broker(1884, {"realm": "shop", "auth": {"wampcra": FUNCTION}}),
            broker(1885, {"realm": "shop", "payload_mapping": {"": DYNAMIC}}),
            broker(1886, {"realm": "none"}),
            broker(1887, {}, id="last"),
        )
    )
    assert found.transport["listeners"] == {
        "mqtt": {
            "type": "mqtt",
            "interface": "127.0.0.1",
            "port": 1883,
            "auth": {"ticket": {"type": "static", "principals_file": "auth/mqtt/0-ticket.json"}},
            "options": {"realm": "shop", "payload_mapping": {"com.": NATIVE}},
        },
        "last": {"type": "mqtt", "interface": "127.0.0.1", "port": 1887, "options": {}},
    }
    at = "/workers/1/transports"
    assert {where for where, _ in found.left if where.startswith(at)} == {
        f"{at}/0/max_connections", f"{at}/0/options/role", f"{at}/0/options/auth/wampcra/type",
        f"{at}/1/options/auth/wampcra/type", f"{at}/1/options/auth",
        f"{at}/2/options/payload_mapping//type", f"{at}/3/options/realm",
    }  # fmt: skip
    must_be_good(found)


def test_a_websocket_transport_of_a_crossbar_serves_websocket_on_every_path() -> None:
    socket = {**made(9000), "type": "websocket", "url": "ws://x", "auth": {"ticket": TICKETS}}
    found = import_crossbar(
        listening(socket, {**socket, **made(9001), "type": "websocket"}, made(8080, OTHER))
    )
    tickets = {"ticket": {"type": "static", "principals_file": "auth/root-ticket.json"}}
    assert found.transport["paths"] == {"/": {"type": "websocket", "auth": tickets}}
    assert [each["port"] for each in found.transport["listeners"].values()] == [9000, 9001]
    assert "/workers/1/transports/2" in {where for where, _ in found.left}
    must_be_good(found)
    other = import_crossbar(listening(made(8080, OTHER), socket))
    assert other.transport["paths"] == OTHER
    assert "/workers/1/transports/1" in {where for where, _ in other.left}


def universal(**parts: Any) -> dict[str, Any]:
    return {**made(8080), "type": "universal", **parts}


BROKER = {"options": {"realm": "shop", "role": "backend", "auth": {"ticket": TICKETS, "wampcra": FUNCTION}}}
SOCKETS = {"ws": {"auth": {"ticket": TICKETS}, "url": "ws://x"}, "info": {"type": "websocket"}}
WEB = {"paths": {"/": {"type": "json", "value": 1}, **OTHER}, "options": {"hsts": True}}


def test_a_universal_transport_of_a_crossbar_becomes_one_listener() -> None:
    found = import_crossbar(
        listening(
            universal(id="all", rawsocket=RAW, mqtt=BROKER, websocket=SOCKETS, web=WEB, max_connections=9),
            universal(rawsocket={}, mqtt={"options": 5}, endpoint={"port": 8081, "interface": ""}),
            universal(rawsocket={"auth": {"wampcra": FUNCTION}}, endpoint={"port": 8082}),
            universal(websocket=OPEN),
            universal(endpoint={"type": "unix", "path": "/x"}, web=WEB),
        )
    )

    def tickets(name: str) -> dict[str, Any]:
        return {"ticket": {"type": "static", "principals_file": f"auth/{name}-ticket.json"}}

    assert found.transport["paths"] == {
        "/": {"type": "json", "value": 1},
        "info": {"type": "websocket"},
        "ws": {"type": "websocket", "auth": tickets("ws")},
    }
    assert found.transport["listeners"] == {
        "all": {
            "type": "universal",
            "interface": "127.0.0.1",
            "port": 8080,
            "rawsocket": {"auth": tickets("rawsocket/0"), "serializers": ["cbor"]},
            "mqtt": {"auth": tickets("mqtt/0"), "options": {"realm": "shop"}},
        },
        "universal": {
            "type": "universal",
            "interface": "0.0.0.0",
            "port": 8081,
            "web": False,
            "rawsocket": {},
            "anonymous": True,
        },
    }
    at = "/workers/1/transports"
    assert {where for where, _ in found.left if where.startswith(at)} == {
        f"{at}/0/max_connections", f"{at}/0/rawsocket/max_message_size", f"{at}/0/web/options",
        f"{at}/0/web/paths/info", f"{at}/0/web/paths/ws/url", f"{at}/0/mqtt/options/role",
        f"{at}/0/mqtt/options/auth/wampcra/type", f"{at}/1/mqtt/options",
        f"{at}/2/rawsocket/auth/wampcra/type", f"{at}/2/rawsocket/auth", f"{at}/2/web",
        f"{at}/3", f"{at}/4",
    }  # fmt: skip
    must_be_good(found)


@pytest.mark.parametrize(
    ("one", "other", "merged"),
    [
        (made(1, OPEN), made(2, OTHER), True),
        (made(1, OPEN), made(2, {**OPEN, **OTHER}), True),
        (made(1, OPEN), made(2, {"ws": {"type": "nodeinfo"}}), False),
        (made(1, OPEN), made(2, OTHER, "0.0.0.0"), False),
        (made(1, OPEN, "0.0.0.0"), made(2, OTHER), False),
        (made(1, OPEN), made(2, OTHER, endpoint={"tls": TLS}), False),
        (made(1, OPEN, endpoint={"tls": TLS}), made(2, OTHER, endpoint={"tls": TLS}), True),
        (
            made(1, OPEN, endpoint={"tls": TLS}),
            made(2, OTHER, endpoint={"tls": {**TLS, "ca_certificates": None}}),
            False,
        ),
    ],
)
def test_paths_are_merged_only_where_the_same_clients_reach_both(one: Any, other: Any, merged: bool) -> None:
    found = import_crossbar(listening(one, other))
    if merged:
        assert found.transport["paths"] == {**one["paths"], **other["paths"]}
        assert len(found.transport["listeners"]) == 2
    else:
        assert found.transport["paths"] == one["paths"] and "listeners" not in found.transport
        assert "/workers/1/transports/1" in {where for where, _ in found.left}
    must_be_good(found)


def test_a_router_with_rawsocket_alone_is_imported_where_it_authenticates() -> None:
    found = import_crossbar(config(transports=[made(9000, **RAW)], components=[]))
    assert list(found.transport["listeners"]) == ["rawsocket"] and "paths" not in found.transport
    must_be_good(found)
    for auth in ({}, {"wampcra": FUNCTION}, 5):
        with pytest.raises(NotImportedError):
            import_crossbar(config(transports=[made(9000, auth=auth)], components=[]))


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"workers": []},
        config(realms=[]),
        config(realms=[{"name": "a b", "roles": ROLES}]),
        config(transport={"paths": {}}),
        config(transport={"paths": {"fn": PATHS["fn"]}}),
        config(transport={"type": "rawsocket"}),
    ],
)
def test_a_configuration_that_would_become_more_open_is_no_definition(found: dict[str, Any]) -> None:
    with pytest.raises(NotImportedError):
        import_crossbar(found)


MOSQUITTO = """\
# comment
persistence true
log_dest syslog
listener 8883 10.0.0.5
certfile /etc/m/a.crt
keyfile /etc/m/a.key
cafile /etc/m/ca.crt
require_certificate true
use_identity_as_username true
tls_version tlsv1.3
acl_file /etc/m/acl
max_connections 100
max_queued_messages 0
persistent_client_expiration 14d
listener 9001
protocol websockets
connection b
remote_password geheim
"""


def test_a_mosquitto_conf_becomes_a_definition() -> None:
    found = import_mosquitto(MOSQUITTO)
    assert found.transport == {
        "type": "mqtt",
        "endpoint": {
            "type": "tcp",
            "port": 8883,
            "interface": "10.0.0.5",
            "tls": {
                "certificate": "a.crt",
                "key": "a.key",
                "client_ca": "ca.crt",
                "client_certificates": "require",
                "min_version": "1.3",
            },
        },
        "options": {
            "persistence": True,
            "use_identity_as_username": True,
            "acl_file": "acl",
            "max_connections": 100,
            "persistent_client_expiration": "14d",
        },
    }
    assert {where for where, _ in found.left} == {
        "line 3 (log_dest)",
        "line 13 (max_queued_messages)",
        *(
            f"line {n} ({name})"
            for n, name in ((15, "listener"), (17, "connection"), (18, "remote_password"))
        ),
    }
    assert "geheim" not in repr(found)


@pytest.mark.parametrize(
    "text",
    [
        "listener 1883",
        "port 1883\nallow_anonymous false",
        "listener 1883\nplugin /x.so",
        "listener 1883\nuse_identity_as_username true",
        "listener 1883\npassword_file /etc/m/a\x01b",
    ],
)
def test_a_mosquitto_that_lets_in_nobody_does_not_become_an_open_one(text: str) -> None:
    with pytest.raises(NotImportedError):
        import_mosquitto(text)


@pytest.mark.parametrize("apart", ["", "per_listener_settings false\n"])
def test_who_may_enter_a_mosquitto_is_said_for_all_its_listeners(apart: str) -> None:
    text = "listener 1883 127.0.0.1\nlistener 8883\ncertfile /a.crt\nkeyfile /a.key\n"
    access = "allow_anonymous false\npassword_file /etc/m/passwd\nacl_file /etc/m/acl\n"
    found = import_mosquitto(apart + text + access)
    assert found.transport["options"] == {"password_file": "passwd", "acl_file": "acl"}
    assert found.transport["listeners"] == {
        "mqtt": {"port": 1883, "interface": "127.0.0.1"},
        "mqtts": {"port": 8883, "interface": "0.0.0.0", "tls": {"certificate": "a.crt", "key": "a.key"}},
    }
    alone = import_mosquitto("per_listener_settings true\n" + text + access)
    assert alone.transport["endpoint"]["port"] == 8883, "nobody can connect to the other one"
    assert alone.transport["options"] == {"password_file": "passwd", "acl_file": "acl"}
    assert [where for where, why in alone.left if "nobody could connect" in why] == ["line 2 (listener)"]


def test_each_listener_of_a_mosquitto_keeps_whom_it_lets_in() -> None:
    text = "per_listener_settings true\nlistener 1883 127.0.0.1\nallow_anonymous true\npassword_file /a/p\n"
    text += "listener 1884\nallow_anonymous true\nlistener 9001\nprotocol websockets\npassword_file /a/q\n"
    text += "max_connections 9\nlistener 1885\nacl_file /a/acl\npassword_file /a/p\nlistener 0 /run/m.sock\n"
    found = import_mosquitto(text)
    assert found.transport == {
        "type": "mqtt",
        "listeners": {
            "mqtt": {
                "port": 1883, "interface": "127.0.0.1", "anonymous": True, "options": {"password_file": "p"}
            },
            "mqtt-1884": {"port": 1884, "interface": "0.0.0.0", "anonymous": True},
            "ws": {
                "port": 9001, "interface": "0.0.0.0", "type": "websocket",
                "options": {"password_file": "q", "max_connections": 9},
            },
            "mqtt-1885": {
                "port": 1885, "interface": "0.0.0.0", "options": {"acl_file": "acl", "password_file": "p"}
            },
        },
    }  # fmt: skip
    assert [where for where, _ in found.left] == ["line 1 (per_listener_settings)", "line 14 (listener)"]
    must_be_good(found)


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("max_connections 5\nlistener 18 127.0.0.1\nallow_anonymous true", [1883, 18]),
        ("listener 18\nport 19\nallow_anonymous true", [19, 18]),
        ("bind_address 10.0.0.1\nlistener 18\nallow_anonymous true", [1883, 18]),
        ("per_listener_settings true\npassword_file /p\nlistener 18\nallow_anonymous true", [18]),
        ("protocol websockets\nallow_anonymous true", [1883]),
    ],
)
def test_what_stands_before_the_listeners_of_a_mosquitto_is_one_more_as_there(
    text: str, ports: list[int]
) -> None:
    found = import_mosquitto(text)
    assert [each.config["port"] for each in listeners_of(found.transport).values()] == ports
    must_be_good(found)


def test_what_lets_in_nobody_of_a_mosquitto_is_not_opened_by_what_stands_before_it() -> None:
    with pytest.raises(NotImportedError):
        import_mosquitto("per_listener_settings true\nallow_anonymous true\nlistener 1883")


def test_files_of_one_name_in_two_folders_stay_two() -> None:
    text = "allow_anonymous true\n" + "".join(
        f"listener {port} 127.0.0.1\ncertfile /{where}/a.crt\nkeyfile /keys/a.key\n"
        for port, where in ((1, "x"), (2, "y"), (3, "x"))
    )
    found = import_mosquitto(text)
    files = [each["tls"] for each in found.transport["listeners"].values()]
    assert [each["certificate"] for each in files] == ["a.crt", "2-a.crt", "a.crt"]
    assert {each["key"] for each in files} == {"a.key"}
    assert len(found.files) == 3


def test_no_more_listeners_of_a_mosquitto_than_a_worker_has() -> None:
    text = "allow_anonymous true\n" + "".join(f"listener {1883 + each} 127.0.0.1\n" for each in range(10))
    found = import_mosquitto(text)
    assert len(found.transport["listeners"]) == 8 and len(found.left) == 2
    twice = import_mosquitto("allow_anonymous true\nlistener 1 127.0.0.1\nlistener 1 127.0.0.1\n")
    assert list(twice.transport["listeners"]) == ["mqtt"]
    assert twice.left[0][0] == "line 3 (listener)/port"


def test_the_defaults_of_a_mosquitto_without_a_listener_are_kept() -> None:
    assert import_mosquitto("").transport == {"type": "mqtt", "endpoint": {"type": "tcp", "port": 1883}}
    open_one = import_mosquitto("listener 1883\nallow_anonymous true\n")
    assert open_one.transport["anonymous"] is True and not open_one.left


def texts(part: Any) -> Iterator[str]:
    """Every string in a definition."""
    yield from [part] if isinstance(part, str) else ()
    inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    for each in inner:
        yield from texts(each)


def must_be_good(found: Imported) -> None:
    plain = check_transport(found.transport, "")
    check_for_runtime(plain, found.runtime, "")
    assert "geheim" not in json.dumps(plain) and "geheim" not in repr((found.left, found.files))
    assert not not_written_out(plain, found.runtime)
    check_exposure(plain, "", found.runtime)
    asked = {each.split(" below the secrets_root")[0] for each in found.files if "secrets_root" in each}
    assert asked <= set(texts(found.transport)), "a file is asked for that nothing uses"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["", "x", "a b", "static", "tcp"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "auth", "paths", "ws", "roles", "name", "uri"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, each in inner for place in places(each, (*at, key)))]


@given(st.data())
def test_whatever_is_wrong_with_a_crossbar_configuration_the_rest_is_valid(data: st.DataObject) -> None:
    several = listening(
        made(8080, PATHS),
        made(8443, PATHS, "0.0.0.0", endpoint={"tls": TLS}),
        made(9, **RAW),
        broker(10, {"realm": "shop", "payload_mapping": {"": NATIVE}, "auth": {"ticket": TICKETS}}),
    )
    found = json.loads(json.dumps(data.draw(st.sampled_from([config(), several]))))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from(places(found)))
        if not place:
            continue
        holder = found
        for step in place[:-1]:
            holder = holder[step]
        if data.draw(st.booleans()) or isinstance(holder, list):
            holder[place[-1]] = data.draw(JSON)
        else:
            del holder[place[-1]]
    try:
        must_be_good(import_crossbar(found))
    except NotImportedError as error:
        assert "geheim" not in str(error)


WORDS = sorted(
    {line.split()[0] for line in MOSQUITTO.splitlines()}
    | {"password_file", "allow_anonymous", "port", "per_listener_settings"}
)
LINES = st.tuples(
    st.sampled_from(WORDS),
    st.sampled_from(
        ["true", "false", "", "0", "1883", "99999 x", "a/b", "1d", "tlsv1.2", "\x01", "websockets"]
    ),
).map(" ".join)


@given(st.lists(LINES, max_size=12).map("\n".join) | st.text(max_size=60))
def test_whatever_a_mosquitto_conf_says_the_definition_is_valid_and_no_more_open(text: str) -> None:
    try:
        found = import_mosquitto(text)
    except NotImportedError:
        return
    must_be_good(found)
    if "allow_anonymous true" not in text and ("listener" in text or "port" in text):
        assert authenticates(found.transport, "mosquitto") is not False or not is_exposed(
            found.transport, "mosquitto"
        )


def test_a_file_is_asked_for_only_where_the_definition_names_it() -> None:
    """Neither without the option that gives it a use, nor for a listener that is left out."""
    tls = "cafile /etc/m/ca.crt\ncertfile /etc/m/a.crt\nkeyfile /etc/m/a.key\n"
    other = "listener 8885 127.0.0.1\nprotocol http_api\ncertfile /etc/m/b.crt\nkeyfile /etc/m/b.key\n"
    found = import_mosquitto(f"listener 8883 127.0.0.1\n{tls}allow_anonymous true\n{other}")
    must_be_good(found)
    assert found.files == [
        "a.crt below the secrets_root of the nodes: /etc/m/a.crt",
        "a.key below the secrets_root of the nodes: /etc/m/a.key",
    ]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "busbar.cli.app", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=bound(30))


@pytest.mark.parametrize("form", ["json", "yaml", "table"])
def test_the_command_prints_the_definition_and_tells_the_rest_on_stderr(tmp_path: Path, form: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config()))
    done = run("-o", form, "import", str(file))
    assert done.returncode == 1, done.stderr
    assert "left out: /workers/0: not a router" in done.stderr and "principals_file" in done.stdout
    assert "geheim" not in done.stdout + done.stderr
    if form != "yaml":
        assert json.loads(done.stdout) == import_crossbar(config()).transport


def test_the_exit_code_says_whether_something_was_left_out(tmp_path: Path) -> None:
    whole = tmp_path / "mosquitto.conf"
    whole.write_text("listener 1883 127.0.0.1\nallow_anonymous true\n")
    assert run("import", str(whole)).returncode == 0
    assert run("import", str(tmp_path / "none")).returncode == 2
    whole.write_text("listener 1883\n")
    assert run("import", str(whole)).returncode == 2
    whole.write_text("listener 1883\nallow_anonymous true\nlog_dest syslog\n")
    assert run("import", str(whole)).returncode == 1
