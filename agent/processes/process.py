"""Start, recognise, watch and stop processes; the only file that starts one.

A worker belongs to no one: it leads a session of its own, writes to a file and not to a pipe, and goes on
when the agent dies. It is known again by boot id, start time and a random token in its environment.
Signals go through pidfds opened before the identity check, so a reused pid is never hit.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from . import logs, procfs
from .procfs import Found, ProcessRecord, Stat, Usage

POLL_S: Final = 0.2
"""How often an exit is looked for where the kernel has no pidfd, seconds."""
KILL_PASSES: Final = 25
KILL_WAIT_S: Final = 0.2
KILL_BURST: Final = 20
"""Bounds of the last kill: 25 passes of at most 0.2 s, so 5 s (no orphan is left 10 s after a stop)."""
_REAP_S: Final = 1.0


class SpawnError(Exception):
    """A process could not be started; the text is a reason fit for a status."""


@dataclass(frozen=True, slots=True)
class Start:
    """What to start. The caller has chosen `token` and written it down before: see `Processes.found`.

    `marks` are further BUSBAR_* variables that `found` gives back (such as the digest of the definition).
    """

    worker: str
    token: str
    argv: tuple[str, ...]
    folder: Path
    log_path: Path
    env: Mapping[str, str] = field(default_factory=dict)
    marks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended. `code`: None if another agent had started it; negative: minus the signal."""

    code: int | None

    @property
    def reason(self) -> str:
        """In words."""
        if self.code is None:
            return "ended, exit code unknown"
        if self.code >= 0:
            return f"exit code {self.code}"
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-self.code).name}"
        return f"killed by signal {-self.code}"


@dataclass(frozen=True, slots=True)
class StopReport:
    """What a stop took: processes asked to end, processes killed, and pids that would not go."""

    asked: int = 0
    killed: int = 0
    left: tuple[int, ...] = ()

    @property
    def gone(self) -> bool:
        """Nothing of it runs any more."""
        return not self.left


