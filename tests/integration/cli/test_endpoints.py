"""`busbar endpoints` on a real group, and a client behind HAProxy while its router is killed."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from paho.mqtt import client as paho
from paho.mqtt import publish
from paho.mqtt.enums import CallbackAPIVersion

from tests.brokers import free_port
from tests.integration.cli.harness import Stack, stack, until
from tests.pace import bound

pytestmark = pytest.mark.timeout(180)
HAPROXY = shutil.which("haproxy", path=os.pathsep.join([os.environ["PATH"], "/usr/sbin"]))


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack(tmp_path_factory.mktemp("endpoints")) as found:
        found.up("--agents", "1", "--port", "0", "--stop-workers")
        found.ready()
        found.ok("cluster", "create", "edge", "--type", "mqtt", "--port", "26700-26799")
        found.ok("cluster", "add-node", "edge", "n1")
        found.ok("group", "add", "edge/web", "--scale", "2")
        found.ok("cluster", "start", "edge", "--wait")
        yield found
        found.signal(signal.SIGINT)
        assert found.wait() == 0
        assert found.left() == []


@contextlib.contextmanager
def started(*command: str, **options: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, text=True, **options)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(bound(10))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def urls(up: Stack) -> list[str]:
    return [each["url"] for each in up.ask("group", "stat", "edge/web")["endpoints"]]


def test_it_prints_where_clients_find_the_ready_workers(up: Stack) -> None:
    assert up.ok("endpoints", "edge/web").split() == urls(up)
    found = json.loads(up.ok("endpoints", "edge/web", "--format", "json"))
    assert [each["worker"] for each in found] == ["web-1", "web-2"]
    assert {each["name"] for each in found} == {"default"}
    assert "_mqtt._tcp.web.edge 30 IN SRV" in up.ok("endpoints", "edge/web", "-f", "srv")
    file = up.folder / "nginx.conf"
    assert up.ok("endpoints", "edge/web", "-f", "nginx", "--file", str(file)) == ""
    assert file.read_text().count("    server 127.0.0.1:") == 2 and file.stat().st_mode & 0o777 == 0o644


def test_what_is_wrong_is_said(up: Stack) -> None:
    assert "--listener ws: the group has default" in up.fails(2, "endpoints", "edge/web", "-l", "ws")
    assert "say --watch too" in up.fails(2, "endpoints", "edge/web", "--exec", "true")
    assert "--bind is HOST:PORT" in up.fails(2, "endpoints", "edge/web", "-f", "nginx", "--bind", "x")
    up.fails(3, "endpoints", "edge/api")
    up.ok("group", "add", "edge/none", "--scale", "0")
    assert "has no ready worker" in up.fails(1, "endpoints", "edge/none")
    missing = str(up.folder / "nowhere" / "x")
    assert "No such file" in up.fails(1, "endpoints", "edge/web", "--file", missing)


def watching(up: Stack, *more: str) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "busbar.cli.app", "endpoints", "edge/web", "--watch", *more]
    return started(*command, env=up.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_watched_file_follows_the_group_and_a_command_that_fails_is_run_again(up: Stack) -> None:
    file, gate, ran = up.folder / "urls", up.folder / "gate", up.folder / "ran"
    script = up.folder / "script"
    script.write_text(f"#!/bin/sh\necho run >> {ran}\ntest -e {gate}\n")
    script.chmod(0o755)
    with watching(up, "--file", str(file), "--exec", str(script)) as process:
        until(lambda: file.exists() and file.read_text().split() == urls(up), "the file is written")
        assert process.stderr is not None
        assert "exit code 1; again in 5 s" in process.stderr.readline()
        gate.touch()
        until(lambda: ran.read_text().count("run") >= 2, "the command is run again")
        up.ok("group", "scale", "edge/web", "3", "--wait")
        until(lambda: file.read_text().split() == urls(up), "the third one is there")
        assert len(urls(up)) == 3
        up.ok("group", "scale", "edge/web", "2", "--wait")
        until(lambda: len(file.read_text().split()) == 2, "it is gone again")


def test_a_watch_outlives_a_file_that_can_not_be_written(up: Stack) -> None:
    folder, away = up.folder / "there", up.folder / "away"
    folder.mkdir()
    file = folder / "urls"
    with watching(up, "--file", str(file)) as process:
        until(lambda: file.exists() and len(file.read_text().split()) == 2, "the file is written")
        folder.rename(away)
        up.ok("group", "scale", "edge/web", "3", "--wait")
        assert process.stderr is not None
        assert "No such file or directory: again in 5 s" in process.stderr.readline()
        away.rename(folder)
        until(lambda: len(file.read_text().split()) == 3, "it is written after all")
    up.ok("group", "scale", "edge/web", "2", "--wait")


class Device:
    """A client that comes back by itself, as paho's loop does."""

    def __init__(self, port: int) -> None:
        self.connected = threading.Event()
        self.lost = threading.Event()
        self.got: list[bytes] = []
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id="device-7")
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = self._on_connect
        self.client.on_disconnect = lambda *_: self.lost.set()
        self.client.on_subscribe = lambda *_: self.connected.set()
        self.client.on_message = lambda _client, _data, message: self.got.append(message.payload)
        self.client.connect("127.0.0.1", port, 10)
        self.client.loop_start()

    def _on_connect(self, client: paho.Client, *_: object) -> None:
        client.subscribe("t/x", 1)

    def end(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def echoes(self, text: bytes) -> bool:
        self.client.publish("t/x", text, 1).wait_for_publish(bound(10))
        until(lambda: text in self.got, "the message comes back")
        return True


@pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")
def test_a_client_behind_haproxy_is_served_by_another_router_when_its_own_is_killed(
    up: Stack, tmp_path: Path
) -> None:
    port, config = free_port(), tmp_path / "edge.cfg"
    base = tmp_path / "base.cfg"
    base.write_text("global\n  log stderr local0 err\n")
    up.ok("endpoints", "edge/web", "-f", "haproxy", "--bind", f"127.0.0.1:{port}", "--file", str(config))
    command = [HAPROXY or "", "-W", "-db", "-f", str(base), "-f", str(config)]
    with started(*command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as proxy:
        reload = shlex.join(["kill", "-USR2", str(proxy.pid)])
        options = ("-f", "haproxy", "--bind", f"127.0.0.1:{port}", "--file", str(config), "--exec", reload)
        with watching(up, *options):
            until(lambda: reachable(port), "the proxy listens")
            device = Device(port)
            try:
                assert device.connected.wait(bound(20)) and device.echoes(b"first")
                home = home_of(device, up)
                device.connected.clear()
                os.kill(home, signal.SIGKILL)
                assert device.lost.wait(bound(20)), "its session is ended at once"
                assert device.connected.wait(bound(20)) and device.echoes(b"second")
                until(lambda: up.running("edge", 2), "both run again")
                until(lambda: config.read_text().count("\n  server web-") == 2, "both are in the file")
                assert device.echoes(b"third")
            finally:
                device.end()


def reachable(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def home_of(device: Device, up: Stack) -> int:
    """The pid of the router that the device is connected to: what is published there reaches it."""
    for row in up.ask("worker", "list", "-g", "edge/web"):
        port = int(row["address"].rpartition(":")[2])
        publish.single("t/x", row["name"], 1, hostname="127.0.0.1", port=port)
    device.echoes(b"after them")
    (home,) = [
        row["pid"] for row in up.ask("worker", "list", "-g", "edge/web") if row["name"].encode() in device.got
    ]
    return int(home)
