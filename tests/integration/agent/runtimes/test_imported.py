"""An existing router's configuration, imported: clients that it served are served as before, others not."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from busbar.bus.exposure import check_exposure
from busbar.bus.runtimes import check_for_runtime
from busbar.bus.transport import check_transport
from busbar.cli.import_mosquitto import import_mosquitto

from tests.agents import Bench, bench, worker
from tests.brokers import free_port, lacking, need_mosquitto, wait_for_port
from tests.certificates import certificates
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
