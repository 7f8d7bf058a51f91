"""What the runtime `nats` renders: alone, as one of a group, and what it refuses."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from busbar.agent.processes.ports import PortRequest
from busbar.agent.runtimes import (
    HttpProbe,
    LaunchSpec,
    RuntimeConfigError,
    WorkerSpec,
    load_runtimes,
    prepare,
)
from busbar.agent.runtimes.nats import CONFIG, ROUTES, SYSTEM, routes
from busbar.bus.messages import Peer
from busbar.bus.routers.router_options import NATS_OWN
from hypothesis import given
from hypothesis import strategies as st

FOLDER = Path("/var/lib/busbar/web-1")
NATS = load_runtimes({"nats": {"secrets_root": "/etc/busbar/secrets"}})["nats"]
TLS = {"certificate": "r.crt", "key": "r.key"}
CERTAIN = {**TLS, "client_ca": "ca.crt", "client_certificates": "require"}
OPTIONAL = {**CERTAIN, "client_certificates": "optional"}
MEMBER = {"type": "mqtt", "listeners": {"mqtt": {}, "routes": {"type": "cluster"}}}
MQTT = {"js_api_timeout": "2s", "ack_wait": "10s", "max_ack_pending": 256}
KNOWN = tuple(
    Peer(f"web-{i}", f"n{i}", {"cluster": f"nats-route://10.0.0.{i}:6222", "mqtt": "mqtt://10.0.0.9:1"})
    for i in (3, 2)
)
OPTIONS = {
    "auth_file": "nats/users.conf",
    "max_connections": 100,
    "max_payload": 4096,
    "max_ack_pending": 20,
    "max_memory": 1 << 20,
    "max_file": 1 << 30,
    "members": 5,
    "replicas": 5,
}


def render(
    transport: Any = None, peers: tuple[Peer, ...] = (), runtime: Any = NATS, folder: Path = FOLDER
) -> LaunchSpec:
    ports = {name: 4001 + index for index, name in enumerate(runtime.ports_needed(transport))}
    worker = WorkerSpec("web-1", "3eccb1fd", "edge", "web", 1, transport, peers=peers)
    launch: LaunchSpec = runtime.render(worker, "n1.example", ports, folder)
    return launch


def parsed(launch: LaunchSpec) -> dict[str, Any]:
    """Its configuration, with what it includes of the worker's own folder."""
    found: dict[str, Any] = {}
    for line in launch.files[CONFIG].splitlines():
        name, _, value = line.partition(": ")
        if name == "leafnodes":
            found[name] = value
            continue
        if name.startswith("include "):
            found["include"] = json.loads(name.removeprefix("include "))
            continue
        value, _, included = value.partition(", include ")
        if not included:
            found[name] = json.loads(value)
            continue
        more = launch.peer_files[json.loads(included.removesuffix(" }"))]
        key, _, content = more.partition(": ")
        found[name] = json.loads(value + "}") | {key: json.loads(content)}
    return found


def test_a_worker_alone() -> None:
    launch = render()
    assert launch == render()
    assert parsed(launch) == {
        "server_name": "web-1",
        "listen": "127.0.0.1:4002",
        "client_advertise": "127.0.0.1:4002",
        "http": "127.0.0.1:4003",
        "jetstream": {"store_dir": "/var/lib/busbar/web-1/alone", "max_mem": 1 << 26, "max_file": 10 << 30},
        "mqtt": {**MQTT, "listen": "127.0.0.1:4001"},
    }
    assert launch.address == "mqtt://127.0.0.1:4001" and launch.peer_files == {}
    assert [each.name for each in launch.more] == ["client", "monitoring"]
    up = HttpProbe("/healthz?js-server-only=true", (200,), at=("127.0.0.1", 4003))
    assert launch.ready == launch.live == up
    assert launch.stop_signal == signal.SIGTERM
    assert launch.argv[1:] == ("-c", "/var/lib/busbar/web-1/nats.conf")
    assert launch.check == (launch.argv[0], "-t", *launch.argv[1:])


