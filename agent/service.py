"""The node agent and its composition root: what `busbar agent` runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

from busbar.bus.addresses import is_loopback
from busbar.bus.assignments import SHARES, expanded
from busbar.bus.clock import Clock, SystemClock
from busbar.bus.connection.link import Link, Message, Will
from busbar.bus.decode import read
from busbar.bus.errors import BusError
from busbar.bus.messages import Applied, Assignment, Command
from busbar.bus.states import Leaves
from busbar.bus.system.loopback import loopback
from busbar.bus.system.service_status import SayStatus, unsaid
from busbar.bus.system.version import version
from busbar.bus.topics import Topics, is_name

from . import config as configuration
from . import state
from .config import AgentConfig, ConfigError
from .owner import owner_here
from .planner import plan
from .planner.lifecycle import WorkerTiming
from .processes import logs, procfs
from .reporting.log_stream import LogStreamer
from .reporting.reporter import NodeSnapshot, Reporter, will_of
from .runtimes import Runtime, RuntimesError
from .state import State, StateError
from .supervisor import WorkerSupervisor
from .workers import identity
from .workers.host import Host
from .workers.process_runner import ProcessRunner
from .workers.runtime_details import RuntimeDetails
from .workers.spec_renderer import EndpointLimits, SpecRenderer, with_roots

if TYPE_CHECKING:
    from busbar.bus.system.metrics import MetricsServer

__all__ = ["Agent", "AgentConfig", "ConfigError", "StateError", "run"]

log = logging.getLogger("busbar.agent")

SCAN_S: Final = 5.0
"""How long the agent waits at startup to find its living workers before it connects, seconds."""
UNHEARD_S: Final = 30.0
"""Connected for so long without an assignment, which every paired node is sent, an agent says so."""
VERSIONS_S: Final = 10.0
"""Interval of looking whether the runtimes' programs are other files now, seconds."""
_RESTART_S: Final = 1.0

_Runtimes = tuple[Mapping[str, Runtime], tuple[Path, ...]]
MakeLink = Callable[[Callable[[int], Will]], Link]


