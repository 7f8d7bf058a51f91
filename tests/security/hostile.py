"""Clients at full speed: `python -m tests.security.hostile stranger|viewer PORT FILE`, a process for each.

The stranger guesses passwords 450 times a second without an account. The viewer has one (its name and secret
are the lines of FILE) and reads, subscribes and publishes on several connections as fast as it is let.
Both run until they are ended, and print `ready` once they have begun.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import struct
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.integration.bus.broker.kit import R, connect_bytes, packet, text

GUESSES_PER_S = 450
AT_ONCE = 64
NAMES = ("alice", "vic", "bob", "manager", "n1", "n2", "nobody", "root", "admin", "x")
READS = ("get_manager", "list_nodes", "list_routerclusters", "list_workers", "get_events")
BATCH = 50
SUBSCRIBED = (f"{R}/status/#", f"{R}/event/#", f"{R}/node/+/log/+", f"{R}/node/+/state")


async def stranger(port: int) -> None:
    """New connections at a constant rate, each with one wrong password for known and unknown names."""
    loop, places = asyncio.get_running_loop(), asyncio.Semaphore(AT_ONCE)
    began, tasks = loop.time(), set[asyncio.Task[None]]()
    for number in itertools.count():
        await places.acquire()
        task = asyncio.create_task(guess(port, number))
        tasks.add(task)
        task.add_done_callback(lambda task: (tasks.discard(task), places.release()))
        if not number:
            print("ready", flush=True)
        await asyncio.sleep(max(0.0, began + number / GUESSES_PER_S - loop.time()))


async def guess(port: int, number: int) -> None:
    """One guess: short ones and long ones cost the broker differently."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        name, length = NAMES[number % len(NAMES)], (8, 40)[number // len(NAMES) % 2]
        writer.write(connect_bytes(name, client_id=f"g{number}", password=f"{number:0{length}}"))
        await reader.read(4)
        writer.close()
    except OSError:
        await asyncio.sleep(0.1)


Work = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def viewer(port: int, name: str, secret: str) -> None:
    """Every kind of work at once; a connection that the broker ends is opened again."""
    works: list[Work] = [
        requests(name, 0), requests(name, 1), filters(), logs(name), deaf(), *(listening(n) for n in range(4))
    ]  # fmt: skip
    first = asyncio.Event()

    async def again(number: int, work: Work) -> None:
        for attempt in itertools.count():
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(connect_bytes(name, client_id=f"v{number}", password=secret))
                if (await reader.readexactly(4))[3]:
                    raise ConnectionError("refused")
                first.set()
                await work(reader, writer)
            except (OSError, EOFError):
                await asyncio.sleep(min(0.05 * attempt, 0.5))

    async with asyncio.TaskGroup() as group:
        for number, work in enumerate(works):
            group.create_task(again(number, work))
        await first.wait()
        print("ready", flush=True)


async def discard(reader: asyncio.StreamReader) -> None:
    """Read whatever comes, acknowledging nothing."""
    while await reader.read(1 << 18):
        pass
    raise EOFError


async def both(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, batches: Callable[[int], bytes]
) -> None:
    """Write batch after batch as fast as the broker takes them, while all that comes is read."""

    async def write() -> None:
        for number in itertools.count():
            writer.write(batches(number))
            await writer.drain()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(discard(reader)), group.create_task(write())]
        del tasks


def requests(name: str, qos: int) -> Work:
    """Reads, and changes that a viewer may not make."""

    def batch(number: int) -> bytes:
        out = []
        for index in range(BATCH):
            serial = number * BATCH + index
            op = "create_routercluster" if serial % 7 == 0 else READS[serial % len(READS)]
            body = json.dumps({"id": f"q{qos}-{serial}", "reply": "greedy", "params": {}}).encode()
            mark = struct.pack("!H", serial % 65535 + 1) if qos else b""
            out.append(packet(0x30 | qos << 1, text(f"{R}/request/{name}/{op}") + mark + body))
        return b"".join(out)

    return lambda reader, writer: both(reader, writer, batch)


def filters() -> Work:
    """Everything that may be read is subscribed to and given up again."""

    def batch(number: int) -> bytes:
        mark = struct.pack("!H", number % 65535 + 1)
        wanted = [*SUBSCRIBED, *(f"{R}/status/c{number}/+/{n}" for n in range(100))]
        more = packet(0x82, mark + b"".join(text(one) + b"\1" for one in wanted))
        return more + packet(0xA2, mark + b"".join(map(text, wanted)))

    return lambda reader, writer: both(reader, writer, batch)


def logs(name: str) -> Work:
    """Large lines on the log topic of its own name, which its other connections read."""

    def batch(number: int) -> bytes:
        return packet(0x30, text(f"{R}/node/{name}/log/w{number % 100}") + bytes(16_000)) * 4

    return lambda reader, writer: both(reader, writer, batch)


def subscribe_all() -> bytes:
    return packet(0x82, b"\0\1" + b"".join(text(one) + b"\1" for one in SUBSCRIBED))


def listening(number: int) -> Work:
    """Reads all it may, at once and for ever."""

    async def work(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(subscribe_all())
        await discard(reader)

    return work


def deaf() -> Work:
    """Subscribes to all and reads nothing."""

    async def work(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(subscribe_all())
        await asyncio.sleep(5)
        writer.transport.abort()

    return work


def main() -> None:
    kind, port = sys.argv[1], int(sys.argv[2])
    if kind == "stranger":
        asyncio.run(stranger(port))
    else:
        name, secret = Path(sys.argv[3]).read_text().split()
        asyncio.run(viewer(port, name, secret))


if __name__ == "__main__":
    main()
