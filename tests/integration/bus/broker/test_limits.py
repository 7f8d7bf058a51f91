"""Bounds of the embedded broker: sizes, queues, times, and many clients at once."""

import asyncio
import logging
import os
import resource
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import websockets
from busbar.bus.broker import EmbeddedBroker
from busbar.bus.broker.accounts import remove_account
from busbar.bus.broker.limits import LIMITS

from tests.integration.bus.broker.kit import UNSUBACK, R, Raw, Will, broker_in, connect_bytes, packet, text
from tests.pace import bound

AGENTS = 200


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[EmbeddedBroker]:
    async with broker_in(tmp_path, ws_port=0) as running:
        yield running


async def test_an_oversize_packet_is_refused_from_its_header(broker: EmbeddedBroker) -> None:
    raw = await Raw.connect(broker.port, "alice")
    whole = packet(0x30, bytes(LIMITS.packet_bytes + 1))
    raw.say(whole[:5])  # nothing of the body was sent, so it can't have been read
    await raw.closed(within=1)


async def test_the_largest_packet_passes(broker: EmbeddedBroker) -> None:
    manager = await Raw.connect(broker.port, "manager")
    await manager.subscribe(f"{R}/request/+/+")
    alice = await Raw.connect(broker.port, "alice")
    topic = f"{R}/request/alice/op"
    payload = os.urandom(LIMITS.packet_bytes - len(text(topic)) - 2)
    await alice.publish(topic, payload)
    assert (await manager.message())[1] == payload


async def test_a_connect_is_bounded_more_tightly(broker: EmbeddedBroker) -> None:
    raw = await Raw.open(broker.port)
    raw.say(packet(0x10, bytes(LIMITS.connect_bytes + 1))[:4])
    await raw.closed(within=1)


