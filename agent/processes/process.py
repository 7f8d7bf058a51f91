"""Spawns, adopts, watches and stops worker processes; the only file that starts one.

A worker leads a session of its own and writes to a file, not to a pipe, so it survives its agent. The next
agent identifies it by boot id, start time and a random token in its environment. In another PID namespace,
where none of these is seen, a lock on that file tells whether it lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from busbar.bus.clock import Clock
from busbar.bus.system import files
from msgspec import Struct, field

from . import cgroups, killing, logs, procfs, run_as
from .exits import Exit, ExitWatcher, wait_for_futures
from .killing import StopResult
from .memory import HostKills, explain
from .procfs import ProcessRecord, TokenGroup, Usage
from .users import RunAs

_REAP_S: Final = 1.0
_RLIMIT_LOCKS: Final = 10
"""Without a name in Python; ignored by Linux since 2.4.25."""


class SpawnError(Exception):
    """A process could not be started; the text is a reason fit for a status."""


class SpawnSpec(Struct, frozen=True):
    """What to spawn. The caller has stored `token` before: see `WorkerProcesses.scan`.

    `marks` are further BUSBAR_* variables, which `scan` returns (such as the digest of the definition).
    """

    worker: str
    token: str
    argv: tuple[str, ...]
    folder: Path
    log_path: Path
    env: Mapping[str, str] = field(default_factory=dict)
    marks: Mapping[str, str] = field(default_factory=dict)
    run_as: RunAs | None = None
    memory: int | None = None
    """Bytes that its cgroup may use; see `cgroups.limits_memory`."""


class Process:
    """A running worker process, spawned here or adopted."""

    def __init__(self, record: ProcessRecord, child: subprocess.Popen[bytes] | None, clock: Clock) -> None:
        self.record = record
        self.adopted = child is None
        self.exited: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._child = child
        self._watcher = ExitWatcher(record.pid, record.start_ticks, clock)
        self._watcher.exited.add_done_callback(self._on_exit)

    def _on_exit(self, watched: asyncio.Future[None]) -> None:
        if watched.cancelled() or self.exited.done():
            return
        code = self._child.poll() if self._child is not None else None
        self.exited.set_result(Exit(code))

    @property
    def running(self) -> bool:
        """Whether its exit has not been noticed yet."""
        return not self.exited.done()

    async def wait(self) -> Exit:
        """Wait for its exit; the caller sets the bound. Cancelling the wait does not touch the process."""
        return await asyncio.shield(self.exited)

    def close(self) -> None:
        """Stop watching, as when the agent exits; the process goes on."""
        self._watcher.close()
        if self._child is not None and self._child.returncode is None:
            # It outlives us by design: subprocess must neither reap it nor warn about it.
            self._child.returncode = 0


class WorkerProcesses:
    """The worker processes of one node. `scope` (realm/node) is unique per node on this host."""

    def __init__(self, scope: str, clock: Clock) -> None:
        self.scope = scope
        self._clock = clock
        self._spawning: str | None = None
        self._host_kills = HostKills()

    def spawn(self, spec: SpawnSpec) -> Process:
        """Start a process in a session and, where it can be, a cgroup of its own. Needs a running event loop.

        Takes a few milliseconds; in a cgroup some 20, for which the kernel waits for all its processors.

        Its output is appended to `log_path`, which its processes hold (`logs.hold_of`). Its environment is
        `spec.env` and PATH, HOME (its folder) and LANG, nothing else of the agent's.

        Raises:
            SpawnError: with the reason.
        """
        if spec.run_as is not None:
            procfs.expect_user(spec.run_as.uid)
        try:
            log_fd = logs.open_append(spec.log_path)
            try:
                log_from = os.fstat(log_fd).st_size
                files.hold(log_fd)
                self._spawning = spec.token
                child = self._popen(spec, log_fd)
            finally:
                self._spawning = None
                os.close(log_fd)
        except (OSError, ValueError) as error:
            raise SpawnError(_spawn_failure(error, spec)) from error
        _forbid_core_dumps(child.pid)
        try:
            return Process(_record_of(child.pid, spec, log_from), child, self._clock)
        except OSError as error:
            # It can't be watched (no descriptor left to read /proc), but it is still our child.
            child.kill()
            child.wait()
            raise SpawnError(_spawn_failure(error, spec)) from error

    def _popen(self, spec: SpawnSpec, log_fd: int) -> subprocess.Popen[bytes]:
        with (
            cgroups.entry(self.scope, spec.token, spec.memory) as enter,
            _marked(procfs.inherited_mark(spec.token)),
        ):
            return subprocess.Popen(
                spec.argv,
                stdin=subprocess.DEVNULL,
                stdout=log_fd,
                stderr=log_fd,
                cwd=spec.folder,
                env=self._environment(spec),
                close_fds=True,
                pass_fds=(log_fd,),  # so it holds its log also where it sends its output elsewhere
                start_new_session=True,
                preexec_fn=enter,
                **run_as.identity(spec.run_as),
            )

    def _environment(self, spec: SpawnSpec) -> dict[str, str]:
        # Without the last setproctitle overwrites the environment, and with it our token.
        base = {**run_as.environment(spec.folder), "SPT_NOENV": "1"}
        identity = {procfs.SCOPE: self.scope, procfs.WORKER: spec.worker, procfs.TOKEN: spec.token}
        return {**base, **spec.env, **spec.marks, **identity}

    def adopt(self, record: ProcessRecord) -> Process | None:
        """Take over a process that an earlier agent started; None unless exactly that process lives.

        Raises:
            OSError: /proc can't be read now: nothing is known.
        """
        if not procfs.is_alive(record):
            return None
        process = Process(record, None, self._clock)
        # Checked again while watched: the pid can't have been reused in between.
        if procfs.is_alive(record):
            return process
        process.close()
        return None

    def scan(self) -> list[TokenGroup]:
        """Every living process of this node, by token: finds those whose record is lost or was never written.

        Raises:
            OSError: /proc can't be read.
        """
        cgroups.remove_empty(self.scope, self._spawning)
        return procfs.scan(self.scope)

    async def stop(self, target: Process | ProcessRecord, signum: int, grace_s: float) -> StopResult:
        """Stop a worker: `signum` to its process group, SIGKILL to what is left after `grace_s` seconds.

        SIGKILL goes to its cgroup, its session and every process with its token (double forks included), and
        to nothing that can't be proven to be ours. Takes at most `grace_s` + 6 s. A worker that has exited
        long ago is no error. Cancelling leaves the rest running: call again.

        Raises:
            OSError: /proc can't be read.
        """
        record = target.record if isinstance(target, Process) else target
        result = await killing.stop(record, signum, grace_s, self._clock)
        if isinstance(target, Process) and result.gone:
            await wait_for_futures([target.exited], _REAP_S, self._clock)
        return result

    def signal(self, record: ProcessRecord, signum: int) -> bool:
        """Send a signal to a worker's first process alone; False where exactly that one does not live."""
        return killing.signal_first(record, signum)

    async def kill_leftovers(self, record: ProcessRecord) -> StopResult:
        """Kill the descendants of a worker that has exited, before its next start. Raises as `stop`."""
        return await killing.kill(record, self._clock)

    async def kill_by_token(self, token: str) -> StopResult:
        """Kill every process with this token, where there is no record. Raises as `stop`."""
        return await self.kill_leftovers(ProcessRecord("", -1, "", 0, token))

    async def usage(self, records: Iterable[ProcessRecord]) -> dict[str, Usage]:
        """Present usage of each worker by token, in one pass over /proc (in a thread: it may take long).

        Raises:
            OSError: /proc can't be read.
        """
        self._host_kills.tick()
        return await asyncio.to_thread(procfs.usage, list(records))

    def killed_for_memory(self, token: str, end: Exit) -> str | None:
        """Why a worker has just ended, if it was for memory; None where nothing says so.

        To be asked before `kill_leftovers`, which removes its cgroup.
        """
        return explain(end.code, cgroups.folders(token), self._host_kills)


