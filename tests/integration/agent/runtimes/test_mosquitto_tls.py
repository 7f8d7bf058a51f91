"""A real mosquitto worker with TLS, client certificates, ACL and limits, and clients that are not ours."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import threading
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from busbar.agent.processes import logs
from busbar.agent.processes.ports import choose_ports
from busbar.agent.processes.process import SpawnSpec, WorkerProcesses
from busbar.agent.processes.sockets import bind_error
from busbar.agent.runtimes import LaunchSpec, MqttProbe, TcpProbe, WorkerSpec, load_runtimes, prepare
from busbar.agent.workers.probes import probe
from busbar.bus.clock import SystemClock
from paho.mqtt.enums import CallbackAPIVersion

from tests.brokers import lacking, need_mosquitto
from tests.certificates import certificates
from tests.pace import bound

pytestmark = pytest.mark.mosquitto
CLOCK = SystemClock()
TLS = {"certificate": "router.crt", "key": "router.key"}
REQUIRED = {**TLS, "client_ca": "ca.crt", "client_certificates": "require"}


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_mosquitto()
    if shutil.which("openssl") is None or shutil.which("mosquitto_pub") is None:
        lacking("openssl or mosquitto_pub is not installed")
    folder = tmp_path_factory.mktemp("secrets")
    certificates(folder, "ca", "router", "alice", "bob")
    certificates(folder, "other", "mallory")
    (folder / "acl").write_text("user alice\ntopic readwrite t/#\n")
    return folder


class Router:
    """A started worker."""

    def __init__(self, launch: LaunchSpec, log: Path) -> None:
        self.launch, self.log = launch, log

    async def ask(self) -> str | None:
        return await probe(self.launch.live or self.launch.ready, "127.0.0.1", self.launch.port, self.log)

    async def ready(self) -> None:
        async with asyncio.timeout(bound(20)):
            while (reason := await self.ask()) is not None:
                await asyncio.sleep(0.02)
                assert logs.tail(self.log, 1) or reason


@pytest.fixture
async def start(tmp_path: Path, secrets: Path) -> AsyncIterator[Any]:
    processes = WorkerProcesses(f"test/{uuid.uuid4().hex}", CLOCK)

    async def started(tls: dict[str, str] | None, **options: Any) -> Router:
        runtime = load_runtimes({"mosquitto": {"secrets_root": str(secrets)}})["mosquitto"]
        # With persistence it stays root where we are, and can read what root alone may read.
        transport: dict[str, Any] = {"type": "mqtt", "options": {"persistence": True, **options}}
        if tls is not None:
            transport["endpoint"] = {"tls": tls}
        wishes = runtime.ports_needed(transport)
        ports = choose_ports(wishes, (), lambda w, p: bind_error(w.interface, p), offset=os.getpid())
        folder = tmp_path / "w"
        launch = runtime.render(
            WorkerSpec("web-1", str(uuid.uuid4()), "edge", "web", 1, transport), "127.0.0.1", ports, folder
        )
        prepare(launch, folder)
        log = folder / "worker.log"
        processes.spawn(SpawnSpec("web-1", uuid.uuid4().hex, launch.argv, folder, log, launch.env))
        router = Router(launch, log)
        await router.ready()
        return router

    yield started
    for found in processes.scan():
        await processes.kill_by_token(found.token)


def echo(router: Router, secrets: Path, who: str | None = None, topic: str = "t/x") -> str:
    """What comes of a publication through the router to ourselves: `through`, or why not."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    pem = {"certfile": str(secrets / f"{who}.crt"), "keyfile": str(secrets / f"{who}.key")} if who else {}
    client.tls_set(ca_certs=str(secrets / "ca.crt"), **pem)  # type: ignore[arg-type]
    outcome: list[str] = []
    done = threading.Event()

    def end(text: str) -> None:
        outcome.append(text)
        done.set()

    client.on_connect = lambda c, _d, _f, code, _p: (
        end(f"refused: {code}") if code.is_failure else c.subscribe(topic, 1)
    )
    client.on_subscribe = lambda c, *_: c.publish(topic, b"through", 1)
    client.on_publish = lambda *_: None
    client.on_message = lambda _c, _d, message: end(message.payload.decode())
    client.on_disconnect = lambda *_: end("closed")
    try:
        client.connect("127.0.0.1", router.launch.port)
    except ssl.SSLError as error:
        return f"tls: {error.reason}"
    client.loop_start()
    try:
        return outcome[0] if done.wait(bound(3)) else "nothing"
    finally:
        client.disconnect()
        client.loop_stop()


def pub(router: Router, secrets: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """mosquitto_pub, a client in C."""
    command = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(router.launch.port), "-q", "1"]
    command += ["-t", "t/x", "-m", "hello", *(more or ("--cafile", str(secrets / "ca.crt")))]
    return subprocess.run(command, capture_output=True, text=True, timeout=bound(15))