def test_every_member_of_a_transport() -> None:
    transport = {
        "type": "mqtt",
        "listeners": {
            "mqtts": {"interface": "0.0.0.0", "tls": {**CERTAIN, "min_version": "1.3"}},
            "web": {"type": "websocket", "interface": "::"},
            "nats": {"type": "nats", "interface": "10.0.0.5", "tls": TLS},
            "cluster": {"type": "cluster", "interface": "0.0.0.0", "tls": CERTAIN},
        },
        "options": OPTIONS,
    }
    launch = render(transport, KNOWN)
    tls = {
        "cert_file": "/etc/busbar/secrets/r.crt",
        "key_file": "/etc/busbar/secrets/r.key",
        "min_version": "1.2",
        "timeout": 5,
    }
    certain = {**tls, "ca_file": "/etc/busbar/secrets/ca.crt", "verify": True}
    assert parsed(launch) == {
        "server_name": "web-1.3eccb1fd",
        "listen": "10.0.0.5:4003",
        "client_advertise": "10.0.0.5:4003",
        "http": "127.0.0.1:4005",
        "tls": tls,
        "max_connections": 100,
        "max_payload": 4096,
        "jetstream": {
            "store_dir": "/var/lib/busbar/web-1/cluster-3eccb1fd",
            "max_mem": 1 << 20,
            "max_file": 1 << 30,
        },
        "websocket": {"listen": "[::]:4002", "advertise": "n1.example:4002", "no_tls": True},
        "mqtt": {
            **MQTT,
            "listen": "0.0.0.0:4001",
            "tls": {**certain, "min_version": "1.3"},
            "max_ack_pending": 20,
            "stream_replicas": 5,
        },
        "cluster": {
            "name": "edge-web",
            "listen": "0.0.0.0:4004",
            "advertise": "n1.example:4004",
            "ping_interval": "3s",
            "ping_max": 2,
            "tls": certain,
            "routes": [
                "nats-route://n1.example:4004",
                "nats-route://10.0.0.2:6222",
                "nats-route://10.0.0.3:6222",
                "nats-route://127.0.0.1:1",
                "nats-route://127.0.0.1:2",
            ],
        },
        "leafnodes": '{"listen": "127.0.0.1:4006", "no_advertise": true, '
        'authorization: { include "system.conf" } }',
        "connect_error_reports": 300,
        "reconnect_error_reports": 300,
        "lame_duck_duration": "30s",
        "lame_duck_grace_period": "100ms",
        "include": "../" * 64 + "etc/busbar/secrets/nats/users.conf",
    }
    assert [each.address for each in launch.listeners] == [
        "mqtts://n1.example:4001",
        "ws://n1.example:4002/mqtt",
        "tls://10.0.0.5:4003",
        "nats-route://n1.example:4004",
        "http://127.0.0.1:4005",
        "nats-leaf://127.0.0.1:4006",
    ]
    assert {"/transport/options/auth_file", "/transport/listeners/cluster/tls/client_ca"} <= set(
        launch.references
    )
    assert launch.stop_signal == signal.SIGUSR2 and launch.grace_s > 30
    assert {at.rpartition("/")[2] for at in launch.references} == set(launch.reloads)


def test_changed_peers_are_no_other_definition() -> None:
    before, after = render(MEMBER), render(MEMBER, KNOWN)
    assert before.digest == after.digest and before.files == after.files
    assert before.peer_files != after.peer_files and before.peer_files.keys() == after.peer_files.keys()
    assert before.files[ROUTES] == before.peer_files[ROUTES]
    assert after.reload_signal == signal.SIGHUP
    assert render(None, KNOWN).peer_files == {}, "without a listener for routes it stays alone"


def test_it_is_ready_with_the_messages_of_those_that_it_knows() -> None:
    assert render(MEMBER).ready == render(MEMBER).live, "nobody could have sent it any"
    known = render(MEMBER, KNOWN)
    assert known.ready == HttpProbe("/healthz", (200,), at=("127.0.0.1", 4004)) != known.live


def test_ports() -> None:
    loopback = PortRequest(20000, 29999)
    found = NATS.ports_needed({"type": "mqtt", "endpoint": {"port": 1883, "interface": "0.0.0.0"}})
    assert found == {
        "default": PortRequest(1883, 1883, interface="0.0.0.0"),
        **dict.fromkeys(("client", "monitoring"), loopback),
    }
    on_ipv6 = NATS.ports_needed({"type": "nats", "endpoint": {"interface": "::1"}})
    assert {each.interface for each in on_ipv6.values()} == {"::1"} and "client" not in on_ipv6


def test_messages_can_be_kept_elsewhere() -> None:
    runtime = load_runtimes({"nats": {"store_root": "/srv/nats", "program": "/opt/nats-server"}})["nats"]
    launch = render(MEMBER, (), runtime)
    assert parsed(launch)["jetstream"]["store_dir"] == "/srv/nats/edge/web-1/cluster-3eccb1fd"
    assert launch.argv[0] == "/opt/nats-server"


