"""One ACL file, and what paho and mosquitto's own clients may do by it: on amqtt as on mosquitto."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from busbar.agent.processes.ports import choose_ports
from busbar.agent.processes.process import SpawnSpec, WorkerProcesses
from busbar.agent.processes.sockets import bind_error
from busbar.agent.runtimes import WorkerSpec, load_runtimes, prepare
from busbar.agent.workers.probes import probe
from busbar.bus.clock import SystemClock

from tests.brokers import need_mosquitto
from tests.integration.agent.runtimes.test_amqtt_router import Client, Got
from tests.pace import bound

CLOCK = SystemClock()
ACL = """\
# Before the first user: clients without a name
topic read public/#
topic write public/in
topic readwrite fence/#

user alice
topic readwrite a/#
topic deny a/secret/#
topic read with space/x y

user root
topic readwrite #

pattern readwrite fence/#
pattern readwrite own/%u/#
pattern read by/%c
pattern deny own/alice/deny
"""
USERS = ("alice", "bob", "root")
ALL = ["a/1", "a/secret/1", "own/alice/x", "own/bob/x", "own/alice/deny", "by/c1", "public/in", "public/x",
       "with space/x y", "else"]  # fmt: skip
READS = {
    "alice": {"a/1", "own/alice/x", "by/c1", "with space/x y"},
    "bob": {"own/bob/x", "by/c1"},
    None: {"public/in", "public/x", "by/c1"},
}
WRITES = {
    "alice": {"a/1", "own/alice/x"},
    "bob": {"own/bob/x"},
    None: {"public/in"},
}


def passwords(runtime: str, path: Path) -> None:
    if runtime == "mosquitto":
        path.write_text("".join(f"{name}:right\n" for name in USERS))
        subprocess.run(["mosquitto_passwd", "-U", str(path)], check=True)
        path.chmod(0o644)
        return
    from pwdlib.hashers.argon2 import Argon2Hasher

    path.write_text("".join(f"{name}:{Argon2Hasher().hash('right')}\n" for name in USERS))


@pytest.fixture(params=["amqtt", pytest.param("mosquitto", marks=pytest.mark.mosquitto)])
async def start(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    if request.param == "mosquitto":
        need_mosquitto()
    processes = WorkerProcesses(f"acl/{uuid.uuid4().hex}", CLOCK)

    async def started(acl: str = ACL, *, names: bool = True) -> int:
        (tmp_path / "acl").write_text(acl)
        options: dict[str, Any] = {"acl_file": "acl"}
        if names:
            passwords(request.param, tmp_path / "users")
            options["password_file"] = "users"
        if request.param == "mosquitto":
            options["persistence"] = True  # stays root where we are, and can read what root alone may read
        transport = {"type": "mqtt", "options": options}
        runtime = load_runtimes({request.param: {"secrets_root": str(tmp_path)}})[request.param]
        wishes = runtime.ports_needed(transport)
        ports = choose_ports(
            wishes, (), lambda w, p: bind_error(w.interface, p, shared=w.shared), offset=os.getpid()
        )
        folder = tmp_path / "web-1"
        spec = WorkerSpec("web-1", str(uuid.uuid4()), "edge", "web", 1, transport)
        launch = runtime.render(spec, "127.0.0.1", ports, folder)
        prepare(launch, folder)
        log = folder / "worker.log"
        process = processes.spawn(SpawnSpec("web-1", uuid.uuid4().hex, launch.argv, folder, log, launch.env))
        async with asyncio.timeout(bound(20)):
            while await probe(launch.ready, launch.probe_host, launch.port, log, 2.0, log_from=0) is not None:
                assert process.running, log.read_text()
                await asyncio.sleep(0.02)
        return launch.port

    yield started
    for found in processes.scan():
        await processes.kill_by_token(found.token)


def client(port: int, user: str | None, name: str = "c1", **more: Any) -> Client:
    return Client(port, name, user=(user, "right") if user else None, **more)


def topics(got: list[Got]) -> set[str]:
    """Without those that separate what came before from what comes after."""
    return {topic for topic, *_ in got if not topic.startswith("fence/")}


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_what_each_may_publish(start: Any, qos: int) -> None:
    port = await start()
    watcher = client(port, "root", "watcher")
    watcher.subscribe("#")
    for user in ("alice", "bob"):
        mine = client(port, user, will=("else", b"", 1, False))
        assert mine.code == 0
        for topic in ALL:
            mine.publish(topic, b"x", qos, retain=True)
        mine.publish(f"fence/{user}", qos=qos)
        assert {topic for topic, *_ in watcher.messages(f"fence/{user}")} == WRITES[user]
        client(port, user).leave()  # takes over: the will is published
    later = client(port, "root", "later")
    later.subscribe("#")
    assert {topic for topic, _, _, retained in later.through() if retained} == WRITES["alice"] | WRITES["bob"]
    assert topics(watcher.through()) == set(), "a will has its client's rights"


async def test_what_each_may_read_live_retained_and_when_it_comes_back(start: Any) -> None:
    port = await start()
    root = client(port, "root", "root")
    for user in ("alice", "bob"):
        mine = client(port, user, clean=False)
        mine.subscribe("#", qos=1)
        for topic in ALL:
            root.publish(topic, b"live", retain=True)
        root.publish("fence/live")
        assert topics(mine.messages("fence/live")) == READS[user]
        mine.leave()
        for topic in ALL:
            root.publish(topic, b"away")
        root.publish("fence/away")
        back = client(port, user, clean=False)
        assert back.present
        assert topics(back.messages("fence/away")) == READS[user]
        back.subscribe("#", qos=1)
        assert {topic for topic, _, _, retained in back.through() if retained} == READS[user]
        back.leave()


async def test_clients_without_a_name_have_the_rules_before_the_first_user(start: Any) -> None:
    port = await start(ACL.replace("user root\n", ""), names=False)
    mine, other = client(port, None), client(port, None, "c2")
    other.subscribe("#")
    for topic in ALL:
        mine.publish(topic, b"x")
    mine.publish("fence/1")
    assert topics(other.messages("fence/1")) == WRITES[None]


async def test_mosquittos_own_clients(start: Any) -> None:
    if shutil.which("mosquitto_pub") is None:
        pytest.skip("mosquitto_pub is not installed")
    port = await start()
    watcher = client(port, "root", "watcher")
    watcher.subscribe("#")
    for user, password, topic in (
        ("alice", "right", "a/1"), ("bob", "right", "a/1"), ("alice", "wrong", "a/1"),
        ("root", "right", "fence/end"),
    ):  # fmt: skip
        command = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(port), "-q", "1", "-V", "311"]
        command += ["-u", user, "-P", password, "-t", topic, "-m", user]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=bound(15))
        assert (done.returncode == 0) == (password == "right")
    assert [payload for _, payload, *_ in watcher.messages("fence/end")] == [b"alice"]


@pytest.mark.parametrize("start", ["amqtt"], indirect=True)
async def test_amqtt_says_which_filters_match_nothing_readable_and_believes_no_name(start: Any) -> None:
    port = await start()
    mine = client(port, "bob")
    assert mine.subscribe("a/1", "own/#", "own/alice/#", "#", "by/c2", qos=1) == [0x80, 1, 0x80, 1, 0x80]
    unnamed = await start(names=False)
    posing = client(unnamed, "root")
    assert posing.subscribe("a/1", "public/#", qos=1) == [0x80, 1], "nobody has verified the name"
