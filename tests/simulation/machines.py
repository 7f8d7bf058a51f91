"""Simulated hosts (`agent.workers.host`) and their processes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import signal
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from busbar.agent.processes.exits import Exit
from busbar.agent.processes.killing import StopResult
from busbar.agent.processes.ports import PortRequest
from busbar.agent.processes.process import SpawnError, SpawnSpec, WorkerProcesses
from busbar.agent.processes.process_limits import NO_LIMITS, ProcessLimits
from busbar.agent.processes.procfs import ProcessRecord, Stat, TokenGroup, Usage
from busbar.agent.processes.users import RunAs
from busbar.agent.runtimes import (
    LaunchSpec,
    Ports,
    Probe,
    Runtime,
    RuntimeConfigError,
    TcpProbe,
    WorkerSpec,
)
from busbar.agent.workers.host import Claim, Host
from busbar.agent.workers.identity import GENERATION, OID, PORT
from busbar.bus.clock import Clock
from busbar.bus.listeners import DEFAULT

from tests.simulation.loop import SimLoop, owner

GRACE_S = 1.0
START_DEADLINE_S = 4.0
PORTS = PortRequest(20000, 20063)
REFUSED_PORT = 5
"""An update that asks for it is bad on some hosts, as one whose certificate is missing there."""


@dataclass(slots=True)
class Habits:
    """How the processes of a host behave: chances per start."""

    fail_early: float = 0.0
    never_ready: float = 0.0
    stubborn: float = 0.1
    grandchild: float = 0.1
    refuse_spawn: float = 0.0
    start_s: tuple[float, float] = (0.02, 0.4)


@dataclass(eq=False)
class SimProcess:
    """One worker's process, with what it may have forked."""

    pid: int
    record: ProcessRecord
    oid: str
    generation: int
    port: int
    marks: Mapping[str, str]
    born: float
    ready_at: float
    stubborn: bool
    grandchild: bool
    alive: bool = True
    hung: bool = False
    code: int = 0
    reloads: list[float] = field(default_factory=list)
    """When it was signalled to read its peers again."""
    watchers: list[Callable[[], None]] = field(default_factory=list)

    @property
    def token(self) -> str:
        return self.record.token

    def answers(self, now: float) -> bool:
        return self.alive and not self.hung and now >= self.ready_at


class Machine:
    """One host. Its processes outlive its agent, and end with a reboot."""

    def __init__(self, name: str, loop: SimLoop, random: Random) -> None:
        self.name, self.loop, self.random = name, loop, random
        self.habits = Habits()
        self.boots = 1
        self.processes: dict[int, SimProcess] = {}
        self.crash_at: str | None = None
        self.refuses = name != "n2"
        """Whether its runtime refuses `REFUSED_PORT`."""
        self._pid = 100
        self.on_start: Callable[[Machine, SimProcess], None] = lambda machine, process: None
        self.on_end: Callable[[Machine, SimProcess, str], None] = lambda machine, process, why: None
        self.on_kill: Callable[[Machine, SimProcess], None] = lambda machine, process: None
        self.on_reload: Callable[[Machine, SimProcess], None] = lambda machine, process: None

    @property
    def boot_id(self) -> str:
        return f"boot-{self.boots}"

    def refused(self, transport: Any) -> bool:
        """Whether this host refuses that transport."""
        return self.refuses and bool(transport) and transport["endpoint"]["port"] == REFUSED_PORT

    def living(self) -> list[SimProcess]:
        return [each for each in self.processes.values() if each.alive]

    def bearing(self, token: str) -> list[SimProcess]:
        """Processes with that token, also those of which only a grandchild is left."""
        return [each for each in self.processes.values() if each.token == token]

    def spawn(self, spec: SpawnSpec) -> SimProcess:
        habits, random, now = self.habits, self.random, self.loop.now
        if random.random() < habits.refuse_spawn:
            raise SpawnError("the limit on processes is reached")
        self._fail_point("before_fork")
        self._pid += 1
        ready = now + random.uniform(*habits.start_s)
        record = ProcessRecord(spec.worker, self._pid, self.boot_id, int(now * 100), spec.token)
        process = SimProcess(
            pid=self._pid,
            record=record,
            oid=spec.marks[OID],
            generation=int(spec.marks[GENERATION]),
            port=int(spec.marks[PORT]),
            marks=dict(spec.marks),
            born=now,
            ready_at=float("inf") if random.random() < habits.never_ready else ready,
            stubborn=random.random() < habits.stubborn,
            grandchild=random.random() < habits.grandchild,
        )
        self.processes[process.pid] = process
        self.on_start(self, process)
        if random.random() < habits.fail_early:
            self.loop.call_later(random.uniform(0.0, 0.5), self.end, process, 1, "failed early")
        self._fail_point("after_fork")
        return process

    def inherit(self, processes: Iterable[SimProcess]) -> None:
        """Take over processes that were started long ago."""
        for each in processes:
            again = replace(
                each, born=self.loop.now - 100.0, ready_at=self.loop.now - 99.0, watchers=[], reloads=[]
            )
            self.processes[again.pid] = again
            self._pid = max(self._pid, again.pid)

    def _fail_point(self, name: str) -> None:
        if self.crash_at == name:
            self.crash_at = None
            owner().crash()

    def end(self, process: SimProcess, code: int, why: str) -> None:
        """A process ends (its grandchild, if any, goes on)."""
        if not process.alive:
            return
        process.alive = False
        process.code = code
        if not process.grandchild:
            self.processes.pop(process.pid, None)
        self.on_end(self, process, why)
        for watcher in process.watchers:
            watcher()

    def reload(self, process: SimProcess) -> None:
        """It reads its peers again; before it has set up its signals, that would end it."""
        self.on_reload(self, process)
        process.reloads.append(self.loop.now)
        if self.loop.now < process.ready_at:
            self.end(process, -1, "signalled before it was set up")

    def reap(self, process: SimProcess, why: str) -> None:
        """Kill a process with all that it forked."""
        process.grandchild = False
        self.processes.pop(process.pid, None)
        self.end(process, -9, why)

    def reboot(self) -> None:
        for process in list(self.processes.values()):
            self.reap(process, "reboot")
        self.boots += 1