def test_the_password_of_its_system_account_is_made_where_it_is_and_kept(tmp_path: Path) -> None:
    launch, folder = render(MEMBER), tmp_path / "w"
    assert "password" not in str(launch.files) and render().secrets == {}
    prepare(launch, folder)
    first = (folder / SYSTEM).read_text()
    assert (folder / SYSTEM).stat().st_mode & 0o777 == 0o600
    prepare(launch, folder)
    assert (folder / SYSTEM).read_text() == first
    prepare(launch, tmp_path / "other")
    assert (tmp_path / "other" / SYSTEM).read_text() != first


def test_websocket_alone_has_mqtt_on_loopback_besides() -> None:
    launch = render({"type": "websocket", "endpoint": {"interface": "10.0.0.5"}})
    assert launch.ports == {"default": 4001, "client": 4002, "mqtt-local": 4003, "monitoring": 4004}
    assert parsed(launch)["mqtt"] == {**MQTT, "listen": "127.0.0.1:4003"}


def test_a_group_that_speaks_nats_alone_has_no_mqtt() -> None:
    launch = render({"type": "nats"}, KNOWN)
    assert "mqtt" not in parsed(launch) and launch.address == "nats://127.0.0.1:4001"


@given(
    known=st.lists(st.integers(1, 65535), max_size=6, unique=True),
    unknown=st.integers(0, 4),
    members=st.integers(2, 7),
    turn=st.randoms(use_true_random=False),
)
def test_there_is_a_route_for_every_member(known: list[int], unknown: int, members: int, turn: Any) -> None:
    peers = [Peer(f"w{port}", "n", {"any": f"nats-route://10.0.0.1:{port}"}) for port in known]
    peers += [Peer(f"u{index}", "n", {"mqtt": "mqtt://10.0.0.1:1"}) for index in range(unknown)]
    one = routes("nats-route://me:1", tuple(peers), members)
    turn.shuffle(peers)
    assert one == routes("nats-route://me:1", tuple(peers), members), "an order of no meaning changes no file"
    assert one[0] == "nats-route://me:1" and len(set(one)) == len(one) == max(members, len(known) + 1)


LISTENERS = "/transport/listeners"


@pytest.mark.parametrize(
    ("transport", "pointer"),
    [
        ({"type": "web"}, "/transport/type"),
        ({"type": "tcp"}, "/transport/type"),
        ({"type": "mqtt", "options": {"replicas": 6}}, "/transport/options/replicas"),
        ({"type": "mqtt", "options": {"members": 2}}, "/transport/options/replicas"),
        ({"type": "mqtt", "options": {"password_file": "x"}}, "/transport/options/password_file"),
        ({"type": "mqtt", "options": {"auth_file": "../x"}}, "/transport/options/auth_file"),
        ({"type": "mqtt", "endpoint": {"shared": True, "port": 1883}}, "/transport/endpoint/shared"),
        ({"type": "mqtt", "listeners": {"a": {}, "b": {}}}, f"{LISTENERS}/b/type"),
        ({"type": "mqtt", "listeners": {"a": {"type": "cluster"}}}, LISTENERS),
        ({"type": "mqtt", "listeners": {"a": {"type": "rawsocket"}}}, f"{LISTENERS}/a/type"),
        ({"type": "mqtt", "listeners": {"a": {"anonymous": True}}}, f"{LISTENERS}/a/anonymous"),
        ({"type": "mqtt", "listeners": {"a": {"tls": {**TLS, "chain": "c"}}}}, f"{LISTENERS}/a/tls/chain"),
        ({"type": "mqtt", "endpoint": {"tls": OPTIONAL}}, "/transport/endpoint/tls/client_certificates"),
        (
            {"type": "mqtt", "listeners": {"a": {}, "c": {"type": "cluster", "interface": "0.0.0.0"}}},
            f"{LISTENERS}/c/tls",
        ),
        *(({"type": "mqtt", "listeners": {name: {}}}, f"{LISTENERS}/{name}") for name in NATS_OWN),
    ],
)
def test_what_it_refuses(transport: Any, pointer: str) -> None:
    with pytest.raises(RuntimeConfigError) as caught:
        render(transport)
    assert caught.value.pointer == pointer and caught.value.detail


def test_paths_can_add_nothing_to_the_file() -> None:
    for strange in ('/srv/a "b" {\\}$x é', "/srv/a\nport: 1", "/srv/\\u0041\\b"):
        assert parsed(render(folder=Path(strange)))["jetstream"]["store_dir"] == f"{strange}/alone"
    for bad in ("\x07", "\x0c", "\x08"):
        with pytest.raises(RuntimeConfigError):
            render(folder=Path(f"/srv/a{bad}b"))
