"""What `systemctl status` shows of a service: the present state of its connection, told over sd_notify."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest
from busbar.bus.system.service_status import MAX_CHARACTERS, ServiceStatus
from busbar.bus.testing import FakeClock

from tests.brokers import free_port, mosquitto
from tests.pace import bound

SERVICES = [
    pytest.param(["agent", "--node", "n1"], id="agent"),
    pytest.param(["manager", "--owner", "alice"], id="manager"),
]


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as found:
        found.bind(str(tmp_path / "notify"))
        found.setblocking(False)
        yield found


async def said(listener: socket.socket, text: str) -> str:
    """The first status from here on that has the text."""
    async with asyncio.timeout(bound(20)):
        while text not in (found := (await asyncio.get_running_loop().sock_recv(listener, 65536)).decode()):
            pass
    return found


@contextlib.asynccontextmanager
async def service(
    words: Sequence[str], port: int, folder: Path, **env: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("BUSBAR_", "XDG_"))}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "busbar.cli.app", *words, "--state", str(folder / "state")),
        *(() if words[0] == "broker" else ("--realm", "lab", "--broker", f"mqtt://127.0.0.1:{port}")),
        stderr=asyncio.subprocess.DEVNULL,
        env={**clean, "HOME": str(folder), "NOTIFY_SOCKET": str(folder / "notify"), **env},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.mosquitto
@pytest.mark.fault(110, "U")
@pytest.mark.parametrize("words", SERVICES)
async def test_it_says_the_present_reason_and_that_it_is_over(
    words: list[str], listener: socket.socket, tmp_path: Path
) -> None:
    port, passwords = free_port(), tmp_path / "passwords"
    passwords.touch(mode=0o600)
    async with service(words, port, tmp_path):
        down = await said(listener, "no connection")
        assert down == f"STATUS=no connection to mqtt://127.0.0.1:{port}: connection refused\n"
        with mosquitto(tmp_path, "allow_anonymous false", f"password_file {passwords}", port=port):
            await said(listener, "the broker refused: Not authorized")
        with mosquitto(tmp_path, port=port):
            await said(listener, f"STATUS=connected to mqtt://127.0.0.1:{port}\n")
        await said(listener, "no connection")


@pytest.mark.parametrize("words", [*SERVICES, pytest.param(["broker", "--port", "0"], id="broker")])
async def test_it_is_up_lives_and_says_when_it_stops(
    words: list[str], listener: socket.socket, tmp_path: Path
) -> None:
    """A manager and an agent without a broker are up: they wait for it as long as it takes."""
    async with service(words, free_port(), tmp_path, WATCHDOG_USEC="300000") as process:
        assert await said(listener, "READY=1") == "READY=1\n"
        for _ in range(3):
            await said(listener, "WATCHDOG=1")
        process.terminate()
        assert await said(listener, "STOPPING=1") == "STOPPING=1\nSTATUS=\n"


async def test_a_loop_that_hangs_gives_no_sign_of_life(listener: socket.socket, tmp_path: Path) -> None:
    clock = FakeClock()
    status = ServiceStatus(str(tmp_path / "notify"), 30.0)
    beating = asyncio.create_task(status.beat(clock))
    for seconds in (0.0, 10.0, 10.0):
        await clock.advance(seconds)
        assert listener.recv(99) == b"WATCHDOG=1\n"
        with pytest.raises(BlockingIOError):
            listener.recv(99)
    beating.cancel()
    await ServiceStatus(None, 30.0).beat(clock)  # nobody asks: it returns at once


def test_a_text_is_one_line_and_bounded(listener: socket.socket, tmp_path: Path) -> None:
    status = ServiceStatus(str(tmp_path / "notify"))
    status.say("down\nREADY=1\x1b[2J")
    assert listener.recv(4096) == rb"STATUS=down\nREADY=1\x1b[2J" + b"\n"
    status.say("x" * 100_000)
    assert len(listener.recv(4096)) == MAX_CHARACTERS + len("STATUS=\n")


def test_a_text_that_was_said_is_not_said_again(listener: socket.socket, tmp_path: Path) -> None:
    status = ServiceStatus(str(tmp_path / "notify"))
    for text in ("a", "a", "b", "a"):
        status.say(text)
    assert [listener.recv(99) for _ in range(3)] == [b"STATUS=a\n", b"STATUS=b\n", b"STATUS=a\n"]
    with pytest.raises(BlockingIOError):
        listener.recv(99)


def test_a_service_that_is_down_has_no_status(listener: socket.socket, tmp_path: Path) -> None:
    status = ServiceStatus(str(tmp_path / "notify"))
    status.say("connected")
    status.stopping()
    status.say("no connection")
    assert [listener.recv(99) for _ in range(2)] == [b"STATUS=connected\n", b"STOPPING=1\nSTATUS=\n"]
    with pytest.raises(BlockingIOError):
        listener.recv(99)


def test_what_was_not_heard_is_said_again(listener: socket.socket, tmp_path: Path) -> None:
    (tmp_path / "notify").rename(tmp_path / "away")
    status = ServiceStatus(str(tmp_path / "notify"))
    status.say("a")
    (tmp_path / "away").rename(tmp_path / "notify")
    status.say("a")
    assert listener.recv(99) == b"STATUS=a\n"


def test_an_abstract_socket_is_reached() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as abstract:
        abstract.bind(f"\0busbar-test-{os.getpid()}")
        ServiceStatus(f"@busbar-test-{os.getpid()}").say("a")
        assert abstract.recv(99) == b"STATUS=a\n"


def test_it_takes_the_address_out_of_the_environment_of_children() -> None:
    environ = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "3000000", "PATH": "/bin"}
    status = ServiceStatus.taken_from(environ)
    status.say("heard by nobody")
    assert environ == {"PATH": "/bin"} and status.watchdog_s == 3.0
    for foreign in ({"WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "0"}):
        own = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "3000000", **foreign}
        assert ServiceStatus.taken_from(own).watchdog_s is None
