"""Supervises the services of `busbar up`: one child process each, restarted with backoff when it exits.

Each child leads a session of its own, so the terminal's Ctrl-C does not reach it: `up` stops them in order.
Its standard input is a socket to us: it writes `ready` to it, and sees it closed when we are gone.
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
from busbar.bus.clock import Clock, rfc3339
from busbar.bus.printable import printable
from busbar.bus.system.log_lines import LogFormat, relayed, serious

from ..errors import CliError, ExitCode
from ..printing.output import note
from .run import READY
from .specs import REFUSED
from .up_plan import Plan, Service, services, spec_path

LOG_BYTES: Final = 1 << 20
LOG_KEEP: Final = 2
STABLE_S: Final = 10.0
"""A child that ran for so long restarts with the shortest delay."""
KILL_S: Final = 3.0
NO_RETRY: Final = frozenset({2, REFUSED})
"""Exit codes of a service that a restart will not make ready, if it never was."""
LINE_MAX: Final = 65_536
"""Bytes: a line of our own is never longer (log_lines)."""

log = logging.getLogger("busbar.up")


class Child:
    """One service as a child process that is restarted until `stop`."""

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
        self.last_error = ""
        self.was_ready = False
        self.refused: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._spec = spec_path(plan.state, service)
        path = plan.state / "logs" / f"{service.name}.log"
        self._log = ServiceLog(path, service.name, clock, plan.log_format, echo)
        self._clock, self._random, self._changed = clock, random, changed
        self._process: Process | None = None
        self._stopping = asyncio.Event()
        self._backoff = Backoff(base=0.1, cap=10.0)

    @property
    def pid(self) -> int | None:
        """The pid of the running process."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def run(self) -> None:
        """Restart it until `stop`."""
        failures = 0
        while not self._stopping.is_set():
            started = self._clock.monotonic()
            try:
                code = await self._run_once()
                status = describe_exit(code)
            except OSError as error:
                code, status = 1, str(error)
            except Exception as error:  # a bug here must not stop the other services
                log.exception("%s: supervision failed", self.service.name)
                code, status = 1, repr(error)
            if self._stopping.is_set():
                break
            failures = 1 if self._clock.monotonic() - started > STABLE_S else failures + 1
            if code in NO_RETRY and not self.was_ready and not self.refused.done():
                self.refused.set_result(f"{self.service.name}: {self.last_error or status}")
            delay = self._backoff.delay(failures, self._random.random())
            log.warning("%s: %s; restart in %.1f s", self.service.name, self._reason(status), delay)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._stopping.wait()
        self._log.close()

    def _reason(self, status: str) -> str:
        return f"{status} ({self.last_error})" if self.last_error else status

    async def _run_once(self) -> int:
        """Start it, wait for its exit, return its exit code."""
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
            tasks = [
                asyncio.create_task(self._copy_output(process)),
                asyncio.create_task(self._read_ready(ours)),
            ]
            try:
                return await process.wait()
            finally:
                self.ready.clear()
                # Its last output is in the pipe; a grandchild may hold that open, so the wait is bounded.
                await asyncio.wait(tasks[:1], timeout=0.5)
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)

    async def _copy_output(self, process: Process) -> None:
        assert process.stdout is not None
        rest = b""
        while data := await process.stdout.read(65_536):
            *lines, rest = (rest + data).split(b"\n")
            rest = rest[-LINE_MAX:]
            for line in lines:
                text = line[:LINE_MAX].decode(errors="replace").rstrip()
                self.last_error = _error_message(text) or self.last_error
                self._log.write(text)

    async def _read_ready(self, ours: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while data := await loop.sock_recv(ours, 64):
                if READY in data:
                    self.last_error = ""
                    self.was_ready = True
                    self.ready.set()
                    self._changed()

    async def stop(self, kill_now: asyncio.Event) -> None:
        """Stop it: SIGTERM, then SIGKILL after its `stop_s`, or as soon as `kill_now` is set."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        exited = asyncio.create_task(process.wait())
        killed = asyncio.create_task(kill_now.wait())
        both = {exited, killed}
        await asyncio.wait(both, timeout=self.service.stop_s, return_when=asyncio.FIRST_COMPLETED)
        killed.cancel()
        if not exited.done():
            log.warning("%s does not exit: killed", self.service.name)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await asyncio.wait({exited}, timeout=KILL_S)


class ServiceSupervisor:
    """Supervises all services of one plan."""

    def __init__(
        self, plan: Plan, clock: Clock, random: Random, changed: Callable[[], None], echo: bool = False
    ) -> None:
        self.children = [Child(service, plan, clock, random, changed, echo) for service in services(plan)]
        self._tasks: list[asyncio.Task[None]] = []
        self.kill_now = asyncio.Event()

    @property
    def pids(self) -> dict[str, int]:
        """The pids of running processes, by service."""
        return {child.service.name: child.pid for child in self.children if child.pid is not None}

    def start(self) -> None:
        """Start all at once: a service that needs another retries until it is there."""
        self._tasks = [asyncio.create_task(child.run(), name=child.service.name) for child in self.children]

    async def ready(self) -> None:
        """Wait until all are ready.

        Raises:
            CliError: one refuses to run.
        """
        for child in self.children:
            ready = asyncio.create_task(child.ready.wait())
            refusals = [each.refused for each in self.children]
            first: list[asyncio.Future[Any]] = [ready, *refusals]
            try:
                await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            finally:
                ready.cancel()
            for refusal in refusals:
                if refusal.done():
                    raise CliError(refusal.result(), ExitCode.FAILED, "refused")

    def not_ready(self) -> list[str]:
        """Those that are not ready, with their last error."""
        late = (child for child in self.children if not child.ready.is_set())
        return [f"{child.service.name} ({child.last_error or 'still starting'})" for child in late]

    async def stop(self) -> None:
        """Stop the page, the agents, which say goodbye over the broker, then the manager, then the broker."""
        for kind in ("web", "agent", "manager", "broker", "broker-program"):
            await asyncio.gather(*(child.stop(self.kill_now) for child in self._of(kind)))
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=KILL_S)

    def _of(self, kind: str) -> Iterable[Child]:
        return [child for child in self.children if child.service.kind == kind]


class ServiceLog:
    """A service's output in a bounded file, and with `echo` on the console."""

    def __init__(self, path: Path, name: str, clock: Clock, form: LogFormat, echo: bool) -> None:
        self._handler = logging.handlers.RotatingFileHandler(
            path, maxBytes=LOG_BYTES, backupCount=LOG_KEEP, encoding="utf-8", delay=True
        )
        self._handler.setFormatter(logging.Formatter("%(message)s"))
        # A full disk must neither fill the console with tracebacks nor stop anything.
        self._handler.handleError = lambda record: None  # type: ignore[method-assign]
        self._name, self._clock, self._form, self._echo = name, clock, form, echo

    def write(self, line: str) -> None:
        """Append one line. Never raises."""
        text = relayed(line, self._form, self._name, rfc3339(self._clock.time_ns()))
        kept = printable(line) if self._form == "journald" else text
        self._handler.emit(logging.LogRecord("", logging.INFO, "", 0, kept, None, None))
        if self._echo:
            # A closed terminal must not end the copying: the service would block on a full pipe.
            with contextlib.suppress(OSError, ValueError):
                note(f"{self._name:<10} {text}" if self._form == "plain" else text, flush=True)

    def close(self) -> None:
        """Close the file."""
        self._handler.close()


def describe_exit(code: int) -> str:
    """An exit code as text."""
    if code >= 0:
        return f"ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-code).name}"
    return f"killed by signal {-code}"


def _error_message(line: str) -> str:
    """The message of an error's log line, or the last line of a traceback; empty for all others."""
    if message := serious(line)[1]:
        return message
    return line if line and not line[0].isspace() and "Error" in line.partition(":")[0] else ""