class Agent:
    """One node's agent: applies assignments and reports the node's state.

    Raises:
        ConfigError: the configuration is invalid.
        StateError: the state folder is in use, or can't be written.
    """

    def __init__(
        self,
        config: AgentConfig,
        make_link: MakeLink,
        clock: Clock,
        random: Random,
        new_id: Callable[[], str],
        timing: WorkerTiming | None = None,
        host: Host | None = None,
    ) -> None:
        self._host = host = host or Host()
        self._given = config
        self.config, runtimes = _with_file(config, host)
        config = self.config
        if not is_name(config.node):
            raise ConfigError(f"node {config.node!r} is not a name: use [a-z0-9][a-z0-9_-]{{0,63}}")
        topics = Topics(config.realm, config.root)
        self.boot = f"b-{new_id()[:8]}"
        self.state = State.open(config.state, new_id(), owner_here(config.realm, config.node, config.state))
        try:
            self._claim = host.claim(self.state.folder_id)
        except StateError:
            self.state.close()
            raise
        self._let_through(runtimes[0])
        self.specs = _renderer(self.state, config, runtimes, host)
        processes = host.processes(f"{config.realm}/{config.node}", clock)
        self._runner = ProcessRunner(self.state, self.specs, processes, new_id, host)
        self.supervisor = WorkerSupervisor(
            self._runner, clock, random, self._on_change, self._on_usage, timing
        )
        self.link = make_link(will_of(topics, config.node, self.boot))
        self.supervisor.connected = lambda: self.link.connected
        self.supervisor.max_workers = config.max_workers
        self.reporter = Reporter(
            self.link, topics, config.node, self.boot, clock, random, self.snapshot, config.connect.username
        )
        registry = self.supervisor.registry
        self.logs = LogStreamer(
            self.link, topics, config.node, clock, registry.history, registry.log_path, new_id
        )
        self._assignment_topic = topics.node(config.node, "assignment")
        self.link.subscribe(self._assignment_topic, self._on_assignment)
        self.link.subscribe(topics.node(config.node, "command"), self._on_command)
        self._clock = clock
        self._heard, self._unheard_since, self._unheard_said = False, clock.monotonic(), False
        self._adopt_store = config.adopt_store
        self._refused: str | None = None
        self._store_error: str | None = None
        self._reload_error: str | None = None
        self._unavailable = self.specs.unavailable()
        self._details = RuntimeDetails(host)
        stored = self.state.assignment()
        if stored is not None:
            self._apply(stored)

    def reload(self) -> None:
        """Read the file again. Running workers go on; a file with a mistake changes nothing."""
        try:
            config, runtimes = _with_file(self._given, self._host)
        except ConfigError as error:
            self._reload_error = f"not reloaded: {error}"
            log.error("%s", self._reload_error)
        else:
            self._reload_error, self.config = None, config
            self._let_through(runtimes[0])
            self.supervisor.max_workers = config.max_workers
            self.specs = self._runner.specs = _renderer(self.state, config, runtimes, self._host)
            self._unavailable = self.specs.unavailable()
            self.supervisor.check_starts()
            set_log_level(config.log_level)
            log.info("reloaded: %s", ", ".join(sorted(self.specs.runtimes)))
        self.reporter.changed()

    def _let_through(self, runtimes: Mapping[str, Runtime]) -> None:
        others = any(runtime.run_as is not None for runtime in runtimes.values())
        try:
            self.state.let_through(others)
        except OSError as error:
            log.warning("modes of state folder %s not set: %s", self.state.folder, error)

    # --- messages in

    def _on_assignment(self, message: Message) -> None:
        self._heard = True
        if not message.payload:
            # The retained message was deleted: no new assignment, and none that is refused.
            self._refused = None
            self.reporter.changed()
            return
        try:
            new = expanded(read(message.payload, Assignment))
        except BusError as error:
            self._refuse(f"assignment not readable: {error.detail}")
            return
        applied = self.supervisor.assignment
        if not plan.is_redelivery(applied, new):
            reason = plan.refusal(applied, new, adopt_store=self._adopt_store)
            if reason is not None:
                self._refuse(reason)
                return
            if applied is not None and applied.store != new.store:
                self._adopt_store = False
            self._store(new)
            self._apply(new)
        self._refused = None
        self.reporter.changed()

    def _store(self, new: Assignment) -> None:
        try:
            self.state.store_assignment(new)
            self._store_error = None
        except OSError as error:
            # Applied all the same; after a restart the previous one applies until the broker is reachable.
            before, self._store_error = self._store_error, f"assignment not stored: {error.strerror or error}"
            if self._store_error != before:
                log.error("%s", self._store_error)

    def _apply(self, new: Assignment) -> None:
        log.info("assignment %d/%d applied: %d workers", new.epoch, new.version, len(new.workers))
        self.reporter.set_interval(new.heartbeat_ms / 1000)
        self.supervisor.apply(new)

    def _refuse(self, reason: str) -> None:
        if reason != self._refused:
            log.warning("%s", reason)
        self._refused = reason
        self.reporter.changed()

    def _on_command(self, message: Message) -> None:
        if message.retain:
            return  # commands are one-shot: a retained one is stale
        try:
            command = read(message.payload, Command)
        except BusError as error:
            log.warning("command not readable: %s", error.detail)
            return
        if command.schemas:
            self.reporter.include_schemas(self._details.schemas(self.specs.runtimes, command.schemas))
        if command.resync:
            self.reporter.force_report()
        if command.follow is not None:
            self.logs.follow(command)

    # --- reports out

    def _on_change(self) -> None:
        self.reporter.changed()

    def _on_usage(self) -> None:
        self._note_silence()
        self._unavailable = self.specs.unavailable()
        if self._store_error is not None and self.supervisor.assignment is not None:
            self._store(self.supervisor.assignment)
        if len(self.supervisor.registry):
            self.reporter.force_report()
        else:
            self.reporter.changed()

    def snapshot(self) -> NodeSnapshot:
        """The node's present state."""
        assignment = self.supervisor.assignment
        return NodeSnapshot(
            workers=self.supervisor.registry.reported(),
            store=assignment.store if assignment else None,
            applied=self._applied(),
            refused=self._refused,
            capacity=self._capacity(),
            runtimes=sorted(set(self.specs.runtimes) - set(self._unavailable)),
            labels=dict(self.config.labels),
            conditions=self._conditions(),
            details=self._details.details(self.specs.runtimes, self._unavailable),
            links=self.supervisor.registry.links(),
        )

    async def _run_versions(self) -> None:
        while True:
            if await self._details.refresh(self.specs.runtimes):
                self.reporter.changed()
            await self._clock.sleep(VERSIONS_S)

    def _applied(self) -> Applied:
        """Nothing counts as applied before the scan: a worker not found yet would be taken for gone."""
        assignment = self.supervisor.assignment
        if assignment is None or not self.supervisor.scanned.is_set():
            return Applied()
        return Applied(assignment.epoch, assignment.version)

    def _capacity(self) -> dict[str, Any]:
        return {
            SHARES: True,
            "version": version(),
            "cpus": len(os.sched_getaffinity(0)),
            "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            "max_workers": self.config.max_workers,
            "workers": len(self.supervisor.registry),
        }

    def _conditions(self) -> list[str]:
        found = [f"runtime {name}: {reason}" for name, reason in sorted(self._unavailable.items())]
        foreign = self.supervisor.adoption.foreign
        if foreign:
            what = "1 worker" if foreign == 1 else f"{foreign} workers"
            runs = "runs" if foreign == 1 else "run"
            found.append(f"{what} of another store or agent {runs} on this host: left alone")
        found += self._limit_conditions() + self.supervisor.files.conditions()
        host, wildcards = self.config.host or loopback(), self.supervisor.registry.wildcards()
        if wildcards and is_loopback(host):
            found.append(
                f"{wildcards} of its workers listen on all interfaces, but clients are told {host}, which is "
                "this host alone: give the agent the node's address with --host"
            )
        errors = (
            *(self.reporter.conflict, self._store_error, self._reload_error, self._unheard()),
            self.state.why_misplaced(),
        )
        return [each for each in errors if each] + found

    def _note_silence(self) -> None:
        if self._heard or not self.link.connected:
            self._unheard_since, self._unheard_said = self._clock.monotonic(), False
        self._heard = self._heard and self.link.connected
        if not self._unheard_said and (unheard := self._unheard()) is not None:
            self._unheard_said = True
            log.warning("%s", unheard)

    def _unheard(self) -> str | None:
        """That no assignment comes, and why that may be."""
        if self._heard or self._clock.monotonic() - self._unheard_since < UNHEARD_S:
            return None
        user, node = self.config.connect.username, self.config.node
        who = f"user {user!r}" if user else "its user"
        return (
            f"no assignment has come: {who} may have no right to read {self._assignment_topic}; or the"
            f" manager is not there, or node {node!r} is not paired"
        )

    def _limit_conditions(self) -> list[str]:
        limit, registry = self.config.max_workers, self.supervisor.registry
        if limit is None:
            return []
        found = []
        if registry.held():
            found.append(f"max_workers {limit}: {registry.held()} assigned workers are not started")
        if registry.alive() > limit:
            found.append(f"max_workers {limit}: {registry.alive()} workers run, and go on until they end")
        return found

    # --- run and stop

    async def run(self, stop: asyncio.Event, ready: Callable[[], None] | None = None) -> None:
        """Run until `stop` is set or this is cancelled, then shut down.

        Living workers are adopted before anything is reported. A loop that fails is restarted.

        Raises:
            OSError: the address of the metrics can't be had.
        """
        loops = {
            "supervisor": self.supervisor.run,
            "reports": self.reporter.run_reports,
            "heartbeats": self.reporter.run_heartbeats,
            "versions": self._run_versions,
        }
        metrics = self._serve_metrics()
        tasks = [self._keep_running(name, loop) for name, loop in loops.items()]
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SCAN_S):
                    await self.supervisor.scanned.wait()
            tasks.append(self._keep_running("link", self.link.run))
            if ready is not None:
                ready()
            await stop.wait()
        finally:
            try:
                await self._shut_down()
            finally:
                await self._close(tasks)
                if metrics is not None:
                    await asyncio.to_thread(metrics.close)

    def _serve_metrics(self) -> MetricsServer | None:
        if self.config.metrics is None:
            return None
        from .reporting.metrics import serve  # an extra, which takes a tenth of a second to import

        host, port = self.config.metrics
        return serve(host, port, self.snapshot, self.link, realm=self.config.realm, node=self.config.node)

    def _keep_running(self, name: str, loop: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        async def forever() -> None:
            while True:
                try:
                    await loop()
                except Exception:
                    log.exception("%s failed, and is restarted", name)
                await self._clock.sleep(_RESTART_S)

        return asyncio.create_task(forever(), name=name)

    async def _shut_down(self) -> None:
        if self.config.stop_workers:
            log.info("stopping all workers")
            try:
                await self.supervisor.stop_all("the agent stops its workers on exit")
            except OSError as error:
                log.error("some workers may still run: %s", error)
        await self.reporter.goodbye(await self._leaves())

    async def _leaves(self) -> Leaves:
        """What becomes of the workers that are left."""
        known = self.supervisor.scanned.is_set()
        if known and not self.supervisor.registry.has_processes():
            return Leaves.STOPPED
        if self.supervisor.registry.has_unseen():
            return Leaves.RUNNING  # in another PID namespace, which does not end with ours
        return Leaves.SHUTDOWN if await self._host.ends_with_us() else Leaves.RUNNING

    async def _close(self, tasks: list[asyncio.Task[None]]) -> None:
        self.logs.close()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=10.0)
        self.supervisor.registry.close()
        self._claim.close()
        self.state.close()


