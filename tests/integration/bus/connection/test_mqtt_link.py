"""The MQTT connection against real brokers: TCP, TLS, WebSocket, MQTT 5, loss and return of the broker."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from busbar.bus.backoff import Backoff
from busbar.bus.broker import BrokerConfig, EmbeddedBroker
from busbar.bus.broker.accounts import ensure_account
from busbar.bus.clock import SystemClock
from busbar.bus.connection.link import Message, Properties, Will
from busbar.bus.connection.mqtt_link import MqttLink
from busbar.bus.connection.rpc import Caller
from busbar.bus.errors import BusError, BusOfflineError, CallTimeoutError
from busbar.bus.options import Address, ConnectOptions, TlsOptions
from busbar.bus.topics import Topics

from tests.brokers import free_port, mosquitto, until
from tests.certificates import certificates
from tests.pace import bound

pytestmark = pytest.mark.mosquitto


@asynccontextmanager
async def running(link: MqttLink) -> AsyncIterator[MqttLink]:
    task = asyncio.create_task(link.run())
    try:
        await link.wait_connected(bound(10))
        yield link
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def make(options: ConnectOptions, **more: object) -> MqttLink:
    quick = Backoff(base=0.02, cap=0.1)
    return MqttLink(options, clock=SystemClock(), random=Random(1), backoff=quick, **more)  # type: ignore[arg-type]


async def echo_once(options: ConnectOptions, topic: str = "t/x") -> Message:
    link = make(options)
    got: asyncio.Queue[Message] = asyncio.Queue()
    link.subscribe(topic, got.put_nowait)
    async with running(link):
        await link.publish(topic, b"hello")
        return await asyncio.wait_for(got.get(), bound(5))


async def test_tcp(mosquitto_port: int) -> None:
    message = await echo_once(ConnectOptions(port=mosquitto_port))
    assert (message.topic, message.payload, message.retain) == ("t/x", b"hello", False)


@pytest.mark.parametrize("protocol", [4, 5])
async def test_every_acknowledgement_is_heard_plain_or_with_a_reason(
    mosquitto_port: int, protocol: int
) -> None:
    """MQTT 5 brokers add a reason where nobody has subscribed."""
    link = make(ConnectOptions(port=mosquitto_port, protocol=protocol))
    link.subscribe("t/heard", lambda message: None)
    async with running(link):
        async with asyncio.timeout(bound(5)):
            for topic in ("t/heard", "t/unheard"):
                await asyncio.gather(*(link.publish(topic, b"x") for _ in range(100)))


async def test_what_is_sent_with_a_callback_is_told_once_the_broker_has_it(mosquitto_port: int) -> None:
    link = make(ConnectOptions(port=mosquitto_port))
    told: asyncio.Queue[tuple[int, BusOfflineError | None]] = asyncio.Queue()

    def send(number: int) -> None:
        link.send("t/x", bytes(100_000), lambda error: told.put_nowait((number, error)))

    send(0)
    assert told.empty(), "never from within the call"
    assert isinstance((await asyncio.wait_for(told.get(), bound(5)))[1], BusOfflineError)
    async with running(link):
        for number in range(1, 101):
            send(number)
        assert [await asyncio.wait_for(told.get(), bound(10)) for _ in range(100)] == [
            (number, None) for number in range(1, 101)
        ]
        send(101)
        link.reconnect("a test")
        number, error = await asyncio.wait_for(told.get(), bound(5))
        assert (number, type(error)) == (101, BusOfflineError)


async def test_a_callback_that_raises_harms_nobody(mosquitto_port: int) -> None:
    link = make(ConnectOptions(port=mosquitto_port))
    async with running(link):
        link.send("t/x", b"", lambda _: int("no number"))  # type: ignore[arg-type]
        await link.publish("t/x", b"")
        assert link.connected and link.conn == 1


async def test_websocket(tmp_path: Path) -> None:
    # Against the embedded broker: mosquitto's WebSocket listener of Debian 12 does not start.
    accounts = tmp_path / "accounts.json"
    ensure_account(accounts, "manager", "manager", "secret")
    async with EmbeddedBroker(BrokerConfig(accounts, ws_port=0)) as broker:
        assert broker.ws_port
        options = ConnectOptions(
            port=broker.ws_port, transport="websockets", username="manager", password="secret"
        )
        message = await echo_once(options, "busbar/v1/lab/event/_/node/n1/online")
    assert message.payload == b"hello"


async def test_tls_with_client_certificate(tmp_path: Path) -> None:
    certificates(tmp_path, "ca", "server", "alice")
    lines = (
        f"cafile {tmp_path}/ca.crt",
        f"certfile {tmp_path}/server.crt",
        f"keyfile {tmp_path}/server.key",
        "require_certificate true",
        "use_identity_as_username true",
    )
    with mosquitto(tmp_path, *lines) as port:
        tls = TlsOptions(tmp_path / "ca.crt", tmp_path / "alice.crt", tmp_path / "alice.key")
        message = await echo_once(ConnectOptions(port=port, tls=tls))
        assert message.payload == b"hello"
        stranger = make(ConnectOptions(port=port, tls=TlsOptions(tmp_path / "ca.crt")))
        task = asyncio.create_task(stranger.run())
        try:
            with pytest.raises(BusOfflineError):
                await stranger.wait_connected(1)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_mqtt5_properties(mosquitto_port: int) -> None:
    link = make(ConnectOptions(port=mosquitto_port, protocol=5))
    got: asyncio.Queue[Message] = asyncio.Queue()
    link.subscribe("t/+", got.put_nowait)
    sent = Properties("t/reply", b"corr", 60, "application/json", (("code", "busy"),))
    async with running(link):
        await link.publish("t/x", b"hello", properties=sent)
        message = await asyncio.wait_for(got.get(), bound(5))
    assert message.properties.response_topic == "t/reply"
    assert message.properties.correlation == b"corr"
    assert message.properties.content_type == "application/json"
    assert message.properties.user == (("code", "busy"),)


async def test_mqtt5_shows_the_retain_flag_of_a_live_message_where_it_is_asked_for(
    mosquitto_port: int,
) -> None:
    for shown in ((), ("t/+",)):
        link = make(ConnectOptions(port=mosquitto_port, protocol=5, as_published=shown))
        got: asyncio.Queue[Message] = asyncio.Queue()
        link.subscribe("t/+", got.put_nowait)
        async with running(link):
            await link.publish("t/r", b"hello", retain=True)
            assert (await asyncio.wait_for(got.get(), bound(5))).retain is bool(shown)
            await link.publish("t/r", b"", retain=True)


async def test_a_broker_without_mqtt5_is_spoken_to_in_3_1_1(tmp_path: Path) -> None:
    """It refuses the version, hangs up, or says nothing."""
    with mosquitto(tmp_path) as port:
        for answer in (b"\x20\x02\x00\x01", b""):
            async with _only_3_1_1(port, answer) as front:
                link = make(ConnectOptions(port=front, protocol=5, falls_back=True))
                got: asyncio.Queue[Message] = asyncio.Queue()
                link.subscribe("t/x", got.put_nowait)
                async with running(link):
                    await link.publish("t/x", b"hello", properties=Properties(correlation=b"1"))
                    assert (await asyncio.wait_for(got.get(), bound(5))).payload == b"hello"


@asynccontextmanager
async def _only_3_1_1(port: int, answer: bytes) -> AsyncIterator[int]:
    """A broker in front of another one: it gives MQTT 5 this answer and hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = await reader.readexactly(9)
        if hello[8] == 5:
            writer.write(answer)
            await writer.drain()
            writer.close()
            return
        inner, outer = await asyncio.open_connection("127.0.0.1", port)
        outer.write(hello)
        await asyncio.gather(_copy(reader, outer), _copy(inner, writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(65_536):
        sink.write(data)
        await sink.drain()
    sink.close()


async def test_reconnects_resubscribes_and_runs_the_hooks_again(tmp_path: Path) -> None:
    port = free_port()
    hooks: asyncio.Queue[int] = asyncio.Queue()
    got: asyncio.Queue[Message] = asyncio.Queue()
    link = make(ConnectOptions(port=port))

    async def hook() -> None:
        hooks.put_nowait(link.conn)
        await link.publish("t/state", b"here", retain=True)

    link.on_connect(hook)
    link.subscribe("t/#", got.put_nowait)
    task = asyncio.create_task(link.run())
    try:
        for _ in range(2):
            with mosquitto(tmp_path, port=port):
                await asyncio.wait_for(hooks.get(), bound(10))
                assert (await asyncio.wait_for(got.get(), bound(5))).payload == b"here"
            await wait_down(link)
            with pytest.raises(BusOfflineError):
                await link.publish("t/x", b"lost")
            assert link.post("t/x", b"lost") is False
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_goes_to_the_next_broker_when_one_is_lost_and_back_when_that_one_is(tmp_path: Path) -> None:
    ports = [free_port(), free_port()]
    hooks: asyncio.Queue[int] = asyncio.Queue()
    got: asyncio.Queue[Message] = asyncio.Queue()
    link = make(ConnectOptions(port=ports[0], others=(Address("127.0.0.1", ports[1]),)))

    async def hook() -> None:
        hooks.put_nowait(link.rotation.current.port)
        await link.publish("t/state", b"here", retain=True)

    link.on_connect(hook)
    link.subscribe("t/#", got.put_nowait)
    task = asyncio.create_task(link.run())
    brokers = [mosquitto(tmp_path, port=port) for port in (ports[0], ports[1], ports[0])]
    try:
        brokers[0].__enter__()
        for at, (broker, after) in enumerate(pairwise([*brokers, None])):
            assert await asyncio.wait_for(hooks.get(), bound(10)) == ports[at % 2]
            assert (await asyncio.wait_for(got.get(), bound(5))).payload == b"here"
            if after is not None:
                after.__enter__()
            assert broker is not None
            await asyncio.to_thread(broker.__exit__, None, None, None)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for broker in brokers:
            with contextlib.suppress(Exception):
                broker.__exit__(None, None, None)


async def test_a_broker_that_says_nothing_is_left_for_the_next(mosquitto_port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mute = ConnectOptions(port=silent.getsockname()[1], connect_s=0.1)
        link = make(replace(mute, others=(Address("127.0.0.1", mosquitto_port),)))
        async with running(link):
            await link.publish("t/x", b"hello")
            assert link.rotation.current.port == mosquitto_port and link.conn == 2
            assert "does not answer the CONNECT" in link.rotation.last_error


async def wait_down(link: MqttLink) -> None:
    await until(lambda: not link.connected)


async def test_will_is_new_for_each_connection_and_not_fired_by_a_goodbye(mosquitto_port: int) -> None:
    watcher = make(ConnectOptions(port=mosquitto_port))
    got: asyncio.Queue[Message] = asyncio.Queue()
    watcher.subscribe("will/+", got.put_nowait)
    mortal = make(
        ConnectOptions(port=mosquitto_port), will=lambda conn: Will("will/x", f"lost {conn}".encode())
    )
    async with running(watcher):
        async with running(mortal):
            for conn in (1, 2):
                mortal._connection.client._sock_close()  # type: ignore[union-attr]  # as a cut cable would
                mortal.reconnect("test")
                assert (await asyncio.wait_for(got.get(), bound(5))).payload == f"lost {conn}".encode()
                await wait_conn(mortal, conn + 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(got.get(), 0.3)


async def wait_conn(link: MqttLink, conn: int) -> None:
    await until(lambda: link.connected and link.conn >= conn)


async def test_a_handler_that_raises_ends_nothing(mosquitto_port: int) -> None:
    link = make(ConnectOptions(port=mosquitto_port))
    got: asyncio.Queue[Message] = asyncio.Queue()

    def broken(message: Message) -> None:
        raise RuntimeError("on purpose")

    link.subscribe("a/#", broken)
    link.subscribe("b/#", got.put_nowait)
    async with running(link):
        await link.publish("a/x", b"1")
        await link.publish("b/x", b"2")
        assert (await asyncio.wait_for(got.get(), bound(5))).payload == b"2"
        assert link.connected


async def test_wrong_password_says_so(tmp_path: Path) -> None:
    with mosquitto(tmp_path, "allow_anonymous false") as port:
        link = make(ConnectOptions(port=port, username="alice", password="wrong"))
        task = asyncio.create_task(link.run())
        try:
            with pytest.raises(BusOfflineError, match=r"(?i)not authori[sz]ed"):
                await link.wait_connected(1)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_many_in_flight(mosquitto_port: int) -> None:
    link = make(ConnectOptions(port=mosquitto_port))
    seen: set[bytes] = set()
    done = asyncio.Event()

    def count(message: Message) -> None:
        seen.add(message.payload)
        if len(seen) == 3000:
            done.set()

    link.subscribe("t/+", count)
    async with running(link):
        await asyncio.gather(*(link.publish("t/x", str(n).encode()) for n in range(3000)))
        await asyncio.wait_for(done.wait(), bound(20))


async def test_rpc_resends_the_same_id_until_answered(
    mosquitto_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("busbar.bus.connection.rpc.RESEND_AFTER", 0.1)
    topics = Topics("lab")
    clock = SystemClock()
    link = make(ConnectOptions(port=mosquitto_port))
    caller = Caller(link, topics, "alice", "box", clock, lambda: "r1", Random(1))
    server = make(replace(ConnectOptions(port=mosquitto_port), client_id="server"))
    seen: list[bytes] = []

    def answer(message: Message) -> None:
        seen.append(message.payload)
        if len(seen) == 2:
            server.post(topics.response("alice", "box"), b'{"id":"r1","ok":true,"result":[1]}')

    server.subscribe(topics.all_requests(), answer)
    async with running(server), running(link):
        assert await caller.call("list_nodes", timeout=bound(5)) == [1]
    assert len(seen) == 2 and seen[0] == seen[1]


async def test_rpc_errors(mosquitto_port: int) -> None:
    topics = Topics("lab")
    link = make(ConnectOptions(port=mosquitto_port))
    caller = Caller(link, topics, "alice", "box", SystemClock(), lambda: "r1", Random(1))
    async with running(link):
        with pytest.raises(CallTimeoutError):
            await caller.call("list_nodes", timeout=0.2)
        call = asyncio.create_task(caller.call("list_nodes", timeout=bound(5)))
        await asyncio.sleep(0)
        error = b'{"code":"no_such_object","detail":"x","errors":[{"pointer":"/p"}]}'
        reply = b'{"id":"r1","ok":false,"error":' + error + b"}"
        await link.publish(topics.response("alice", "box"), reply)
        with pytest.raises(BusError) as caught:
            await call
    assert (caught.value.code, caught.value.pointers) == ("no_such_object", ("/p",))
