"""The node agent, put together: what `busbar agent` runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
from collections.abc import Awaitable, Callable
from random import Random
from typing import Final

from busbar.bus.clock import Clock, SystemClock
from busbar.bus.connection.link import Link, Message, Will
from busbar.bus.decode import read
from busbar.bus.errors import BusError
from busbar.bus.messages import Applied, Assignment, Command
from busbar.bus.topics import Topics, is_name

from . import config as configuration
from .config import AgentConfig, ConfigError
from .planner import plan
from .planner.lifecycle import Timing
from .reporting.log_follow import Follower
from .reporting.reporter import Reporter, View, will_of
from .state import State, StateError
from .supervisor import Supervisor
from .workers.host import Ground
from .workers.instances import Hands
from .workers.launching import Launcher, with_roots

__all__ = ["Agent", "AgentConfig", "ConfigError", "StateError", "run"]

log = logging.getLogger("busbar.agent")

SCAN_S: Final = 5.0
"""How long the bus waits for living workers to be found at the start, seconds."""
_AGAIN_S: Final = 1.0

MakeLink = Callable[[Callable[[int], Will]], Link]


class Agent:
    """One node's agent: takes assignments in, and has the node told about.

    Raises:
        ConfigError, RuntimesError: a mistake in the configuration.
        StateError: the state folder is in use, or can't be written.
    """

    def __init__(
        self,
        config: AgentConfig,
        make_link: MakeLink,
        clock: Clock,
        random: Random,
        new_id: Callable[[], str],
        timing: Timing | None = None,
        ground: Ground | None = None,
    ) -> None:
        ground = ground or Ground()
        file = configuration.load(config.runtimes)
        self.config = config = configuration.merged(config, file)
        if not is_name(config.node):
            raise ConfigError(f"node {config.node!r} is not a name: use [a-z0-9][a-z0-9_-]{{0,63}}")
        topics = Topics(config.realm, config.root)
        runtimes, roots = with_roots(ground.runtimes(file.runtimes), config.static_roots)
        self.boot = f"b-{new_id()[:8]}"
        self.state = State.open(config.state, new_id())
        host, labels = config.host or "127.0.0.1", dict(config.labels)
        self.launcher = Launcher(self.state, runtimes, host, labels, roots, ground.is_free)
        processes = ground.processes(f"{config.realm}/{config.node}")
        hands = Hands(self.state, self.launcher, processes, new_id, ground)
        self.supervisor = Supervisor(hands, clock, random, self._changed, self._on_stats, timing)
        self.link = make_link(will_of(topics, config.node, self.boot))
        self.reporter = Reporter(self.link, topics, config.node, self.boot, clock, random, self.view)
        self.follower = Follower(self.link, topics, config.node, clock, self.supervisor.workers.log_of)
        self.link.subscribe(topics.node(config.node, "assignment"), self._on_assignment)
        self.link.subscribe(topics.node(config.node, "command"), self._on_command)
        self._clock = clock
        self._adopt_store = config.adopt_store
        self._refused: str | None = None
        self._unwritten: str | None = None
        self._missing = self.launcher.missing()
        stored = self.state.assignment()
        if stored is not None:
            self._apply(stored)

    # --- in

    def _on_assignment(self, message: Message) -> None:
        if not message.payload:
            return  # no information
        try:
            new = read(message.payload, Assignment)
        except BusError as error:
            self._refuse(f"assignment not readable: {error.detail}")
            return
        present = self.supervisor.assignment
        why = plan.refusal(present, new, adopt_store=self._adopt_store)
        if why:
            self._refuse(why)
            return
        self._refused = None
        if why is None:
            if present is not None and present.store != new.store:
                self._adopt_store = False
            self._write(new)
            self._apply(new)
        self.reporter.changed()

    def _write(self, new: Assignment) -> None:
        try:
            self.state.store_assignment(new)
            self._unwritten = None
        except OSError as error:
            # It is followed all the same; after a restart the one before would be, until the bus is in reach.
            self._unwritten = f"assignment not stored: {error.strerror or error}"
            log.error("%s", self._unwritten)

    def _apply(self, new: Assignment) -> None:
        log.info("assignment %d/%d applied: %d workers", new.epoch, new.version, len(new.workers))
        self.reporter.set_interval(new.heartbeat_ms / 1000)
        self.supervisor.apply(new)

    def _refuse(self, why: str) -> None:
        if why != self._refused:
            log.warning("%s", why)
        self._refused = why
        self.reporter.changed()

    def _on_command(self, message: Message) -> None:
        if message.retain:
            return  # a command is an impulse: an old one means nothing
        try:
            command = read(message.payload, Command)
        except BusError as error:
            log.warning("a command was not readable: %s", error.detail)
            return
        if command.resync:
            self.reporter.again()
        if command.follow is not None:
            self.follower.follow(command.follow, command.follow_cluster, command.lines, command.lease_ms)

    # --- out

    def _changed(self) -> None:
        self.reporter.changed()

    def _on_stats(self) -> None:
        self._missing = self.launcher.missing()
        if len(self.supervisor.workers):
            self.reporter.again()
        else:
            self.reporter.changed()

    def view(self) -> View:
        """The node's present state."""
        assignment = self.supervisor.assignment
        return View(
            workers=self.supervisor.workers.reported(),
            store=assignment.store if assignment else None,
            applied=self._applied(),
            refused=self._refused,
            capacity=self._capacity(),
            runtimes=sorted(set(self.launcher.runtimes) - set(self._missing)),
            labels=dict(self.config.labels),
            conditions=self._conditions(),
        )

    def _applied(self) -> Applied:
        """Nothing is applied before it is known what runs: a worker not found yet would be taken for gone."""
        assignment = self.supervisor.assignment
        if assignment is None or not self.supervisor.scanned.is_set():
            return Applied()
        return Applied(assignment.epoch, assignment.version)

    def _capacity(self) -> dict[str, int | None]:
        return {
            "cpus": len(os.sched_getaffinity(0)),
            "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            "max_workers": self.config.max_workers,
            "workers": len(self.supervisor.workers),
        }

    def _conditions(self) -> list[str]:
        found = [f"runtime {name}: {reason}" for name, reason in sorted(self._missing.items())]
        strangers = self.supervisor.adoption.strangers
        if strangers:
            found.append(f"{strangers} workers of another store or agent run on this host: left alone")
        return [each for each in (self.reporter.conflict, self._unwritten) if each] + found

    # --- life

    async def run(self, stop: asyncio.Event, ready: Callable[[], None] | None = None) -> None:
        """Work until `stop` is set or this is cancelled, then leave cleanly.

        Living workers are found before the bus is told anything. What fails is begun anew.
        """
        loops = {
            "supervisor": self.supervisor.run,
            "reports": self.reporter.reports,
            "heartbeats": self.reporter.heartbeats,
        }
        tasks = [self._keep(name, work) for name, work in loops.items()]
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SCAN_S):
                    await self.supervisor.scanned.wait()
            tasks.append(self._keep("link", self.link.run))
            if ready is not None:
                ready()
            await stop.wait()
        finally:
            try:
                await self._leave()
            finally:
                await self._end(tasks)

    def _keep(self, name: str, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        async def forever() -> None:
            while True:
                try:
                    await work()
                except Exception:
                    log.exception("%s failed, and is begun again", name)
                await self._clock.sleep(_AGAIN_S)

        return asyncio.create_task(forever(), name=name)

    async def _leave(self) -> None:
        if self.config.stop_workers:
            log.info("stopping all workers")
            try:
                await self.supervisor.halt("the agent was told to stop its workers")
            except OSError as error:
                log.error("workers may be left: %s", error)
        await self.reporter.goodbye()

    async def _end(self, tasks: list[asyncio.Task[None]]) -> None:
        self.follower.close()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=10.0)
        self.supervisor.workers.close()
        self.state.close()


async def run(config: AgentConfig, ready: Callable[[], None] | None = None) -> None:
    """Run an agent until cancelled.

    Raises:
        ConfigError, RuntimesError: a mistake in the configuration.
        StateError: the state folder is in use, or can't be written.
    """
    # The MQTT library takes a tenth of a second to import: not for whoever only wants `AgentConfig`.
    from busbar.bus.connection.mqtt_link import MqttLink

    clock, random = SystemClock(), Random()

    def make_link(will: Callable[[int], Will]) -> Link:
        return MqttLink(config.connect, clock=clock, random=random, will=will)

    agent = Agent(config, make_link, clock, random, lambda: secrets.token_hex(8))
    await agent.run(asyncio.Event(), ready)
