"""Managers and agents as programs: started, killed, frozen and started again from what is durable."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import uuid
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from busbar.agent.config import AgentConfig
from busbar.agent.planner.lifecycle import WorkerTiming
from busbar.agent.service import Agent
from busbar.agent.state import State
from busbar.bus.connection.link import Will
from busbar.bus.messages import Assignment
from busbar.bus.options import ConnectOptions
from busbar.bus.topics import Topics
from busbar.manager.leader.fencing import FencedError, Lock
from busbar.manager.service import Manager, ManagerConfig
from busbar.manager.store import Store, StoreRefusedError

from tests.simulation.link import SimLink
from tests.simulation.loop import Program, SimClock
from tests.simulation.machines import Machine, SimHost

if TYPE_CHECKING:
    from tests.simulation.world import World

REALM = "sim"
HEARTBEAT_S = 0.5
OFFLINE_S = 4.0
"""A clean stop of an agent lasts up to 6.5 s."""
REPAIR_S = 5.0
"""How often the manager looks at what the broker holds; shorter than the product's, so that a schedule is."""
TOPICS = Topics(REALM)


class SimStore(Store):
    """The real store, whose group commits run on the loop, and may be where the manager dies."""

    host: ManagerHost

    def _schedule(self) -> None:
        if self._jobs and not self._scheduled:
            self._scheduled = True
            world = self.host.world
            delay = world.random("disk").uniform(0.0002, 0.005)
            world.loop.call_later(delay, self._drain, context=self.host.program.context)

    def _drain(self) -> None:
        self._scheduled = False
        if self._closed or not self._jobs:
            return
        group = self._new_group()
        self._write_group_whole(group)
        if self.write_error is None:
            self.host.world.committed(self.host, group.changes)
        self._deliver(group)

    def close(self) -> None:
        """As a process's end does it: what is not committed is gone."""
        if self._closed:
            return
        self._closed = True
        disk = self.host.world.disk
        if disk is not None:
            disk.crash()
        else:
            self._db.close()
            self.reads.db.close()


