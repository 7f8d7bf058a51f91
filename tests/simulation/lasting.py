"""What may be wrong for a moment only: too many, orphans, a lie, a dead loop, old news (B, O, H, L, T)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from busbar.agent.planner import plan as agent_plan
from busbar.agent.planner.lifecycle import Phase
from busbar.bus.states import NodeStatus, WorkerState
from busbar.manager.planner.model import LivenessTiming

from tests.simulation.link import connected
from tests.simulation.mirror import Mirror
from tests.simulation.parts import HEARTBEAT_S

if TYPE_CHECKING:
    from busbar.bus.messages import AssignedWorker

    from tests.simulation.conditions import Conditions
    from tests.simulation.world import World

TIMING = LivenessTiming(heartbeat=HEARTBEAT_S)
LATE_S = TIMING.late_after * HEARTBEAT_S
LOST_S = TIMING.lost_after * HEARTBEAT_S
MARGIN_S = 2.5
"""A monitor's interval, a commit, a message, a beat."""
NOTICED_S = 3.0
"""A shorter stop of the manager is not told apart from a busy moment."""
DOUBTED_S = 0.75
"""From here on it may be: the manager counts silence anew when two of its looks lie 1.75 s apart."""
DOUBLE_S = 5.0
"""How long there may be too many (invariant B), beside the grace of a stop."""
STOP_S = 2.0
ORPHAN_S = 10.0
"""Invariant O."""