@contextlib.contextmanager
def _marked(mark: int) -> Iterator[None]:
    """Children forked in the block inherit the mark: set in ourselves, so that none can fork before it is."""
    before = None
    with contextlib.suppress(OSError, ValueError):
        before = resource.getrlimit(_RLIMIT_LOCKS)
        resource.setrlimit(_RLIMIT_LOCKS, (mark, before[1]))
    try:
        yield
    finally:
        if before is not None:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(_RLIMIT_LOCKS, before)


def _forbid_core_dumps(pid: int) -> None:
    """A crash loop must not fill the disk with core dumps; the limit is inherited."""
    with contextlib.suppress(OSError, ValueError):
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))


def _record_of(pid: int, spec: SpawnSpec, log_from: int) -> ProcessRecord:
    stat = procfs.read(pid)
    # A child stays listed until we reap it, so its start time can always be read.
    ticks = stat.start_ticks if stat is not None else 0
    return ProcessRecord(
        spec.worker, pid, procfs.boot_id(), ticks, spec.token, log_from, procfs.pid_namespace()
    )


_OS_ERRORS: Final = {
    errno.EMFILE: "the agent has no file descriptor left",
    errno.ENFILE: "the host has no file descriptor left",
    errno.EAGAIN: "the limit on processes is reached",
    errno.ENOMEM: "no memory for another process",
    errno.E2BIG: "argument list or environment too long",
    errno.ENOEXEC: "the program is not an executable file",
    errno.ENOSPC: "no space left on the device",
}


def describe_os_error(error: OSError) -> str:
    """An OSError as text that names the exhausted resource."""
    return _OS_ERRORS.get(error.errno or 0, error.strerror or str(error))


def _spawn_failure(error: OSError | ValueError, spec: SpawnSpec) -> str:
    program = spec.argv[0] if spec.argv else "(no program)"
    if isinstance(error, ValueError):
        return f"can't start {program}: {error}"
    about = error.filename if isinstance(error.filename, str | os.PathLike) else program
    if isinstance(error, FileNotFoundError):
        return f"not found: {os.fspath(about)}"
    if isinstance(error, PermissionError):
        return f"no permission: {os.fspath(about)}"
    # Of what is used up, the file that was to be opened says nothing.
    where = f"{os.fspath(about)}: " if about != program and error.errno not in _OS_ERRORS else ""
    return f"can't start {program}: {where}{describe_os_error(error)}"
