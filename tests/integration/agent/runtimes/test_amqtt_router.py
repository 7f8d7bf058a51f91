"""The shipped MQTT router as its clients see it: paho against the real worker process.

Each test is a fault of stock amqtt 0.12.1.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import struct
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from busbar.agent.processes.ports import choose_port
from busbar.agent.processes.process import SpawnSpec, WorkerProcesses
from busbar.agent.processes.sockets import bind_error
from busbar.agent.runtimes import WorkerSpec, load_runtimes, prepare
from busbar.agent.workers.probes import probe
from busbar.bus.clock import SystemClock
from paho.mqtt.enums import CallbackAPIVersion

from tests.pace import bound

SCOPE = f"router/{uuid.uuid4().hex}"
CLOCK = SystemClock()
Got = tuple[str, bytes, int, bool]
NAMES = itertools.count()


class Client:
    """A paho client that is stepped by the test, so that nothing happens behind its back."""

    def __init__(self, port: int, name: str = "", *, clean: bool = True, **options: Any) -> None:
        self.got: list[Got] = []
        self.told: list[str] = []
        self.granted: list[int] = []
        self.present = False
        self.code = -1
        user = options.pop("user", None)
        will = options.pop("will", None)
        keep_alive = options.pop("keep_alive", 60)
        self.paho = mqtt.Client(CallbackAPIVersion.VERSION2, name, clean_session=clean, **options)
        self.paho.on_message = lambda _c, _d, m: self.got.append((m.topic, m.payload, m.qos, m.retain))
        self.paho.on_connect = self._connected
        self.paho.on_disconnect = lambda *_: self.told.append("gone")
        self.paho.on_subscribe = lambda _c, _d, _m, codes, _p: self._subscribed([c.value for c in codes])
        self.paho.on_unsubscribe = lambda *_: self.told.append("unsubscribed")
        self.paho.on_publish = lambda *_: self.told.append("published")
        if user:
            self.paho.username_pw_set(*user)
        if will:
            self.paho.will_set(*will)
        self.paho.connect("127.0.0.1", port, keep_alive)
        self.until("connected")

    def _connected(self, _client: Any, _data: Any, flags: Any, code: Any, _properties: Any) -> None:
        self.present, self.code = flags.session_present, code.value
        self.told.append("connected")

    def _subscribed(self, codes: list[int]) -> None:
        self.granted = codes
        self.told.append("subscribed")

    def step(self) -> None:
        self.paho.loop(0.02)

    def until(self, what: str) -> None:
        self.wait(lambda: what in self.told, what)
        self.told.remove(what)

    def wait(self, condition: Any, what: str = "") -> None:
        end = time.monotonic() + bound(10)
        while not condition():
            assert time.monotonic() < end, (what, self.told, self.got)
            self.step()

    def subscribe(self, *filters: str, qos: int = 2) -> list[int]:
        self.paho.subscribe([(wanted, qos) for wanted in filters])
        self.until("subscribed")
        return self.granted

    def publish(self, topic: str, payload: bytes = b"", qos: int = 1, retain: bool = False) -> None:
        self.paho.publish(topic, payload, qos, retain)
        self.until("published")

    def messages(self, until: str) -> list[Got]:
        """What came, up to the message on this topic, which is left out."""
        self.wait(lambda: any(topic == until for topic, *_ in self.got), f"nothing on {until}")
        index = next(i for i, (topic, *_) in enumerate(self.got) if topic == until)
        found, self.got = self.got[:index], self.got[index + 1 :]
        return found

    def through(self) -> list[Got]:
        """What came before an own message that is published now; it passes all that was sent before."""
        fence = f"fence/{next(NAMES)}"
        self.subscribe(fence, qos=0)
        self.publish(fence)
        return self.messages(fence)

    def leave(self) -> None:
        self.paho.disconnect()
        self.wait(lambda: "gone" in self.told)

    def vanish(self) -> None:
        """The connection breaks, without DISCONNECT."""
        found = self.paho.socket()
        assert found is not None
        found.shutdown(socket.SHUT_RDWR)
        self.wait(lambda: "gone" in self.told)


class Raw:
    """Bytes that paho would not send."""

    def __init__(self, port: int, name: bytes = b"raw", flags: int = 2, keep_alive: int = 0) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), bound(10))
        body = b"\0\4MQTT\4" + struct.pack("!BHH", flags, keep_alive, len(name)) + name
        self.sock.sendall(bytes([0x10, len(body)]) + body)
        assert self.sock.recv(4) in (b"\x20\2\0\0", b"\x20\2\1\0")

    def ended(self) -> bool:
        """Wait until the router closed the connection."""
        with self.sock:
            try:
                while self.sock.recv(1024):
                    pass
            except ConnectionError:
                pass
            return True


@pytest.fixture
async def port(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[int]:
    """The port of a router; an indirect parameter is the text of its password file."""
    processes = WorkerProcesses(SCOPE, CLOCK)
    transport: dict[str, Any] = {"type": "mqtt"}
    if getattr(request, "param", None):
        (tmp_path / "users").write_text(request.param)
        transport["options"] = {"password_file": "users"}
    runtime = load_runtimes({"amqtt": {"secrets_root": str(tmp_path)}})["amqtt"]
    wish = runtime.ports_needed(transport)["default"]
    number = choose_port(wish, (), lambda p: bind_error(wish.interface, p, shared=False), offset=os.getpid())
    folder = tmp_path / "web-1"
    spec = WorkerSpec("web-1", str(uuid.uuid4()), "edge", "web", 1, transport)
    launch = runtime.render(spec, "127.0.0.1", {"default": number}, folder)
    prepare(launch, folder)
    log = folder / "worker.log"
    process = processes.spawn(SpawnSpec("web-1", uuid.uuid4().hex, launch.argv, folder, log, launch.env))
    async with asyncio.timeout(bound(20)):
        while await probe(launch.ready, launch.probe_host, number, log, 2.0, log_from=0) is not None:
            assert process.running, log.read_text()
            await asyncio.sleep(0.02)
    yield number
    for found in processes.scan():
        await processes.kill_by_token(found.token)
    assert "Traceback" not in log.read_text()


@pytest.fixture
def watcher(port: int) -> Iterator[Client]:
    """A client that hears everything at QoS 2."""
    made = Client(port, "watcher")
    made.subscribe("#")
    yield made
    made.leave()


@pytest.mark.fault(103, "U")
def test_retained_messages_come_with_a_subscription_and_never_with_a_connection(port: int) -> None:
    other = Client(port)
    other.subscribe("#", "r/#")
    other.publish("r/1", b"kept", retain=True)
    first = Client(port, "w", clean=False)
    first.subscribe("w/#")
    assert first.through() == []
    first.leave()
    again = Client(port, "w", clean=False)
    assert again.present
    assert again.through() == []
    again.subscribe("r/+")
    assert again.through() == [("r/1", b"kept", 1, True)]
    other.publish("r/1", b"", retain=True)
    assert again.through() == [("r/1", b"", 1, False)]
    again.subscribe("r/+")
    assert again.through() == []


@pytest.mark.fault(104, "H")
@pytest.mark.parametrize("clean", [True, False])
def test_a_will_is_published_when_its_client_id_is_taken_over(
    port: int, watcher: Client, clean: bool
) -> None:
    first = Client(port, "n", clean=clean, will=("state/n", b"first lost", 1, True))
    second = Client(port, "n", clean=clean, will=("state/n", b"second lost", 1, True))
    second.publish("state/n", b"here", retain=True)
    assert first.wait(lambda: "gone" in first.told) is None
    # The former connection's will comes first, and its session's end takes nothing from the newer one.
    assert second.subscribe("x") == [2]
    watcher.publish("x", b"1")
    assert second.through() == [("x", b"1", 1, False)]
    heard = [payload for topic, payload, *_ in watcher.through() if topic == "state/n"]
    assert heard == [b"first lost", b"here"]
    second.leave()
    third = Client(port)
    third.subscribe("state/n")
    assert third.through() == [("state/n", b"here", 1, True)]


@pytest.mark.fault(104, "H")
@pytest.mark.parametrize("users", [(("u1", "x"), None), (None, ("u1", "x")), (("u1", "x"), ("u2", "y"))])
def test_a_name_that_nobody_verifies_makes_no_other_client(port: int, watcher: Client, users: Any) -> None:
    first = Client(port, "n", user=users[0], will=("state/n", b"lost", 1, False))
    second = Client(port, "n", user=users[1])
    first.wait(lambda: "gone" in first.told)
    second.publish("state/n", b"here")
    assert [payload for topic, payload, *_ in watcher.through() if topic == "state/n"] == [b"lost", b"here"]


@pytest.mark.fault(104, "H")
def test_a_will_is_published_after_one_and_a_half_keepalives_of_silence(port: int, watcher: Client) -> None:
    body = b"\0\4MQTT\4\x06\0\1\0\1s\0\4will\0\1x"
    with socket.create_connection(("127.0.0.1", port), bound(10)) as silent:
        silent.sendall(bytes([0x10, len(body)]) + body)
        assert watcher.messages("will") == []


def test_a_disconnect_behind_messages_loses_neither_them_nor_the_will(port: int, watcher: Client) -> None:
    raw = Raw(port)
    sent = b"".join(bytes([0x32, 6, 0, 1]) + b"t" + bytes([0, n]) + b"%d" % n for n in range(1, 10))
    raw.sock.sendall(sent + b"\xe0\0")
    raw.sock.shutdown(socket.SHUT_WR)
    assert raw.ended()
    assert [payload for _, payload, *_ in watcher.through()] == [b"%d" % n for n in range(1, 10)]


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_topic_of_the_router_s_own_is_acknowledged_goes_nowhere_and_the_link_lives(
    port: int, watcher: Client, qos: int
) -> None:
    """So do other brokers: clients that publish to $SYS or $share by mistake would come back for ever."""
    client, own = Client(port, will=("$SYS/will", b"x")), Client(port)
    assert own.subscribe("$SYS/#", "$x/+") == [2, 2]
    for topic in ("$SYS/x", "$x/y", "$"):
        client.publish(topic, b"x", qos, retain=True)
    assert client.through() == []
    client.vanish()
    assert Client(port).subscribe("$SYS/#") == [2]
    assert own.through() == []
    assert all(topic.startswith("fence/") for topic, *_ in watcher.through())


@pytest.mark.parametrize("topic", [b"a/+", b"a/#", b""])
def test_a_topic_that_cannot_be_published_ends_the_connection(
    port: int, watcher: Client, topic: bytes
) -> None:
    raw = Raw(port)
    inner = b"\x30\5\0\3d/eX"  # a payload that would pass for a packet
    body = len(topic).to_bytes(2) + topic + inner
    raw.sock.sendall(bytes([0x30, len(body)]) + body)
    assert raw.ended()
    assert watcher.through() == []


@pytest.mark.parametrize("forbidden", [b"\0", b"\xff", b"\xed\xa0\x80"])
@pytest.mark.parametrize(
    ("first", "before", "after"), [(0x30, b"", b"x"), (0x82, b"\0\1", b"\0"), (0xA2, b"\0\1", b"")]
)
def test_a_topic_that_mqtt_forbids_ends_the_connection(
    port: int, first: int, before: bytes, after: bytes, forbidden: bytes
) -> None:
    raw = Raw(port)
    topic = b"a" + forbidden
    body = before + len(topic).to_bytes(2) + topic + after
    raw.sock.sendall(bytes([first, len(body)]) + body)
    assert raw.ended()


TABLE = [
    ("a/#", ["a", "a/b", "a/b/c"], ["b", "aa", "$SYS/a"]),
    ("a/+", ["a/b", "a/"], ["a", "a/b/c"]),
    ("+/+", ["a/b", "/a"], ["a"]),
    ("+", ["a"], ["/a", "a/b"]),
    ("#", ["a", "/", "a/b"], []),
    ("/a", ["/a"], ["a"]),
    ("+/a/#", ["x/a", "/a/b"], ["a"]),
]


@pytest.mark.parametrize(("wanted", "matching", "others"), TABLE)
def test_filters(port: int, wanted: str, matching: list[str], others: list[str]) -> None:
    client = Client(port)
    publisher = Client(port)
    topics = [topic for topic in matching + others if not topic.startswith("$")]
    assert client.subscribe(wanted) == [2]
    for topic in topics:
        publisher.publish(topic, b"x", retain=True)
    heard = {topic for topic, *_ in client.through() if not topic.startswith("fence")}
    assert heard == set(matching)
    late = Client(port)
    late.subscribe(wanted)
    kept = {topic for topic, *_ in late.through() if not topic.startswith("fence")}
    assert kept == set(matching)


def test_filters_that_are_none_are_refused(port: int) -> None:
    raw = Raw(port)
    filters = [b"a/#/b", b"a#", b"a+/b", b"", b"a"]
    body = b"\0\1" + b"".join(len(f).to_bytes(2) + f + b"\1" for f in filters)
    raw.sock.sendall(bytes([0x82, len(body)]) + body)
    assert raw.sock.recv(64) == b"\x90\7\0\1\x80\x80\x80\x80\1"


@pytest.mark.parametrize(("sent", "granted"), itertools.product(range(3), range(3)))
def test_a_message_comes_at_the_lower_quality_of_service(port: int, sent: int, granted: int) -> None:
    client, late, publisher = Client(port), Client(port), Client(port)
    assert client.subscribe("t", qos=granted) == [granted]
    publisher.publish("t", b"x", qos=sent, retain=True)
    assert client.through() == [("t", b"x", min(sent, granted), False)]
    assert late.subscribe("t", qos=granted) == [granted]
    assert late.through() == [("t", b"x", min(sent, granted), True)]


def test_overlapping_filters_deliver_once_and_one_given_up_leaves_the_other(port: int) -> None:
    client, publisher = Client(port), Client(port)
    client.subscribe("a/#", qos=1)
    client.subscribe("a/b", qos=0)
    publisher.publish("a/b", b"1")
    assert client.through() == [("a/b", b"1", 1, False)]
    client.paho.unsubscribe("a/#")
    client.until("unsubscribed")
    publisher.publish("a/b", b"2")
    publisher.publish("a/c", b"3")
    assert client.through() == [("a/b", b"2", 0, False)]
    client.subscribe("a/b", qos=2)  # grants anew
    publisher.publish("a/b", b"4", qos=2)
    assert client.through() == [("a/b", b"4", 2, False)]


def test_unsubscribe_then_subscribe_in_one_go_is_subscribed(port: int) -> None:
    client = Client(port)
    client.subscribe("t")
    client.paho.unsubscribe("t")
    client.paho.subscribe("t", 1)
    client.until("subscribed")
    client.publish("t", b"x")
    assert client.through() == [("t", b"x", 1, False)]


@pytest.mark.parametrize("qos", [1, 2])
def test_a_persistent_session_keeps_what_comes_while_it_is_away(port: int, qos: int) -> None:
    client, publisher = Client(port, "c", clean=False), Client(port)
    client.subscribe("t", qos=qos)
    client.vanish()
    for n in range(20):
        publisher.publish("t", b"%d" % n, qos=qos)
    publisher.publish("t", b"lost", qos=0)
    again = Client(port, "c", clean=False)
    assert again.present
    assert again.through() == [("t", b"%d" % n, qos, False) for n in range(20)]
    again.leave()
    clean = Client(port, "c")
    assert not clean.present
    publisher.publish("t", b"x")
    assert clean.through() == []
    clean.leave()
    assert not Client(port, "c", clean=False).present


@pytest.mark.parametrize("qos", [1, 2])
def test_what_was_not_acknowledged_comes_again(port: int, qos: int) -> None:
    publisher = Client(port)
    raw = Raw(port, b"c", flags=0)
    raw.sock.sendall(bytes([0x82, 6, 0, 1, 0, 1]) + b"t" + bytes([qos]))
    assert raw.sock.recv(5) == bytes([0x90, 3, 0, 1, qos])
    publisher.publish("t", b"x", qos=qos)
    first = bytes([0x30 | qos << 1, 6, 0, 1]) + b"t" + b"\0\1x"
    assert raw.sock.recv(8) == first
    raw.sock.close()
    again = Raw(port, b"c", flags=0)
    assert again.sock.recv(8) == bytes([first[0] | 8]) + first[1:]
    if qos == 2:
        again.sock.sendall(b"\x50\2\0\1")
        assert again.sock.recv(4) == b"\x62\2\0\1"
        again.sock.close()
        again = Raw(port, b"c", flags=0)
        assert again.sock.recv(4) == b"\x62\2\0\1"
    again.sock.sendall(b"\x70\2\0\1" if qos == 2 else b"\x40\2\0\1")
    again.sock.sendall(b"\xe0\0")
    assert again.ended()
    last = Client(port, "c", clean=False)
    assert last.present
    assert last.through() == []


def test_a_qos_2_message_that_is_sent_twice_is_delivered_once(port: int, watcher: Client) -> None:
    raw = Raw(port, b"c", flags=0)
    packet = bytes([0x34, 6, 0, 1]) + b"t" + b"\0\7x"
    raw.sock.sendall(packet)
    assert raw.sock.recv(4) == b"\x50\2\0\7"
    raw.sock.close()
    again = Raw(port, b"c", flags=0)
    again.sock.sendall(bytes([packet[0] | 8]) + packet[1:])
    assert again.sock.recv(4) == b"\x50\2\0\7"
    for _ in range(2):
        again.sock.sendall(b"\x62\2\0\7")
        assert again.sock.recv(4) == b"\x70\2\0\7"
    assert watcher.through() == [("t", b"x", 2, False)]


def users() -> str:
    from pwdlib.hashers.argon2 import Argon2Hasher

    return "".join(f"{name}:{Argon2Hasher().hash('right')}\n" for name in ("alice", "bob"))


@pytest.mark.parametrize("port", [users()], indirect=True)
@pytest.mark.parametrize("user", [("alice", "wrong"), ("bob", "right"), None])
def test_no_stranger_touches_a_session(port: int, user: tuple[str, str] | None) -> None:
    mine = Client(port, "c", clean=False, user=("alice", "right"), will=("will", b"", 1, False))
    mine.subscribe("t")
    stranger = Client(port, "c", user=user)
    assert (stranger.code == 0) == (user is not None and user[1] == "right")
    mine.publish("t", b"x")
    assert mine.through() == [("t", b"x", 1, False)]
    assert "gone" not in mine.told