class Watched:
    """`agent.processes.process.Process` on a simulated host."""

    def __init__(self, machine: Machine, process: SimProcess, adopted: bool) -> None:
        self.record = process.record
        self.adopted = adopted
        self.exited: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._program = owner()
        self._machine, self._process = machine, process
        process.watchers.append(self._ended)
        if not process.alive:
            self._ended()

    def _ended(self) -> None:
        later = self._machine.random.uniform(0.0, 0.01)
        self._machine.loop.call_later(later, self._tell, context=self._program.context)

    def _tell(self) -> None:
        if not self.exited.done() and self._ended in self._process.watchers:
            self.exited.set_result(Exit(None if self.adopted else self._process.code))

    @property
    def running(self) -> bool:
        return not self.exited.done()

    def close(self) -> None:
        with contextlib.suppress(ValueError):
            self._process.watchers.remove(self._ended)


class SimProcesses:
    """`agent.processes.process.WorkerProcesses` on a simulated host, with the same guarantees."""

    def __init__(self, scope: str, machine: Machine) -> None:
        self.scope, self._machine = scope, machine

    def spawn(self, spec: SpawnSpec) -> Watched:
        return Watched(self._machine, self._machine.spawn(spec), adopted=False)

    def adopt(self, record: ProcessRecord) -> Watched | None:
        process = _alive(self._machine, record)
        return Watched(self._machine, process, adopted=True) if process else None

    def signal(self, record: ProcessRecord, signum: int) -> bool:
        process = _alive(self._machine, record)
        if process is not None:
            self._machine.reload(process)
        return process is not None

    def scan(self) -> list[TokenGroup]:
        machine = self._machine
        return [
            TokenGroup(
                each.token,
                each.record.worker,
                each.record if each.alive else None,
                (each.pid,),
                {**each.marks, "BUSBAR_WORKER_TOKEN": each.token},
            )
            for each in machine.processes.values()
        ]

    async def stop(self, target: Watched | ProcessRecord, signum: int, grace_s: float) -> StopResult:
        machine = self._machine
        record = target.record if isinstance(target, Watched) else target
        await self._look()
        process = _alive(machine, record)
        asked = 0
        if process is not None:
            asked = 1
            machine.on_kill(machine, process)
            if not process.stubborn and not process.hung:
                later = machine.random.uniform(0.0, 0.3)
                machine.loop.call_later(later, machine.end, process, 0, "asked to stop")
            await self._until_ended(process, grace_s)
        return await self._kill(record.token, asked)

    async def _until_ended(self, process: SimProcess, seconds: float) -> None:
        notice = Watched(self._machine, process, adopted=True)
        await asyncio.wait({notice.exited}, timeout=seconds)
        notice.close()

    async def kill_leftovers(self, record: ProcessRecord) -> StopResult:
        return await self._kill(record.token, 0)

    async def kill_by_token(self, token: str) -> StopResult:
        return await self._kill(token, 0)

    def killed_for_memory(self, token: str, end: Exit) -> str | None:
        return None

    async def usage(self, records: Iterable[ProcessRecord]) -> dict[str, Usage]:
        await self._look()
        return {record.token: Usage(1.5, 1_000_000, 1) for record in records}

    async def _kill(self, token: str, asked: int) -> StopResult:
        machine, killed = self._machine, 0
        while True:
            await self._look()
            left = machine.bearing(token)
            if not left:
                return StopResult(asked, killed)
            for process in left:
                killed += 1
                if process.alive:
                    machine.on_kill(machine, process)
                machine.reap(process, "killed")

    async def _look(self) -> None:
        await asyncio.sleep(self._machine.random.uniform(0.001, 0.01))


