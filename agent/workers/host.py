"""The host that an agent runs on: its processes, ports, programs and probes.

One object that is passed in, so that a simulated host can take its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Protocol

from busbar.bus.clock import Clock
from busbar.bus.messages import Traffic
from busbar.bus.system.regular_files import file_identity

from ..planner.file_watch import Files
from ..planner.mesh_links import MeshLinks
from ..processes import procfs, shutdown
from ..processes.process import WorkerProcesses
from ..processes.procfs import ProcessRecord, Stat
from ..processes.sockets import bind_error
from ..processes.versions import ask_version
from ..runtimes import ListenerSpec, Probe, Runtime, load_runtimes
from ..runtimes.base import Question
from ..runtimes.describe import Identity, VersionQuestion, identity_of, program_of, version_question
from ..state import claim
from . import shared_port
from .mesh import linked
from .probes import probe
from .traffic import traffic


class Claim(Protocol):
    """What is held until it is closed."""

    def close(self) -> None: ...


class Host:
    """This machine. Each method raises what it calls raises."""

    def processes(self, scope: str, clock: Clock) -> WorkerProcesses:
        """The worker processes of one node (`scope`)."""
        return WorkerProcesses(scope, clock)

    def runtimes(self, table: Mapping[str, object]) -> Mapping[str, Runtime]:
        """The runtimes of the configuration's `[runtimes]` table."""
        return load_runtimes(table)

    def program_identity(self, runtime: Runtime) -> Identity | None:
        """The file of a runtime's program; None where there is none, or it has no version to be asked."""
        program = program_of(runtime)
        return identity_of(program) if program else None

    async def program_version(self, runtime: Runtime, program: str) -> str | None:
        """The version of a runtime's program; None where it does not say."""
        # It may look through folders of packages.
        found = await asyncio.to_thread(version_question, runtime, program)
        return await ask_version(*found) if isinstance(found, VersionQuestion) else found

    def identities(self, files: Mapping[str, Path]) -> Files:
        """What the files are now, by the same keys."""
        return {name: file_identity(path) for name, path in files.items()}

    async def probe(
        self, wanted: Probe, host: str, port: int, log_path: Path, timeout_s: float, *, log_from: int
    ) -> str | None:
        """Probe a worker once; None when it is healthy, else the error."""
        return await probe(wanted, host, port, log_path, timeout_s, log_from=log_from)

    async def probe_shared(
        self, wanted: Probe, listener: ListenerSpec, log_path: Path, timeout_s: float, record: ProcessRecord
    ) -> str | None:
        """Probe exactly this worker on a port that several share; None when it is healthy, else the error."""
        return await probe(
            wanted,
            listener.probe_host,
            listener.port,
            log_path,
            timeout_s,
            log_from=record.log_from,
            connect=partial(shared_port.connect, record),
        )

    async def linked(self, question: Question) -> MeshLinks | None:
        """The routers that one is connected to; None when it does not say."""
        return await linked(question)

    async def traffic(self, question: Question) -> Traffic | None:
        """A router's clients and their messages; None when it does not say."""
        return await traffic(question)

    def bind_error(self, interface: str, port: int, *, shared: bool) -> OSError | None:
        """Why a worker can't listen there; None when it can."""
        return bind_error(interface, port, shared=shared)

    async def ends_with_us(self) -> bool:
        """Whether all processes here end with this one: the machine, the container or the service stops."""
        return await shutdown.ends_with_us()

    def claim(self, folder_id: str) -> Claim:
        """Be the only agent here with a state folder of this id, until it is closed."""
        return claim(folder_id)

    def boot_id(self) -> str:
        """Changes with every boot."""
        return procfs.boot_id()

    def pid_namespace(self) -> int:
        """The inode of the PID namespace whose processes we see; 0 when unknown."""
        return procfs.pid_namespace()

    def is_alive(self, record: ProcessRecord) -> bool:
        """Whether exactly the process of this record lives."""
        return procfs.is_alive(record)

    def listens(self, record: ProcessRecord, port: int) -> bool | None:
        """Whether that worker listens on a port; None when no process does, or it is unknown."""
        try:
            return procfs.listens(record, port)
        except OSError:
            return None

    def listeners(self, record: ProcessRecord, port: int) -> tuple[Stat, ...]:
        """That worker's processes that listen on a port; none when it is unknown."""
        try:
            return procfs.listeners(record, port)
        except OSError:
            return ()

    def suspended(self, processes: Collection[tuple[int, int]]) -> list[int]:
        """Pids of those of these processes (pid, start ticks) that a signal has stopped."""
        try:
            return procfs.suspended(processes)
        except OSError:
            return []

    def age_s(self, record: ProcessRecord) -> float:
        """Seconds since the process started; 0 when unknown."""
        try:
            stat = procfs.read(record.pid)
            return procfs.age_s(stat) if stat is not None else 0.0
        except OSError:
            return 0.0
