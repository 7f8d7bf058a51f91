"""A real mosquitto worker with MQTT, MQTTS and WebSocket at once, run by an agent; clients are paho's."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from busbar.agent.routers.mosquitto_websockets import websockets_of
from pwdlib.hashers.argon2 import Argon2Hasher

from tests.agents import Bench, bench, worker
from tests.brokers import lacking, need_mosquitto
from tests.certificates import certificates
from tests.mqtt_clients import echo
from tests.pace import bound

pytestmark = pytest.mark.mosquitto
TLS = {"certificate": "router.crt", "key": "router.key"}
REQUIRED = {**TLS, "client_ca": "ca.crt", "client_certificates": "require"}


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_mosquitto()
    if shutil.which("openssl") is None or shutil.which("mosquitto_passwd") is None:
        lacking("openssl or mosquitto_passwd is not installed")
    folder = tmp_path_factory.mktemp("secrets")
    certificates(folder, "ca", "router", "alice", "bob")
    certificates(folder, "other", "mallory")
    (folder / "acl").write_text("user alice\ntopic readwrite t/#\n")
    (folder / "users").touch(mode=0o600)
    command = ["mosquitto_passwd", "-b", str(folder / "users"), "carol", "secret"]
    subprocess.run(command, check=True, timeout=bound(20))
    (folder / "amqtt-users").write_text(f"carol:{Argon2Hasher().hash('secret')}\n")
    return folder


@pytest.fixture
async def node(tmp_path: Path, secrets: Path) -> AsyncIterator[Bench]:
    async with bench(tmp_path) as made:
        with made.toml.open("a") as file:
            file.write(f'[runtimes.mosquitto]\nsecrets_root = "{secrets}"\n')
        yield made


def transport(**listeners: Any) -> dict[str, Any]:
    """With persistence it stays root where we are, and can read what root alone may read."""
    return {
        "type": "mqtt",
        "listeners": listeners,
        "options": {"persistence": True, "password_file": "users"},
    }


def three(**more: Any) -> dict[str, Any]:
    named = {"use_identity_as_username": True, "acl_file": "acl"}
    return (
        transport(
            mqtt={"anonymous": True},
            mqtts={"tls": REQUIRED, "options": named},
            ws={"type": "websocket"},
            wss={"type": "websocket", "tls": TLS},
        )
        | more
    )


async def test_one_worker_serves_each_protocol_to_whom_it_lets_in(node: Bench, secrets: Path) -> None:
    await node.start()
    node.assign(worker(runtime="mosquitto", transport=three()))
    ready = await node.state("web-1", "RUNNING", timeout=30, reason=None)
    urls = ready["listeners"]
    assert [urlsplit(url).scheme for url in urls.values()] == list(urls) == ["mqtt", "mqtts", "ws", "wss"]
    assert ready["address"] == urls["mqtt"]
    for name, who, password, topic, enters in (
        ("mqtt", None, None, "t/x", True),
        ("mqtt", "carol", "secret", "t/x", True),
        ("mqtt", "carol", "wrong", "t/x", False),
        ("mqtts", "alice", None, "t/x", True),
        ("mqtts", "alice", None, "other/x", False),
        ("mqtts", "bob", None, "t/x", False),
        ("mqtts", "mallory", None, "t/x", False),
        ("mqtts", None, None, "t/x", False),
        ("ws", "carol", "secret", "t/x", True),
        ("ws", "carol", "wrong", "t/x", False),
        ("ws", None, None, "t/x", False),
        ("wss", "carol", "secret", "other/x", True),
        ("wss", None, None, "t/x", False),
    ):
        found = await asyncio.to_thread(echo, urls[name], secrets, who, password, topic)
        assert (found == "through") is enters, (name, who, password, topic, found)
    plain = urls["mqtts"].replace("mqtts", "mqtt")
    assert await asyncio.to_thread(echo, plain, secrets, "carol", "secret") != "through"


async def test_a_message_crosses_from_one_listener_to_the_other(node: Bench, secrets: Path) -> None:
    await node.start()
    node.assign(worker(runtime="mosquitto", transport=three()))
    urls = (await node.state("web-1", "RUNNING", timeout=30))["listeners"]
    port = {name: str(urlsplit(url).port) for name, url in urls.items()}
    pem = ["--cafile", secrets / "ca.crt", "--cert", secrets / "alice.crt", "--key", secrets / "alice.key"]
    pub = [
        "mosquitto_pub",
        "-h",
        "127.0.0.1",
        "-p",
        port["mqtts"],
        "-q",
        "1",
        "-r",
        "-t",
        "t/y",
        "-m",
        "hi",
        *pem,
    ]
    assert (await asyncio.to_thread(subprocess.run, pub, timeout=bound(20))).returncode == 0
    sub = ["mosquitto_sub", "-h", "127.0.0.1", "-p", port["mqtt"], "-t", "t/#", "-C", "1", "-W", "20"]
    heard = await asyncio.to_thread(subprocess.run, sub, stdout=subprocess.PIPE, text=True, timeout=bound(30))
    assert heard.stdout == "hi\n"


async def test_an_amqtt_serves_tcp_and_websocket_at_once(node: Bench, secrets: Path) -> None:
    with node.toml.open("a") as file:
        file.write(f'[runtimes.amqtt]\nsecrets_root = "{secrets}"\n')
    await node.start()
    listeners = {"ws": {"type": "websocket"}, "mqtt": {"anonymous": True}}
    options = {"password_file": "amqtt-users"}
    node.assign(
        worker(runtime="amqtt", transport={"type": "mqtt", "listeners": listeners, "options": options})
    )
    urls = (await node.state("web-1", "RUNNING", timeout=30))["listeners"]
    assert [urlsplit(url).scheme for url in urls.values()] == ["ws", "mqtt"]
    for name, who, password, enters in (
        ("ws", "carol", "secret", True),
        ("ws", None, None, False),
        ("mqtt", None, None, True),
        ("mqtt", "carol", "secret", True),
        ("mqtt", "carol", "wrong", False),
    ):
        found = await asyncio.to_thread(echo, urls[name], secrets, who, password)
        assert (found == "through") is enters, (name, who, password, found)


async def test_all_ports_are_kept_over_a_kill_and_over_the_next_agent(node: Bench, secrets: Path) -> None:
    await node.start()
    node.assign(worker(runtime="mosquitto", transport=three()))
    first = await node.state("web-1", "RUNNING", timeout=30)
    os.kill(first["pid"], signal.SIGKILL)
    again = await node.state("web-1", "RUNNING", restarts=1, timeout=30)
    assert again["listeners"] == first["listeners"]
    await node.stop()
    node.reports.clear()
    await node.start()
    kept = await node.state("web-1", "RUNNING")
    assert (kept["pid"], kept["listeners"]) == (again["pid"], first["listeners"])
    assert await asyncio.to_thread(echo, kept["listeners"]["ws"], secrets, "carol", "secret") == "through"


async def test_a_listener_more_is_checked_before_the_worker_is_touched(node: Bench, secrets: Path) -> None:
    await node.start()
    node.assign(worker(runtime="mosquitto", transport=transport(mqtt={}, ws={"type": "websocket"})))
    before = await node.state("web-1", "RUNNING", timeout=30)
    (secrets / "no.crt").write_text("no certificate\n")
    bad = transport(mqtt={}, ws={"type": "websocket"}, tls={"tls": {**TLS, "certificate": "no.crt"}})
    node.assign(worker(runtime="mosquitto", transport=bad, generation=2))
    told = await node.report(lambda last: "no.crt" in str(last["workers"][0]["reason"]), 30)
    assert told["workers"][0]["pid"] == before["pid"]
    missing = transport(mqtt={}, ws={"type": "websocket", "options": {"acl_file": "none"}})
    node.assign(worker(runtime="mosquitto", transport=missing, generation=3))
    at = "/transport/listeners/ws/options/acl_file: can't read"
    await node.report(lambda last: at in str(last["workers"][0]["reason"]), 30)
    node.assign(worker(runtime="mosquitto", transport=three(), generation=4))
    after = await node.state("web-1", "RUNNING", timeout=30, generation=4)
    kept = {name: after["listeners"][name] for name in ("mqtt", "ws")}
    assert kept == before["listeners"], "a renewed worker keeps the ports of its listeners"


async def test_websocket_alone_is_refused_where_the_program_can_t_serve_it(node: Bench) -> None:
    await node.start()
    alone = {"type": "mqtt", "listeners": {"ws": {"type": "websocket"}}}
    node.assign(worker(runtime="mosquitto", transport=alone))
    if await asyncio.to_thread(websockets_of, "mosquitto") == "alone":
        await node.state("web-1", "RUNNING", timeout=30)
        return
    failed = await node.state("web-1", "BACKOFF", timeout=30)
    assert "/transport/listeners/ws/type: mosquitto of this node " in failed["reason"]
    assert not node.living()
