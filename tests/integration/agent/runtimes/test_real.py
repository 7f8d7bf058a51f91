"""Every runtime for real: started, probed until ready, used by a client, stopped without leftovers."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from busbar.agent.processes import logs, procfs
from busbar.agent.processes.ports import NoPortError, choose_ports
from busbar.agent.processes.process import Process, SpawnSpec, WorkerProcesses
from busbar.agent.processes.sockets import bind_error
from busbar.agent.runtimes import (
    HttpProbe,
    LaunchSpec,
    MqttProbe,
    Runtime,
    TcpProbe,
    WorkerSpec,
    load_runtimes,
    prepare,
)
from busbar.agent.workers.probes import probe
from busbar.bus.clock import SystemClock
from paho.mqtt.enums import CallbackAPIVersion

from tests.brokers import lacking, until
from tests.pace import bound, within
from tests.wamp import WampClient

SCOPE = f"test/{uuid.uuid4().hex}"
CLOCK = SystemClock()
Run = Callable[..., Any]


class Worker:
    """A started worker, with what a client needs."""

    def __init__(self, process: Process, launch: LaunchSpec, log: Path) -> None:
        self.process, self.launch, self.log = process, launch, log

    async def ask(self, timeout_s: float = 2.0) -> str | None:
        return await probe(
            self.launch.ready,
            self.launch.probe_host,
            self.launch.port,
            self.log,
            timeout_s,
            log_from=self.process.record.log_from,
        )

    async def ready(self) -> float:
        """Seconds until ready."""
        begun = time.monotonic()
        async with asyncio.timeout(bound(self.launch.start_deadline_s)):
            while (reason := await self.ask()) is not None:
                assert self.process.running, (reason, logs.tail(self.log, 20))
                await asyncio.sleep(0.02)
        return time.monotonic() - begun


def rendered(
    folder: Path, runtime: Runtime, transport: Mapping[str, Any] | None, name: str = "web-1"
) -> LaunchSpec:
    """What a worker would be started with; its files are in the folder."""
    missing = runtime.unavailable()
    if missing:
        lacking(missing)
    wishes = runtime.ports_needed(transport)
    ports = choose_ports(
        wishes, (), lambda w, p: bind_error(w.interface, p, shared=w.shared), offset=os.getpid()
    )
    spec = WorkerSpec(name, str(uuid.uuid4()), "edge", "web", 1, transport)
    launch = runtime.render(spec, "127.0.0.1", ports, folder)
    prepare(launch, folder)
    return launch


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Run]:
    processes = WorkerProcesses(SCOPE, CLOCK)

    async def start(
        runtime: Runtime, transport: Mapping[str, Any] | None = None, name: str = "web-1"
    ) -> Worker:
        folder = tmp_path / name
        launch = rendered(folder, runtime, transport, name)
        log = folder / "worker.log"
        begun = SpawnSpec(name, uuid.uuid4().hex, launch.argv, folder, log, launch.env)
        return Worker(processes.spawn(begun), launch, log)

    yield start
    for found in processes.scan():
        await processes.kill_by_token(found.token)
    assert processes.scan() == []


async def stop(worker: Worker) -> None:
    """Stop it as an agent does: by its signal, within its grace period, without SIGKILL."""
    report = await WorkerProcesses(SCOPE, CLOCK).stop(
        worker.process, worker.launch.stop_signal, bound(worker.launch.grace_s)
    )
    assert report.gone and report.killed == 0, (report, logs.tail(worker.log, 20))
    token = worker.process.record.token.encode()
    assert not [pid for pid in procfs.pids() if token in (procfs.environ(pid) or b"")]
    assert bind_error(worker.launch.interface, worker.launch.port) is None


def echo_over_mqtt(worker: Worker, transport: str = "tcp", user: tuple[str, str] | None = None) -> bytes:
    """Publish through the worker and return what comes back; bounded."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, transport=transport)  # type: ignore[arg-type]
    got: list[bytes] = []
    client.on_message = lambda _client, _data, message: got.append(message.payload)
    client.on_connect = lambda c, _data, _flags, code, _props: (
        None if code.is_failure else c.subscribe("t/x", 1)
    )
    client.on_subscribe = lambda c, *_: c.publish("t/x", b"through", 1)
    if user:
        client.username_pw_set(*user)
    client.connect(worker.launch.probe_host, worker.launch.port)
    end = time.monotonic() + bound(10)
    try:
        while not got and time.monotonic() < end:
            if client.loop(0.1) != mqtt.MQTT_ERR_SUCCESS:
                break
    finally:
        client.disconnect()
        client._sock_close()
    return got[0] if got else b""


