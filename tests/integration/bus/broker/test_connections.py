"""Many connections at the embedded broker: of strangers that say nothing, and of one account."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import websockets
from busbar.bus.broker import EmbeddedBroker
from busbar.bus.broker.limits import LIMITS, Accounting, Gate, Meter, Owner, fitted
from hypothesis import given
from hypothesis import strategies as st

from tests.integration.bus.broker.kit import CONNACK, R, Raw, broker_in, connect_bytes, make_accounts
from tests.pace import bound

BUSY = 3


async def idle(port: int | None, count: int) -> list[Raw]:
    """Sockets that say nothing."""
    assert port is not None
    return [await Raw.open(port) for _ in range(count)]


async def closed_of(sockets: list[Raw], count: int) -> None:
    """Wait until the broker has closed the first `count`, and see that the others are open."""
    for raw in sockets[:count]:
        with suppress(ConnectionError):
            await raw.closed()
    assert not any(raw.reader.at_eof() for raw in sockets[count:])


@pytest.mark.fault(83, "S")
@pytest.mark.parametrize("listener", ["port", "ws_port"])
async def test_of_too_many_idle_sockets_the_oldest_are_closed(tmp_path: Path, listener: str) -> None:
    limits = replace(LIMITS, silent_per_source=5)
    async with broker_in(tmp_path, ws_port=0, limits=limits) as broker:
        alice = await Raw.connect(broker.port, "alice")
        sockets = await idle(getattr(broker, listener), 20)
        await closed_of(sockets, 15)
        assert (await Raw.connect(broker.port, "bob")).code == 0
        await alice.ping()


IN_A_CHILD = """
import asyncio, resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
from busbar.bus.broker import BrokerConfig, EmbeddedBroker