def _with_file(given: AgentConfig, host: Host) -> tuple[AgentConfig, _Runtimes]:
    """What the agent's file adds to its configuration.

    Raises:
        ConfigError: it can't be read or is invalid: which file, which key, and why.
    """
    file = configuration.load(given.runtimes)
    config = configuration.merged(given, file)
    try:
        return config, with_roots(host.runtimes(file.runtimes), config.static_roots)
    except RuntimesError as error:
        raise ConfigError(f"{given.runtimes}: {error}") from None


def _renderer(
    folder: State,
    config: AgentConfig,
    runtimes: _Runtimes,
    host: Host,
) -> SpecRenderer:
    known, roots = runtimes
    address, labels = config.host or loopback(), dict(config.labels)
    limits = EndpointLimits(config.ports, config.interfaces)
    return SpecRenderer(folder, known, address, labels, roots, host.bind_error, loopback(), limits)


def set_log_level(level: str | None) -> None:
    """Set what is logged; None leaves it as it is."""
    if level is not None:
        logging.getLogger("busbar").setLevel(level.upper())


def reset(folder: Path, *, keep: bool) -> None:
    """As `state.reset`, unless workers of this folder run on this host.

    Raises:
        StateError: they do, or as `state.reset`.
        OSError: /proc can't be read.
    """
    living = [] if keep else procfs.with_variable(identity.STATE, str(folder))
    if living:
        pids = ", ".join(map(str, sorted(living)[:5]))
        raise StateError(f"workers of {folder} run on this host (pids {pids}): stop them first")
    held = [] if keep else logs.held_in(folder / "logs")
    if held:
        raise StateError(
            f"workers of {folder} run on this host where their processes are not seen from here, such as in"
            f" another PID namespace, and hold {', '.join(map(str, held[:5]))}: stop them there first"
        )
    state.reset(folder, keep=keep)