RUNTIMES = load_runtimes({})


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("amqtt", "mqtt"),
        ("amqtt", "websocket"),
        pytest.param("mosquitto", "mqtt", marks=pytest.mark.mosquitto),
    ],
)
async def test_mqtt_router(run: Run, name: str, kind: str) -> None:
    worker = await run(RUNTIMES[name], {"type": kind})
    await worker.ready()
    assert 20000 <= worker.launch.port <= 29999
    scheme, transport = ("mqtt", "tcp") if kind == "mqtt" else ("ws", "websockets")
    assert worker.launch.address == f"{scheme}://127.0.0.1:{worker.launch.port}"
    assert await asyncio.to_thread(echo_over_mqtt, worker, transport) == b"through"
    await stop(worker)
    assert (await worker.ask()) == f"nothing listens on 127.0.0.1:{worker.launch.port}"


@pytest.mark.parametrize("name", ["amqtt", pytest.param("mosquitto", marks=pytest.mark.mosquitto)])
async def test_mqtt_router_is_ready_fast(run: Run, name: str) -> None:
    worker = await run(RUNTIMES[name])
    # A crashed worker must be ready again within 2 s, including the first backoff.
    assert await worker.ready() < within(1.7)
    await stop(worker)


async def test_amqtt_router_with_password_file(run: Run, tmp_path: Path) -> None:
    from pwdlib.hashers.argon2 import Argon2Hasher

    users = {"alice": Argon2Hasher().hash("wonder"), "bob": "not-a-hash"}
    (tmp_path / "users").write_text("".join(f"{name}:{stored}\n" for name, stored in users.items()))
    runtime = load_runtimes({"amqtt": {"secrets_root": str(tmp_path)}})["amqtt"]
    worker = await run(runtime, {"type": "mqtt", "options": {"password_file": "users"}})
    await worker.ready()
    assert await asyncio.to_thread(echo_over_mqtt, worker, user=("alice", "wonder")) == b"through"
    assert await asyncio.to_thread(echo_over_mqtt, worker, user=("alice", "wrong")) == b""
    assert await asyncio.to_thread(echo_over_mqtt, worker, user=("bob", "wonder")) == b""
    assert await asyncio.to_thread(echo_over_mqtt, worker) == b""
    await stop(worker)


@pytest.mark.fault(82, "S")
async def test_clients_forge_no_lines_in_the_log_of_the_amqtt_router(run: Run) -> None:
    worker = await run(RUNTIMES["amqtt"])
    await worker.ready()
    forged = "\nERROR forged: by a client\x1b[2J"
    name = len(forged).to_bytes(2) + forged.encode()
    body = b"\0\4MQTT\4\2\0\x3c" + name
    reader, writer = await asyncio.open_connection(worker.launch.probe_host, worker.launch.port)
    writer.write(bytes([0x10, len(body)]) + body + b"\x30\5\0\2$xy")  # a topic that is logged as forbidden
    async with asyncio.timeout(bound(10)):
        assert await reader.readexactly(4) == b"\x20\2\0\0"
    await until(lambda: b"may not publish" in worker.log.read_bytes())
    writer.close()
    await stop(worker)
    written = worker.log.read_bytes()
    assert b"forged" in written, "nothing was logged"
    assert b"\x1b" not in written
    assert b"\nERROR forged" not in written


@pytest.mark.mosquitto
@pytest.mark.fault(121, "U")
async def test_mosquitto_s_log_is_written_line_by_line(run: Run) -> None:
    """While it runs, not when it ends or has filled a buffer."""
    worker = await run(RUNTIMES["mosquitto"], {"type": "mqtt"})
    await worker.ready()
    await until(lambda: f"listen socket on port {worker.launch.port}" in worker.log.read_text(), 5)
    os.kill(worker.process.record.pid, signal.SIGHUP)
    await until(lambda: "Reloading config" in worker.log.read_text(), 5)
    await stop(worker)


