"""Real nats-server workers: alone and as a cluster, and clients that are not ours."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import ssl
import time
import urllib.request
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from busbar.agent import supervisor
from busbar.agent.processes import logs
from busbar.agent.processes.checking import check
from busbar.agent.processes.ports import choose_ports
from busbar.agent.processes.process import Process, SpawnSpec, WorkerProcesses
from busbar.agent.processes.sockets import bind_error
from busbar.agent.runtimes import LaunchSpec, WorkerSpec, load_runtimes, prepare
from busbar.agent.state import RecordedListener, WorkerRecord
from busbar.agent.workers.membership import Membership, membership_of
from busbar.agent.workers.nats_request import NoAnswerError
from busbar.agent.workers.probes import probe
from busbar.agent.workers.traffic import traffic
from busbar.bus.clock import SystemClock
from busbar.bus.messages import Peer
from msgspec.structs import replace

from tests.agents import bench, worker
from tests.brokers import lacking
from tests.certificates import certificates
from tests.integration.agent.runtimes.test_amqtt_router import Client
from tests.pace import bound
from tests.patient import Patient, send

pytestmark = [pytest.mark.nats, pytest.mark.timeout(180)]
CLOCK = SystemClock()
TLS = {"certificate": "router.crt", "key": "router.key"}
CERTAIN = {**TLS, "client_ca": "ca.crt", "client_certificates": "require"}
ALL = {"mqtt": {}, "ws": {"type": "websocket"}, "nats": {"type": "nats"}}


class Worker:
    """One that is started and stopped by the test. Its folder and ports are those of its slot."""

    def __init__(self, home: Home, name: str, transport: dict[str, Any]) -> None:
        self.home, self.folder = home, home.root / name
        wishes = home.runtime.ports_needed(transport)
        self.ports = choose_ports(
            # Test processes have neighbouring pids, and choose for several workers before they start any.
            wishes,
            home.taken,
            lambda w, p: bind_error(w.interface, p),
            offset=os.getpid() * 97,
        )
        home.taken |= set(self.ports.values())
        self.spec = WorkerSpec(name, str(uuid.uuid4()), "edge", "web", 1, transport)
        self.launch = self.render()
        self.process: Process | None = None

    def render(self, folder: Path | None = None) -> LaunchSpec:
        return self.home.runtime.render(self.spec, "127.0.0.1", self.ports, folder or self.folder)

    def with_peers(self, *peers: Peer) -> None:
        self.spec = replace(self.spec, peers=peers)
        self.launch = self.render()

    def as_peer(self) -> Peer:
        urls = {each.name: each.address for each in self.launch.listeners}
        return Peer(self.spec.name, "n1", urls)

    @property
    def log(self) -> Path:
        return self.folder / "worker.log"

    async def start(self) -> None:
        prepare(self.launch, self.folder)
        begun = SpawnSpec(
            self.spec.name, uuid.uuid4().hex, self.launch.argv, self.folder, self.log, self.launch.env
        )
        self.process = self.home.processes.spawn(begun)
        await self.ready()

    async def ready(self) -> None:
        launch = self.launch
        async with asyncio.timeout(bound(launch.start_deadline_s)):
            while (reason := await probe(launch.ready, "127.0.0.1", launch.port, self.log)) is not None:
                assert self.process and self.process.running, (reason, logs.tail(self.log, 20))
                await asyncio.sleep(0.05)

    async def kill(self) -> None:
        assert self.process
        await self.home.processes.kill_by_token(self.process.record.token)

    async def stop(self) -> None:
        assert self.process
        result = await self.home.processes.stop(
            self.process, self.launch.stop_signal, bound(self.launch.grace_s)
        )
        assert result.gone and result.killed == 0, (result, logs.tail(self.log, 20))

    def reload(self) -> None:
        """As an agent does when the workers of the group have changed."""
        assert self.process and self.launch.reload_signal
        prepare(self.launch, self.folder)
        os.kill(self.process.record.pid, self.launch.reload_signal)

    def port(self, name: str) -> int:
        return self.ports[name]


class Home:
    """What workers on this node have in common."""

    def __init__(self, root: Path) -> None:
        self.root, self.taken = root, set[int]()
        self.runtime = load_runtimes({"nats": {"secrets_root": str(root)}})["nats"]
        self.processes = WorkerProcesses(f"nats/{uuid.uuid4().hex}", CLOCK)

    def worker(self, name: str = "web-1", **transport: Any) -> Worker:
        return Worker(self, name, {"type": "mqtt", "listeners": ALL, **transport})


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Home]:
    made = Home(tmp_path)
    missing = made.runtime.unavailable()
    if missing:
        lacking(missing)
    yield made
    for found in made.processes.scan():
        await made.processes.kill_by_token(found.token)


class Nats:
    """As much of its protocol as it takes to talk to MQTT clients."""

    def __init__(self, port: int, options: str = '{"verbose": false}') -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), bound(10))
        self.file = self.sock.makefile("rb")
        assert self.file.readline().startswith(b"INFO ")
        self.send(f"CONNECT {options}\r\nPING\r\n")
        self.answer = self.line()

    def send(self, text: str) -> None:
        self.sock.sendall(text.encode())

    def line(self) -> str:
        return self.file.readline().decode().strip()

    def until(self, start: str) -> str:
        while not (found := self.line()).startswith(start):
            assert found, "the connection was closed"
        return found

    def close(self) -> None:
        self.file.close()
        self.sock.close()


@pytest.fixture
def nats(home: Home) -> Iterator[Any]:
    with contextlib.ExitStack() as stack:
        yield lambda port, *options: stack.enter_context(contextlib.closing(Nats(port, *options)))


async def test_mqtt_and_websocket_and_nats_are_one_router(home: Home, nats: Any) -> None:
    worker = home.worker()
    await worker.start()
    tcp, web = (
        Client(worker.port("mqtt"), "tcp"),
        Client(worker.port("ws"), "web", transport="websockets"),
    )
    other = nats(worker.port("nats"))
    assert other.answer == "PONG"
    other.send("SUB room.* 1\r\nPING\r\n")
    other.until("PONG")
    for each in (tcp, web):
        assert each.subscribe("room/#", qos=1) == [1]
    tcp.publish("room/a", b"one")
    assert web.messages("room/a") == [] and tcp.messages("room/a") == []
    assert other.until("MSG") == "MSG room.a 1 3"
    other.send("PUB room.b 3\r\ntwo\r\n")
    for each in (tcp, web):
        each.wait(lambda each=each: ("room/b", b"two", 0, False) in each.got, "nothing from NATS")
    other.until("MSG room.b")
    await counts(worker, 3, 2, 2)
    await worker.stop()
    assert all(bind_error("127.0.0.1", port) is None for port in worker.ports.values())


async def counts(worker: Worker, *expected: int) -> None:
    """Clients, and their messages in and out. nats-server counts what comes in after it has passed it on."""
    assert worker.launch.traffic
    end = time.monotonic() + bound(10)
    while True:
        found = await traffic(worker.launch.traffic)
        if found and (found.connections, found.messages_in, found.messages_out) == expected:
            return
        assert time.monotonic() < end, found
        await asyncio.sleep(0.05)


async def test_websocket_alone_serves_mqtt(home: Home) -> None:
    worker = home.worker(type="websocket", listeners={"ws": {}})
    await worker.start()
    client = Client(worker.port("ws"), "web", transport="websockets")
    client.subscribe("t", qos=1)
    client.publish("t", b"x")
    assert client.messages("t") == []


@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_sessions_and_retained_messages_survive_a_restart(home: Home, how: str) -> None:
    worker = home.worker()
    await worker.start()
    away = Client(worker.port("mqtt"), "away", clean=False)
    away.subscribe("q/#", qos=1)
    away.vanish()
    sender = Client(worker.port("mqtt"), "sender")
    sender.publish("q/1", b"waits")
    sender.publish("kept", b"retained", retain=True)
    # It is acknowledged before it is in the stream, which is what is read after the kill.
    Patient(worker.port("mqtt"), "first").finds("kept", b"retained")
    await getattr(worker, how)()
    await worker.start()
    back = Client(worker.port("mqtt"), "away", clean=False)
    assert back.present
    back.wait(lambda: back.got, "what was sent meanwhile")
    assert [(topic, payload) for topic, payload, *_ in back.got] == [("q/1", b"waits")]
    Patient(worker.port("mqtt"), "reader").finds("kept", b"retained")


USERS = """
accounts {
  shop: {
    jetstream: enabled
    users: [
      {user: alice, password: wonder}
      {user: eye, password: see, permissions: {publish: {deny: "t.>"}}}
    ]
  }
}
"""


async def test_who_may_enter_is_in_the_operator_s_file(home: Home, nats: Any) -> None:
    (home.root / "users.conf").write_text(USERS)
    worker = home.worker(options={"auth_file": "users.conf"})
    await worker.start()
    right = Client(worker.port("mqtt"), "a", user=("alice", "wonder"))
    right.subscribe("t/#", qos=1)
    right.publish("t/1", b"x")
    assert right.messages("t/1") == []
    for given in (("alice", "wrong"), None):
        assert Client(worker.port("mqtt"), "w", user=given).code != 0
    watcher = Client(worker.port("mqtt"), "eye", user=("eye", "see"))
    watcher.paho.publish("t/2", b"x", 0)
    watcher.subscribe("t/3")
    right.publish("t/3")
    assert right.messages("t/3") == [], "its permissions don't let it publish there"
    assert nats(worker.port("nats")).answer.startswith("-ERR 'Authorization")
    with_password = '{"user": "alice", "pass": "wonder", "verbose": false}'
    assert nats(worker.port("nats"), with_password).answer == "PONG"


async def test_its_checker_refuses_what_it_would_not_start_with(home: Home, tmp_path: Path) -> None:
    worker = home.worker(options={"auth_file": "users.conf"})
    for content, expected in (("accounts {", "users.conf"), ("nonesuch: 1", "nonesuch"), (USERS, None)):
        (home.root / "users.conf").write_text(content)
        scratch = tmp_path / uuid.uuid4().hex
        launch = worker.render(scratch)
        prepare(launch, scratch)
        found = await check(launch.check, scratch, {}, None, refuses_with=launch.check_refuses_with)
        assert found is None if expected is None else found and expected in found, found


async def test_tls_and_client_certificates(home: Home) -> None:
    certificates(home.root, "ca", "router", "alice")
    certificates(home.root, "other", "mallory")
    tls = {"mqtt": {"tls": CERTAIN}, "wss": {"type": "websocket", "tls": TLS}}
    worker = home.worker(listeners={**tls, "nats": {"type": "nats", "tls": TLS}})
    await worker.start()
    assert "handshake" not in worker.log.read_text(), "probes are no broken clients"

    def connect(name: str | None, authority: str = "ca") -> bytes:
        context = ssl.create_default_context(cafile=str(home.root / f"{authority}.crt"))
        if name:
            context.load_cert_chain(str(home.root / f"{name}.crt"), str(home.root / f"{name}.key"))
        plain = socket.create_connection(("127.0.0.1", worker.port("mqtt")), bound(10))
        with contextlib.suppress(OSError), context.wrap_socket(plain, server_hostname="127.0.0.1") as tls:
            tls.sendall(b"\x10\x0d\0\4MQTT\4\2\0\0\0\1a")
            return tls.recv(4)
        return b""

    assert connect("alice") == b"\x20\2\0\0"
    assert connect("mallory") == connect(None) == b""
    certificates(home.root, "other", "router", "mallory")
    (home.root / "ca.crt").write_bytes((home.root / "other.crt").read_bytes())
    worker.reload()
    end = time.monotonic() + bound(10)
    while connect("mallory") != b"\x20\2\0\0":
        assert time.monotonic() < end, logs.tail(worker.log, 20)
    assert connect("alice") == b""
    ours = ssl.PEM_cert_to_DER_cert((home.root / "router.crt").read_text())
    served = ssl.get_server_certificate(("127.0.0.1", worker.port("wss")), ca_certs=str(home.root / "ca.crt"))
    assert ssl.PEM_cert_to_DER_cert(served) == ours


MEMBER = {"mqtt": {}, "routes": {"type": "cluster"}}


async def group(home: Home, members: int, **transport: Any) -> list[Worker]:
    """A cluster whose workers hear of each other when they run."""
    workers = [home.worker(f"web-{i}", **{"listeners": MEMBER, **transport}) for i in range(1, members + 1)]
    await asyncio.gather(*(each.start() for each in workers))
    tell(workers)
    for each in workers:
        each.reload()
    return workers


def tell(workers: list[Worker]) -> None:
    for each in workers:
        each.with_peers(*(other.as_peer() for other in workers if other is not each))


async def healthy(worker: Worker) -> None:
    """It has all messages that it should have."""
    url = f"http://127.0.0.1:{worker.port('monitoring')}/healthz"
    end = time.monotonic() + bound(30)
    while True:
        with contextlib.suppress(OSError):
            (await asyncio.to_thread(urllib.request.urlopen, url, timeout=2)).close()
            return
        assert time.monotonic() < end, logs.tail(worker.log, 20)
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("end", ["kill", "stop"])
async def test_a_group_is_one_router_that_loses_a_worker(home: Home, end: str) -> None:
    one, two, three = workers = await group(home, 3)
    await asyncio.gather(*map(healthy, workers))
    clients = [Patient(each.port("mqtt"), f"c{index}") for index, each in enumerate(workers)]
    for each in clients:
        each.hears("all/#")
    for index, each in enumerate(workers):
        send(each.port("mqtt"), f"all/{index}", b"once")
    for each in clients:
        for index in range(3):
            each.gets(f"all/{index}", b"once")
    send(three.port("mqtt"), "all/last", b"")
    for each in clients:
        each.gets("all/last", b"")
        assert sorted(topic for topic, *_ in each.got) == ["all/0", "all/1", "all/2", "all/last"]
    away = Patient(one.port("mqtt"), "away", clean=False)
    away.hears("q/#")
    away.vanish()
    send(two.port("mqtt"), "q/1", b"waits")
    send(two.port("mqtt"), "kept", b"retained", retain=True)
    await getattr(one, end)()
    back = Patient(two.port("mqtt"), "away", clean=False)
    assert back.present
    back.gets("q/1", b"waits")
    new = Patient(three.port("mqtt"), "new")
    new.finds("kept", b"retained")
    await one.start()
    await healthy(one)
    again = Patient(one.port("mqtt"), "again")
    again.finds("kept", b"retained")


async def test_routes_over_tls_and_a_fourth_worker_without_a_restart(home: Home) -> None:
    certificates(home.root, "ca", "router")
    listeners = {"mqtt": {}, "routes": {"type": "cluster", "tls": CERTAIN}}
    workers = await group(home, 3, listeners=listeners)
    await asyncio.gather(*map(healthy, workers))
    pids = [each.process.record.pid for each in workers if each.process]
    fourth = home.worker("web-4", listeners=listeners)
    tell([*workers, fourth])
    await fourth.start()
    for each in workers:
        each.reload()
    mine = Patient(fourth.port("mqtt"), "mine")
    mine.hears("t/#")
    send(workers[0].port("mqtt"), "t/1", b"x")
    mine.gets("t/1", b"x")
    assert [each.process.record.pid for each in workers if each.process and each.process.running] == pids
    assert all("ailed to reload" not in each.log.read_text() for each in workers)


async def test_members_leave_and_are_removed_beside_the_operator_s_users(home: Home) -> None:
    (home.root / "users.conf").write_text(USERS)
    workers = await group(home, 3, options={"auth_file": "users.conf"})
    await asyncio.gather(*map(healthy, workers))
    one, two, three = map(membership, workers)
    size = f"http://127.0.0.1:{workers[0].port('monitoring')}/jsz"

    async def members() -> int:
        with await asyncio.to_thread(urllib.request.urlopen, size, timeout=bound(5)) as answer:
            found: int = json.load(answer)["meta_cluster"]["cluster_size"]
            return found

    with pytest.raises(NoAnswerError, match=r"Authorization|closed"):
        await replace(one, password="guessed").remove(three.name)
    await one.remove("web-9.nobody")
    assert await members() == 3
    await workers[2].kill()
    stay, end = [each.spec.oid for each in workers[:2]], time.monotonic() + bound(60)
    while not (found := await one.gone(stay) | await two.gone(stay)):
        assert time.monotonic() < end, "nobody has found it gone"
        await asyncio.sleep(0.5)
    assert found == {three.name}
    await one.remove(three.name)
    assert await members() == 2
    assert await two.leave(CLOCK) is None and await two.leave(CLOCK) is None
    assert await members() == 1


def membership(worker: Worker) -> Membership:
    urls = {each.name: RecordedListener(each.port, each.address) for each in worker.launch.listeners}
    spec = worker.spec
    record = WorkerRecord(
        oid=spec.oid,
        worker=spec.name,
        cluster=spec.cluster,
        generation=1,
        digest="",
        token="",
        listeners=urls,
    )
    found = membership_of(record, worker.folder)
    assert found is not None
    return found


async def test_an_agent_has_it_read_its_users_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "USAGE_S", 0.2)
    (home.root / "users.conf").write_text(USERS)
    async with bench(home.root) as node:
        with node.toml.open("a") as file:
            file.write(f"[runtimes.nats]\nsecrets_root = '{home.root}'\n")
        await node.start()
        transport = {"type": "mqtt", "options": {"auth_file": "users.conf"}}
        node.assign(worker("web-1", "nats", transport=transport, digest="d1"))
        status = await node.state("web-1", "RUNNING")
        port = int(status["address"].rpartition(":")[2])
        alice = Client(port, "alice", user=("alice", "wonder"))
        await node.report(lambda last: last["workers"][0].get("traffic", {}).get("connections") == 1)
        (home.root / "users.conf").write_text(USERS + "accounts {")
        await node.report(lambda last: "not reloaded" in str(last["workers"][0]["reason"]))
        alice.publish("t", b"x")
        (home.root / "users.conf").write_text(USERS.replace("wonder", "changed"))
        # The agent runs in this process.
        await asyncio.to_thread(alice.wait, lambda: "gone" in alice.told, "the former password's end")
        assert Client(port, "alice", user=("alice", "changed")).code == 0
        assert (await node.state("web-1", "RUNNING"))["pid"] == status["pid"]


async def test_an_agent_restarts_and_adopts_it_with_all_its_listeners(home: Home) -> None:
    async with bench(home.root) as node:
        await node.start()
        node.assign(worker("web-1", "nats", transport={"type": "mqtt"}, digest="d1"))
        first = await node.state("web-1", "RUNNING")
        assert list(first["listeners"]) == ["default", "client", "monitoring"]
        port = int(first["address"].rpartition(":")[2])
        Client(port, "sender").publish("kept", b"retained", retain=True)
        # It is acknowledged before it is in the stream, which is what is read after the kill.
        Patient(port, "first").finds("kept", b"retained")
        os.kill(first["pid"], signal.SIGKILL)
        again = await node.state("web-1", "RUNNING", restarts=1)
        assert again["listeners"] == first["listeners"]
        Patient(port, "reader").finds("kept", b"retained")
        for lost in (False, True):
            await node.stop()
            if lost:
                (node.folder / "state" / "records" / "oid-web-1.json").unlink()
            node.reports.clear()
            await node.start()
            kept = await node.state("web-1", "RUNNING")
            assert (kept["pid"], kept["listeners"]) == (again["pid"], first["listeners"]), lost
            assert kept["reason"] is None