async def serve():
    async with EmbeddedBroker(BrokerConfig(Path(sys.argv[1]), ws_port=0)) as broker:
        print(broker.port, broker.ws_port, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

asyncio.run(serve())
"""


@pytest.mark.fault(83, "S")
async def test_more_sockets_than_descriptors_keep_nobody_out(tmp_path: Path) -> None:
    command = [sys.executable, "-c", IN_A_CHILD, str(make_accounts(tmp_path))]
    child = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        async with asyncio.timeout(bound(20)):
            port, ws_port = map(int, (await child.stdout.readline()).split())
        held = await Raw.connect(port, "manager")
        for to in (port, ws_port):
            await idle(to, 300)
        for name in ("alice", "bob", "n1"):
            assert (await Raw.connect(port, name)).code == 0
        await held.ping()
    finally:
        while Raw.opened:
            Raw.opened.pop().leave()
        child.stdin.close()
        _, errors = await child.communicate()
    assert b"Too many open files" not in errors


@pytest.mark.fault(83, "S")
@pytest.mark.fault(77, "S")
@pytest.mark.parametrize("name", ["nobody{}", "bob"])
async def test_clients_whose_passwords_are_checked_keep_nobody_out(tmp_path: Path, name: str) -> None:
    """With names that have no account, and with the password of one that has, but too short for it."""
    limits = replace(LIMITS, connections=32, silent_connections=8, silent_per_source=8, waiting_logins=4)
    async with broker_in(tmp_path, limits=limits) as broker:
        waiting = []
        for n in range(32):
            waiting.append(await Raw.open(broker.port))
            waiting[n].say(connect_bytes(name.format(n), client_id=f"c{n}", password=f"short {n}"))
        for who in ("alice", "n1", "manager"):
            assert (await Raw.connect(broker.port, who)).code == 0
        assert BUSY in [await answer(raw) for raw in waiting]


async def answer(raw: Raw) -> int:
    """The code of the CONNACK, or -1 of one that was closed as the oldest silent connection."""
    try:
        return (await raw.expect(CONNACK))[1][1]
    except EOFError:
        return -1


@pytest.mark.fault(83, "S")
async def test_the_connections_of_one_account_are_limited(tmp_path: Path) -> None:
    async with broker_in(tmp_path, limits=replace(LIMITS, account_connections=3)) as broker:
        mine = [await Raw.connect(broker.port, "alice", client_id=f"c{n}") for n in range(4)]
        assert [raw.code for raw in mine] == [0, 0, 0, BUSY]
        assert (await Raw.connect(broker.port, "bob")).code == 0
        again = await Raw.connect(broker.port, "alice", client_id="c0")
        assert again.code == 0, "a client that reconnects takes its own place"
        await mine[0].closed()
        assert (await Raw.connect(broker.port, "alice", client_id="c4")).code == BUSY
        mine[1].leave()
        async with asyncio.timeout(bound(5)):
            while (await Raw.connect(broker.port, "alice", client_id="c5")).code:
                await again.ping()


@pytest.mark.fault(83, "S")
async def test_deaf_connections_of_one_account_share_its_bytes(tmp_path: Path) -> None:
    mib = 1024 * 1024
    limits = replace(LIMITS, account_bytes=6 * mib, queued_bytes=4 * mib, session_bytes=4 * mib)
    async with broker_in(tmp_path, limits=limits) as broker:
        deaf = [await Raw.connect(broker.port, "alice", client_id=f"c{n}") for n in range(20)]
        for n, raw in enumerate(deaf):
            await raw.subscribe(f"{R}/event/#", qos=n % 2)
            raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
        hearing = await Raw.connect(broker.port, "bob")
        await hearing.subscribe(f"{R}/event/#")
        manager = await Raw.connect(broker.port, "manager")
        most = 0
        for n in range(60):
            await manager.publish(f"{R}/event/e{n}", bytes(250_000))
            assert (await hearing.message())[0] == f"{R}/event/e{n}"
            most = max(most, held(broker, "alice"))
        assert 2 * mib < most <= limits.account_bytes


def held(broker: EmbeddedBroker, name: str) -> int:
    """Bytes that the account holds, added up over its connections and not taken from the books."""
    server = broker._broker
    assert server is not None
    return sum(c.held_bytes for c in server._connections if c.peer.username == name)


@pytest.mark.fault(83, "S")
async def test_half_sent_packets_count_as_held(tmp_path: Path) -> None:
    limits = replace(LIMITS, account_bytes=3 * 1024 * 1024)
    async with broker_in(tmp_path, limits=limits) as broker:
        manager = await Raw.connect(broker.port, "manager")
        halves = [await Raw.connect(broker.port, "alice", client_id=f"c{n}") for n in range(8)]
        for raw in halves:
            raw.say(b"\x30\xff\xff\x3f" + bytes(900_000))
        ended = [asyncio.create_task(raw.closed()) for raw in halves]
        done, _ = await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED, timeout=bound(5))
        assert done
        async with asyncio.timeout(bound(5)):
            while held(broker, "alice") > limits.account_bytes:
                await manager.ping()
        for task in ended:
            task.cancel()
        assert (await Raw.connect(broker.port, "bob")).code == 0


@asynccontextmanager
async def websocket(broker: EmbeddedBroker) -> AsyncIterator[websockets.ClientConnection]:
    url = f"ws://127.0.0.1:{broker.ws_port}/mqtt"
    async with websockets.connect(url, subprotocols=[websockets.Subprotocol("mqtt")], close_timeout=0) as ws:
        yield ws


def frame(opcode: int, length: int, payload: bytes, fin: bool = True) -> bytes:
    """A WebSocket frame of a client, of which perhaps not all is sent; its mask is 0."""
    return bytes([opcode | 0x80 * fin, 0xFF]) + length.to_bytes(8) + bytes(4) + payload


HALF_MESSAGES = {
    "a frame that is never whole": frame(2, 990_000, b"\x30\xff\xff\x3f" + bytes(900_000)),
    "fragments of a message that never ends": frame(2, 500_000, b"\x30\xff\xff\x3f" + bytes(499_996), False)
    + frame(0, 400_000, bytes(400_000), False),
    "a packet in a whole message": frame(2, 900_000, b"\x30\xff\xff\x3f" + bytes(899_996)),
}


@pytest.mark.fault(83, "S")
@pytest.mark.parametrize("half", HALF_MESSAGES.values(), ids=HALF_MESSAGES)
async def test_half_sent_websocket_messages_count_as_held(tmp_path: Path, half: bytes) -> None:
    limits = replace(LIMITS, account_bytes=3 * 1024 * 1024)
    async with broker_in(tmp_path, ws_port=0, limits=limits) as broker, AsyncExitStack() as stack:
        manager = await Raw.connect(broker.port, "manager")
        ends = []
        for n in range(8):
            ws = await stack.enter_async_context(websocket(broker))
            await ws.send(connect_bytes("alice", client_id=f"c{n}"))
            assert await ws.recv() == b"\x20\x02\0\0"
            ws.transport.write(half)
            ends.append(asyncio.create_task(ws.wait_closed()))
        done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED, timeout=bound(5))
        assert done
        async with asyncio.timeout(bound(5)):
            while held(broker, "alice") > limits.account_bytes:
                await manager.ping()
        for task in ends:
            task.cancel()
        assert (await Raw.connect(broker.port, "bob")).code == 0
        await stack.aclose()
        async with asyncio.timeout(bound(5)):
            while charged(broker, "alice"):
                await manager.ping()


def charged(broker: EmbeddedBroker, name: str) -> int:
    """Bytes that the books say the account holds."""
    server = broker._broker
    assert server is not None
    return sum(use.held_bytes for owner, use in server._accounting.uses().items() if owner.name == name)


@pytest.mark.fault(83, "S")
@pytest.mark.parametrize("half", HALF_MESSAGES.values(), ids=HALF_MESSAGES)
async def test_a_websocket_holds_little_before_it_is_logged_in(tmp_path: Path, half: bytes) -> None:
    async with broker_in(tmp_path, ws_port=0) as broker, websocket(broker) as ws:
        ws.transport.write(half.replace(b"\x30\xff\xff", b"\x10\xff\xff", 1))
        async with asyncio.timeout(bound(5)):
            await ws.wait_closed()


@pytest.mark.fault(83, "S")
async def test_fragments_are_read_as_they_come(tmp_path: Path) -> None:
    async with broker_in(tmp_path, ws_port=0) as broker, websocket(broker) as ws:
        hello = connect_bytes("alice")
        ws.transport.write(frame(2, 5, hello[:5], False) + frame(0, 0, b"", False) * 50)
        ws.transport.write(frame(0, len(hello) - 5, hello[5:], False))
        assert await ws.recv() == b"\x20\x02\0\0", "though the message is not over"
        ws.transport.write(frame(0, 0, b""))
        ws.transport.write(frame(2, 1, b"\xc0", False) + frame(0, 0, b"", False) * 900)
        ws.transport.write(frame(0, 1, b"\0"))
        assert await ws.recv() == b"\xd0\0"


@pytest.mark.fault(83, "S")
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("flood", [frame(0, 0, b"", False), frame(9, 0, b""), frame(10, 0, b"")])
async def test_frames_without_end_that_say_nothing_end_their_connection(
    tmp_path: Path, known: bool, flood: bytes
) -> None:
    async with broker_in(tmp_path, ws_port=0) as broker, websocket(broker) as ws:
        if known:
            await ws.send(connect_bytes("alice"))
            assert await ws.recv() == b"\x20\x02\0\0"
        ws.transport.write(frame(2, 1, b"\xc0", False) + flood * 2000)
        async with asyncio.timeout(bound(5)):
            await ws.wait_closed()


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from("abc"), st.booleans()), max_size=60))
def test_the_gate_keeps_to_its_limits(steps: list[tuple[int, str, bool]]) -> None:
    """Against a plain model; a source below its share is never closed for another that has more."""
    gate = Gate(replace(LIMITS, silent_connections=4, silent_per_source=3))
    inside: dict[int, str] = {}
    for key, source, arrives in steps:
        inside.pop(key, None)
        if not arrives:
            gate.left(key)
            continue
        inside[key] = source
        closed = gate.arrived(key, source)
        if closed is not None:
            assert isinstance(closed, int)
            counts = [list(inside.values()).count(s) for s in "abc"]
            assert list(inside.values()).count(inside[closed]) == max(counts)
            assert closed == next(k for k, s in inside.items() if s == inside[closed])
            del inside[closed]
        assert len(gate) == len(inside) <= 4
        assert all(list(inside.values()).count(s) <= 3 for s in "abc")


@given(st.integers(0, 100_000))
def test_connections_fit_the_descriptors(descriptors: int) -> None:
    limits = fitted(LIMITS, descriptors)
    assert limits.connections <= max(8, descriptors - limits.spare_descriptors)
    logged_in = limits.connections - limits.silent_connections - 2 * limits.waiting_logins
    assert logged_in >= 2
    assert 0 < limits.silent_per_source <= limits.silent_connections
    assert limits.account_connections >= 2


def test_managers_get_in_when_the_others_are_too_many() -> None:
    limits = fitted(replace(LIMITS, account_connections=1), 256)
    accounting = Accounting(limits)
    owners = [Owner(f"p{n}", "person") for n in range(1000)]
    taken = [owner for owner in owners if accounting.take_connection(owner)]
    assert len(taken) < limits.connections
    assert accounting.take_connection(Owner("m1", "manager"))
    accounting.return_connection(taken[0])
    accounting.return_connection(taken[1])
    assert accounting.take_connection(owners[-1])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40), st.booleans()), max_size=40))
def test_bytes_are_taken_from_whoever_holds_most(steps: list[tuple[int, int, bool]]) -> None:
    accounting = Accounting(replace(LIMITS, account_bytes=60, held_bytes=100))
    owners = [Owner(f"p{n}", "person") for n in range(4)]
    holding = dict.fromkeys(owners, 0)

    def make_room(owner: Owner, count: int) -> bool:
        crowd = accounting.crowd(owner, count)
        if not holding[crowd]:
            return False
        assert crowd == owner or holding[crowd] == max(holding.values())
        accounting.release(crowd, holding[crowd])
        holding[crowd] = 0
        return True

    for index, count, taking in steps:
        owner = owners[index]
        if taking:
            assert Meter(accounting, owner, make_room).take(count)
            holding[owner] += count
        else:
            accounting.release(owner, holding[owner])
            holding[owner] = 0
        assert sum(holding.values()) <= 100
        assert max(holding.values()) <= 60
        assert {o: use.held_bytes for o, use in accounting.uses().items()} == {
            o: n for o, n in holding.items() if n
        }
