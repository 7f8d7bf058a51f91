"""What the embedded broker does before it serves a connection: who goes on at once, and who waits."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from busbar.bus.broker.doorway import First, Queue, peek
from busbar.bus.broker.limits import LIMITS
from hypothesis import given
from hypothesis import strategies as st

from tests.brokers import until
from tests.integration.bus.broker.kit import Raw, Will, broker_in, connect_bytes, packet

MOST = LIMITS.connect_bytes


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=9), st.booleans())
def test_a_first_packet_is_understood_once_it_is_whole(
    name: str, password: str, client: str, will: bool
) -> None:
    try:
        said = connect_bytes(name, client_id=client, password=password, will=Will("a/b") if will else None)
    except UnicodeEncodeError:
        return
    assert peek(bytearray(said), MOST) == First(name, password)
    assert peek(bytearray(said + b"\xc0\0"), MOST) == First(name, password)
    assert all(peek(bytearray(said[:end]), MOST) is None for end in range(len(said)))
    assert peek(bytearray(said), 5) == First()


@given(st.binary(max_size=60))
def test_whatever_comes_first_is_looked_at_without_an_error(said: bytes) -> None:
    for junk in (said, b"\x10" + said, packet(0x10, said), packet(0x10, b"\0\4MQTT\4" + said)):
        found = peek(bytearray(junk), MOST)
        assert found is None or isinstance(found.name, str)


def test_each_name_has_its_turn_and_so_many_per_second_go_on() -> None:
    queue: Queue[int] = Queue(replace(LIMITS, other_logins=3, other_logins_per_s=1))
    for guest in range(5):
        queue.add("bob", guest)
    queue.add("alice", 10)
    queue.add("carol", 20)
    assert [queue.next(0.0) for _ in range(5)] == [0, 10, 20, None, None]
    queue.remove("bob", 1)
    queue.remove("bob", 77)
    assert [queue.next(2.0) for _ in range(3)] == [2, 3, None]
    assert queue and queue.next(3.0) == 4
    assert not queue and queue.next(99.0) is None
    queue.add("x", 1)
    queue.remove("x", 1)
    assert not queue


@pytest.mark.fault(83, "S")
async def test_who_was_let_in_before_does_not_wait_behind_those_who_come_back_again_and_again(
    tmp_path: Path,
) -> None:
    limits = replace(LIMITS, other_logins=2, other_logins_per_s=0, account_logins=3, account_logins_per_s=0)
    async with broker_in(tmp_path, limits=limits) as broker:
        assert (await Raw.connect(broker.port, "alice")).code == 0
        assert (await Raw.connect(broker.port, "bob")).code == 0
        waiting = []
        for n in range(40):
            waiting.append(await Raw.open(broker.port))
            bad = n % 4 == 3
            hello = connect_bytes(("n1", "x", "alice")[n % 3], client_id=f"g{n}", password=f"{n:040}")
            waiting[n].say(b"GET / HTTP/1.1\r\n\r\n" if bad else hello)
        for n in range(3):
            again = await Raw.connect(broker.port, "alice", client_id=f"a{n}")
            assert again.code == 0
            await again.ping()
        waiting.append(await Raw.open(broker.port))
        waiting[-1].say(connect_bytes("alice", client_id="once too often"))
        assert (await Raw.connect(broker.port, "bob", client_id="b")).code == 0, "each account has its own"
        assert not any(raw.reader.at_eof() for raw in waiting)
        assert broker._broker is not None
        assert len(broker._broker._connections) == 2 + 3 + 1, "nothing was made for the others"
        await broker.stop()
        for raw in waiting:
            await raw.closed()


@pytest.mark.fault(83, "S")
async def test_who_waits_is_served_in_turn_among_those_who_have_left(tmp_path: Path) -> None:
    limits = replace(LIMITS, other_logins=1, other_logins_per_s=50)
    async with broker_in(tmp_path, limits=limits) as broker:
        gone = [await Raw.open(broker.port) for _ in range(20)]
        for n, raw in enumerate(gone):
            raw.say(connect_bytes("bob", client_id=f"g{n}", password=f"{n:040}"))
            raw.leave()  # which is not seen while they wait
        late = await asyncio.gather(*(Raw.connect(broker.port, name) for name in ("alice", "n1", "manager")))
        assert [raw.code for raw in late] == [0, 0, 0]
        assert broker._broker is not None
        await until(lambda: not broker._broker or not broker._broker._doorway._guests)


@pytest.mark.fault(83, "S")
async def test_who_sends_much_before_it_is_let_in_is_not_buffered_without_a_bound(tmp_path: Path) -> None:
    """A CONNECT of 130 kB, all but its last byte; then that, and as much more as is taken."""
    async with broker_in(tmp_path) as broker:
        raw = await Raw.open(broker.port)
        hello = connect_bytes("nobody", password="p" * 65_000, will=Will("a", b"w" * 65_000))
        raw.writer.write(hello[:-1])
        await raw.writer.drain()
        assert broker._broker is not None
        streams: list[asyncio.StreamReader] = []
        begin = broker._broker._begin

        def note(transport: asyncio.Transport, said: bytes) -> None:
            begin(transport, said)
            protocol = transport.get_protocol()
            assert isinstance(protocol, asyncio.StreamReaderProtocol)
            streams.append(protocol._stream_reader)  # type: ignore[attr-defined]

        broker._broker._doorway._serve = note
        held = asyncio.Event()
        broker._broker._serve = lambda *_: held.wait()  # type: ignore[assignment, return-value, method-assign]
        raw.writer.write(hello[-1:] + b"\xc0\0" * 8_000_000)
        await until(lambda: bool(streams))
        most = 0
        for _ in range(200):
            await asyncio.sleep(0.002)
            most = max(most, len(streams[0]._buffer))  # type: ignore[attr-defined]
        held.set()
        raw.writer.transport.abort()
    assert most < 1_000_000
