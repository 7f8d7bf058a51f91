"""What each runtime renders, and what it refuses, with a pointer to the member."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from busbar.agent.processes.ports import PortRequest
from busbar.agent.runtimes import (
    AllProbes,
    HttpProbe,
    LaunchSpec,
    LogProbe,
    MqttProbe,
    RuntimeConfigError,
    RuntimesError,
    TcpProbe,
    WorkerSpec,
    load_runtimes,
)
from busbar.agent.runtimes.exec import fill
from busbar.agent.runtimes.mosquitto import RELOADED, MosquittoRuntime
from busbar.agent.runtimes.transport import tls_files
from busbar.bus.listeners import primary
from busbar.bus.messages import Peer
from hypothesis import given
from hypothesis import strategies as st

FOLDER = Path("/var/lib/busbar/web-1")
OID = "3eccb1fd-251b-4eda-bee9-06b3d24b1c5e"
ONE = {"default": 1}
RUNTIMES = load_runtimes(
    {
        "amqtt": {"secrets_root": "/etc/busbar/secrets"},
        "mosquitto": {"secrets_root": "/etc/busbar/secrets"},
        "crossbar": {"static_root": "/srv/www", "program": "/opt/crossbar"},
        "tool": {"argv": ["/bin/tool", "--port={port}", "{folder}/x"], "types": ["tcp"]},
    },
    environ={},
)


def worker(transport: Any = None, **more: Any) -> WorkerSpec:
    return WorkerSpec(
        **{"name": "web-1", "oid": OID, "cluster": "edge", "workergroup": "web", **more}, transport=transport
    )


def render(runtime: str, transport: Any = None, port: int = 4711, **more: Any) -> LaunchSpec:
    return RUNTIMES[runtime].render(worker(transport, **more), "n1.example", {"default": port}, FOLDER)


def refused(runtime: str, transport: Any) -> str:
    with pytest.raises(RuntimeConfigError) as caught:
        render(runtime, transport)
    assert caught.value.detail
    return caught.value.pointer


def endpoint(**members: Any) -> dict[str, Any]:
    return {"type": "mqtt", "endpoint": {"type": "tcp", **members}}


def web(path: Any, name: str = "x", **more: Any) -> dict[str, Any]:
    return {"type": "web", "paths": {name: path}, **more}


def test_crossbars_checker_does_not_double_the_time_of_a_first_start() -> None:
    checks = {name: render(name).checks_starts for name in ("mosquitto", "crossbar")}
    assert checks == {"mosquitto": True, "crossbar": False}


def test_missing_transport_gets_a_free_port_on_loopback() -> None:
    for name in ("amqtt", "mosquitto", "crossbar", "tool"):
        assert RUNTIMES[name].ports_needed(None) == {"default": PortRequest(20000, 29999, False, "127.0.0.1")}


@pytest.mark.parametrize(
    ("port", "low", "high"), [(1883, 1883, 1883), ([1, 9], 1, 9), ("1883-1890", 1883, 1890)]
)
def test_port_requests(port: Any, low: int, high: int) -> None:
    assert RUNTIMES["amqtt"].ports_needed(endpoint(port=port)) == {"default": PortRequest(low, high)}


SECRETS = Path("/etc/busbar/secrets")
TLS = {"certificate": "router.crt", "key": "tls/router.key"}


def test_tls_files_lie_below_the_nodes_folder() -> None:
    whole = {**TLS, "chain": "c.pem", "client_ca": "ca.pem", "client_certificates": "require"}
    found = tls_files(primary(endpoint(tls={**whole, "min_version": "1.3"})), SECRETS)
    assert found is not None
    assert (found.certificate, found.key) == (SECRETS / "router.crt", SECRETS / "tls/router.key")
    assert (found.chain, found.client_ca) == (SECRETS / "c.pem", SECRETS / "ca.pem")
    assert (found.client_certificates, found.min_version) == ("require", "1.3")
    assert found.references["/transport/endpoint/tls/key"] == found.key
    assert tls_files(primary(endpoint()), None) is None
    for root, member, reference in (
        (None, "certificate", "router.crt"),
        (SECRETS, "key", "/etc/shadow"),
        (SECRETS, "client_ca", "../x"),
    ):
        with pytest.raises(RuntimeConfigError) as caught:
            tls_files(primary(endpoint(tls={**TLS, member: reference})), root)
        assert caught.value.pointer == f"/transport/endpoint/tls/{member}"


def test_a_runtime_that_does_not_speak_tls_never_serves_in_the_clear_instead() -> None:
    assert refused("amqtt", endpoint(tls=TLS)) == "/transport/endpoint/tls"


def test_shared_port_is_for_crossbar() -> None:
    shared = {"type": "web", "endpoint": {"type": "tcp", "port": 8080, "shared": True}}
    assert RUNTIMES["crossbar"].ports_needed(shared) == {"default": PortRequest(8080, 8080, shared=True)}
    assert refused("amqtt", endpoint(port=1, shared=True)) == "/transport/endpoint/shared"
    shared["endpoint"] = {"type": "tcp", "port": [8080, 8090], "shared": True}
    assert refused("crossbar", shared) == "/transport/endpoint/shared"


@pytest.mark.parametrize("name", ["amqtt", "mosquitto"])
def test_mqtt_router_refusals(name: str) -> None:
    assert refused(name, {"type": "web"}) == "/transport/type"
    assert refused(name, {"type": "web", "paths": {}}) == "/transport/type"
    assert refused(name, endpoint(port=70000)).startswith("/transport/endpoint/port")
    assert refused(name, endpoint(port=[9, 1])) == "/transport/endpoint/port"
    assert refused(name, endpoint(port="1-2-3")) == "/transport/endpoint/port"
    assert refused(name, endpoint(port=True)).startswith("/transport/endpoint/port")
    assert refused(name, endpoint(interface="eth0")) == "/transport/endpoint/interface"
    assert refused(name, endpoint(interface="127.0.0.1\nallow_anonymous true")).startswith(
        "/transport/endpoint"
    )
    assert refused(name, endpoint(tls={})).startswith("/transport/endpoint")
    assert refused(name, {"type": "mqtt", "options": {"conf": "x"}}) == "/transport/options/conf"
    assert (
        refused(name, {"type": "mqtt", "options": {"password_file": 7}}) == "/transport/options/password_file"
    )


@pytest.mark.parametrize("name", ["amqtt", "mosquitto"])
@pytest.mark.parametrize(
    "path", ["../shadow", "/etc/shadow", "a/../../b", "a\nuser root", "/etc/busbar/secrets-not/x"]
)
def test_password_file_stays_in_the_operators_folder(name: str, path: str) -> None:
    options = {"type": "mqtt", "options": {"password_file": path}}
    assert refused(name, options) == "/transport/options/password_file"
    bare = load_runtimes({}, environ={})[name]
    with pytest.raises(RuntimeConfigError, match="names no 'secrets_root'"):
        bare.render(worker({"type": "mqtt", "options": {"password_file": "users"}}), "h", ONE, FOLDER)


def test_amqtt_render() -> None:
    launch = render("amqtt")
    assert launch.argv[1:] == (
        "-P",
        "-m",
        "busbar.agent.routers.amqtt_router",
        "--config",
        f"{FOLDER}/router.json",
    )
    assert json.loads(launch.files["router.json"]) == {
        "type": "tcp",
        "bind": "127.0.0.1:4711",
        "password_file": None,
    }
    assert launch.ready == launch.live == MqttProbe()
    launch = render("amqtt", {"type": "websocket", "endpoint": {"type": "tcp", "interface": "::1"}})
    assert json.loads(launch.files["router.json"])["bind"] == "[::1]:4711"
    assert (launch.address, launch.ready) == ("ws://[::1]:4711", MqttProbe(websocket=True))


def test_mosquitto_render() -> None:
    lines = render("mosquitto").files["mosquitto.conf"].splitlines()
    assert lines[:3] == ["listener 4711 127.0.0.1", "allow_anonymous true", "persistence false"]
    assert "set_tcp_nodelay true" in lines and "max_queued_messages 100000" in lines
    lines = render("mosquitto", {"type": "mqtt", "options": {"password_file": "users"}}).files[
        "mosquitto.conf"
    ]
    assert "allow_anonymous false\npassword_file /etc/busbar/secrets/users\n" in lines
    assert refused("mosquitto", {"type": "websocket"}) == "/transport/type"


def conf(transport: Any) -> list[str]:
    return render("mosquitto", transport).files["mosquitto.conf"].splitlines()


def test_mosquitto_with_tls() -> None:
    launch = render("mosquitto", endpoint(tls=TLS))
    assert conf(endpoint(tls=TLS))[:5] == [
        "listener 4711 127.0.0.1",
        f"certfile {SECRETS}/router.crt",
        f"keyfile {SECRETS}/tls/router.key",
        "tls_version tlsv1.2",
        "allow_anonymous true",
    ]
    assert launch.address == "mqtts://127.0.0.1:4711"
    assert launch.ready == launch.live == MqttProbe(tls=True)
    assert launch.references == {
        "/transport/endpoint/tls/certificate": SECRETS / "router.crt",
        "/transport/endpoint/tls/key": SECRETS / "tls/router.key",
    }


def test_mosquitto_with_client_certificates() -> None:
    tls = {**TLS, "client_ca": "ca.crt", "client_certificates": "require", "min_version": "1.3"}
    lines = conf(endpoint(tls=tls))
    assert lines[3:7] == [
        "tls_version tlsv1.3",
        f"cafile {SECRETS}/ca.crt",
        "require_certificate true",
        "allow_anonymous true",
    ]
    options = {"use_identity_as_username": True, "acl_file": "acl"}
    named = {**endpoint(tls=tls), "options": options}
    assert conf(named)[5:9] == [
        "require_certificate true",
        "use_identity_as_username true",
        "allow_anonymous false",
        f"acl_file {SECRETS}/acl",
    ]
    assert render("mosquitto", named).references["/transport/options/acl_file"] == SECRETS / "acl"
    assert render("mosquitto", named).live == TcpProbe(tls=True)


def test_mosquitto_with_limits() -> None:
    options = {
        "max_connections": 7,
        "max_inflight_messages": 5,
        "max_queued_messages": 50,
        "max_queued_bytes": 1000,
        "max_packet_size": 2000,
        "persistent_client_expiration": "14d",
        "sys_interval": 0,
    }
    launch = render("mosquitto", {"type": "mqtt", "options": options})
    lines = launch.files["mosquitto.conf"].splitlines()
    assert lines[1] == "max_connections 7", "a listener's own"
    assert all(f"{name} {value}" in lines for name, value in options.items())
    assert "max_queued_messages 100000" not in lines
    assert launch.live == MqttProbe(limited=True)


def test_address_names_the_node_when_listening_everywhere() -> None:
    everywhere = render("mosquitto", endpoint(interface="0.0.0.0"))
    assert everywhere.address == "mqtt://n1.example:4711"
    assert (everywhere.interface, everywhere.probe_host) == ("0.0.0.0", "127.0.0.1")
    assert render("mosquitto", endpoint(interface="10.0.0.5")).address == "mqtt://10.0.0.5:4711"
    assert render("mosquitto", endpoint(interface="localhost")).address == "mqtt://127.0.0.1:4711"


def test_crossbar_render() -> None:
    launch = render("crossbar", name="web-12", transport=None)
    config = json.loads(launch.files[".crossbar/config.json"])
    assert config["controller"]["id"] == "w_web_12"
    (router,) = config["workers"]
    assert [realm["name"] for realm in router["realms"]] == ["realm1"]
    (transport,) = router["transports"]
    assert transport["endpoint"] == {"type": "tcp", "port": 4711, "interface": "127.0.0.1", "backlog": 1024}
    assert transport["paths"]["/"] == {"type": "static", "directory": f"{FOLDER}/web"}
    assert set(transport["paths"]) == {"/", "ws", "info"}
    assert launch.address == "ws://127.0.0.1:4711/ws"
    assert isinstance(launch.ready, AllProbes)
    assert launch.ready.probes[0] == LogProbe("NODE_BOOT_COMPLETE")
    assert isinstance(launch.live, HttpProbe) and launch.live.path == "/info"
    assert 404 not in launch.live.expect
    shared = render("crossbar", {"type": "web", "endpoint": {"type": "tcp", "port": 80, "shared": True}})
    assert '"shared": true' in shared.files[".crossbar/config.json"]


@pytest.mark.fault(74, "U")
@pytest.mark.parametrize("realm", ["com.example.shop", "Realm-1", "a@b.c", "a" * 255, "x_y"])
def test_names_that_are_valid_for_crossbar_are_accepted_as_realms(realm: str) -> None:
    launch = render("crossbar", {"type": "web", "realms": [realm]})
    (router,) = json.loads(launch.files[".crossbar/config.json"])["workers"]
    assert [each["name"] for each in router["realms"]] == [realm]


@pytest.mark.parametrize("realm", ["", ".com", "a b", "a/b", "a#", "a\n", "a" * 256, "ä"])
def test_what_no_realm_is_called_is_refused(realm: str) -> None:
    with pytest.raises(RuntimeConfigError, match=r"^/transport/realms"):
        render("crossbar", {"type": "web", "realms": [realm]})


@pytest.mark.parametrize(
    ("transport", "pointer"),
    [
        ({"type": "mqtt"}, "/transport/type"),
        ({"type": "web", "realms": ["ab"]}, "/transport/realms/0"),
        ({"type": "web", "realms": ["realm1", "realm1"]}, "/transport/realms/1"),
        ({"type": "web", "options": {"x": 1}}, "/transport/options/x"),
        (web({"type": "static", "directory": "/etc"}), "/transport/paths/x/directory"),
        (web({"type": "static", "directory": "a/../../etc"}), "/transport/paths/x/directory"),
        (web({"type": "static", "directory": "/srv/www-private"}), "/transport/paths/x/directory"),
        (web({"type": "static", "directory": "a\x01"}), "/transport/paths/x/directory"),
        (web({"type": "static", "directory": "a", "options": {"default_file": "../x"}}),
         "/transport/paths/x/options/default_file"),
        (web({"type": "static", "directory": "a", "options": {"mime_types": {}}}),
         "/transport/paths/x/options/mime_types"),
        (web({"type": "json", "value": 1, "options": {"prettify": 1}}),
         "/transport/paths/x/options/prettify"),
        (web({"type": "websocket", "options": {"max_frame_size": True}}),
         "/transport/paths/x/options/max_frame_size"),
        (web({"type": "websocket", "options": {"allowed_origins": [1]}}),
         "/transport/paths/x/options/allowed_origins"),
        (web({"type": "redirect", "url": "/a\r\nX: y"}), "/transport/paths/x/url"),
        (web({"type": "reverseproxy", "host": "127.0.0.1", "port": 80}), "/transport/paths/x/host"),
        (web({"type": "path", "paths": {"y": {"type": "static", "directory": "/etc"}}}),
         "/transport/paths/x/paths/y/directory"),
        (web({"type": "nodeinfo"}, name="a.b"), "/transport/paths/a.b"),
        ({"type": "web", "paths": {"/": {"type": "nodeinfo"}, "ws": {"type": "websocket"}}},
         "/transport/paths/~1"),
    ],
)  # fmt: skip
def test_crossbar_refusals(transport: Any, pointer: str) -> None:
    assert refused("crossbar", transport) == pointer


@pytest.mark.parametrize(
    ("host", "port", "allowed"),
    [
        ("127.0.0.1", 9000, True), ("App.Internal", 80, True), ("127.0.0.1", 9001, False),
        ("localhost", 9000, False), ("127.1", 9000, False), ("2130706433", 9000, False),
        ("169.254.169.254", 80, False), ("app.internal.evil.example", 80, False),
    ],
)  # fmt: skip
def test_a_proxy_forwards_only_to_what_the_nodes_operator_lists(host: str, port: int, allowed: bool) -> None:
    table = {"crossbar": {"proxy_to": ["127.0.0.1:9000", "app.INTERNAL:80"]}}
    runtime = load_runtimes(table, {})["crossbar"]
    service = {"type": "reverseproxy", "host": host, "port": port, "path": "/app"}
    spec = WorkerSpec("web-1", OID, "edge", "web", 1, web(service))
    if not allowed:
        with pytest.raises(RuntimeConfigError, match="none of the servers") as caught:
            runtime.render(spec, "127.0.0.1", {"default": 4711}, FOLDER)
        assert caught.value.pointer == "/transport/paths/x/host"
        return
    launch = runtime.render(spec, "127.0.0.1", {"default": 4711}, FOLDER)
    node = json.loads(launch.files[".crossbar/config.json"])
    assert node["workers"][0]["transports"][0]["paths"]["x"] == service


@pytest.mark.parametrize("entry", ["127.0.0.1", ":80", "a:0", "a:65536", "[::1]:80", "http://a:80", "a b:80"])
def test_a_server_to_forward_to_has_a_name_and_a_port(entry: str) -> None:
    with pytest.raises(RuntimesError, match=r"runtimes\.crossbar\.proxy_to"):
        load_runtimes({"crossbar": {"proxy_to": [entry]}}, {})


@pytest.mark.parametrize("kind", ["cgi", "wsgi", "resource", "reverseproxy", "caller", "upload", "nonsense"])
def test_crossbar_refuses_services_that_reach_other_hosts_or_files(kind: str) -> None:
    assert refused("crossbar", web({"type": kind})).startswith("/transport/paths/x")
    assert refused("crossbar", web({"type": "static", "package": "os", "resource": "x"})).startswith(
        "/transport/paths/x"
    )


@pytest.mark.parametrize("name", ["--help", "a/b", "..", "a\nb", "", "a" * 100, "{folder}"])
def test_names_that_could_act_as_options_or_paths_are_refused(name: str) -> None:
    for runtime in RUNTIMES:
        with pytest.raises(RuntimeConfigError) as caught:
            render(runtime, name=name)
        assert caught.value.pointer == "/name"


def test_exec_render() -> None:
    launch = render("tool", {"type": "tcp", "endpoint": {"type": "tcp", "interface": "0.0.0.0"}})
    assert launch.argv == ("/bin/tool", "--port=4711", f"{FOLDER}/x")
    assert launch.address == "tcp://n1.example:4711"
    assert launch.ready == launch.live == TcpProbe()
    assert refused("tool", {"type": "mqtt"}) == "/transport/type"


def test_a_checker_is_filled_in_as_the_arguments_are() -> None:
    table = {"argv": ["/bin/x"], "check": ["/bin/x", "-t", "{folder}/x.conf", "{{port}}"]}
    runtime = load_runtimes({"x": table}, environ={})["x"]
    launch = runtime.render(worker({"type": "tcp"}), "h", ONE, FOLDER)
    assert launch.check == ("/bin/x", "-t", f"{FOLDER}/x.conf", "{port}")
    assert render("amqtt").check == ()
    for check in ([], [""], ["{folder}/x"], ["/bin/x", "{nothing}"]):
        with pytest.raises(RuntimesError, match=r"^runtimes\.x\.check"):
            load_runtimes({"x": {**table, "check": check}}, environ={})


@pytest.mark.fault(115, "W")
def test_a_program_that_lets_everybody_in_says_so_and_the_transport_allows_it() -> None:
    runtime = load_runtimes({"x": {"argv": ["/bin/x"], "anonymous": True}}, environ={})["x"]
    outside = {"type": "tcp", "endpoint": {"type": "tcp", "interface": "::"}}
    with pytest.raises(RuntimeConfigError) as caught:
        runtime.render(worker(outside), "h", ONE, FOLDER)
    assert caught.value.pointer == "/transport/anonymous"
    assert runtime.render(worker({**outside, "anonymous": True}), "h", ONE, FOLDER).interface == "::"
    assert runtime.render(worker({"type": "tcp"}), "h", ONE, FOLDER).interface == "127.0.0.1"
    for name in ("amqtt", "mosquitto"):
        assert render(name, {**endpoint(interface="0.0.0.0"), "anonymous": True})


@given(st.text(), st.dictionaries(st.text(), st.text() | st.integers(), max_size=4))
def test_text_from_the_bus_is_one_json_line_and_never_in_argv(text: str, options: dict[str, Any]) -> None:
    table = {"argv": ["/bin/x", "{worker}"], "env": {"W": "{worker}"}, "config_file": "x.conf"}
    runtime = load_runtimes({"x": {**table, "config_template": "{transport}"}}, environ={})["x"]
    spec = worker({"type": "tcp", "options": {**options, "key": text}})
    launch = runtime.render(spec, "h", ONE, FOLDER)
    assert launch.argv == ("/bin/x", "web-1") and launch.env == {"W": "web-1", "PYTHONUNBUFFERED": "1"}
    assert "\n" not in launch.files["x.conf"] and launch.files["x.conf"].isascii()
    assert json.loads(launch.files["x.conf"])["options"]["key"] == text


def test_fields_are_filled_once() -> None:
    values = {"worker": "{port}", "port": "1"}
    assert fill("{worker} {{port}} {port} {} { port } {x-y}", values) == "{port} {port} 1 {} { port } {x-y}"


def test_render_is_a_function_of_its_arguments() -> None:
    for name in RUNTIMES.keys() - {"nats"}:  # its ports: test_nats.py
        assert render(name) == render(name)


@pytest.mark.fault(109, "U")
def test_a_worker_on_every_ipv6_address_is_reached_by_an_ipv6_address() -> None:
    runtime = RUNTIMES["amqtt"]
    spec = worker(endpoint(interface="::"))
    assert runtime.render(spec, "127.0.0.1", {"default": 7}, FOLDER).address == "mqtt://[::1]:7"
    assert runtime.render(spec, "n1.example", {"default": 7}, FOLDER).address == "mqtt://n1.example:7"
    assert runtime.render(spec, "2001:db8::1", {"default": 7}, FOLDER).address == "mqtt://[2001:db8::1]:7"


MESHED = {
    "argv": ["/bin/tool"],
    "config_file": "tool.conf",
    "config_template": "{worker} {peers}.",
    "reload": "SIGHUP",
}


def meshed(peers: tuple[Peer, ...], **more: Any) -> LaunchSpec:
    runtime = load_runtimes({"tool": {**MESHED, **more}}, environ={})["tool"]
    return runtime.render(worker(peers=peers), "n1.example", {"default": 4711}, FOLDER)


def a_peer(name: str, **listeners: str) -> Peer:
    return Peer(name, "n2", listeners or {"default": f"tcp://10.0.0.{name[-1]}:80"})


def test_peers_are_in_a_file_and_no_part_of_the_start() -> None:
    alone, two = meshed(()), meshed((a_peer("web-2"), a_peer("web-3")))
    assert alone.digest == two.digest and alone.files == two.files == {"tool.conf": "web-1 ."}
    assert two.peer_files == {"tool.conf": "web-1 10.0.0.2:80,10.0.0.3:80."}
    assert alone.peer_files == {"tool.conf": "web-1 ."} and two.reload_signal == signal.SIGHUP


def test_a_peer_is_written_as_the_format_says() -> None:
    peers = (
        a_peer("web-2", mqtt="mqtt://[fd00::2]:1", cluster="tcp://n2.example:2"),
        a_peer("web-3", mqtt="mqtt://10.0.0.3:1"),
    )
    form = "{worker}@{node} {host}:{port} {url.cluster}"
    assert meshed(peers, peer_format=form, peer_separator=" | ").peer_files == {
        "tool.conf": "web-1 web-2@n2 [fd00::2]:1 tcp://n2.example:2."
    }, "the one without that listener is left out"


def test_no_peer_writes_anything_but_a_plain_address() -> None:
    hostile = a_peer("web-2", default="tcp://a,evil;include /etc/shadow:80")
    assert meshed((hostile, a_peer("web-3"))).peer_files == {"tool.conf": "web-1 10.0.0.3:80."}


def test_a_runtime_that_names_no_peers_is_left_alone_by_them() -> None:
    assert meshed((a_peer("web-2"),), config_template="{worker}").peer_files == {}


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("argv", ["/bin/tool", "{peers}"], "unknown field {peers}"),
        ("env", {"PEERS": "{peers}"}, "unknown field {peers}"),
        ("peer_format", "{secret}", "unknown field {secret}"),
        ("reload", "SIGKILL", "can't be handled"),
        ("reload", "HUP", "is not a signal's name"),
    ],
)
def test_a_mistake_about_peers_is_refused_when_the_file_is_read(key: str, value: Any, says: str) -> None:
    with pytest.raises(RuntimesError, match=re.escape(says)):
        load_runtimes({"tool": {**MESHED, key: value}}, environ={})


@pytest.mark.parametrize(
    ("user", "options", "tls", "reloads"),
    [
        (None, {}, True, RELOADED),
        ("root", {"persistence": True}, True, RELOADED),
        # It gives up root, and could read the new certificate without its key.
        ("root", {}, True, ()),
        ("root", {}, False, ("password_file", "acl_file")),
    ],
)
def test_mosquitto_reads_files_again_where_it_can(
    user: str | None, options: dict[str, object], tls: bool, reloads: tuple[str, ...]
) -> None:
    endpoint = {"type": "tcp", "tls": {"certificate": "a.crt", "key": "a.key"}} if tls else {"type": "tcp"}
    transport = {"type": "mqtt", "endpoint": endpoint, "options": {"acl_file": "acl", **options}}
    runtime = MosquittoRuntime(secrets_root=Path("/srv"), user=user)
    spec = runtime.render(worker(transport), "127.0.0.1", {"default": 1883}, Path("/run/w"))
    assert (spec.reload_signal, spec.reloads) == (signal.SIGHUP, reloads)
    assert spec.watched["/transport/options/acl_file"] == Path("/srv/acl")
