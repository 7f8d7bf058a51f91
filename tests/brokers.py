"""Brokers for tests: real mosquitto on a free loopback port, with a configuration of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from tests.pace import bound

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    """A port that nobody uses, below those that the kernel gives to outgoing connections: one of these could
    take it while a worker is between two processes."""
    while True:
        port = random.randrange(10_000, 20_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def lacking(what: str) -> NoReturn:
    """Skip a test for want of a program, and say so; in CI, where all is installed, it fails instead."""
    if os.environ.get("CI"):
        pytest.fail(f"{what}; in CI it may not be missing")
    pytest.skip(what)


def need_mosquitto() -> str:
    """The program's path."""
    if MOSQUITTO is None:
        lacking("the program mosquitto is not installed")
    return MOSQUITTO


@contextmanager
def mosquitto(folder: Path, *lines: str, port: int | None = None) -> Iterator[int]:
    """A mosquitto for the time of a test; yields its port. `lines` follow its listener."""
    program = need_mosquitto()
    port = port or free_port()
    config = folder / f"mosquitto-{port}.conf"
    own = lines or ("allow_anonymous true",)
    config.write_text(
        "\n".join(
            [
                f"listener {port} 127.0.0.1",
                "set_tcp_nodelay true",
                "max_queued_messages 0",
                "user root",
                *own,
                "",
            ]
        )
    )
    with (folder / f"mosquitto-{port}.log").open("wb") as output:
        process = subprocess.Popen([program, "-c", str(config)], stdout=output, stderr=output)
    try:
        wait_for_port(port, process)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(bound(5))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(bound(5))


def wait_for_port(port: int, process: subprocess.Popen[bytes] | None = None, timeout: float = 10.0) -> None:
    """Block until something listens there, at most `timeout` seconds."""
    import time

    end = time.monotonic() + bound(timeout)
    while time.monotonic() < end:
        with socket.socket() as probe:
            # A port of the ephemeral range can connect to itself while nobody listens.
            if probe.connect_ex(("127.0.0.1", port)) == 0 and probe.getsockname() != probe.getpeername():
                return
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"the broker ended with {process.returncode}")
        time.sleep(0.01)
    raise RuntimeError(f"nothing listens on port {port}")


async def until(condition, timeout: float = 10.0, what: str = "the condition"):  # type: ignore[no-untyped-def]
    """Poll a cheap condition every 10 ms; for states that no event announces."""
    async with asyncio.timeout(bound(timeout)):
        while not (value := condition()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return value
