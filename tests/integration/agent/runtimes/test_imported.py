"""An existing router's configuration, imported: clients that it served are served as before, others not."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from busbar.agent.runtimes.programs import find_program
from busbar.bus.routers.exposure import check_exposure
from busbar.bus.routers.runtimes import check_for_runtime
from busbar.bus.routers.transport import check_transport
from busbar.cli.importers.crossbar import import_crossbar
from busbar.cli.importers.definition import Imported
from busbar.cli.importers.mosquitto import import_mosquitto

from tests.agents import Bench, bench, worker
from tests.autobahn_client import RefusedError, error_of, joined
from tests.brokers import free_port, lacking, need_mosquitto, until, wait_for_port
from tests.certificates import certificates
from tests.integration.agent.runtimes.test_real import crossbar_program
from tests.mqtt_clients import echo
from tests.pace import bound

PLANT = """\
# /etc/mosquitto/mosquitto.conf of the plant
pid_file /run/mosquitto.pid
user root

persistence true
persistence_location {data}/
persistence_file plant.db
autosave_interval 300

log_dest stderr
log_type error
log_type warning
log_type notice
log_timestamp true
log_timestamp_format %Y-%m-%dT%H:%M:%S
connection_messages true

max_queued_messages 5000
max_inflight_messages 40
max_queued_bytes 10485760
persistent_client_expiration 30d
retain_available true
sys_interval 30
set_tcp_nodelay true
per_listener_settings true

# programs of this host
listener {mqtt} 127.0.0.1
allow_anonymous true
password_file {folder}/staff/users

# machines, each with a certificate
listener {mqtts}
certfile {folder}/router.crt
keyfile {folder}/router.key
cafile {folder}/ca.crt
require_certificate true
use_identity_as_username true
tls_version tlsv1.2
allow_anonymous false
acl_file {folder}/acl

# pages of the intranet
listener {ws} 127.0.0.1
protocol websockets
allow_anonymous false
password_file {folder}/staff/users
max_connections 100

# pages of customers
listener {wss}
protocol websockets
certfile {folder}/router.crt
keyfile {folder}/router.key
allow_anonymous false
password_file {folder}/customers/users