class Lasting:
    """The conditions that are looked at every `STEP_S`; `tests.simulation.invariants.Watch` fills them in."""

    world: World
    mirror: Mirror
    conditions: Conditions
    heard: dict[str, float]
    contact: dict[str, float | None]
    wrong_since: dict[tuple[str, str], float]
    defined: dict[tuple[str, str], dict[int, AssignedWorker]]
    """By node and worker oid: what was assigned, by generation, as far as a look has seen it."""
    listening: float
    excused: float
    """Since when the manager may hold that it listens: it may have noticed that it stood still."""

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return self.world.now

    def _violation(self, invariant: str, text: str) -> None:
        self.world.violation(invariant, text)

    # --- what lasts: B, O, H, L

    def look(self) -> None:
        self._note_contact()
        self._ways_back()
        self._too_many()
        self._orphans()
        self._kept()
        self._honest()
        self._alive()
        self.conditions.look()

    def _note_contact(self) -> None:
        manager, world = self.world.manager, self.world
        hears = (
            manager.up and manager.disk_error is None and connected(manager.manager and manager.manager.link)
        )
        for name, host in world.agents.items():
            touched = hears and host.up and connected(host.link) and world.broker.weather.fair
            if not touched:
                self.contact[name] = None
            elif self.contact.get(name) is None:
                self.contact[name] = self.now

    def _touched(self, name: str) -> float:
        """For how long a node has been in undisturbed contact with the manager."""
        since = self.contact.get(name)
        return 0.0 if since is None else self.now - since

    def _lasts(self, key: tuple[str, str]) -> float:
        return self.now - self.wrong_since.setdefault(key, self.now)

    def _too_many(self) -> None:
        places: dict[str, list[str]] = {}
        for host in self.world.agents.values():
            for process in host.machine.living():
                places.setdefault(process.oid, []).append(host.name)
        for oid, names in places.items():
            if len(names) > 1 and all(self._touched(name) > DOUBLE_S + STOP_S for name in names):
                self._violation("B", f"{oid} lives on {', '.join(names)} at once")

    def _ways_back(self) -> None:
        """A process goes on as a later generation where an update that its node refused was taken back, and
        only there; from then on it is that generation's."""
        for name, host in self.world.agents.items():
            agent = host.agent if host.up else None
            wanted = agent_plan.desired_workers(agent.supervisor.assignment) if agent is not None else None
            for oid, definition in (wanted or {}).items():
                self.defined.setdefault((name, oid), {})[definition.generation] = definition
            records = [each.record for each in agent.supervisor.registry.all()] if agent is not None else []
            by_token = {record.token: record.generation for record in records if record is not None}
            for process in host.machine.living():
                generation = by_token.get(process.token, process.generation)
                if generation <= process.generation:
                    continue
                known = self.defined.get((name, process.oid), {})
                own, bad, now = (known.get(g) for g in (process.generation, generation - 1, generation))
                same = own is None or now is None or own.digest == now.digest
                if not same or (bad is not None and not host.machine.refused(bad.transport)):
                    self._violation("O", f"{name}: {process.record.worker} should have been restarted")
                process.generation = generation

    def _orphans(self) -> None:
        """O: not assigned by the agent's own assignment, or by the store while in contact, for too long."""
        seen: set[tuple[str, str]] = set()
        for host in self.world.agents.values():
            if not host.up or host.agent is None:
                continue
            wanted = agent_plan.desired_workers(host.agent.supervisor.assignment)
            ordered = self.mirror.assigned(host.name) if self._touched(host.name) > ORPHAN_S else None
            for process in host.machine.processes.values():
                definition = None if wanted is None else wanted.get(process.oid)
                fits = definition is not None and definition.generation == process.generation
                fits &= ordered is None or ordered.get(process.oid) == process.generation
                if wanted is None or (fits and process.alive):
                    continue
                if process.alive and definition is not None and host.machine.refused(definition.transport):
                    continue  # it is not replaced by what its node has found bad
                key = ("orphan", f"{host.name} {process.token}")
                seen.add(key)
                since = self.now - host.started_at + self.world.start
                if min(self._lasts(key), since) > ORPHAN_S + 0.5:
                    self._violation(
                        "O", f"{host.name}: {process.record.worker} ({process.pid}) is still there"
                    )
        self._forget("orphan", seen)

    def _kept(self) -> None:
        """K: what was ready waits with a definition that its node has found bad, not with its former one."""
        for host in self.world.agents.values():
            agent = host.agent if host.up else None
            wanted = agent_plan.desired_workers(agent.supervisor.assignment) if agent is not None else None
            for instance in agent.supervisor.registry.all() if agent is not None else ():
                worker, record = instance.worker, instance.record
                definition = (wanted or {}).get(worker.oid)
                if definition is None or not host.machine.refused(definition.transport):
                    continue
                key = definition.generation, definition.digest
                has_kept = record is not None and record.kept is not None and worker.proven not in (None, key)
                if has_kept and worker.matches(*key) and worker.phase is Phase.WAITING and worker.failures:
                    self._violation("K", f"{host.name}: {worker.name} is lost to an update that is refused")

    def _forget(self, kind: str, seen: set[tuple[str, str]]) -> None:
        for key in [key for key in self.wrong_since if key[0] == kind and key not in seen]:
            del self.wrong_since[key]

    def _honest(self) -> None:
        """H: running is only what is heard of, and what runs."""
        manager = self.world.manager
        seen: set[tuple[str, str]] = set()
        link = manager.manager.link if manager.up and manager.manager else None
        if link is not None and not link.conn:  # type: ignore[attr-defined]
            self.excused = self.now  # it waits for its database before it listens
        if link is not None and not connected(link):
            self.listening = min(self.listening, self.now)
        if link is None or manager.disk_error is not None:
            self._forget("dishonest", seen)
            return
        for row in self.mirror.workers.values():
            node = self.mirror.nodes.get(row.node_oid or "")
            if row.state is not WorkerState.RUNNING or node is None:
                continue
            key = ("dishonest", row.oid)
            host = self._agent(node.name)
            deaf = self.now - max(self.heard.get(node.name, 0.0), self._began()) > 2 * LATE_S
            lie = not any(each.oid == row.oid for each in host.machine.living())
            if deaf or (lie and self._touched(node.name) > DOUBLE_S):
                seen.add(key)
                if self._lasts(key) > MARGIN_S + (DOUBLE_S if lie and not deaf else 0.0):
                    what = "is not heard" if deaf else "does not run it"
                    self._violation("H", f"{row.name} is called RUNNING, and {node.name} {what}")
        self._forget("dishonest", seen)
        self._offers()

    def _offers(self) -> None:
        """H: no node is told of a peer on a node that is not heard."""
        seen: set[tuple[str, str]] = set()
        for node in self.mirror.nodes.values():
            told = node.peers and node.status is NodeStatus.ONLINE  # an unpaired one is told of nothing
            if not told or self._touched(node.name) < DOUBLE_S:
                continue
            for home in {peer.node for found in node.peers.values() for peer in found}:
                key = ("offered", f"{node.name} {home}")
                if self.now - max(self.heard.get(home, 0.0), self._began()) > 2 * LATE_S:
                    seen.add(key)
                    if self._lasts(key) > MARGIN_S:
                        text = f"{node.name} is told of peers on {home}, which is not heard"
                        self._violation("H", text)
        self._forget("offered", seen)

    def _began(self) -> float:
        """Since when silence counts: the manager's start, its thaw, or its last connect, lost or not."""
        manager = self.world.manager
        up = manager.manager.link.connected_at if manager.manager is not None else None  # type: ignore[attr-defined]
        return max(self.listening, self.excused, 0.0 if up is None else up - self.world.start)

    def _alive(self) -> None:
        for text in self.world.broker.oversized:
            self._violation("L", f"above the broker's packet limit, which ends the connection: {text}")
        manager = self.world.manager
        if manager.up and manager.task is not None and manager.task.done():
            self._violation("L", f"the manager ended: {manager.task.exception()!r}")
        for host in self.world.agents.values():
            if host.up and host.task is not None and host.task.done():
                self._violation("L", f"the agent of {host.name} ended")
