"""Keeps the services of `busbar up` running: one child process each, started again with backoff when it dies.

Each child leads a session of its own, so the terminal's Ctrl-C does not reach it: `up` orders the shutdown.
Its standard input is a socket to us, on which it says `ready`, and whose end tells it that we are gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import logging.handlers
import signal
import socket
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import Any, Final

from busbar.bus.backoff import Backoff
from busbar.bus.clock import Clock

from ..errors import CliError, ExitCode
from .run import READY, REFUSED
from .up_plan import Plan, Service, services, spec_path

LOG_BYTES: Final = 1 << 20
LOG_KEEP: Final = 2
STABLE_S: Final = 10.0
"""A child that ran this long is restarted with the shortest delay."""
KILL_S: Final = 3.0
FINAL: Final = frozenset({2, REFUSED})
"""Exit codes of a service that a restart does not help, if it was never ready."""
LINE_MAX: Final = 8192

log = logging.getLogger("busbar.up")


class Child:
    """One service as a process that is restarted until `stop`."""

    def __init__(
        self,
        service: Service,
        plan: Plan,
        clock: Clock,
        random: Random,
        changed: Callable[[], None],
        echo: bool,
    ) -> None:
        self.service = service
        self.ready = asyncio.Event()
        self.starts = 0
        self.last_line = ""
        self.was_ready = False
        self.refused: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._spec = spec_path(plan.state, service)
        self._output = Output(plan.state / "logs" / f"{service.name}.log", service.name if echo else None)
        self._clock, self._random, self._changed = clock, random, changed
        self._process: Process | None = None
        self._stopping = asyncio.Event()
        self._backoff = Backoff(base=0.1, cap=10.0)

    @property
    def pid(self) -> int | None:
        """The living process."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def run(self) -> None:
        """Keep it running until `stop`."""
        failures = 0
        while not self._stopping.is_set():
            began = self._clock.monotonic()
            try:
                code = await self._once()
                how = words(code)
            except OSError as error:
                code, how = 1, str(error)
            except Exception as error:  # must not end the other services
                log.exception("%s: could not be kept", self.service.name)
                code, how = 1, repr(error)
            if self._stopping.is_set():
                break
            failures = 1 if self._clock.monotonic() - began > STABLE_S else failures + 1
            if code in FINAL and not self.was_ready and not self.refused.done():
                self.refused.set_result(f"{self.service.name}: {self.last_line or how}")
            delay = self._backoff.delay(failures, self._random.random())
            log.warning("%s: %s; again in %.1f s", self.service.name, self._why(how), delay)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._stopping.wait()
        self._output.close()

    def _why(self, how: str) -> str:
        return f"{how} ({self.last_line})" if self.last_line else how

    async def _once(self) -> int:
        """Start it, wait for its end, return its exit code."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours:
            with theirs:
                command = (
                    sys.executable,
                    "-P",
                    "-m",
                    "busbar.cli.services.run",
                    self.service.kind,
                    str(self._spec),
                )
                self._process = process = await asyncio.create_subprocess_exec(
                    *command, stdin=theirs.fileno(), stdout=PIPE, stderr=STDOUT, start_new_session=True
                )
            self.starts += 1
            if self._stopping.is_set():
                process.terminate()
            self._changed()
            tasks = [asyncio.create_task(self._copy(process)), asyncio.create_task(self._hear(ours))]
            try:
                return await process.wait()
            finally:
                self.ready.clear()
                # Read what is left in the pipe; bounded, since a grandchild may hold it open.
                await asyncio.wait(tasks[:1], timeout=0.5)
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)

    async def _copy(self, process: Process) -> None:
        assert process.stdout is not None
        rest = b""
        while data := await process.stdout.read(65_536):
            *lines, rest = (rest + data).split(b"\n")
            rest = rest[-LINE_MAX:]
            for line in lines:
                text = line[:LINE_MAX].decode(errors="replace").rstrip()
                self.last_line = _message_of(text) or self.last_line
                self._output.write(text)

    async def _hear(self, ours: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while data := await loop.sock_recv(ours, 64):
                if READY in data:
                    self.last_line = ""
                    self.was_ready = True
                    self.ready.set()
                    self._changed()

    async def stop(self, hurry: asyncio.Event) -> None:
        """Send SIGTERM, then SIGKILL after `stop_s` seconds, or as soon as `hurry` is set."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        ended = asyncio.create_task(process.wait())
        hurried = asyncio.create_task(hurry.wait())
        both = {ended, hurried}
        await asyncio.wait(both, timeout=self.service.stop_s, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not ended.done():
            log.warning("%s does not end: killed", self.service.name)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await asyncio.wait({ended}, timeout=KILL_S)


class ServiceSupervisor:
    """All services of one plan."""

    def __init__(
        self, plan: Plan, clock: Clock, random: Random, changed: Callable[[], None], echo: bool = False
    ) -> None:
        self.children = [Child(service, plan, clock, random, changed, echo) for service in services(plan)]
        self._tasks: list[asyncio.Task[None]] = []
        self.hurry = asyncio.Event()

    @property
    def pids(self) -> dict[str, int]:
        """The living processes, by service."""
        return {child.service.name: child.pid for child in self.children if child.pid is not None}

    def start(self) -> None:
        """Start all at once; each retries until what it depends on is up."""
        self._tasks = [asyncio.create_task(child.run(), name=child.service.name) for child in self.children]

    async def ready(self) -> None:
        """Wait until all are ready.

        Raises:
            CliError: one of them refuses to run.
        """
        for child in self.children:
            ready = asyncio.create_task(child.ready.wait())
            refusals: list[asyncio.Future[Any]] = [each.refused for each in self.children]
            try:
                await asyncio.wait([ready, *refusals], return_when=asyncio.FIRST_COMPLETED)
            finally:
                ready.cancel()
            for refusal in refusals:
                if refusal.done():
                    raise CliError(refusal.result(), ExitCode.FAILED, "refused")

    def not_ready(self) -> list[str]:
        """The services that are not ready, each with its last line."""
        late = (child for child in self.children if not child.ready.is_set())
        return [f"{child.service.name} ({child.last_line or 'still starting'})" for child in late]

    async def stop(self) -> None:
        """Stop agents first, which need the bus for a clean exit; then the manager; the broker last."""
        for kind in ("agent", "manager", "broker"):
            await asyncio.gather(*(child.stop(self.hurry) for child in self._of(kind)))
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=KILL_S)

    def _of(self, kind: str) -> Iterable[Child]:
        return [child for child in self.children if child.service.kind == kind]


class Output:
    """A service's output in a bounded file, and on the console if asked for."""

    def __init__(self, path: Path, echo_as: str | None) -> None:
        self._handler = logging.handlers.RotatingFileHandler(
            path, maxBytes=LOG_BYTES, backupCount=LOG_KEEP, encoding="utf-8", delay=True
        )
        self._handler.setFormatter(logging.Formatter("%(message)s"))
        # A full disk must neither print tracebacks nor end a service.
        self._handler.handleError = lambda record: None  # type: ignore[method-assign]
        self._echo_as = echo_as

    def write(self, line: str) -> None:
        """Append one line. Never raises."""
        self._handler.emit(logging.LogRecord("", logging.INFO, "", 0, line, None, None))
        if self._echo_as is not None:
            print(f"{self._echo_as:<10} {line}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Close the file."""
        self._handler.close()


def words(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-code).name}"
    return f"killed by signal {-code}"


def _message_of(line: str) -> str:
    """The message of an error line or of a traceback's last line; else empty."""
    for mark in (" ERROR ", " CRITICAL ", " WARNING "):
        if mark in line:
            return line.partition(mark)[2].partition(": ")[2] or line
    return line if line and not line[0].isspace() and "Error" in line.partition(":")[0] else ""