@pytest.mark.fault(121, "U")
async def test_a_python_program_s_log_is_written_line_by_line(run: Run) -> None:
    script = "import time; print('said'); time.sleep(600)"
    table = {"argv": [sys.executable, "-c", script], "port": False}
    ready = {"type": "log", "pattern": "said"}
    worker = await run(load_runtimes({"talker": {**table, "ready": ready}})["talker"])
    await worker.ready()
    assert worker.log.read_text() == "said\n"


@pytest.mark.mosquitto
async def test_mosquitto_with_password_file_and_persistence(run: Run, tmp_path: Path) -> None:
    mosquitto_passwd = shutil.which("mosquitto_passwd")
    if mosquitto_passwd is None:
        lacking("mosquitto_passwd is not installed")
    command = [mosquitto_passwd, "-b", "-c", str(tmp_path / "users"), "alice", "wonder"]
    await asyncio.to_thread(subprocess.run, command, check=True, timeout=bound(10))
    runtime = load_runtimes({"mosquitto": {"secrets_root": str(tmp_path)}})["mosquitto"]
    options = {"password_file": "users", "persistence": True}
    worker = await run(runtime, {"type": "mqtt", "options": options})
    await worker.ready()
    assert await asyncio.to_thread(echo_over_mqtt, worker, user=("alice", "wonder")) == b"through"
    assert await asyncio.to_thread(echo_over_mqtt, worker) == b""
    await stop(worker)
    assert (worker.log.parent / "mosquitto.db").exists()


@pytest.mark.parametrize("name", ["amqtt", pytest.param("mosquitto", marks=pytest.mark.mosquitto)])
async def test_a_taken_port_is_the_reason(run: Run, name: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        refused = bind_error("127.0.0.1", port)
        assert refused is not None and refused.errno == errno.EADDRINUSE
        spec = {"type": "mqtt", "endpoint": {"type": "tcp", "port": port}}
        runtime = RUNTIMES[name]
        if runtime.unavailable():
            lacking(str(runtime.unavailable()))
        with pytest.raises(NoPortError, match=f"port {port} on 127.0.0.1 is in use"):
            await run(runtime, spec)


async def test_amqtt_that_cannot_listen_logs_one_line(run: Run) -> None:
    worker = await run(RUNTIMES["amqtt"], name="first")
    await worker.ready()
    second = await start_on_port(worker, run)
    async with asyncio.timeout(bound(15)):
        assert (await second.process.wait()).code == 1
    assert "address already in use" in " ".join(logs.tail(second.log, 1)).lower()
    assert len(logs.tail(second.log, 20)) <= 2
    await stop(worker)


async def start_on_port(worker: Worker, run: Run) -> Worker:
    """A second worker on the first one's port, as when two agents race for it."""
    other = await run(RUNTIMES["amqtt"], name="second")
    other.process.close()
    os.kill(other.process.record.pid, signal.SIGKILL)
    folder = other.log.parent
    config = folder / "router.json"
    config.write_text(config.read_text().replace(f":{other.launch.port}", f":{worker.launch.port}"))
    begun = SpawnSpec(
        "second", uuid.uuid4().hex, other.launch.argv, folder, folder / "again.log", other.launch.env
    )
    return Worker(WorkerProcesses(SCOPE, CLOCK).spawn(begun), other.launch, begun.log_path)


def get(url: str) -> tuple[int, str]:
    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: Any, **__: Any) -> None:
            return None

    try:
        with urllib.request.build_opener(Stay).open(url, timeout=bound(5)) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers.get("Location", "")


