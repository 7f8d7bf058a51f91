"""What may happen in a schedule: one method for each kind of entry, named `do_…`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

from busbar.bus.options import MAX_PACKET

from tests.simulation.clients import Client
from tests.simulation.faults import Schedule
from tests.simulation.invariants import Watch
from tests.simulation.loop import START, Program, SimLoop
from tests.simulation.net import SMALL_PACKET, Broker, Weather
from tests.simulation.parts import AgentHost, ManagerHost


class Happenings:
    """Befalls the parts of a world (`tests.simulation.world.World`, which fills the members in)."""

    schedule: Schedule
    loop: SimLoop
    broker: Broker
    watch: Watch
    manager: ManagerHost
    agents: dict[str, AgentHost]
    clients: dict[str, Client]
    stormy_at: float

    def __init__(self) -> None:
        self._randoms: dict[str, Random] = {}
        self._cuts: Counter[str] = Counter()

    def random(self, name: str) -> Random:
        """A source of its own for each part, so that leaving one fault out changes little else."""
        found = self._randoms.get(name)
        if found is None:
            found = self._randoms[name] = Random(f"{self.schedule.seed} {name}")
        return found

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return self.loop.now - START

    def trace(self, line: str) -> None:
        raise NotImplementedError

    def _at(self, at: float, fn: Callable[..., None], *args: Any) -> None:
        self.loop.call_at(START + at, fn, *args, context=Program("fate").context)

    def _later(self, seconds: float, fn: Callable[..., None], *args: Any) -> None:
        self._at(self.now + seconds, fn, *args)

    def _thaw(self, host: ManagerHost | AgentHost) -> None:
        if host.program.frozen:
            self.trace(f"{host.program.name} thaws")
            self.watch.thawed(host)
            self.loop.thaw(host.program)

    # --- operations

    def do_op(self, who: str, *words: Any) -> None:
        self.clients[who].begin(*words)

    # --- the manager

    def do_manager_kill(self, lasts: float) -> None:
        self.manager.kill()
        self._later(lasts, self.manager.start)

    def do_manager_kill_at_step(self, steps: int, lasts: float) -> None:
        self.manager.program.crash_in = steps
        self._later(lasts + 0.5, self.manager.start)

    def do_manager_kill_at_commit(self, point: str, count: int, lasts: float) -> None:
        self.manager.fail_commit = (point, count)
        self._later(lasts + 1.0, self._restart_manager)

    def _restart_manager(self) -> None:
        if self.manager.program.dead:
            self.manager.start()
        else:
            self._later(1.0, self._restart_manager)

    def do_manager_stop(self, lasts: float) -> None:
        self.manager.stop()
        self._later(lasts + 0.2, self._restart_manager)

    def do_manager_freeze(self, lasts: float) -> None:
        self._freeze(self.manager, lasts)

    def _freeze(self, host: ManagerHost | AgentHost, lasts: float) -> None:
        if not host.program.dead and not host.program.frozen:
            host.program.frozen, host.frozen_at = True, self.now
            self._later(lasts, self._thaw, host)

    def do_manager_cut(self, lasts: float) -> None:
        self._cut("m1", lasts)

    def do_database_locked(self, lasts: float) -> None:
        self._disk("database is locked", lasts)

    def do_disk_full(self, lasts: float) -> None:
        self._disk("database or disk is full", lasts)

    def _disk(self, error: str, lasts: float) -> None:
        self.manager.disk_error = error
        self._later(lasts, self._disk_mended)

    def _disk_mended(self) -> None:
        self.manager.disk_error = None
        self.manager.start()

    def do_clock_jump(self, seconds: float) -> None:
        self.manager.clock.jump += seconds

    # --- agents and their hosts

    def do_agent_kill(self, name: str, lasts: float) -> None:
        self.agents[name].kill()
        self._later(lasts, self.agents[name].start)

    def do_agent_kill_at_step(self, name: str, steps: int, lasts: float) -> None:
        self.agents[name].program.crash_in = steps
        self._later(lasts + 0.5, self.agents[name].start)

    def do_agent_kill_at_fork(self, name: str, point: str, lasts: float) -> None:
        self.agents[name].machine.crash_at = point
        self._later(lasts + 2.0, self.agents[name].start)

    def do_agent_stop(self, name: str, lasts: float) -> None:
        self.agents[name].stop()
        self._later(lasts + 0.5, self.agents[name].start)

    def do_agent_freeze(self, name: str, lasts: float) -> None:
        self._freeze(self.agents[name], lasts)

    def do_agent_loses_folder(self, name: str, lasts: float) -> None:
        self.agents[name].kill()
        self.agents[name].lose_folder()
        self._later(lasts, self.agents[name].start)

    def do_agent_follows_other(self, name: str, lasts: float) -> None:
        """The host comes up anew, as a node of another store; in the end it is given back to ours."""
        host = self.agents[name]
        host.kill()
        host.machine.reboot()
        host.follow_other()
        self._later(0.1, host.start)
        self._later(lasts, self._give_back, name)

    def _give_back(self, name: str) -> None:
        host, store = self.agents[name], self.manager.store
        node = store.reads.node_by_name(name) if store is not None and self.manager.up else None
        held = store.reads.workers_on(node.oid) if store is not None and node is not None else []
        if held:
            found = ", ".join(f"{row.name} {row.state}" for row in held)
            self.watch.world.violation("C", f"{name} follows another store, and still has {found}")
        host.kill()
        host.adopts = True
        self._later(0.1, host.start)

    def do_agent_tears_file(self, name: str, lasts: float) -> None:
        self.agents[name].kill()
        self.agents[name].tear(self.random("tears"))
        self._later(lasts, self.agents[name].start)

    def do_reboot(self, name: str, lasts: float) -> None:
        self.agents[name].kill()
        self.agents[name].machine.reboot()
        self._later(lasts, self.agents[name].start)

    def do_habit(self, name: str, habit: str, chance: float, lasts: float) -> None:
        habits = self.agents[name].machine.habits
        before = getattr(habits, habit)
        setattr(habits, habit, chance)
        self._later(lasts, setattr, habits, habit, before)

    # --- workers

    def _worker(self, name: str, which: float) -> Any:
        living = self.agents[name].machine.living()
        return living[int(which * len(living))] if living else None

    def do_worker_crash(self, name: str, which: float) -> None:
        process = self._worker(name, which)
        if process is not None:
            self.agents[name].machine.end(process, 1 if which > 0.3 else 0, "crashed")

    def do_worker_hang(self, name: str, which: float) -> None:
        process = self._worker(name, which)
        if process is not None:
            process.hung = True

    # --- broker and network

    def _cut(self, client: str, lasts: float) -> None:
        self._cuts[client] += 1
        self.broker.cut.add(client)
        self.broker.reset(client)
        self._later(lasts, self._mend, client)

    def _mend(self, client: str) -> None:
        self._cuts[client] -= 1
        if not self._cuts[client]:
            self.broker.cut.discard(client)

    def do_cut(self, name: str, lasts: float) -> None:
        self._cut(name, lasts)

    def do_all_cut(self, lasts: float) -> None:
        for name in self.agents:
            self._cut(name, lasts)

    def do_stall(self, name: str, lasts: float) -> None:
        """TCP holds everything back, and delivers it in the end."""
        session = self.broker.sessions.get(name)
        if session is not None:
            session.stalled_until = max(session.stalled_until, self.loop.now + lasts)

    def do_deaf(self, name: str, which: float) -> None:
        """The broker forgot whom it was talking to, and the client does not know."""
        session = self.broker.sessions.get(name if which < 0.8 else "m1")
        if session is not None and session.link.client_id != "m1":
            session.deaf = True

    def do_reset(self, name: str, which: float) -> None:
        self.broker.reset(name if which < 0.7 else "m1")

    def do_broker_kill(self, keeps: str, wills: bool, lasts: float) -> None:
        if keeps == "empty":
            self.broker.retained = {}
        elif keeps == "old":
            self.broker.retained = dict(self.watch.old_retained)
        self.broker.crash(wills)
        # Another broker takes its place, or the same one is set up otherwise; drawn apart from all else.
        self.broker.max_packet = self.random("packets").choice((MAX_PACKET, 12_000, SMALL_PACKET))
        self._later(lasts, setattr, self.broker, "up", True)

    def do_storm(self, lose: float, duplicate: float, reorder: float, delay: float, lasts: float) -> None:
        self._storm_ends()
        self.broker.weather = Weather(lose, duplicate, reorder, delay, self.broker.weather.late_wills)
        self._later(lasts, self._fair)

    def _fair(self) -> None:
        self._storm_ends()
        self.broker.weather = Weather(late_wills=self.broker.weather.late_wills)

    def _storm_ends(self) -> None:
        """However short it was: messages may still be on their way, and in order behind one another."""
        if not self.broker.weather.fair:
            self.stormy_at = self.now
            self.watch.contact.clear()

    def do_late_wills(self, lasts: float) -> None:
        self.broker.weather.late_wills = lasts

    def do_retained(self, how: str, which: float) -> None:
        """Somebody with rights deletes or forges what the broker holds.

        An agent without a folder, or told nothing yet, or whose assignment was torn, belongs to whatever
        store speaks first: that is not tried here.
        """
        forgets = ("agent_loses_folder", "agent_tears_file")
        if how == "stranger" and any(entry.kind in forgets for entry in self.schedule.timeline):
            return
        held = [t for t in self.broker.retained if "/status/" in t or t.endswith("/assignment")]
        if not held:
            return
        topic = held[int(which * len(held))]
        if how == "stranger" and topic.endswith("/assignment") and not self.watch.has_followed(topic):
            return
        payload = self.broker.retained[topic]
        forged = {
            "delete": b"",
            "garbage": payload[: len(payload) // 2],
            "older": payload.replace(b'"epoch":', b'"epoch":0,"x":'),
            "stranger": payload.replace(b'"store":"', b'"store":"z'),
        }[how]
        self.broker.route("mallory", topic, forged, 1, True)