def handshake(router: Router, secrets: Path, newest: ssl.TLSVersion) -> bool:
    """Whether a client that knows no newer version than this one comes to terms with it."""
    context = ssl.create_default_context(cafile=str(secrets / "ca.crt"))
    context.maximum_version = newest
    with socket.create_connection(("127.0.0.1", router.launch.port), bound(10)) as raw:
        try:
            return bool(context.wrap_socket(raw, server_hostname="127.0.0.1").version())
        except ssl.SSLError:
            return False


async def test_tls_serves_clients_that_trust_its_ca_and_nobody_in_the_clear(
    start: Any, secrets: Path
) -> None:
    router = await start(TLS)
    assert router.launch.address == f"mqtts://127.0.0.1:{router.launch.port}"
    assert await asyncio.to_thread(echo, router, secrets) == "through"
    assert (await asyncio.to_thread(pub, router, secrets)).returncode == 0
    other = await asyncio.to_thread(pub, router, secrets, "--cafile", str(secrets / "other.crt"))
    assert other.returncode != 0, "its certificate is of another authority"
    clear = await asyncio.to_thread(pub, router, secrets, "-d")
    assert clear.returncode != 0
    assert "through" not in clear.stdout
    assert await asyncio.to_thread(handshake, router, secrets, ssl.TLSVersion.TLSv1_2)


async def test_the_oldest_tls_version_is_the_one_that_was_asked_for(start: Any, secrets: Path) -> None:
    router = await start({**TLS, "min_version": "1.3"})
    assert not await asyncio.to_thread(handshake, router, secrets, ssl.TLSVersion.TLSv1_2)
    assert await asyncio.to_thread(handshake, router, secrets, ssl.TLSVersion.TLSv1_3)


async def test_only_clients_with_a_certificate_of_the_client_ca_get_in(start: Any, secrets: Path) -> None:
    router = await start(REQUIRED)
    assert await asyncio.to_thread(echo, router, secrets, "alice") == "through"
    assert await asyncio.to_thread(echo, router, secrets) != "through"
    assert await asyncio.to_thread(echo, router, secrets, "mallory") != "through"
    cert = ("--cert", str(secrets / "alice.crt"), "--key", str(secrets / "alice.key"))
    ca = ("--cafile", str(secrets / "ca.crt"))
    assert (await asyncio.to_thread(pub, router, secrets, *ca, *cert)).returncode == 0
    assert (await asyncio.to_thread(pub, router, secrets, *ca)).returncode != 0


async def test_the_name_in_a_certificate_is_the_user_that_the_acl_knows(start: Any, secrets: Path) -> None:
    router = await start(REQUIRED, use_identity_as_username=True, acl_file="acl")
    assert await asyncio.to_thread(echo, router, secrets, "alice") == "through"
    assert await asyncio.to_thread(echo, router, secrets, "alice", "secret/x") != "through"
    assert await asyncio.to_thread(echo, router, secrets, "bob") != "through"


@pytest.mark.parametrize("tls", [None, TLS, REQUIRED], ids=["plain", "tls", "required"])
async def test_probes_need_no_certificate_and_leave_no_line_in_the_log(
    start: Any, tls: dict[str, str] | None
) -> None:
    router = await start(tls)
    before = router.log.read_text()
    for _ in range(5):
        assert await router.ask() is None
    # A router that has read the end of those connections has logged whatever it would.
    with socket.create_connection(("127.0.0.1", router.launch.port)) as last:
        last.shutdown(socket.SHUT_WR)
        last.settimeout(bound(10))
        while last.recv(4096):
            pass
    new = [line for line in router.log.read_text().removeprefix(before).splitlines() if "eof" not in line]
    assert not new


async def test_a_router_that_is_full_is_not_taken_for_a_hung_one(start: Any) -> None:
    router = await start(None, max_connections=2)
    clients = []
    strict = None
    # mosquitto 2.0.11 counts one client less for each that has left, so its limit has grown with each probe.
    while strict is None and len(clients) < 200:
        clients.append(await asyncio.open_connection("127.0.0.1", router.launch.port))
        clients[-1][1].write(bytes([0x10, 12, 0, 4]) + b"MQTT" + bytes([4, 2, 0, 60, 0, 0]))
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            answer = await clients[-1][0].read(4)
        if not answer:
            strict = await probe(MqttProbe(), "127.0.0.1", router.launch.port, router.log)
    assert strict is not None, "it is full"
    assert await router.ask() is None
    for _reader, writer in clients:
        writer.close()


@pytest.mark.parametrize("wanted", [MqttProbe(tls=True), TcpProbe(tls=True)], ids=["mqtt", "certificate"])
async def test_what_answers_no_tls_is_not_healthy(start: Any, wanted: MqttProbe | TcpProbe) -> None:
    plain = await start(None)
    assert await probe(wanted, "127.0.0.1", plain.launch.port, plain.log) is not None
    silent = socket.create_server(("127.0.0.1", 0))
    with silent:
        error = await probe(wanted, "127.0.0.1", silent.getsockname()[1], plain.log, 0.3)
        assert error is not None and "no answer within" in error