# the other plant
connection north
address 127.0.0.1:1
start_type lazy
topic line/# out 1
remote_password geheim
"""
PORTS = ("mqtt", "mqtts", "ws", "wss")
CLIENTS = [
    # listener, user or certificate, password, topic, enters
    ("mqtt", None, None, "t/x", True),
    ("mqtt", "staff", "secret", "t/x", True),
    ("mqtt", "staff", "wrong", "t/x", False),
    ("mqtts", "alice", None, "t/x", True),
    ("mqtts", "alice", None, "other/x", False),
    ("mqtts", "bob", None, "t/x", False),
    ("mqtts", "mallory", None, "t/x", False),
    ("mqtts", None, None, "t/x", False),
    ("ws", "staff", "secret", "t/x", True),
    ("ws", "customer", "secret", "t/x", False),
    ("ws", None, None, "t/x", False),
    ("wss", "customer", "secret", "t/x", True),
    ("wss", "staff", "secret", "t/x", False),
    ("wss", None, None, "t/x", False),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_mosquitto()
    if shutil.which("openssl") is None or shutil.which("mosquitto_passwd") is None:
        lacking("openssl or mosquitto_passwd is not installed")
    folder = tmp_path_factory.mktemp("etc")
    certificates(folder, "ca", "router", "alice", "bob")
    certificates(folder, "other", "mallory")
    (folder / "acl").write_text("user alice\ntopic readwrite t/#\n")
    for where, name in (("staff", "staff"), ("customers", "customer")):
        (folder / where).mkdir()
        users = folder / where / "users"
        users.write_text(f"{name}:secret\n")
        subprocess.run(["mosquitto_passwd", "-U", str(users)], check=True, timeout=bound(20))
    return folder


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Bench]:
    (tmp_path / "secrets").mkdir()
    async with bench(tmp_path) as made:
        with made.toml.open("a") as file:
            file.write(f'[runtimes.mosquitto]\nsecrets_root = "{tmp_path / "secrets"}"\n')
        yield made


async def outcomes(urls: dict[str, str], files: Path) -> list[bool]:
    asked = (
        asyncio.to_thread(echo, urls[name], files, who, password, topic)
        for name, who, password, topic, _ in CLIENTS
    )
    return [await each == "through" for each in asked]


@pytest.mark.mosquitto
async def test_clients_of_a_mosquitto_conf_work_with_what_is_imported(
    node: Bench, files: Path, tmp_path: Path
) -> None:
    ports = {name: free_port() for name in PORTS}
    schemes = {"mqtt": "mqtt", "mqtts": "mqtts", "ws": "ws", "wss": "wss"}
    urls = {name: f"{schemes[name]}://127.0.0.1:{port}" for name, port in ports.items()}
    text = PLANT.format(folder=files, data=tmp_path, **ports)
    assert len(text.splitlines()) > 60
    original = tmp_path / "mosquitto.conf"
    original.write_text(text)
    running = await asyncio.create_subprocess_exec(
        need_mosquitto(), "-c", str(original), stderr=subprocess.DEVNULL
    )
    try:
        for port in ports.values():
            await asyncio.to_thread(wait_for_port, port)
        assert await outcomes(urls, files) == [enters for *_, enters in CLIENTS]
    finally:
        running.terminate()
        await running.wait()

    found = import_mosquitto(text)
    plain = check_transport(found.transport, "")
    check_for_runtime(plain, "mosquitto", "")
    check_exposure(plain, "", "mosquitto")
    assert "geheim" not in json.dumps(plain)
    assert {why for _, why in found.left} == {"Busbar sets it itself", "not taken over"}
    for told in found.files:  # name below the secrets_root of the nodes: path
        name, _, path = told.partition(" below the secrets_root of the nodes: ")
        shutil.copy(path, tmp_path / "secrets" / name)
    await node.start()
    node.assign(worker(runtime="mosquitto", transport=plain))
    ready = await node.state("web-1", "RUNNING", timeout=30)
    assert {name: url.rpartition(":")[2] for name, url in ready["listeners"].items()} == {
        name: str(port) for name, port in ports.items()
    }
    assert await outcomes(urls, files) == [enters for *_, enters in CLIENTS]


EVERYTHING = {"call": True, "register": True, "publish": True, "subscribe": True}
WAREHOUSE = {"type": "static", "principals": {"warehouse": {"ticket": "geheim-w", "role": "backend"}}}
SHOP: dict[str, Any] = {
    "$schema": "https://raw.githubusercontent.com/crossbario/crossbar/master/crossbar.json",
    "version": 2,
    "controller": {"id": "shop"},
    "workers": [
        {
            "type": "router",
            "id": "worker1",
            "realms": [
                {
                    "name": "com.example.shop",
                    "roles": [
                        {
                            "name": "backend",
                            "permissions": [
                                {
                                    "uri": "com.example.",
                                    "match": "prefix",
                                    "allow": EVERYTHING,
                                    "disclose": {"caller": True, "publisher": True},
                                    "cache": True,
                                }
                            ],
                        },
                        {
                            "name": "guest",
                            "permissions": [
                                {"uri": "com.example.time", "match": "exact", "allow": {"call": True}}
                            ],
                        },
                    ],
                }
            ],
            "transports": [
                {
                    "type": "web",
                    "id": "intranet",
                    "endpoint": {"type": "tcp", "port": 0, "interface": "127.0.0.1", "backlog": 1024},
                    "paths": {},
                },
                {
                    "type": "web",
                    "id": "public",
                    "endpoint": {
                        "type": "tcp",
                        "port": 0,
                        "tls": {"key": "router.key", "certificate": "router.crt"},
                    },
                    "paths": {},
                },
                {
                    "type": "universal",
                    "id": "services",
                    "endpoint": {"type": "tcp", "port": 0, "interface": "127.0.0.1"},
                    "rawsocket": {
                        "serializers": ["json", "cbor", "msgpack"],
                        "auth": {"ticket": WAREHOUSE},
                    },
                    "mqtt": {
                        "options": {
                            "realm": "com.example.shop",
                            "payload_mapping": {"": {"type": "passthrough"}},
                            "auth": {"ticket": WAREHOUSE},
                        }
                    },
                    "websocket": {},
                    "web": {"paths": {}},
                },
            ],
        }
    ],
}
PATHS: dict[str, Any] = {
    "/": {"type": "static", "directory": "../pages"},
    "info": {"type": "nodeinfo"},
    "ws": {
        "type": "websocket",
        "auth": {
            "anonymous": {"type": "static", "role": "guest"},
            "ticket": {"type": "static", "principals": {"joe": {"ticket": "geheim-j", "role": "backend"}}},
        },
    },
}
DOORS = ("intranet", "public", "services")


def ticket(name: str, word: str) -> dict[str, Any]:
    return {"ticket": {"authid": name, "ticket": word}}


async def joins(urls: dict[str, str], files: Path) -> list[str]:
    """Who gets in where, and what a guest may do; `services` is tried by MQTT too, on the same port."""
    trusted = ssl.create_default_context(cafile=str(files / "ca.crt"))
    asked = [
        ("joe", ticket("joe", "geheim-j")),
        ("impostor", ticket("joe", "wrong")),
        ("warehouse", ticket("warehouse", "geheim-w")),
        ("guest", None),
    ]
    outcome = []
    for name, url in urls.items():
        tls = trusted if name == "public" else None
        for who, credentials in asked:
            try:
                async with joined(url, "com.example.shop", credentials, tls=tls) as client:
                    error = await error_of(client.call("com.example.other"))
                    outcome.append(f"{name} {who}: {error}")
            except RefusedError:
                outcome.append(f"{name} {who}: refused")
    devices = urls["services"].replace("rs:", "mqtt:")
    for password in ("geheim-w", "wrong"):
        told = await asyncio.to_thread(echo, devices, files, "warehouse", password, "com/example/stock")
        outcome.append(f"devices with {password}: {told}")
    return outcome


@pytest.mark.crossbar
async def test_clients_of_a_crossbar_configuration_work_with_what_is_imported(
    node: Bench, tmp_path: Path
) -> None:
    program = find_program(crossbar_program().get("program", "crossbar"), beside=sys.executable)
    if program is None:
        lacking("crossbar is not installed")
    config, home = json.loads(json.dumps(SHOP)), tmp_path / "home" / ".crossbar"
    home.mkdir(parents=True)
    (tmp_path / "home" / "pages").mkdir()
    certificates(home, "ca", "router")
    ports = {name: free_port() for name in DOORS}
    for transport in config["workers"][0]["transports"]:
        transport["endpoint"]["port"] = ports[transport["id"]]
        if "paths" in transport:
            transport["paths"] = PATHS
        else:
            transport["websocket"] = {"ws": PATHS["ws"]}
            transport["web"]["paths"] = {name: each for name, each in PATHS.items() if name != "ws"}
    text = json.dumps(config, indent=1)
    assert len(text.splitlines()) > 60
    (home / "config.json").write_text(text)
    at = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
    urls = {
        "intranet": f"ws://{at['intranet']}/ws",
        "public": f"wss://{at['public']}/ws",
        "services": f"rs://{at['services']}",
    }
    wanted = [
        "intranet joe: wamp.error.no_such_procedure",
        "intranet impostor: refused",
        "intranet warehouse: refused",
        "intranet guest: wamp.error.not_authorized",
        "public joe: wamp.error.no_such_procedure",
        "public impostor: refused",
        "public warehouse: refused",
        "public guest: wamp.error.not_authorized",
        "services joe: refused",
        "services impostor: refused",
        "services warehouse: wamp.error.no_such_procedure",
        "services guest: refused",
        "devices with geheim-w: through",
        "devices with wrong: closed",
    ]
    command = (program, "start", "--cbdir", str(home))
    log = tmp_path / "original.log"
    with log.open("wb") as output:
        env = {**os.environ, "PYTHONUNBUFFERED": "1"}  # else what it says stays in its buffer
        running = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output, env=env)
    try:
        await until(lambda: "NODE_BOOT_COMPLETE" in log.read_text(), 90)
        assert await joins(urls, home) == wanted
    finally:
        running.terminate()
        await running.wait()

    found = import_crossbar(config)
    plain = check_transport(found.transport, "")
    check_for_runtime(plain, "crossbar", "")
    check_exposure(plain, "", "crossbar")
    assert "geheim" not in json.dumps(plain) and not found.left
    _make_files(found, config, home, tmp_path / "secrets")
    (node.folder / "state" / "www" / "pages").mkdir(parents=True)
    with node.toml.open("a") as file:
        file.write(f'[runtimes.crossbar]\nprogram = "{program}"\nsecrets_root = "{tmp_path / "secrets"}"\n')
    await node.start()
    node.assign(worker(runtime="crossbar", transport=plain))
    ready = await node.state("web-1", "RUNNING", timeout=90)
    announced = {**urls, "services": f"ws://{at['services']}/ws"}
    assert ready["listeners"] == {**announced, "public": ready["listeners"]["public"]}
    assert await joins(urls, home) == wanted


def _make_files(found: Imported, config: Any, home: Path, secrets: Path) -> None:
    """Do what the import says: NAME below the secrets_root of the nodes: FILE, or the object POINTER."""
    for told in found.files:
        name, _, source = told.partition(" below the secrets_root of the nodes: ")
        if not source:
            assert told == "folder pages in the agents' www: ../pages" or told.startswith("it lets everybody")
            continue
        target = secrets / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not source.startswith("the object "):
            shutil.copy(home / source, target)
            continue
        value = config
        for step in source.removeprefix("the object ").split("/")[1:]:
            value = value[int(step)] if isinstance(value, list) else value[step.replace("~1", "/")]
        target.write_text(json.dumps(value))
