"""Crossbar.io's master, where it is installed: started as its users would, and asked the same questions.

The program is found by BUSBAR_CROSSBAR, beside this Python, or on PATH; `crossbar_client` runs in its Python.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from tests.bench.report import Row
from tests.bench.setting import Bench, SkipError, clean_env, folder, rss_mb
from tests.brokers import free_port

START_S = 60.0
CLIENT_S = 240.0
CLIENT = Path(__file__).parent / "crossbar_client.py"

Figures = dict[str, tuple[float, float]]
"""By what was asked: per second, one at a time and with 32 in flight."""


def program() -> Path:
    """Raises SkipError where it is not installed."""
    named = os.environ.get("BUSBAR_CROSSBAR")
    beside = Path(sys.executable).parent / "crossbar"
    found = named or (str(beside) if beside.exists() else shutil.which("crossbar"))
    if not found or not Path(found).exists():
        raise SkipError("the program crossbar is not installed (BUSBAR_CROSSBAR may name it)")
    return Path(found)


async def figures(bench: Bench) -> Figures:
    """Rates of the master; told among the yardsticks.

    Raises:
        SkipError: it is not there, or does not start.
    """
    crossbar = program()
    with folder() as at:
        async with _master(crossbar, at) as (port, seconds):
            found = await _ask(crossbar, at, port, 2 if bench.quick else bench.runs)
            memory = sum(rss_mb(pid) for pid in _family(at))
    for what, (single, crowd) in found.items():
        figure = f"{single:,.0f}/s one at a time, {crowd:,.0f}/s with 32 in flight"
        bench.results.yardsticks.append(
            Row("crossbar", f"Crossbar.io's master: {what}", figure, runs=bench.runs)
        )
    bench.results.yardsticks.append(
        Row("crossbar", "Crossbar.io's master: start to ready; memory", f"{seconds:.1f} s; {memory:.0f} MB")
    )
    return found


@asynccontextmanager
async def _master(crossbar: Path, at: Path) -> AsyncIterator[tuple[int, float]]:
    """A running master: its port, and the seconds until it answered."""
    port = free_port()
    node = at / "node"
    node.mkdir()
    (node / "config.json").write_text(json.dumps(_config(port)))
    key = str(at / "user" / "default.pub")
    # Unbuffered, or the line that says it is ready waits in a block for the next ones.
    env = clean_env(CROSSBAR_FABRIC_SUPERUSER=key, HOME=str(at), PYTHONUNBUFFERED="1")
    await _run(crossbar, "shell", "--dotdir", str(at / "user"), "init", "--yes", env=env)
    began = time.monotonic()
    with (at / "master.log").open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            str(crossbar), "master", "start", "--cbdir", str(node), cwd=at, env=env,
            stdout=output, stderr=output, stdin=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
    try:
        await _until_booted(process, at / "master.log")
        yield port, time.monotonic() - began
    finally:
        await _stop(process, at)


def _config(port: int) -> dict[str, Any]:
    """What is laid over its own configuration: null takes away what needs the internet, or crashes today."""
    no_chain = {"blockchain": None, "ipfs": None}
    web = {"endpoint": {"port": port, "interface": "127.0.0.1"}, "paths": {"autobahn": None}}
    return {
        "version": 2,
        "controller": no_chain,
        "workers": [{"transports": ["COPY", "COPY", web]}, {"components": [{"extra": no_chain}]}],
    }


async def _until_booted(process: asyncio.subprocess.Process, log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if "NODE_BOOT_COMPLETE" in _tail(log):
            return
        if process.returncode is not None:
            break
        await asyncio.sleep(0.05)
    raise SkipError(f"its master does not start: {_tail(log, 300)!r}")


async def _ask(crossbar: Path, at: Path, port: int, runs: int) -> Figures:
    key = at / "user" / "default.priv"
    out = await _run(
        _python(crossbar), str(CLIENT), str(port), str(key), str(runs), env=clean_env(HOME=str(at))
    )
    found = json.loads(out.strip().splitlines()[-1])
    if "error" in found:
        raise SkipError(f"its master does not answer: {found['error']}")
    return {what: (single, crowd) for what, (single, crowd) in found.items()}


async def _run(program: Path, *arguments: str, env: dict[str, str]) -> str:
    process = await asyncio.create_subprocess_exec(
        str(program), *arguments, env=env, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(CLIENT_S):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise SkipError(f"{program.name} {arguments[0]} did not end") from None
    if process.returncode:
        raise SkipError(f"{program.name} {arguments[0]} failed: {err.decode(errors='replace')[-300:]!r}")
    return out.decode(errors="replace")


def _tail(log: Path, characters: int = 100_000) -> str:
    return log.read_text(errors="replace")[-characters:]


def _python(crossbar: Path) -> Path:
    return crossbar.parent / "python"


def _family(at: Path) -> list[int]:
    """The processes that work in our folder: the controller and its workers."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            if Path(os.readlink(entry / "cwd")).is_relative_to(at):
                found.append(int(entry.name))
    return found


async def _stop(process: asyncio.subprocess.Process, at: Path) -> None:
    if process.returncode is None:
        process.terminate()
        with suppress(TimeoutError):
            async with asyncio.timeout(10):
                await process.wait()
    for pid in _family(at):
        with suppress(ProcessLookupError):
            os.kill(pid, 9)
    await process.wait()
