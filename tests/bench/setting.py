"""What every theme needs: a folder on a real disk, a broker, processes of our own and their clean end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from busbar.bus.clock import SystemClock
from busbar.bus.connection.mqtt_link import MqttLink
from busbar.bus.options import ConnectOptions
from busbar.bus.topics import Topics

from tests.bench.report import Results
from tests.brokers import MOSQUITTO, mosquitto

ROOT = Path(__file__).resolve().parent.parent.parent
REALM = "bench"
TOPICS = Topics(REALM)
USER = "bench"
CLOCK = SystemClock()
TICKS = os.sysconf("SC_CLK_TCK")
READY_S = 60.0
CALM_CPU = 0.05
"""A process that takes less than this share of a core has done its work."""


class SkipError(Exception):
    """A theme, or a part of it, can't be measured here; the text says why."""


@dataclass
class Bench:
    """One run of the benchmarks."""

    runs: int = 5
    quick: bool = False
    results: Results = field(default_factory=Results)

    def sizes(self, *all_sizes: int) -> tuple[int, ...]:
        """The points of a growth curve; a quick run leaves the largest out."""
        return all_sizes[:-1] if self.quick else all_sizes


def need_mosquitto() -> None:
    """Raises SkipError without the broker program."""
    if MOSQUITTO is None:
        raise SkipError("the program mosquitto is not installed")


@contextmanager
def folder() -> Iterator[Path]:
    """A folder for one measurement, on the disk (a memory file system would make commits free)."""
    base = os.environ.get("BUSBAR_BENCH_DIR", "/var/tmp")
    made = Path(tempfile.mkdtemp(prefix="busbar-bench-", dir=base if os.path.isdir(base) else None))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextmanager
def broker(at: Path, *lines: str) -> Iterator[int]:
    """A real mosquitto as the contract wants it; yields its port."""
    need_mosquitto()
    with mosquitto(at, "allow_anonymous true", "sys_interval 1", *lines) as port:
        yield port


# --- processes ---------------------------------------------------------------------------------------------


class Child:
    """A process of ours that says `ready`, takes words on its standard input and answers in JSON lines."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process, self._log = process, log

    @property
    def pid(self) -> int:
        return self._process.pid

    async def read(self, timeout: float = READY_S) -> Any:
        """The next answer.

        Raises:
            RuntimeError: the process ended, or said nothing in time.
        """
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(timeout):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise RuntimeError(f"no answer within {timeout} s; {self.words()}") from None
        if not line:
            raise RuntimeError(f"it ended: {self.words()}")
        return json.loads(line)

    def say(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word.encode() + b"\n")

    def words(self) -> str:
        return self._log.read_text(errors="replace")[-1500:]

    async def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(15):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


@asynccontextmanager
async def child(at: Path, kind: str, **spec: Any) -> AsyncIterator[Child]:
    """`python -m tests.bench.serve KIND SPEC`, ready to serve."""
    log = at / f"{kind}-{time.monotonic_ns()}.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.bench.serve", kind, json.dumps(spec),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=output, cwd=ROOT,
            limit=2**24,
        )  # fmt: skip
    made = Child(process, log)
    try:
        await made.read()
        yield made
    finally:
        await made.stop()


def manager(at: Path, port: int, **more: Any) -> Any:
    """A manager whose flood limits are out of the way."""
    return child(at, "manager", port=port, state=str(at / "manager"), **more)


def clean_env(**more: str) -> dict[str, str]:
    """Our environment without any setting of the product."""
    return {name: value for name, value in os.environ.items() if not name.startswith("BUSBAR_")} | more


# --- what a process costs ----------------------------------------------------------------------------------


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far, its threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rss_mb(pid: int) -> float:
    """Resident megabytes (10^6) of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


async def calm(*pids: int, below: float = CALM_CPU, timeout: float = 90.0, window: float = 0.5) -> None:
    """Wait until each of these processes takes less than such a share of a core (on average), two windows
    running, or the time is over.
    """
    end, quiet = time.monotonic() + timeout, 0
    while quiet < 2 and time.monotonic() < end:
        before = sum(map(cpu_s, pids))
        await asyncio.sleep(window)
        busy = (sum(map(cpu_s, pids)) - before) / window
        quiet = quiet + 1 if busy <= below * len(pids) else 0


async def cpu_share(pid: int, seconds: float) -> float:
    """Share of one core that a process takes over some seconds."""
    before, began = cpu_s(pid), time.monotonic()
    await asyncio.sleep(seconds)
    return (cpu_s(pid) - before) / (time.monotonic() - began)


# --- clients -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def linked(
    port: int, prepare: Callable[[MqttLink], None] = lambda link: None
) -> AsyncIterator[MqttLink]:
    """A connected link; `prepare` makes its subscriptions."""
    link = MqttLink(ConnectOptions(port=port, keepalive=60), clock=CLOCK, random=Random(1))
    prepare(link)
    task = asyncio.create_task(link.run())
    try:
        await link.wait_connected(READY_S)
        yield link
    finally:
        task.cancel()
        await asyncio.wait([task], timeout=5)


# --- figures -----------------------------------------------------------------------------------------------


def median(values: list[float]) -> float:
    return statistics.median(values)


def spread(values: list[float], form: str = ",.0f", unit: str = "") -> str:
    """Median with least and greatest: `3,210 (2,990 to 3,400)`."""
    low, mid, high = (format(value, form) for value in (min(values), median(values), max(values)))
    return f"{mid}{unit} ({low} to {high})"
