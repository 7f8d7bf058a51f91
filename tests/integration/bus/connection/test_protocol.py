"""Which MQTT version is spoken, and what a broker says of itself in its CONNACK."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random
from typing import Literal

import pytest
from busbar.bus.clock import SystemClock
from busbar.bus.connection import mqtt_connection
from busbar.bus.connection.link import Will
from busbar.bus.connection.mqtt_link import MqttLink
from busbar.bus.connection.packet_limit import NO_RETAIN
from busbar.bus.connection.protocol_memory import ProtocolMemory
from busbar.bus.errors import MessageTooLargeError
from busbar.bus.options import Address, ConnectOptions

from tests.brokers import mosquitto, until
from tests.pace import bound

CLOCK = SystemClock()


class Old:
    """A broker that accepts MQTT 3.1.1. One of MQTT 5 gets this answer, and is hung up on; with None it never
    gets one."""

    def __init__(self, answer: bytes | None = None) -> None:
        self.answer = answer
        self.levels: list[int] = []
        self.electing = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while header := await reader.read(1):
                body = await reader.readexactly((await reader.readexactly(1))[0])
                if header[0] >> 4 == 1:
                    self.levels.append(body[6])
                    if self.electing:
                        return
                    if body[6] == 4:
                        writer.write(b"\x20\x02\x00\x00")
                    elif self.answer is not None:
                        writer.write(self.answer)
                        return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.mark.fault(60, "C")
async def test_an_unanswered_mqtt_5_connect_is_tried_briefly_and_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt_connection, "FIRST_TRY_S", 0.2)
    broker = Old()
    server = await asyncio.start_server(broker.serve, "127.0.0.1", 0)
    options = ConnectOptions(
        port=server.sockets[0].getsockname()[1], client_id="m1", protocol=5, falls_back=True
    )
    for _ in range(2):
        memory = ProtocolMemory(tmp_path / "mqtt-version.json")
        link = MqttLink(options, clock=CLOCK, random=Random(1), memory=memory)
        running = asyncio.create_task(link.run())
        await link.wait_connected(bound(8))
        running.cancel()
        await asyncio.wait([running], timeout=bound(5))
    server.close()
    assert broker.levels == [5, 4, 4], "the second start begins with what worked"


@pytest.mark.parametrize("answer", [b"\x20\x02\x00\x01", b"\x20\x03\x00\x84\x00", b""])
async def test_3_1_1_is_tried_at_the_broker_that_refuses_mqtt_5_before_the_next(answer: bytes) -> None:
    """By the code of 3.1.1, by that of 5, or by hanging up; each broker is remembered by itself."""
    first, second = Old(answer), Old(answer)
    async with (
        await asyncio.start_server(first.serve, "127.0.0.1", 0) as here,
        await asyncio.start_server(second.serve, "127.0.0.1", 0) as there,
    ):
        ports = [server.sockets[0].getsockname()[1] for server in (here, there)]
        others = (Address("127.0.0.1", ports[1]),)
        options = ConnectOptions(port=ports[0], others=others, client_id="m1", protocol=5, falls_back=True)
        link = MqttLink(options, clock=CLOCK, random=Random(1))
        connected: asyncio.Queue[None] = asyncio.Queue()
        link.on_connect(lambda: connected.put(None))
        task = asyncio.create_task(link.run())
        try:
            for levels in ([[5, 4], []], [[5, 4], [5, 4]], [[5, 4, 4], [5, 4]]):
                await asyncio.wait_for(connected.get(), bound(8))
                assert [first.levels, second.levels] == levels
                link.reconnect("the next one")
        finally:
            task.cancel()
            await asyncio.wait([task], timeout=bound(5))


async def test_a_cluster_that_has_served_us_is_not_suspected_of_what_would_last() -> None:
    """That it hangs up may mean TLS, or no retained messages; not where it has accepted the same before."""
    first, second = Old(), Old()
    async with (
        await asyncio.start_server(first.serve, "127.0.0.1", 0) as here,
        await asyncio.start_server(second.serve, "127.0.0.1", 0) as there,
    ):
        ports = [server.sockets[0].getsockname()[1] for server in (here, there)]
        options = ConnectOptions(port=ports[0], others=(Address("127.0.0.1", ports[1]),), client_id="m1")

        async def why(served: bool) -> str:
            will = Will("a/state", b"x", retain=True)
            link = MqttLink(options, clock=CLOCK, random=Random(1), will=lambda conn: will)
            task = asyncio.create_task(link.run())
            try:
                if served:
                    await link.wait_connected(bound(8))
                first.electing = second.electing = True
                link.reconnect("an election")
                await until(lambda: link.rotation.last_error.count("before the broker answered") == 2, 20)
                return link.rotation.last_error
            finally:
                task.cancel()
                await asyncio.wait([task], timeout=bound(5))

        for text in ("TLS", NO_RETAIN):
            first.electing = second.electing = False
            assert text not in await why(served=True)
            assert text in await why(served=False)


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.fault(59, "U")
async def test_a_broker_without_retained_messages_is_named(tmp_path: Path, protocol: Literal[4, 5]) -> None:
    with mosquitto(tmp_path, "allow_anonymous true", "retain_available false") as port:
        options = ConnectOptions(port=port, client_id="m1", protocol=protocol, falls_back=protocol == 5)
        link = MqttLink(
            options, clock=CLOCK, random=Random(1), will=lambda conn: Will("a/state", b"x", retain=True)
        )
        running = asyncio.create_task(link.run())
        try:
            async with asyncio.timeout(bound(8)):
                while link.rotation.failures < 3:
                    assert not link.connected
                    await asyncio.sleep(0.05)
            assert NO_RETAIN in link.rotation.last_error
        finally:
            running.cancel()
            await asyncio.wait([running], timeout=bound(5))


@pytest.mark.fault(58, "S")
async def test_the_maximum_packet_size_of_the_broker_is_obeyed(tmp_path: Path) -> None:
    with mosquitto(tmp_path, "allow_anonymous true", "max_packet_size 12000") as port:
        options = ConnectOptions(port=port, client_id="m1", protocol=5)
        link = MqttLink(options, clock=CLOCK, random=Random(1))
        running = asyncio.create_task(link.run())
        try:
            await link.wait_connected(bound(8))
            assert link.max_packet == 12_000
            room = 12_000 - len("a/b") - 2 - 2 - 1 - 3
            await link.publish("a/b", b"x" * room)
            with pytest.raises(MessageTooLargeError):
                await link.publish("a/b", b"x" * (room + 1))
            assert link.conn == 1 and link.connected
        finally:
            running.cancel()
            await asyncio.wait([running], timeout=bound(5))


@pytest.mark.mosquitto
@pytest.mark.fault(58, "S U")
async def test_a_packet_that_an_older_broker_hangs_up_on_is_named(tmp_path: Path) -> None:
    """MQTT 3.1.1 does not tell the limit: no right is suspected, which an operator would look for in vain."""
    with mosquitto(tmp_path, "allow_anonymous true", "max_packet_size 4000") as port:
        link = MqttLink(ConnectOptions(port=port, client_id="m1", protocol=4), clock=CLOCK, random=Random(1))

        async def send() -> None:
            for size in (10, 500, 4_100, 20):
                link.post("small" if size < 4_000 else "big", b"x" * size)

        link.on_connect(send)
        running = asyncio.create_task(link.run())
        try:
            await until(lambda: link.conn > 3 and "probably" in link.rotation.last_error, timeout=20)
            assert "takes no packet of 4110 bytes, as that on big" in link.rotation.last_error
            assert "--max-packet" in link.rotation.last_error and "right" not in link.rotation.last_error
        finally:
            running.cancel()
            await asyncio.wait([running], timeout=bound(5))
