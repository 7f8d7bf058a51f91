"""What each runtime renders for several named listeners."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from busbar.agent.processes.ports import PortRequest
from busbar.agent.routers.mosquitto_websockets import without_websockets
from busbar.agent.runtimes import (
    HttpProbe,
    LaunchSpec,
    MqttProbe,
    RuntimeConfigError,
    RuntimesError,
    TcpProbe,
    WorkerSpec,
    load_runtimes,
)
from msgspec.structs import replace

FOLDER = Path("/var/lib/busbar/web-1")
SECRETS = Path("/etc/busbar/secrets")
PAIR = {
    "argv": ["/bin/pair", "{port}", "{host}", "{port.ws}", "{host.ws}", "{{port.ws}}"],
    "env": {"BOTH": "{port.mqtt} {port.ws}"},
    "config_file": "x",
    "config_template": "bind {host.ws}:{port.ws} {http.request.host}",
    "check": ["/bin/pair", "-t", "{port.ws}"],
    "scheme": "one",
    "path": "/p",
}
RUNTIMES = load_runtimes(
    {
        **{name: {"secrets_root": str(SECRETS)} for name in ("amqtt", "mosquitto")},
        "crossbar": {"static_root": "/srv/www", "program": "/opt/crossbar", "secrets_root": str(SECRETS)},
        "pair": PAIR,
    },
    environ={},
)
TLS = {"certificate": "r.crt", "key": "r.key"}
CERTAIN = {**TLS, "client_ca": "ca.crt", "client_certificates": "require"}


def made(kind: str = "mqtt", /, **listeners: Any) -> dict[str, Any]:
    return {"type": kind, "listeners": listeners}


def render(runtime: str, transport: Any) -> LaunchSpec:
    ports = {name: 4001 + index for index, name in enumerate(transport["listeners"])}
    worker = WorkerSpec("web-1", "3eccb1fd", "edge", "web", 1, transport)
    return RUNTIMES[runtime].render(worker, "n1.example", ports, FOLDER)


def refused(runtime: str, transport: Any) -> str:
    with pytest.raises(RuntimeConfigError) as caught:
        render(runtime, transport)
    return caught.value.pointer


def mosquitto(transport: Any) -> list[str]:
    return render("mosquitto", transport).files["mosquitto.conf"].splitlines()


def test_each_listener_has_a_request_and_the_first_is_the_primary_one() -> None:
    transport = made(z={"port": "8080-8090"}, a={"type": "websocket", "interface": "0.0.0.0"})
    for name in ("amqtt", "mosquitto"):
        assert list(RUNTIMES[name].ports_needed(transport).items()) == [
            ("z", PortRequest(8080, 8090)),
            ("a", PortRequest(20000, 29999, interface="0.0.0.0")),
        ]
        launch = render(name, transport)
        assert (launch.listener, launch.port, launch.address) == ("z", 4001, "mqtt://127.0.0.1:4001")
        assert [(each.name, each.address) for each in launch.listeners] == [
            ("z", "mqtt://127.0.0.1:4001"),
            ("a", "ws://n1.example:4002"),
        ]
        assert launch.more[0].probe == MqttProbe(websocket=True) and launch.more[0].probe_host == "127.0.0.1"
        assert launch.ports == {"z": 4001, "a": 4002}


def test_a_mosquitto_says_once_what_holds_for_all_its_listeners() -> None:
    transport = made(mqtt={}, ws={"type": "websocket"}, tls={"tls": CERTAIN})
    transport["options"] = {"password_file": "users", "max_connections": 9}
    lines = mosquitto(transport)
    assert lines[:6] == [
        "listener 4001 127.0.0.1",
        "max_connections 9",
        "listener 4002 127.0.0.1",
        "protocol websockets",
        "max_connections 9",
        "listener 4003 127.0.0.1",
    ]
    assert "per_listener_settings true" not in lines
    assert lines.count("allow_anonymous false") == lines.count(f"password_file {SECRETS}/users") == 1
    launch = render("mosquitto", transport)
    assert [each.probe for each in launch.more] == [
        MqttProbe(websocket=True, limited=True),
        TcpProbe(tls=True, limited=True),
    ]
    assert launch.listeners[2].address == "mqtts://127.0.0.1:4003"
    assert set(launch.references) == {
        "/transport/options/password_file",
        *(f"/transport/listeners/tls/tls/{name}" for name in ("certificate", "key", "client_ca")),
    }


def test_a_mosquitto_says_of_each_listener_what_differs() -> None:
    transport = made(
        local={"anonymous": True},
        mqtts={"interface": "0.0.0.0", "tls": CERTAIN},
        ws={
            "type": "websocket",
            "interface": "0.0.0.0",
            "options": {"acl_file": "acl", "max_connections": 5},
        },
    )
    transport["options"] = {"password_file": "users", "use_identity_as_username": True}
    transport["listeners"]["mqtts"]["options"] = {"password_file": ""}
    assert mosquitto(transport)[:20] == [
        "per_listener_settings true",
        "listener 4001 127.0.0.1",
        "allow_anonymous true",
        f"password_file {SECRETS}/users",
        "listener 4002 0.0.0.0",
        f"certfile {SECRETS}/r.crt",
        f"keyfile {SECRETS}/r.key",
        "tls_version tlsv1.2",
        f"cafile {SECRETS}/ca.crt",
        "require_certificate true",
        "use_identity_as_username true",
        "allow_anonymous false",
        "listener 4003 0.0.0.0",
        "protocol websockets",
        "max_connections 5",
        "allow_anonymous false",
        f"password_file {SECRETS}/users",
        f"acl_file {SECRETS}/acl",
        "persistence false",
        "set_tcp_nodelay true",
    ]
    references = render("mosquitto", transport).references
    assert references["/transport/listeners/ws/options/acl_file"] == SECRETS / "acl"
    transport["listeners"]["ws"]["options"]["acl_file"] = "/etc/shadow"
    assert refused("mosquitto", transport) == "/transport/listeners/ws/options/acl_file"


@pytest.mark.parametrize(("can", "alone", "beside"), [("none", 0, 0), ("beside", 0, 1), ("alone", 1, 1)])
def test_the_check_tells_which_websocket_a_mosquitto_can_t_serve(can: Any, alone: int, beside: int) -> None:
    def accepts(**listeners: Any) -> bool:
        launch = render("mosquitto", made(**listeners))
        pointer = launch.check[launch.check.index("--websocket") + 1]
        told = without_websockets(launch.files["mosquitto.conf"], can, "mosquitto", pointer)
        assert told is None or told.startswith("/transport/listeners/ws/type: mosquitto of this node ")
        return told is None

    websocket = {"type": "websocket"}
    assert "--websocket" not in render("mosquitto", made(mqtt={})).check
    assert accepts(ws=websocket) is accepts(ws=websocket, other=websocket) is bool(alone)
    assert accepts(mqtt={}, ws=websocket) is bool(beside)


def test_the_listeners_of_an_amqtt_are_in_its_file() -> None:
    transport = made(mqtt={}, ws={"type": "websocket", "anonymous": True}, six={"interface": "::1"})
    config = json.loads(render("amqtt", transport).files["router.json"])
    assert config == {
        "type": "tcp",
        "bind": "127.0.0.1:4001",
        "password_file": None,
        "more": [
            {"type": "ws", "bind": "127.0.0.1:4002", "anonymous": True},
            {"type": "tcp", "bind": "[::1]:4003"},
        ],
    }


def test_the_web_listeners_of_a_crossbar_share_the_paths() -> None:
    auth = {"anonymous": {"role": "anonymous"}}
    raw = {"type": "rawsocket", "auth": auth, "serializers": ["cbor"], "backlog": 5}
    transport = made("web", ws={"port": 80, "shared": True}, out={"interface": "::"}, raw=raw)
    launch = render("crossbar", transport)
    (router,) = json.loads(launch.files[".crossbar/config.json"])["workers"]
    first, second, third = router["transports"]
    assert [each["id"] for each in router["transports"]] == ["web1", "web2", "rawsocket3"]
    assert first["paths"] == second["paths"] and "ws" in first["paths"]
    assert first["endpoint"] == {
        "type": "tcp", "port": 4001, "interface": "127.0.0.1", "backlog": 1024, "shared": True
    }  # fmt: skip
    assert second["endpoint"]["version"] == 6
    assert third == {
        "type": "rawsocket",
        "id": "rawsocket3",
        "endpoint": {"type": "tcp", "port": 4003, "interface": "127.0.0.1", "backlog": 5},
        "serializers": ["cbor"],
        "auth": {"anonymous": {"type": "static", "role": "anonymous"}},
    }
    assert [(each.address, each.shared) for each in launch.listeners] == [
        ("ws://127.0.0.1:4001/ws", True),
        ("ws://n1.example:4002/ws", False),
        ("rs://127.0.0.1:4003", False),
    ]
    assert isinstance(launch.more[0].probe, HttpProbe) and launch.more[1].probe == TcpProbe()


def test_an_mqtt_listener_of_a_crossbar_joins_a_realm() -> None:
    native = {"type": "native", "serializer": "json"}
    options = {"realm": "shop", "payload_mapping": {"com.shop.": native, "x": {"type": "passthrough"}}}
    roles = [{"name": "guest"}]
    guests = {"anonymous": {"role": "guest"}}
    transport = made("web", mqtt={"type": "mqtt", "auth": guests, "options": options, "tls": CERTAIN}, web={})
    transport |= {"realms": [{"name": "shop", "roles": roles}, "other"]}
    pem = b"-----BEGIN PRIVATE KEY-----\n-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"
    runtime = replace(RUNTIMES["crossbar"], read=lambda path: pem)  # type: ignore[type-var]
    worker = WorkerSpec("web-1", "3eccb1fd", "edge", "web", 1, transport)
    launch = runtime.render(worker, "n1.example", {"mqtt": 4001, "web": 4002}, FOLDER)
    (router,) = json.loads(launch.files[".crossbar/config.json"])["workers"]
    first = router["transports"][0]
    assert (first["type"], first["id"], first["endpoint"]["port"]) == ("mqtt", "mqtt1", 4001)
    assert first["endpoint"]["tls"]["certificate"]
    assert first["options"] == {
        "realm": "shop",
        "payload_mapping": {"com/shop/": native, **options["payload_mapping"]},
        "auth": {"anonymous": {"type": "static", "role": "guest"}},
    }
    assert launch.address == "mqtts://127.0.0.1:4001" and launch.ready == launch.live == TcpProbe(tls=True)
    assert launch.argv[-1] == "warn", "at level info Crossbar logs passwords of MQTT clients"


def test_an_mqtt_listener_of_a_crossbar_needs_nothing_but_its_type() -> None:
    launch = render("crossbar", made("web", mqtt={"type": "mqtt"}))
    (router,) = json.loads(launch.files[".crossbar/config.json"])["workers"]
    assert router["transports"][0]["options"] == {
        "realm": "realm1", "payload_mapping": {"": {"type": "passthrough"}}
    }  # fmt: skip
    assert (launch.address, launch.live) == ("mqtt://127.0.0.1:4001", MqttProbe())
    assert refused("crossbar", made("web", raw={"type": "rawsocket", "options": {}})) == (
        "/transport/listeners/raw/options"
    )


def test_fields_of_an_exec_runtime_name_a_listener() -> None:
    transport = made("tcp", mqtt={"type": "mqtt"}, ws={"type": "websocket", "interface": "::1", "tls": TLS})
    launch = render("pair", transport)
    assert launch.argv == ("/bin/pair", "4001", "127.0.0.1", "4002", "::1", "{port.ws}")
    assert launch.env["BOTH"] == "4001 4002"
    assert launch.files["x"] == "bind ::1:4002 {http.request.host}"
    assert launch.check == ("/bin/pair", "-t", "4002")
    assert launch.address == "one://127.0.0.1:4001/p"
    assert launch.more[0].address == "wss://[::1]:4002"
    assert launch.more[0].probe == MqttProbe(websocket=True, tls=True)


@pytest.mark.parametrize(
    ("listeners", "pointer"),
    [
        ({"mqtt": {}}, "/transport/listeners/ws"),
        ({"ws": {}}, "/transport/listeners/mqtt"),
        ({"mqtt": {}, "ws": {}, "more": {}}, "/transport/listeners/more"),
    ],
)
def test_an_exec_runtime_needs_the_listeners_that_it_names_and_no_others(
    listeners: dict[str, Any], pointer: str
) -> None:
    assert refused("pair", made("tcp", **listeners)) == pointer


@pytest.mark.parametrize("field", ["{port.}", "{port.Ws}", "{port.a_b}", "{host.1}", "{port.a.b}"])
def test_a_field_that_names_no_listener_is_refused_at_load(field: str) -> None:
    with pytest.raises(RuntimesError, match=r"^runtimes\.x\.argv: unknown field"):
        load_runtimes({"x": {"argv": ["x", field]}}, environ={})


def test_every_listener_of_a_program_that_lets_everybody_in_is_judged() -> None:
    runtime = load_runtimes({"x": {"argv": ["/bin/x", "{port.b}"], "anonymous": True}}, environ={})["x"]
    transport = made("tcp", a={}, b={"interface": "0.0.0.0"})
    worker = WorkerSpec("w", "oid", "e", "g", 1, transport)
    with pytest.raises(RuntimeConfigError) as caught:
        runtime.render(worker, "h", {"a": 1, "b": 2}, FOLDER)
    assert caught.value.pointer == "/transport/listeners/b/anonymous"
    transport["listeners"]["b"]["anonymous"] = True
    assert runtime.render(worker, "h", {"a": 1, "b": 2}, FOLDER)


def test_a_universal_listener_is_one_transport_with_a_part_for_each_protocol() -> None:
    dynamic = {"ticket": {"type": "dynamic", "authenticator": "com.auth"}}
    parts = {"rawsocket": {"auth": dynamic, "serializers": ["cbor"]}, "mqtt": {"auth": dynamic}}
    bare = {"type": "universal", "web": False, "rawsocket": {}}
    device = {"type": "universal", "web": False, "mqtt": {}}
    transport = {
        **made("web", all={"type": "universal", **parts}, bare=bare, device=device),
        "paths": {"ws": {"type": "websocket", "auth": dynamic}},
    }
    launch = render("crossbar", transport)
    config = json.loads(launch.files[".crossbar/config.json"])
    all_, bare_, device_ = config["workers"][0]["transports"]
    assert list(all_) == ["type", "id", "endpoint", "web", "rawsocket", "mqtt"]
    assert all_["type"] == "universal" and all_["web"]["paths"]["ws"]["auth"] == dynamic
    assert all_["rawsocket"] == {"auth": dynamic, "serializers": ["cbor"]}
    assert all_["mqtt"]["options"]["realm"] == "realm1" and all_["mqtt"]["options"]["auth"] == dynamic
    assert "web" not in bare_ and bare_["rawsocket"] == {} and set(device_) & {"web", "rawsocket"} == set()
    assert [each.address for each in launch.listeners] == [
        "ws://127.0.0.1:4001/ws", "rs://127.0.0.1:4002", "mqtt://127.0.0.1:4003"
    ]  # fmt: skip
    assert isinstance(launch.live, HttpProbe) and isinstance(launch.more[0].probe, TcpProbe)
    assert isinstance(launch.more[1].probe, MqttProbe)
    assert (
        refused("crossbar", {**transport, "realms": ["one", "two"]})
        == "/transport/listeners/all/mqtt/options/realm"
    )