@pytest.mark.crossbar
@pytest.mark.timeout(120)
async def test_crossbar_router(run: Run, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "hello.txt").write_text("hello")
    runtime = load_runtimes({"crossbar": {**crossbar_program(), "static_root": str(tmp_path)}})["crossbar"]
    transport = {
        "type": "web",
        "endpoint": {"type": "tcp", "port": [21000, 21999]},
        "realms": ["realm1", "plant"],
        "paths": {
            "/": {"type": "static", "directory": "site", "options": {"enable_directory_listing": True}},
            "ws": {"type": "websocket", "options": {"auto_ping_interval": 10000}},
            "info": {"type": "nodeinfo"},
            "value": {"type": "json", "value": {"answer": 42}},
            "old": {"type": "redirect", "url": "/info"},
            "deep": {"type": "path", "paths": {"er": {"type": "json", "value": [1]}}},
        },
    }
    worker = await run(runtime, transport)
    await worker.ready()
    base = f"http://127.0.0.1:{worker.launch.port}"
    assert worker.launch.address == f"ws://127.0.0.1:{worker.launch.port}/ws"
    for realm in ("realm1", "plant"):
        async with WampClient(worker.launch.address, realm) as wamp:
            await wamp.subscribe("com.example.topic")
            await wamp.publish("com.example.topic", "through", 7)
            assert await wamp.event() == ["through", 7]
    assert await asyncio.to_thread(get, f"{base}/hello.txt") == (200, "hello")
    assert await asyncio.to_thread(get, f"{base}/value") == (200, '{"answer":42}')
    assert await asyncio.to_thread(get, f"{base}/deep/er") == (200, "[1]")
    assert (await asyncio.to_thread(get, f"{base}/old"))[0] == 302
    assert (await asyncio.to_thread(get, f"{base}/info"))[0] == 200
    assert (await asyncio.to_thread(get, f"{base}/%2e%2e/users"))[0] == 404
    # Its processes set their titles; the token must still be readable.
    found = {each.token: each for each in WorkerProcesses(SCOPE, CLOCK).scan()}[worker.process.record.token]
    assert len(found.pids) == 2 and found.leader is not None
    await stop(worker)
    assert (worker.log.parent / ".crossbar" / "key.priv").stat().st_mode & 0o77 == 0


def on_ipv6(interface: str) -> dict[str, Any]:
    error = bind_error("::1", 0)
    if error is not None:
        pytest.skip(f"this host has no ::1: {error}")
    return {"type": "tcp", "port": [21000, 21999], "interface": interface}


@pytest.mark.crossbar
@pytest.mark.timeout(120)
@pytest.mark.fault(109, "U")
@pytest.mark.parametrize("interface", ["::", "::1"])
async def test_crossbar_router_on_ipv6(run: Run, interface: str) -> None:
    runtime = load_runtimes({"crossbar": crossbar_program()})["crossbar"]
    worker = await run(runtime, {"type": "web", "endpoint": on_ipv6(interface)})
    await worker.ready()
    assert worker.launch.address == f"ws://[::1]:{worker.launch.port}/ws"
    async with WampClient(worker.launch.address) as wamp:
        await wamp.subscribe("com.example.topic")
        await wamp.publish("com.example.topic", "six")
        assert await wamp.event() == ["six"]
    assert procfs.listens(worker.process.record, worker.launch.port)
    await stop(worker)


@pytest.mark.crossbar
@pytest.mark.timeout(150)
async def test_crossbar_with_default_transport_shared_port_and_a_kill(run: Run) -> None:
    runtime = load_runtimes({"crossbar": crossbar_program()})["crossbar"]
    shared = {"type": "web", "endpoint": {"type": "tcp", "port": 22080, "shared": True}}
    first, second = await run(runtime, shared, "web-1"), await run(runtime, shared, "web-2")
    await first.ready()
    await second.ready()
    os.kill(first.process.record.pid, signal.SIGKILL)
    await first.process.wait()
    processes = WorkerProcesses(SCOPE, CLOCK)
    await processes.kill_leftovers(first.process.record)
    async with WampClient(second.launch.address) as wamp:
        await wamp.subscribe("com.example.topic")
        await wamp.publish("com.example.topic", "still")
        assert await wamp.event() == ["still"]
    # Restarted in its old folder, with whatever the killed one left there.
    again = await run(runtime, shared, "web-1")
    await again.ready()
    assert "NODE_BOOT_COMPLETE" in logs.read_since(again.log, again.process.record.log_from)
    await processes.stop(again.process, signal.SIGTERM, again.launch.grace_s)
    await stop(second)


def crossbar_program() -> dict[str, str]:
    program = os.environ.get("BUSBAR_CROSSBAR")
    return {"program": program} if program else {}