async def run(
    config: AgentConfig,
    ready: Callable[[], None] | None = None,
    reload: asyncio.Event | None = None,
    say: SayStatus = unsaid,
) -> None:
    """Run an agent until cancelled; its file is read again whenever `reload` is set.

    `say` is told about the connection to the broker.

    Raises:
        ConfigError: the configuration is invalid.
        StateError: the state folder is in use, or can't be written.
    """
    # Importing the MQTT library takes 0.1 s, which callers that only need `AgentConfig` are spared.
    from busbar.bus.connection.mqtt_link import MqttLink
    from busbar.bus.connection.protocol_memory import ProtocolMemory

    clock, random = SystemClock(), Random()

    def make_link(will: Callable[[int], Will]) -> Link:
        memory = ProtocolMemory(config.state / "mqtt-version.json")
        return MqttLink(config.connect, clock=clock, random=random, will=will, memory=memory, say=say)

    agent = Agent(config, make_link, clock, random, lambda: secrets.token_hex(8))
    set_log_level(agent.config.log_level)
    reloading = asyncio.create_task(_reload_when(reload or asyncio.Event(), agent), name="reload")
    try:
        await agent.run(asyncio.Event(), ready)
    finally:
        reloading.cancel()


async def _reload_when(reload: asyncio.Event, agent: Agent) -> None:
    while await reload.wait():
        reload.clear()
        try:
            agent.reload()
        except Exception:
            log.exception("reloading failed")