class ManagerHost:
    """The host of the manager: its folder, and the program that may run on it."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.folder = world, folder
        self.clock = SimClock(world.loop)
        self.program = Program("manager")
        self.program.dead = True
        self.manager: Manager | None = None
        self.store: SimStore | None = None
        self.task: asyncio.Task[None] | None = None
        self.lock: Lock | None = None
        self.commits = 0
        self.fail_commit: tuple[str, int] | None = None
        self.disk_error: str | None = None
        self.started_at = self.frozen_at = 0.0
        self._uuids = world.random("manager ids")

    @property
    def up(self) -> bool:
        return self.manager is not None and not self.program.dead and not self.program.frozen

    def start(self) -> None:
        if not self.program.dead:
            return
        self.program = Program("manager")
        self.program.on_crash = self.kill
        self.started_at = self.world.loop.now
        self.world.trace("manager starts")
        self.task = self.program.context.copy().run(self.world.loop.create_task, self._serve())

    async def _serve(self) -> None:
        """As `manager.service.run`, with other ports."""
        config = ManagerConfig(
            self.folder,
            REALM,
            ConnectOptions(client_id="m1"),
            heartbeat_s=HEARTBEAT_S,
            offline_after_s=OFFLINE_S,
            principals={"alice": "owner", "bob": "owner"},
        )
        self.lock = Lock(self.folder / "lock")
        await self.lock.wait(self.clock)
        self.store = store = self._open()
        self.manager = Manager(config, store, self._link, self.clock, self.new_id)
        self.manager.retained_audit._interval = REPAIR_S
        self.world.manager_opened(self)
        try:
            await self.manager.run()
        except FencedError as error:
            self.world.violation("L", f"the only manager was fenced: {error}")
        except StoreRefusedError:
            if self.disk_error is None:
                raise
            self._stopped()  # it says why, and whoever watches it starts it again

    def _open(self) -> SimStore:
        path, disk = self.folder / "busbar.db", self.world.disk
        if disk is not None:
            store = disk.open(SimStore, path, self.clock, self.new_id, TOPICS)
        else:
            store = SimStore.open(path, self.clock, self.new_id, TOPICS)
            store._db.execute("PRAGMA busy_timeout = 0")
        assert isinstance(store, SimStore)
        store.host = self
        store.fault = self._fault
        return store

    def _link(self, will: Callable[[int], Will]) -> SimLink:
        return SimLink(self.world.broker, "m1", self.program, self.world.random("manager link"), will)

    def new_id(self) -> str:
        return str(uuid.UUID(int=self._uuids.getrandbits(128), version=4))

    def _fault(self, point: str) -> None:
        if point == "before_commit":
            self.commits += 1
            if self.disk_error is not None:
                error = sqlite3.OperationalError(self.disk_error)
                if "locked" in self.disk_error:
                    error.sqlite_errorcode = sqlite3.SQLITE_BUSY
                raise error
        if self.fail_commit is not None and self.fail_commit[0] == point:
            left = self.fail_commit[1] - 1
            self.fail_commit = (point, left) if left > 0 else None
            if left <= 0:
                self.program.crash()

    def kill(self) -> None:
        """SIGKILL: nothing of it runs any more; the kernel closes its files and its connection."""
        if self.program.dead:
            return
        self.world.trace("manager killed")
        self.program.dead = True
        self._release()
        self.world.manager_gone(self)

    def _release(self) -> None:
        if self.manager is not None:
            self.manager.link.died()  # type: ignore[attr-defined]
        if self.store is not None:
            self.store.close()
        if self.lock is not None:
            self.lock.release()
        self.world.graveyard.append((self.program, self.task, self.manager))
        self.manager = self.store = None

    def stop(self) -> None:
        """SIGTERM: a clean end."""
        if self.task is None or self.program.dead:
            return
        self.world.trace("manager stops")
        self.task.add_done_callback(lambda _: self._stopped())
        self.task.cancel()

    def _stopped(self) -> None:
        if not self.program.dead:
            self.program.dead = True
            self._release()
            self.world.manager_gone(self)


class AgentProgram(Program):
    machine: Machine


class AgentHost:
    """One node: its machine, its agent's folder, and the agent that may run there."""

    def __init__(self, world: World, name: str, folder: Path) -> None:
        self.world, self.name, self.folder = world, name, folder
        self.machine = Machine(name, world.loop, world.random(f"machine {name}"))
        self.clock = SimClock(world.loop)
        self.program: AgentProgram = AgentProgram(f"agent {name}")
        self.program.dead = True
        self.agent: Agent | None = None
        self.boot = ""
        """Of the agent that runs, or ran last."""
        self.task: asyncio.Task[None] | None = None
        self.stop_event: asyncio.Event | None = None
        self.started_at = self.frozen_at = 0.0
        self.forgotten = 0
        """How often it has forgotten what it was told."""
        self.adopts = False
        """Whether it is started with `--adopt-store`."""
        self.next = False
        self._ids = world.random(f"ids {name}")

    @property
    def up(self) -> bool:
        return self.agent is not None and not self.program.dead and not self.program.frozen

    @property
    def link(self) -> SimLink | None:
        return self.agent.link if self.agent is not None else None  # type: ignore[return-value]

    def start(self) -> None:
        if not self.program.dead:
            # A goodbye takes its time: whoever starts it meanwhile means the next one.
            self.next = self.stop_event is not None and self.stop_event.is_set()
            return
        self.next = False
        self.program = AgentProgram(f"agent {self.name}")
        self.program.machine = self.machine
        self.program.on_crash = self.kill
        self.started_at = self.world.loop.now
        self.world.trace(f"{self.name} starts")
        self.program.context.copy().run(self._start)

    def _start(self) -> None:
        random = self.world.random(f"agent {self.name}")
        config = AgentConfig(self.folder, self.name, REALM, ConnectOptions(), adopt_store=self.adopts)
        timing, host = WorkerTiming(live_every=1.5, live_misses=2, check_again=1.0), SimHost(self.machine)
        self.agent = Agent(config, self._link, self.clock, random, self._new_id, timing, host)
        self.boot = self.agent.boot
        self.stop_event = asyncio.Event()
        self.task = self.world.loop.create_task(self.agent.run(self.stop_event))
        self.task.add_done_callback(self._ended)
        self.world.agent_started(self)

    def _link(self, will: Callable[[int], Will]) -> SimLink:
        return SimLink(
            self.world.broker, self.name, self.program, self.world.random(f"link {self.name}"), will
        )

    def _new_id(self) -> str:
        return f"{self._ids.getrandbits(64):016x}"

    def kill(self) -> None:
        if self.program.dead:
            return
        self.world.trace(f"{self.name} killed")
        self.program.dead = True
        self._release()

    def _release(self) -> None:
        agent = self.agent
        if agent is not None:
            agent.link.died()  # type: ignore[attr-defined]
            agent.state.close()
        self.world.graveyard.append((self.program, self.task, agent))
        self.agent = None
        self.world.agent_gone(self)

    def stop(self) -> None:
        """SIGTERM: a clean exit, the workers go on."""
        if self.stop_event is not None and not self.program.dead:
            self.world.trace(f"{self.name} stops")
            self.program.run(self.stop_event.set)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self.program.dead:
            return
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.world.violation("L", f"agent {self.name} ended: {error!r}")
        self.program.dead = True
        self._release()
        if self.next:
            self.start()

    # --- what happens to the host

    def lose_folder(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.forgotten += 1
        self.world.trace(f"{self.name} loses its folder")

    def follow_other(self) -> None:
        """Its folder is one in which it followed the manager of another store."""
        self.lose_folder()
        state = State.open(self.folder, "other")
        state.store_assignment(Assignment("sother", 9, 9, []))
        state.close()

    def tear(self, which: Random) -> None:
        """A state file is cut in half, as a power loss may leave it."""
        files = [self.folder / "assignment.json", *sorted((self.folder / "records").glob("*.json"))]
        there = [path for path in files if path.is_file()]
        if there:
            path = which.choice(there)
            content = path.read_bytes()
            path.write_bytes(content[: len(content) // 2])
            self.forgotten += path == files[0]
            self.world.trace(f"{self.name} tears {path.name}")