class _ExitNotice:
    """A future that is done when a process has ended: by pidfd, or by polling where there is none."""

    def __init__(self, pid: int, start_ticks: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._pid, self._start_ticks = pid, start_ticks
        self._timer: asyncio.TimerHandle | None = None
        self.done: asyncio.Future[None] = self._loop.create_future()
        self._fd = _pidfd(pid)
        # Opened first, checked after: the descriptor can't come to mean another process.
        if _ended(pid, start_ticks):
            self._finish()
        elif self._fd is None:
            self._poll()
        else:
            self._loop.add_reader(self._fd, self._finish)

    def _poll(self) -> None:
        if _ended(self._pid, self._start_ticks):
            self._finish()
        else:
            self._timer = self._loop.call_later(POLL_S, self._poll)

    def _finish(self) -> None:
        self.close()
        if not self.done.done():
            self.done.set_result(None)

    def close(self) -> None:
        """Stop watching; the process is not touched."""
        if self._timer is not None:
            self._timer.cancel()
        if self._fd is not None:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = None


class Process:
    """A running worker process, started here or adopted."""

    def __init__(self, record: ProcessRecord, child: subprocess.Popen[bytes] | None) -> None:
        self.record = record
        self.adopted = child is None
        self.exited: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._child = child
        self._notice = _ExitNotice(record.pid, record.start_ticks)
        self._notice.done.add_done_callback(self._on_exit)

    def _on_exit(self, notice: asyncio.Future[None]) -> None:
        if notice.cancelled() or self.exited.done():
            return
        code = self._child.poll() if self._child is not None else None
        self.exited.set_result(Exit(code))

    @property
    def running(self) -> bool:
        """Whether its end has not been noticed yet."""
        return not self.exited.done()

    async def wait(self) -> Exit:
        """Wait for its end; the caller sets the bound. Cancelling the wait does not touch the process."""
        return await asyncio.shield(self.exited)

    def close(self) -> None:
        """Stop watching, as an agent does that ends; the process goes on."""
        self._notice.close()
        if self._child is not None and self._child.returncode is None:
            # It outlives us by design: it must not be reaped, nor warned about, by subprocess.
            self._child.returncode = 0


class Processes:
    """The processes of one node. `scope` (realm/node) tells them from those of other agents on this host."""

    def __init__(self, scope: str) -> None:
        self.scope = scope

    def spawn(self, start: Start) -> Process:
        """Start a process in a session of its own; takes a few milliseconds. Needs a running event loop.

        Its output is appended to `log_path`. Its environment is `start.env` and PATH, HOME (its folder) and
        LANG: nothing of the agent's own.

        Raises:
            SpawnError: with the reason.
        """
        try:
            log_fd = logs.open_append(start.log_path)
            try:
                log_from = os.fstat(log_fd).st_size
                child = self._popen(start, log_fd)
            finally:
                os.close(log_fd)
        except (OSError, ValueError) as error:
            raise SpawnError(_reason(error, start)) from error
        try:
            return Process(_record_of(child.pid, start, log_from), child)
        except OSError as error:
            # It runs, but can't be watched (no descriptor left to read /proc): it is still our own child.
            child.kill()
            child.wait()
            raise SpawnError(_reason(error, start)) from error

    def _popen(self, start: Start, log_fd: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            start.argv,
            stdin=subprocess.DEVNULL,
            stdout=log_fd,
            stderr=log_fd,
            cwd=start.folder,
            env=self._environment(start),
            close_fds=True,
            start_new_session=True,
        )

    def _environment(self, start: Start) -> dict[str, str]:
        clean = {
            "PATH": os.environ.get("PATH", "/usr/local/bin:/usr/bin:/bin"),
            "HOME": str(start.folder),
            "LANG": os.environ.get("LANG", "C.UTF-8"),
            # setproctitle overwrites the environment, and with it our token, unless this is set.
            "SPT_NOENV": "1",
        }
        marks = {procfs.SCOPE: self.scope, procfs.WORKER: start.worker, procfs.TOKEN: start.token}
        return {**clean, **start.env, **start.marks, **marks}

    def adopt(self, record: ProcessRecord) -> Process | None:
        """Take over a process that an earlier agent started; None unless it is truly that one and lives.

        Raises:
            OSError: /proc can't be read now: nothing is known.
        """
        if not procfs.is_ours(record):
            return None
        process = Process(record, None)
        # Watched first, asked again after: the pid can't have changed hands in between.
        if procfs.is_ours(record):
            return process
        process.close()
        return None

    def found(self) -> list[Found]:
        """Every living process of this node, by token: for an agent that lost its notes, or died on a fork.

        Raises:
            OSError: /proc can't be read.
        """
        return procfs.found(self.scope)

    async def stop(self, target: Process | ProcessRecord, signum: int, grace_s: float) -> StopReport:
        """Stop a worker: ask its process group with `signum`, and kill what is left after `grace_s` seconds.

        Killed are its group, its session, and whatever bears its token (double-forked descendants too). What
        can't be proven to be ours is never signalled. Takes at most `grace_s` + 6 s. A worker that is long
        gone is no error. Cancelling leaves the rest running: call again.

        Raises:
            OSError: /proc can't be read.
        """
        record = target.record if isinstance(target, Process) else target
        seen: dict[int, Stat] = {}
        group = [stat for stat in await _members(record, seen) if stat.pgid == record.pid]
        asked = _send_all(group, signum)
        if asked:
            # A stopped process would sleep through the grace it is given.
            _send_all((stat for stat in group if stat.state in "Tt"), signal.SIGCONT)
            await _until_gone(group, grace_s)
        report = await _kill_rest(record, seen, asked)
        if isinstance(target, Process) and report.gone:
            await asyncio.wait({target.exited}, timeout=_REAP_S)
        return report

    async def sweep(self, record: ProcessRecord) -> StopReport:
        """Kill what a worker whose leader ended has left behind, before it is started again. As `stop`."""
        return await _kill_rest(record, {}, asked=0)

    async def sweep_token(self, token: str) -> StopReport:
        """Kill every process that bears this token, where no record is at hand. As `stop`."""
        return await self.sweep(ProcessRecord("", -1, "", 0, token))

    async def usage(self, records: Iterable[ProcessRecord]) -> dict[str, Usage]:
        """What each worker uses now, by token, in one pass over /proc (in a thread: it may take long).

        Raises:
            OSError: /proc can't be read.
        """
        return await asyncio.to_thread(procfs.usage, list(records))


async def _members(record: ProcessRecord, seen: dict[int, Stat]) -> list[Stat]:
    return await asyncio.to_thread(lambda: list(procfs.members(record, seen)))


async def _kill_rest(record: ProcessRecord, seen: dict[int, Stat], asked: int) -> StopReport:
    killed: set[int] = set()
    for _ in range(KILL_PASSES):
        left = await asyncio.to_thread(_kill_burst, record, seen, killed)
        if not left:
            return StopReport(asked, len(killed))
        await _until_gone(left, KILL_WAIT_S)
    left = await _members(record, seen)
    return StopReport(asked, len(killed), tuple(stat.pid for stat in left))


def _kill_burst(record: ProcessRecord, seen: dict[int, Stat], killed: set[int]) -> list[Stat]:
    """Kill each as it is seen, and look again at once while new ones turn up: one that keeps forking would
    else always be a step ahead. What was still seen in the last pass is given back."""
    left: list[Stat] = []
    quiet = 0
    for _ in range(KILL_BURST):
        left, before = [], len(killed)
        for stat in procfs.members(record, seen):
            left.append(stat)
            if _send(stat, signal.SIGKILL):
                killed.add(stat.pid)
        quiet = quiet + 1 if len(killed) == before else 0
        if quiet == 2:
            break
    return left


async def _until_gone(processes: Iterable[Stat], timeout_s: float) -> None:
    notices = [_ExitNotice(stat.pid, stat.start_ticks) for stat in processes]
    try:
        if notices:
            await asyncio.wait([notice.done for notice in notices], timeout=timeout_s)
    finally:
        for notice in notices:
            notice.close()


def _send_all(processes: Iterable[Stat], signum: int) -> int:
    return sum(_send(stat, signum) for stat in processes)


def _send(target: Stat, signum: int) -> bool:
    """Signal this very process; False when it is gone or may not be signalled.

    Raises:
        OSError: /proc can't be read, so it can't be told whether it is the same process.
    """
    fd = _pidfd(target.pid)
    try:
        now = procfs.read(target.pid)
        if now is None or now.dead or now.start_ticks != target.start_ticks:
            return False
        if fd is not None:
            signal.pidfd_send_signal(fd, signum)
        else:
            os.kill(target.pid, signum)
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        if fd is not None:
            os.close(fd)
    return True


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _ended(pid: int, start_ticks: int) -> bool:
    try:
        stat = procfs.read(pid)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return False  # nothing is known: it lives until the contrary is seen
        raise
    return stat is None or stat.dead or stat.start_ticks != start_ticks


def _record_of(pid: int, start: Start, log_from: int) -> ProcessRecord:
    stat = procfs.read(pid)
    # A child stays listed until we reap it, so its start time can always be read.
    ticks = stat.start_ticks if stat is not None else 0
    return ProcessRecord(start.worker, pid, procfs.boot_id(), ticks, start.token, log_from)


_REASONS: Final = {
    errno.EMFILE: "the agent has no file descriptor left",
    errno.ENFILE: "the host has no file descriptor left",
    errno.EAGAIN: "the limit on processes is reached",
    errno.ENOMEM: "no memory for another process",
    errno.E2BIG: "argument list or environment too long",
    errno.ENOEXEC: "the program is not an executable file",
    errno.ENOSPC: "no space left on the device",
}


def said(error: OSError) -> str:
    """An error of the system in words that tell an operator what is short."""
    return _REASONS.get(error.errno or 0, error.strerror or str(error))


def _reason(error: OSError | ValueError, start: Start) -> str:
    program = start.argv[0] if start.argv else "(no program)"
    if isinstance(error, ValueError):
        return f"can't start {program}: {error}"
    about = error.filename if isinstance(error.filename, str | os.PathLike) else program
    if isinstance(error, FileNotFoundError):
        return f"not found: {os.fspath(about)}"
    if isinstance(error, PermissionError):
        return f"no permission: {os.fspath(about)}"
    return f"can't start {program}: {said(error)}"
