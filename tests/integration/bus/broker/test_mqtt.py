"""The embedded broker's weaknesses that were: each one a test against the running broker."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from busbar.bus.broker import EmbeddedBroker
from busbar.bus.broker.limits import LIMITS

from tests.integration.bus.broker.kit import (
    CONNACK,
    R,
    Raw,
    Will,
    broker_in,
    connect_bytes,
    packet,
    packet_id,
    secret,
    text,
)
from tests.pace import bound

REQUEST = f"{R}/request/alice/op"


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[EmbeddedBroker]:
    async with broker_in(tmp_path) as running:
        yield running


async def watcher(broker: EmbeddedBroker) -> Raw:
    """The manager, subscribed to everything it may read."""
    raw = await Raw.connect(broker.port, "manager")
    assert await raw.subscribe(f"{R}/#") == [1]
    return raw


async def test_a_will_obeys_the_publish_acl(broker: EmbeddedBroker) -> None:
    manager = await watcher(broker)
    forged = await Raw.connect(broker.port, "n2", will=Will(f"{R}/node/n1/state", retain=True))
    honest = await Raw.connect(broker.port, "n1", will=Will(f"{R}/node/n1/state", b"mine"))
    forged.leave()
    await asyncio.sleep(0)
    honest.leave()
    assert await manager.message() == (f"{R}/node/n1/state", b"mine", 0x32)
    late = await Raw.connect(broker.port, "alice")
    assert await late.subscribe(f"{R}/node/+/state") == [1]
    await late.ping()
    assert late.got == []


async def test_a_retained_will_is_retained(broker: EmbeddedBroker) -> None:
    manager = await watcher(broker)
    node = await Raw.connect(broker.port, "n1", will=Will(f"{R}/node/n1/state", retain=True))
    node.leave()
    await manager.message()
    late = await Raw.connect(broker.port, "alice")
    await late.subscribe(f"{R}/node/+/state")
    assert await late.message() == (f"{R}/node/n1/state", b"lost", 0x33)


async def test_a_will_is_not_sent_after_disconnect(broker: EmbeddedBroker) -> None:
    manager = await watcher(broker)
    node = await Raw.connect(broker.port, "n1", will=Will(f"{R}/node/n1/state"))
    node.say(packet(0xE0, b""))
    await node.closed()
    await manager.ping()
    assert manager.got == []


@pytest.mark.fault(104, "H")
@pytest.mark.parametrize("clean", [True, False])
async def test_takeover_closes_the_old_link_and_publishes_its_will_before_the_new_one_speaks(
    broker: EmbeddedBroker, clean: bool
) -> None:
    manager = await watcher(broker)
    will = Will(f"{R}/node/n1/state", b"lost", retain=True)
    old = await Raw.connect(broker.port, "n1", client_id="agent", will=will, clean=clean)
    new = await Raw.connect(broker.port, "n1", client_id="agent", will=will, clean=clean)
    await new.publish(f"{R}/node/n1/state", b"ready", retain=True)
    await old.closed(within=1)
    await manager.ping()
    assert [payload for _, payload, _ in manager.got] == [b"lost", b"ready"]
    late = await watcher(broker)
    assert (await late.message())[1] == b"ready"


async def test_nobody_else_has_a_will_published_by_taking_a_client_id(broker: EmbeddedBroker) -> None:
    manager = await watcher(broker)
    await Raw.connect(broker.port, "n1", client_id="agent", will=Will(f"{R}/node/n1/state"))
    await Raw.connect(broker.port, "n2", client_id="agent")
    assert (await Raw.connect(broker.port, "n1", client_id="agent", password="wrong" * 10)).code == 5
    await manager.ping()
    assert manager.got == []


async def test_a_client_id_is_taken_over_only_by_its_own_user(broker: EmbeddedBroker) -> None:
    first = await Raw.connect(broker.port, "n1", client_id="agent")
    stranger = await Raw.connect(broker.port, "n2", client_id="agent")
    assert stranger.code == 0
    await first.ping()
    await stranger.ping()


async def test_a_wrong_password_touches_no_session(broker: EmbeddedBroker) -> None:
    held = await Raw.connect(broker.port, "alice", client_id="desk", clean=False)
    await held.subscribe(f"{R}/status/#")
    intruder = await Raw.connect(broker.port, "alice", client_id="desk", password="wrong" * 10)
    assert intruder.code == 5
    await intruder.closed()
    await held.ping()
    manager = await Raw.connect(broker.port, "manager")
    await manager.publish(f"{R}/status/edge/worker/w")
    assert (await held.message())[0] == f"{R}/status/edge/worker/w"


async def test_retained_messages_of_other_clients_filters_stay_away(broker: EmbeddedBroker) -> None:
    manager = await watcher(broker)
    await manager.publish(f"{R}/node/n1/assignment", b"secret", retain=True)
    first = await Raw.connect(broker.port, "n1")
    assert await first.subscribe(f"{R}/node/n1/assignment") == [1]
    assert (await first.message())[1] == b"secret"
    other = await Raw.connect(broker.port, "n2")
    await other.ping()
    assert await other.subscribe(f"{R}/node/n2/assignment") == [1]
    await other.ping()
    assert other.got == []


async def test_an_empty_retained_message_clears_the_topic(broker: EmbeddedBroker) -> None:
    manager = await Raw.connect(broker.port, "manager")
    await manager.publish(f"{R}/status/edge/worker/w", b"there", retain=True)
    await manager.publish(f"{R}/status/edge/worker/w", b"", retain=True)
    late = await Raw.connect(broker.port, "alice")
    await late.subscribe(f"{R}/status/#")
    await late.ping()
    assert late.got == []


@pytest.mark.fault(102, "S")
async def test_a_wildcard_is_granted_for_what_may_be_read(broker: EmbeddedBroker) -> None:
    manager = await Raw.connect(broker.port, "manager")
    await manager.publish(f"{R}/status/a", b"kept", retain=True)
    await manager.publish(f"{R}/node/n1/assignment", b"secret", retain=True)
    alice = await Raw.connect(broker.port, "alice")
    wanted = [f"{R}/response/alice/#", f"{R}/response/+/x", f"{R}/node/n1/assignment", "$SYS/#", "#"]
    assert await alice.subscribe(*wanted) == [1, 1, 0x80, 1, 1]
    await manager.publish(f"{R}/response/bob/x")
    await manager.publish(f"{R}/response/alice/x")
    await manager.publish(f"{R}/node/n1/command")
    await manager.publish("busbar/v1/lab/manager/m/state")
    await alice.ping()
    assert sorted(topic for topic, _, _ in alice.got) == [
        f"{R}/manager/m/state", f"{R}/response/alice/x", f"{R}/status/a"
    ]  # fmt: skip


async def test_a_filter_that_is_part_of_another_is_given_up_alone(broker: EmbeddedBroker) -> None:
    manager = await Raw.connect(broker.port, "manager")
    alice = await Raw.connect(broker.port, "alice")

    async def got(*topics: str) -> list[str]:
        for topic in topics:
            await manager.publish(f"{R}/{topic}")
        await alice.ping()
        found = [topic.removeprefix(f"{R}/") for topic, _, _ in alice.got]
        alice.got.clear()
        return found

    assert await alice.subscribe("#", f"{R}/#", f"{R}/status/#") == [1, 1, 1]
    assert await got("status/a", "event/a") == ["status/a", "event/a"]
    await alice.unsubscribe("#", f"{R}/status/#")
    assert await got("status/a", "event/a") == ["status/a", "event/a"]
    await alice.unsubscribe(f"{R}/#")
    assert await got("status/a", "event/a") == []
    assert await alice.subscribe("busbar/v1/+/status/#") == [1]
    assert await got("status/a") == ["status/a"]
    await alice.unsubscribe("busbar/v1/+/status/#")
    assert await got("status/a") == []


@pytest.mark.fault(102, "S")
async def test_wide_filters_are_bounded_and_returned(broker: EmbeddedBroker) -> None:
    alice = await Raw.connect(broker.port, "alice")
    wide = [f"{R}/+/+/+/{n}/#" for n in range(40)]
    codes = await alice.subscribe(*wide)
    assert codes == [1] * LIMITS.session_narrowed + [0x80] * (40 - LIMITS.session_narrowed)
    assert await alice.subscribe(f"{R}/status/#") == [1]
    await alice.unsubscribe(*wide, f"{R}/status/#")
    assert await alice.subscribe(*wide[:8]) == [1] * 8


async def test_silence_beyond_one_and_a_half_keepalive_ends_the_link(broker: EmbeddedBroker) -> None:
    manager = await watcher(broker)
    loop = asyncio.get_running_loop()
    began = loop.time()
    node = await Raw.connect(broker.port, "n1", keep_alive=1, will=Will(f"{R}/node/n1/state"))
    await node.closed(within=3)
    assert 1.4 < loop.time() - began < 2.5
    assert (await manager.message())[1] == b"lost"


async def test_a_client_that_pings_is_kept(broker: EmbeddedBroker) -> None:
    node = await Raw.connect(broker.port, "n1", keep_alive=1)
    for _ in range(4):
        with pytest.raises(TimeoutError):
            await node.hear(within=0.6)
        await node.ping()


async def test_publishing_to_sys_is_dropped_and_the_link_lives(broker: EmbeddedBroker) -> None:
    manager = await watcher(broker)
    await manager.publish("$SYS/broker/clients", b"forged", retain=True)
    await manager.publish(f"{R}/event/x")
    assert (await manager.message())[0] == f"{R}/event/x"
    assert await manager.subscribe("$SYS/#", "$SYS/broker/clients") == [1, 1]
    await manager.ping()
    assert manager.got == []


@pytest.mark.parametrize("topic", ["", f"{R}/#", f"{R}/request/+/op", "a\0b"])
async def test_an_impossible_topic_ends_the_link_with_its_will(broker: EmbeddedBroker, topic: str) -> None:
    manager = await watcher(broker)
    node = await Raw.connect(broker.port, "n1", will=Will(f"{R}/node/n1/state"))
    node.say(packet(0x30, text(topic) + b"x"))
    await node.closed()
    assert (await manager.message())[1] == b"lost"


async def test_level_5_is_told_why_and_closed(broker: EmbeddedBroker) -> None:
    for level in (3, 5):
        raw = await Raw.open(broker.port)
        raw.say(connect_bytes("alice", level=level))
        assert await raw.expect(CONNACK) == (0x20, b"\0\1")
        await raw.closed()


async def test_messages_kept_for_an_absent_client_are_not_marked_retained(broker: EmbeddedBroker) -> None:
    alice = await Raw.connect(broker.port, "alice", client_id="desk", clean=False)
    await alice.subscribe(f"{R}/event/#")
    alice.say(packet(0xE0, b""))
    await alice.closed()
    manager = await Raw.connect(broker.port, "manager")
    await manager.publish(f"{R}/event/1", b"one")
    await manager.publish(f"{R}/event/2", b"two")
    back = await Raw.connect(broker.port, "alice", client_id="desk", clean=False)
    assert back.present
    assert [await back.message(), await back.message()] == [
        (f"{R}/event/1", b"one", 0x32),
        (f"{R}/event/2", b"two", 0x32),
    ]


async def test_a_message_without_puback_is_not_forgotten(broker: EmbeddedBroker) -> None:
    alice = await Raw.connect(broker.port, "alice", client_id="desk", clean=False)
    await alice.subscribe(f"{R}/event/#")
    manager = await Raw.connect(broker.port, "manager")
    await manager.publish(f"{R}/event/1", b"one")
    assert (await alice.message(ack=False))[2] == 0x32
    with pytest.raises(TimeoutError):  # stock amqtt forgot the message after 5 s
        await alice.hear(within=5.5)
    alice.leave()
    back = await Raw.connect(broker.port, "alice", client_id="desk", clean=False)
    assert await back.message() == (f"{R}/event/1", b"one", 0x3A)


async def test_a_puback_frees_the_message(broker: EmbeddedBroker) -> None:
    alice = await Raw.connect(broker.port, "alice", client_id="desk", clean=False)
    await alice.subscribe(f"{R}/event/#")
    manager = await Raw.connect(broker.port, "manager")
    await manager.publish(f"{R}/event/1", b"one")
    await alice.message()
    await alice.ping()
    alice.leave()
    back = await Raw.connect(broker.port, "alice", client_id="desk", clean=False)
    await back.ping()
    assert (back.present, back.got) == (True, [])


async def test_a_clean_session_leaves_nothing_behind(broker: EmbeddedBroker) -> None:
    alice = await Raw.connect(broker.port, "alice", client_id="desk", clean=False)
    await alice.subscribe(f"{R}/event/#")
    clean = await Raw.connect(broker.port, "alice", client_id="desk")
    assert not clean.present
    manager = await Raw.connect(broker.port, "manager")
    await manager.publish(f"{R}/event/1")
    await clean.ping()
    assert clean.got == []


async def test_qos_2_is_taken_once(broker: EmbeddedBroker) -> None:
    manager = await watcher(broker)
    alice = await Raw.connect(broker.port, "alice")
    for first in (0x34, 0x3C):
        alice.say(packet(first, text(REQUEST) + struct.pack("!H", 7) + b"once"))
        assert (await alice.expect(5))[1] == struct.pack("!H", 7)
    alice.say(packet(0x62, struct.pack("!H", 7)))
    await alice.expect(7)
    assert (await manager.message())[1] == b"once"
    await manager.ping()
    assert manager.got == []


async def test_overlapping_filters_deliver_once_with_the_highest_qos(broker: EmbeddedBroker) -> None:
    manager = await Raw.connect(broker.port, "manager")
    await manager.subscribe(f"{R}/event/#", qos=0)
    await manager.subscribe(f"{R}/+/x", qos=1)
    await manager.publish(f"{R}/event/x")
    assert (await manager.message())[2] == 0x32
    await manager.ping()
    assert manager.got == []


async def test_unsubscribed_is_not_sent(broker: EmbeddedBroker) -> None:
    manager = await watcher(broker)
    manager.say(packet(0xA2, b"\0\7" + text(f"{R}/#")))
    await manager.expect(11)
    await manager.publish(f"{R}/event/x")
    await manager.ping()
    assert manager.got == []


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        packet(0x30, text(REQUEST)),
        b"\x10\xff\xff\xff\xff\x01",
        packet(0x10, b"\0\4MQ"),
        packet(0x10, text("MQTT") + b"\4\2\0\0" + text("c")),
    ],
)
async def test_garbage_instead_of_connect_is_hung_up_on(broker: EmbeddedBroker, garbage: bytes) -> None:
    raw = await Raw.open(broker.port)
    raw.say(garbage)
    await raw.closed()
    await (await Raw.connect(broker.port, "alice")).ping()


@pytest.mark.parametrize(
    "bad", [packet(0x36, text(REQUEST) + b"\0\1"), packet(0x82, b"\0\1"), packet(0xF0, b"")]
)
async def test_a_broken_packet_ends_only_its_own_link(broker: EmbeddedBroker, bad: bytes) -> None:
    other = await Raw.connect(broker.port, "bob")
    raw = await Raw.connect(broker.port, "alice")
    raw.say(bad)
    await raw.closed()
    await other.ping()


async def test_small_packets_are_sent_at_once(
    broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:

    from busbar.bus.broker import packet_stream

    seen: list[int] = []
    real = packet_stream.set_nodelay

    def spy(transport: asyncio.BaseTransport) -> None:
        real(transport)
        seen.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    monkeypatch.setattr(packet_stream, "set_nodelay", spy)
    await Raw.connect(broker.port, "alice")
    assert seen == [1]


async def test_packet_ids_belong_to_their_messages(broker: EmbeddedBroker) -> None:
    manager = await watcher(broker)
    alice = await Raw.connect(broker.port, "alice")
    await alice.publish(REQUEST, b"1")
    await alice.publish(REQUEST, b"2")
    ids = [packet_id((await manager.expect(3))[1]) for _ in range(2)]
    assert len(set(ids)) == 2


async def test_paho_is_served(broker: EmbeddedBroker) -> None:
    loop = asyncio.get_running_loop()
    heard: asyncio.Future[tuple[str, bytes, bool]] = loop.create_future()
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="desk")
    client.username_pw_set("alice", secret("alice"))
    client.on_connect = lambda c, *_: c.subscribe(f"{R}/status/#", qos=1)
    client.on_message = lambda _c, _u, m: loop.call_soon_threadsafe(
        heard.set_result, (m.topic, m.payload, m.retain)
    )
    manager = await Raw.connect(broker.port, "manager")
    await manager.publish(f"{R}/status/edge/worker/w", b"up", retain=True)
    client.connect_async("127.0.0.1", broker.port)
    client.loop_start()
    try:
        assert await asyncio.wait_for(heard, bound(5)) == (f"{R}/status/edge/worker/w", b"up", True)
    finally:
        client.disconnect()
        await asyncio.to_thread(client.loop_stop)


async def test_paho_at_level_5_learns_that_3_1_1_is_spoken(broker: EmbeddedBroker) -> None:
    loop = asyncio.get_running_loop()
    told: asyncio.Future[str] = loop.create_future()
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5, reconnect_on_failure=False)
    client.username_pw_set("alice", secret("alice"))
    client.on_connect = lambda _c, _u, _f, code, _p: loop.call_soon_threadsafe(told.set_result, str(code))
    client.connect_async("127.0.0.1", broker.port)
    client.loop_start()
    try:
        assert await asyncio.wait_for(told, bound(5)) == "Unsupported protocol version"
    finally:
        await asyncio.to_thread(client.loop_stop)