HTTP_SERVER = {
    "argv": [sys.executable, "-u", "-m", "http.server", "{port}", "--bind", "{host}"],
    "scheme": "http",
    "ready": {"type": "http", "path": "/"},
    "stop_signal": "SIGTERM",
    "config_file": "web/notes.txt",
    "config_template": "{worker} of {cluster} on {port}: {transport}",
}


async def test_exec_runtime_over_http(run: Run) -> None:
    runtime = load_runtimes({"pages": HTTP_SERVER})["pages"]
    worker = await run(runtime)
    await worker.ready()
    status, text = await asyncio.to_thread(get, f"{worker.launch.address}/web/notes.txt")
    assert status == 200
    assert text == f'web-1 of edge on {worker.launch.port}: {{"type": "tcp"}}'
    await stop(worker)


@pytest.mark.fault(109, "U")
@pytest.mark.parametrize("interface", ["::", "::1"])
async def test_exec_runtime_on_ipv6(run: Run, interface: str) -> None:
    worker = await run(
        load_runtimes({"pages": HTTP_SERVER})["pages"], {"type": "tcp", "endpoint": on_ipv6(interface)}
    )
    await worker.ready()
    assert worker.launch.address == f"http://[::1]:{worker.launch.port}"
    status, _ = await asyncio.to_thread(get, f"{worker.launch.address}/web/notes.txt")
    assert status == 200
    assert procfs.listens(worker.process.record, worker.launch.port)
    await stop(worker)


async def test_exec_runtime_with_log_probe_and_no_port(run: Run) -> None:
    text = "import signal, time; print('up: 7 ports', flush=True); time.sleep(60)"
    table = {
        "argv": [sys.executable, "-c", text],
        "port": False,
        "ready": {"type": "log", "pattern": r"^up: \d+", "regex": True},
        "stop_signal": "SIGINT",
    }
    runtime = load_runtimes({"quiet": table})["quiet"]
    worker = await run(runtime)
    await worker.ready()
    assert (worker.launch.address, worker.launch.live) == ("", None)
    report = await WorkerProcesses(SCOPE, CLOCK).stop(worker.process, worker.launch.stop_signal, 5)
    assert report.gone and report.killed == 0
    # A log line of an earlier run does not count.
    runtime = load_runtimes({"quiet": {**table, "argv": ["sleep", "60"]}})["quiet"]
    worker = await run(runtime)
    assert await worker.ask(0.2) == r"has not logged '^up: \d+' yet"


async def test_probe_reasons(tmp_path: Path) -> None:
    """Every unhealthy answer gives an error, in bounded time."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.append(asyncio.current_task())
        with contextlib.suppress(ConnectionError):
            await reader.read(64)
            writer.write(replies[0])
            if replies[0] == b"":
                await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    answering: list[Any] = []
    replies = [b"HTTP/1.1 503 Busy\r\n\r\n"]
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    cases = [
        (HttpProbe("/x"), b"HTTP/1.1 503 Busy\r\n\r\n", "GET /x answered 503"),
        (HttpProbe("/x"), b"HTTP/1.1 404 No\r\n\r\n", None),
        (HttpProbe("/x", (200,)), b"HTTP/1.1 404 No\r\n\r\n", "GET /x answered 404"),
        (HttpProbe("/x"), b"220 smtp ready\r\n", "the answer is not HTTP"),
        (HttpProbe("/x"), b"x" * 100_000, "the connection was closed without an HTTP answer"),
        (MqttProbe(), b"\x20\x02\x00\x05", None),
        (MqttProbe(), b"\x30\x02\x00\x05", "a CONNECT was answered by packet type 3"),
        (MqttProbe(True), b"HTTP/1.1 404 No\r\n\r\n", "a WebSocket handshake was answered 404"),
        (MqttProbe(), b"", "no answer within 0.2 s"),
        (TcpProbe(), b"", None),
    ]
    try:
        for wanted, reply, reason in cases:
            replies[0] = reply
            assert await probe(wanted, "127.0.0.1", port, tmp_path / "log", 0.2) == reason
    finally:
        server.close()
        await asyncio.wait(answering, timeout=bound(5))
    reason = await probe(TcpProbe(), "127.0.0.1", port, tmp_path / "log", 1)
    assert reason == f"nothing listens on 127.0.0.1:{port}"
