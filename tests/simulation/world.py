"""One schedule, carried out: the whole of Busbar on one loop, faults, healing, quiet, convergence."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from busbar.bus.options import MAX_PACKET
from busbar.manager.store.changes import Changes

from tests.simulation import peers
from tests.simulation.activity import Activity
from tests.simulation.clients import Asked, Client
from tests.simulation.disk import Disk
from tests.simulation.faults import Entry, Schedule
from tests.simulation.happenings import Happenings
from tests.simulation.invariants import Watch
from tests.simulation.loop import START, SimLoop
from tests.simulation.machines import Machine, SimProcess
from tests.simulation.net import Broker, Weather
from tests.simulation.parts import AgentHost, ManagerHost

CONVERGE_S = 30.0
"""Seconds after healing within which all must be as asked for, restart backoff and doubled grace included."""
QUIET_S = 1.25
"""Then nothing may change any more."""
STEP_S = 0.25
"""How often conditions that last are looked at."""
HEAL_S = 11.0
"""By then every fault has ended."""


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that did not hold."""

    invariant: str
    text: str
    at: float


class World(Happenings):
    """Everything there is in one schedule."""

    def __init__(self, schedule: Schedule, folder: Path, disk: Disk | None, keep_trace: bool) -> None:
        super().__init__()
        self.schedule, self.folder, self.disk = schedule, folder, disk
        self.loop = SimLoop(self.random("loop"), self._loop_failed)
        self.hash = hashlib.sha256()
        self.lines: list[str] | None = [] if keep_trace else None
        self.violations: list[Violation] = []
        self.history: list[Asked] = []
        self.graveyard: list[Any] = []
        self.healed = False
        self.warm = False
        self.stormy_at = 0.0
        self.start = START
        self.broker = Broker(self.loop, self.random("broker"))
        self.watch = Watch(self)
        self.activity = Activity()
        self.manager = ManagerHost(self, folder / "manager")
        names = [f"n{number}" for number in range(1, schedule.nodes + 1)]
        self.agents = {name: AgentHost(self, name, folder / name) for name in names}
        self.clients = {name: Client(self, name) for name in ("alice", "bob")}
        self.broker.on_route = self.watch.routed
        self.broker.on_deliver = self.watch.delivering
        self.broker.on_delivered = self.watch.delivered
        for host in self.agents.values():
            host.machine.on_start = self._started
            host.machine.on_end = self.watch.ended
            host.machine.on_kill = self.watch.killing
            host.machine.on_reload = partial(peers.reloading, self.watch)
        self.observer = _observer(self)

    # --- what is noted

    def trace(self, line: str) -> None:
        text = f"{self.now:.6f} {line}"
        self.hash.update(text.encode())
        if self.lines is not None:
            self.lines.append(text)

    def violation(self, invariant: str, text: str) -> None:
        self.trace(f"VIOLATION {invariant} {text}")
        self.violations.append(Violation(invariant, text, self.now))

    def _loop_failed(self, message: str, error: BaseException | None) -> None:
        self.violation("L", f"{message}: {error!r}")

    def _started(self, machine: Machine, process: SimProcess) -> None:
        self.watch.started(machine, process)
        self.activity.started()

    def committed(self, host: ManagerHost, changes: Changes) -> None:
        self.trace(f"commit {len(changes.workers)}w {len(changes.outbox)}o")
        self.watch.committed(host, changes)
        self.activity.committed(self.watch, changes)

    def manager_opened(self, host: ManagerHost) -> None:
        self.watch.manager_opened(host)
        self.activity.opened(self.watch)

    def manager_gone(self, host: ManagerHost) -> None:
        self.watch.manager_gone()

    def agent_started(self, host: AgentHost) -> None:
        self.watch.agent_started(host)

    def agent_gone(self, host: AgentHost) -> None:
        self.watch.agent_gone(host)

    # --- the run

    def run(self) -> float:
        """Carry the schedule out; returns how long convergence took after healing."""
        self.manager.start()
        for host in self.agents.values():
            host.start()
        if not self.warm:
            self.clients["alice"].begin("setup", self.schedule.setup)
        for entry in self.schedule.timeline:
            self._at(entry.at, self._do, entry)
        end = max([2.0, *(_ends(entry) for entry in self.schedule.timeline)])
        if not self._pass(min(end, HEAL_S)):
            return -1.0
        self._heal()
        healed = self.now
        while (why := self.watch.unconverged()) is not None and self.now < healed + CONVERGE_S:
            if not self._pass(self.now + STEP_S):
                return -1.0
        took = self.now - healed
        if why is not None:
            self.violation("C", f"not converged {CONVERGE_S:g} s after healing: {why}")
            return -1.0
        self.watch.quiet = True
        if self._pass(self.now + QUIET_S) and (why := self.watch.unconverged()) is not None:
            self.violation("C", f"converged, and then no longer: {why}")
        while self.watch.conditions.doubted and self._pass(self.now + STEP_S):
            pass
        self.watch.final()
        return took

    def _pass(self, until: float) -> bool:
        """Let time go on to `until`, looking every `STEP_S`; False when something was violated."""
        while self.now < until - 1e-9 and not self.violations:
            self.loop.run_until(START + min(until, self.now + STEP_S))
            if not self.broker.weather.fair:
                self.stormy_at = self.now
            self.watch.look()
        return not self.violations

    def _do(self, entry: Entry) -> None:
        if not self.healed:
            self.trace(f"fault {entry.kind} {entry.args}")
            getattr(self, f"do_{entry.kind}")(*entry.args)

    def _heal(self) -> None:
        """The end of all faults: whatever is down comes back."""
        self.trace("heal")
        self.healed = True
        self._storm_ends()
        self.broker.weather = Weather()
        self.broker.cut.clear()
        if self.broker.max_packet != MAX_PACKET:
            self.broker.max_packet = MAX_PACKET
            self.broker.crash(wills=True)
        self.broker.up = True
        for session in self.broker.sessions.values():
            session.stalled_until = 0.0
        self.manager.fail_commit = self.manager.disk_error = None
        self.manager.program.crash_in = None
        self._thaw(self.manager)
        self.manager.start()
        for host in self.agents.values():
            host.machine.crash_at = None
            host.machine.refuses = False
            host.machine.habits = replace(host.machine.habits, fail_early=0, never_ready=0, refuse_spawn=0)
            host.program.crash_in = None
            self._thaw(host)
            host.start()


def _ends(entry: Entry) -> float:
    last = entry.args[-1] if entry.args else 0.0
    return entry.at + 0.3 + (last if isinstance(last, float) else 0.0)


def _observer(world: World) -> Any:
    """Whatever the programs log as an error is a defect, unless a fault explains it."""

    class Observer(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info and record.exc_info[1] is not None:
                world.watch.logged(record)

    return Observer(logging.ERROR)