def _alive(machine: Machine, record: ProcessRecord) -> SimProcess | None:
    found = machine.processes.get(record.pid)
    return found if found is not None and found.alive and found.record == record else None


@dataclass(frozen=True)
class SimRuntime:
    """The one runtime of a simulated node."""

    machine: Machine
    name: str = "sim"
    run_as: RunAs | None = None
    limits: ProcessLimits = NO_LIMITS

    def unavailable(self) -> str | None:
        return None

    def ports_needed(self, transport: Any) -> dict[str, PortRequest]:
        return {DEFAULT: PORTS}

    def render(self, worker: WorkerSpec, host: str, ports: Ports, folder: Path) -> LaunchSpec:
        if self.machine.refused(worker.transport):
            raise RuntimeConfigError("/transport/endpoint/port", "refused on this host")
        probe, port = TcpProbe(), ports[DEFAULT]
        return LaunchSpec(
            argv=("sim",),
            env={},
            files={},
            peer_files={"peers": " ".join(each.worker for each in worker.peers)} if worker.peers else {},
            reload_signal=signal.SIGHUP,
            ready=probe,
            live=probe,
            address=f"tcp://{host}:{port}",
            interface=host,
            port=port,
            grace_s=GRACE_S,
            start_deadline_s=START_DEADLINE_S,
        )


class SimHost(Host):
    """The host that the real agent code runs on."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def processes(self, scope: str, clock: Clock) -> WorkerProcesses:
        return SimProcesses(scope, self._machine)  # type: ignore[return-value]

    def claim(self, folder_id: str) -> Claim:
        return io.BytesIO()  # there are no copies here

    def runtimes(self, table: Mapping[str, Any]) -> Mapping[str, Runtime]:
        return {"sim": SimRuntime(self._machine)}

    async def probe(
        self, wanted: Probe, host: str, port: int, log_path: Path, timeout_s: float, *, log_from: int
    ) -> str | None:
        machine = self._machine
        await asyncio.sleep(machine.random.uniform(0.0005, 0.004))
        there = [each for each in machine.living() if each.port == port]
        if any(each.answers(machine.loop.now) for each in there):
            return None
        if any(each.hung for each in there):
            await asyncio.sleep(timeout_s)
            return f"no answer within {timeout_s:g} s"
        return f"nothing listens on {host}:{port}"

    def bind_error(self, interface: str, port: int, *, shared: bool) -> OSError | None:
        held = any(each.port == port for each in self._machine.living())
        return OSError(errno.EADDRINUSE, "Address already in use") if held else None

    async def ends_with_us(self) -> bool:
        return False

    def boot_id(self) -> str:
        return self._machine.boot_id

    def is_alive(self, record: ProcessRecord) -> bool:
        return _alive(self._machine, record) is not None

    def listens(self, record: ProcessRecord, port: int) -> bool | None:
        now = self._machine.loop.now
        there = [each for each in self._machine.living() if each.port == port and each.ready_at <= now]
        return any(each.record == record for each in there) if there else None

    def listeners(self, record: ProcessRecord, port: int) -> tuple[Stat, ...]:
        return ()

    def suspended(self, processes: Collection[tuple[int, int]]) -> list[int]:
        return []

    def age_s(self, record: ProcessRecord) -> float:
        process = self._machine.processes.get(record.pid)
        return self._machine.loop.now - process.born if process is not None else 0.0