async def test_silence_before_connect_is_bounded(
    broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("busbar.bus.broker.doorway.CONNECT_WITHIN_S", 0.2)
    raw = await Raw.open(broker.port)
    raw.say(connect_bytes("alice")[:9])
    await raw.closed(within=1)


async def flood(broker: EmbeddedBroker, total: int) -> None:
    """Publish so many bytes of events at QoS 1, one after the other."""
    manager = await Raw.connect(broker.port, "manager", client_id="flood")
    for _ in range(total // 250_000 + 1):
        await manager.publish(f"{R}/event/x", bytes(250_000))


@pytest.mark.parametrize("qos", [0, 1])
async def test_a_consumer_that_does_not_read_is_cut_off_and_memory_stays_bounded(
    broker: EmbeddedBroker, qos: int
) -> None:
    deaf = await Raw.connect(broker.port, "alice", will=Will(f"{R}/request/alice/gone"))
    await deaf.subscribe(f"{R}/event/#", qos=qos)
    deaf.writer.transport.pause_reading()  # type: ignore[attr-defined]
    manager = await Raw.connect(broker.port, "manager")
    await manager.subscribe(f"{R}/request/+/+")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    await flood(broker, 4 * LIMITS.queued_bytes)
    assert (await manager.message())[0] == f"{R}/request/alice/gone"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 3 * LIMITS.queued_bytes


async def test_a_consumer_that_never_acknowledges_is_cut_off(broker: EmbeddedBroker) -> None:
    mute = await Raw.connect(broker.port, "alice")
    await mute.subscribe(f"{R}/event/#")
    reading = asyncio.create_task(mute.closed(within=20))
    await flood(broker, 2 * LIMITS.queued_bytes)
    await reading


async def test_a_slow_consumer_does_not_hold_up_others(broker: EmbeddedBroker) -> None:
    deaf = await Raw.connect(broker.port, "alice")
    await deaf.subscribe(f"{R}/event/#", qos=0)
    deaf.writer.transport.pause_reading()  # type: ignore[attr-defined]
    quick = await Raw.connect(broker.port, "bob")
    await quick.subscribe(f"{R}/event/#", qos=0)
    sending = asyncio.create_task(flood(broker, LIMITS.queued_bytes // 2))
    for _ in range(LIMITS.queued_bytes // 2 // 250_000):
        await quick.message(within=2)
    await sending


async def test_stop_is_bounded_with_a_slow_consumer(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    async with broker_in(tmp_path, ws_port=0) as broker:
        deaf = await Raw.connect(broker.port, "alice")
        await deaf.subscribe(f"{R}/event/#")
        deaf.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await Raw.open(broker.port)  # and one that never says anything
        await flood(broker, LIMITS.queued_bytes // 2)
        began = loop.time()
        await broker.stop()
        assert loop.time() - began < 3
    assert not [task for task in asyncio.all_tasks() if "ClientConnection" in repr(task)]


async def test_stop_sends_no_wills_and_hangs_up(tmp_path: Path) -> None:
    async with broker_in(tmp_path) as broker:
        manager = await Raw.connect(broker.port, "manager")
        await manager.subscribe(f"{R}/#")
        await Raw.connect(broker.port, "n1", will=Will(f"{R}/node/n1/state"))
        await broker.stop()
        await manager.closed(within=1)
        assert manager.got == []


async def test_too_many_filters_are_refused_one_by_one(broker: EmbeddedBroker) -> None:
    manager = await Raw.connect(broker.port, "manager")
    filters = [f"{R}/status/x/worker/w{n}" for n in range(1001)]
    codes: list[int] = []
    for n in range(0, 1001, 250):
        codes += await manager.subscribe(*filters[n : n + 250])
    assert codes == [1] * 1000 + [0x80]
    assert await manager.subscribe(filters[0]) == [1]


DEEP = f"{R}/status" + "/a" * 30
LONG = f"{R}/status/" + "é" * 510


@pytest.mark.fault(76, "S")
@pytest.mark.parametrize("topic", [DEEP, LONG, f"{R}/status/" + "/" * 65_000])
async def test_deep_and_long_topics_are_refused_as_filter_topic_and_will(
    broker: EmbeddedBroker, topic: str
) -> None:
    manager = await Raw.connect(broker.port, "manager")
    assert await manager.subscribe(topic, f"{R}/status/#") == [0x80, 1]
    leaving = await Raw.connect(broker.port, "manager", client_id="b", will=Will(topic))
    await leaving.publish(topic, retain=True)
    leaving.leave()
    await (await Raw.connect(broker.port, "manager", client_id="c")).publish(f"{R}/status/end")
    assert (await manager.message())[0] == f"{R}/status/end"


@pytest.mark.fault(76, "S")
async def test_a_large_will_is_ignored(broker: EmbeddedBroker) -> None:
    manager = await Raw.connect(broker.port, "manager")
    await manager.subscribe(f"{R}/node/+/state")
    for size in (1, 0):
        will = Will(f"{R}/node/n1/state", bytes(LIMITS.will_bytes + size))
        (await Raw.connect(broker.port, "n1", client_id=str(size), will=will)).leave()
    assert len((await manager.message())[1]) == LIMITS.will_bytes


@pytest.mark.fault(76, "S")
async def test_filters_are_bounded_per_account_and_not_per_session(tmp_path: Path) -> None:
    limits = replace(LIMITS, account_filters=10)
    async with broker_in(tmp_path, limits=limits) as broker:
        first = await Raw.connect(broker.port, "alice", client_id="1")
        second = await Raw.connect(broker.port, "alice", client_id="2")
        other = await Raw.connect(broker.port, "bob")
        filters = [f"{R}/status/c{n}/#" for n in range(8)]
        assert await first.subscribe(*filters) == [1] * 8
        assert await second.subscribe(*filters) == [1] * 2 + [0x80] * 6
        assert await other.subscribe(*filters) == [1] * 8
        first.say(packet(0xA2, b"\0\x09" + text(filters[0])))
        await first.expect(UNSUBACK)
        assert await second.subscribe(filters[0], filters[7], filters[6]) == [1, 1, 0x80]
        first.leave()
        await first.closed()
        await until_granted(second, filters[6])


async def until_granted(raw: Raw, wanted: str) -> None:
    """Ask until the filter is granted: the broker has then seen the end of another connection."""
    async with asyncio.timeout(bound(5)):
        while await raw.subscribe(wanted) != [1]:
            await raw.ping()


@pytest.mark.fault(76, "S")
async def test_filters_of_the_largest_size_take_bounded_memory(broker: EmbeddedBroker) -> None:
    """Every account but the manager's at its limit of bytes, with the filters that cost most."""
    viewer = await Raw.connect(broker.port, "alice")
    tracemalloc.start()
    try:
        codes = []
        for n in range(8):
            filters = [f"{R}/status/{n}-{m}" + "/a" * 27 for m in range(200)]
            codes += await viewer.subscribe(*filters)
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 0x80 in codes
    assert used < 2 * LIMITS.account_filter_bytes


@pytest.mark.fault(83, "S")
@pytest.mark.parametrize("kind", [0x82, 0xA2])
async def test_a_packet_of_many_filters_ends_its_connection_alone(broker: EmbeddedBroker, kind: int) -> None:
    bob = await Raw.connect(broker.port, "bob")
    end = b"\0" if kind == 0x82 else b""
    for count in (LIMITS.packet_filters + 1, 200_000):
        raw = await Raw.connect(broker.port, "alice")
        raw.say(packet(kind, b"\0\1" + (text("a") + end) * count))
        await raw.closed()
    await bob.ping()


@pytest.mark.fault(78, "S")
async def test_logs_are_delivered_and_never_retained(broker: EmbeddedBroker) -> None:
    manager = await Raw.connect(broker.port, "manager")
    await manager.subscribe(f"{R}/node/+/log/+")
    for name in ("alice", "n1"):
        writer = await Raw.connect(broker.port, name, will=Will(f"{R}/node/{name}/log/w", retain=True))
        await writer.publish(f"{R}/node/{name}/log/w", bytes(1000), retain=True)
        assert len((await manager.message())[1]) == 1000
        writer.leave()
        assert (await manager.message())[1] == b"lost"
    late = await Raw.connect(broker.port, "manager", client_id="late")
    await late.subscribe(f"{R}/#")
    await late.ping()
    assert late.got == []


@pytest.mark.fault(78, "S")
async def test_a_viewer_that_retains_does_not_displace_assignments(broker: EmbeddedBroker) -> None:
    """Below its own name, where every account may write, in as many realms as it likes."""
    alice = await Raw.connect(broker.port, "alice")
    for n in range(140):
        await alice.publish(f"busbar/v1/r{n}/node/alice/reported", bytes(1_000_000), retain=True)
    manager = await Raw.connect(broker.port, "manager")
    for n in range(5):
        await manager.publish(f"{R}/node/n{n}/assignment", bytes(1_000_000), retain=True)
    late = await Raw.connect(broker.port, "manager", client_id="late")
    await late.subscribe("busbar/v1/+/node/#")
    await late.ping()
    mine = sum(len(payload) for topic, payload, _ in late.got if "alice" in topic)
    assert 0 < mine <= LIMITS.account_retained_bytes
    assert sum("assignment" in topic for topic, _, _ in late.got) == 5


@pytest.mark.fault(78, "S")
async def test_retained_messages_go_with_the_account(broker: EmbeddedBroker, tmp_path: Path) -> None:
    node = await Raw.connect(broker.port, "n1")
    await node.publish(f"{R}/node/n1/state", b"here", retain=True)
    await asyncio.to_thread(remove_account, tmp_path / "private" / "accounts.json", "n1")
    await node.closed()
    manager = await Raw.connect(broker.port, "manager")
    await manager.subscribe(f"{R}/#")
    await manager.ping()
    assert manager.got == []


@pytest.mark.fault(82, "S")
async def test_a_client_forges_no_log_lines_and_causes_few(
    broker: EmbeddedBroker, caplog: pytest.LogCaptureFixture
) -> None:
    forged = "\n2026-01-01T00:00:00.000 ERROR busbar.manager: gone\x1b[2J\u2028\u202e"
    caplog.set_level(logging.INFO, "busbar.bus.broker")
    alice = await Raw.connect(broker.port, "alice", will=Will(f"x{forged}"))
    for n in range(100):
        await alice.publish(f"{n}{forged}")
        stranger = await Raw.connect(broker.port, f"x{forged}", client_id=forged, password=forged)
        assert stranger.code == 5
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("busbar")]
    assert any("may not leave a will" in line for line in lines)
    assert any("may not publish" in line for line in lines)
    assert all(line.isprintable() for line in lines)
    assert len(lines) < 4 * LIMITS.log_lines


@pytest.mark.fault(48, "C")
async def test_many_agents_reconnect_at_once(
    broker: EmbeddedBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each with its own filters, a retained assignment to fetch, a retained state, and a takeover."""
    manager = await Raw.connect(broker.port, "manager")
    for n in range(AGENTS):
        await manager.publish(f"{R}/node/n1/state/w{n}", b"1", retain=True)
    names = ("n1", "n2", "alice", "bob")
    for name in names:
        await manager.publish(f"{R}/node/{name}/assignment", b"all", retain=True)

    async def agent(n: int) -> Raw:
        name = names[n % len(names)]
        raw = await Raw.connect(broker.port, name, client_id=f"agent-{n}")
        await raw.subscribe(f"{R}/node/{name}/assignment", f"{R}/node/{name}/command", f"{R}/manager/+/state")
        await raw.publish(f"{R}/node/{name}/log/a{n}", b"ready")
        assert (await raw.message())[1] == b"all"
        return raw

    old = await asyncio.gather(*(agent(n) for n in range(AGENTS)))
    async with asyncio.timeout(bound(10)):
        new = await asyncio.gather(*(agent(n) for n in range(AGENTS)))
    await asyncio.gather(*(raw.closed(within=1) for raw in old))
    await asyncio.gather(*(raw.ping() for raw in new))


async def test_websocket_clients_talk_to_tcp_clients(broker: EmbeddedBroker) -> None:
    manager = await Raw.connect(broker.port, "manager")
    await manager.subscribe(f"{R}/#")
    url = f"ws://127.0.0.1:{broker.ws_port}/mqtt"
    async with websockets.connect(url, subprotocols=[websockets.Subprotocol("mqtt")]) as websocket:
        assert websocket.subprotocol == "mqtt"
        hello = connect_bytes("n1", will=Will(f"{R}/node/n1/state"))
        await websocket.send(hello[:7])  # a packet may be cut anywhere
        await websocket.send(hello[7:] + packet(0x30, text(f"{R}/node/n1/heartbeat") + b"beat"))
        assert await websocket.recv() == b"\x20\x02\0\0"
        assert (await manager.message())[1] == b"beat"
    assert (await manager.message())[1] == b"lost"


async def test_an_oversize_websocket_message_ends_the_link(broker: EmbeddedBroker) -> None:
    url = f"ws://127.0.0.1:{broker.ws_port}"
    async with websockets.connect(url, subprotocols=[websockets.Subprotocol("mqtt")]) as websocket:
        await websocket.send(connect_bytes("alice"))
        await websocket.recv()
        await websocket.send(packet(0x30, bytes(LIMITS.packet_bytes + 1)))
        with pytest.raises(websockets.ConnectionClosed):
            await asyncio.wait_for(websocket.recv(), bound(2))


def test_importing_the_package_does_not_import_amqtt() -> None:
    loads = "busbar.bus.broker, busbar.bus.broker.accounts, busbar.bus.access.acl"
    code = f"import sys, {loads}; sys.exit('amqtt' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
