"""The manager, put together: lock, store, link, dispatch, publisher, monitor; signals and exit codes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import sys
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from random import Random
from typing import Final

from busbar.bus.clock import Clock, SystemClock, rfc3339
from busbar.bus.connection.link import Link, Message, Will
from busbar.bus.connection.mqtt_link import MqttLink
from busbar.bus.decode import encode
from busbar.bus.messages import Command, ManagerState
from busbar.bus.version import version

from .api.operations.base import Office, View
from .api.operations.principals import seed
from .api.requests import Desk, Dispatch
from .config import ManagerConfig, checked
from .control.monitor import Monitor
from .ingest.reports import Reports
from .leader.fencing import Fence, FencedError, Lock
from .leader.link_watchdog import Echo, Step
from .leader.state_folder import database, take_over
from .planner.model import LivenessTiming
from .publish.publisher import Publisher
from .publish.retained_audit import Repair
from .publish.statuses import Outward
from .rate_limit import Limits
from .state.node_memory import NodeMemory
from .store import Store, StoreRefusedError, check
from .store.backup import RESTORED
from .store.meta import tell_restored
from .store.retention import Retention

__all__ = [
    "FencedError",
    "Manager",
    "ManagerConfig",
    "StoreRefusedError",
    "check",
    "database",
    "main",
    "run",
    "take_over",
]

log = logging.getLogger("busbar.manager")

EXIT_REFUSED: Final = 2
"""The state folder or its database can't be used; restarting does not help."""
EXIT_FENCED: Final = 3
"""A newer manager is at work; restarting does not help."""
FENCE_WAIT_S: Final = 0.15
"""After a connect, how long retained manager states are waited for before anything is said."""
EARLY_LIMIT: Final = 1_000
"""Requests kept meanwhile; callers resend what was too much."""
SEED_TRIES: Final = 30
GOODBYE_S: Final = 2.0
CHECK_S: Final = 1.0
COLLECT: Final = (20_000, 20, 20)
"""Thresholds of the collector of cycles, of which there are next to none: with Python's own (700, 10, 10) the
mirror of 10,000 clusters was walked so often that a change took a quarter more of the processor."""

MakeLink = Callable[[Callable[[int], Will]], Link]


class Manager:
    """One manager on an open store. `run` lasts until cancelled, or raises FencedError."""

    def __init__(
        self,
        config: ManagerConfig,
        store: Store,
        make_link: MakeLink,
        clock: Clock,
        new_id: Callable[[], str],
        timing: LivenessTiming | None = None,
    ) -> None:
        self.config, self.store, self.clock = config, store, clock
        self.topics = store.topics
        self.started = clock.monotonic()
        self.link = make_link(self._will)
        self._started = rfc3339(clock.time_ns())
        self.fence = Fence(self.topics, config.manager_id, store.id, store.epoch, self._started)
        self.memory = NodeMemory(clock, timing or LivenessTiming(heartbeat=config.heartbeat_s))
        self.echo = Echo(config.heartbeat_s, clock.monotonic())
        outward = Outward(store, int(config.heartbeat_s * 1000))
        self.publisher = Publisher(store, self.link, outward, clock)
        self.repair = Repair(
            self.link, self.topics, clock, lambda: self.publisher.published, lambda: self.publisher.idle
        )
        self.monitor = Monitor(store, self.memory, clock, manager_id=config.manager_id)
        self.reports = Reports(
            store, self.memory, self.monitor.cache, clock, wake=self.monitor.wake, command=self._command
        )
        self._office = self._make_office()
        desk = Desk(config.manager_id, store.epoch, self._view, mirror=config.connect.protocol == 5)
        limits = Limits(config.rate, config.burst, config.in_flight)
        self.dispatch = Dispatch(store, self.publisher, desk, limits, clock=clock, new_id=new_id)
        self._ready: Callable[[], None] | None = None
        self._early: deque[Message] = deque(maxlen=EARLY_LIMIT)

    async def run(self, ready: Callable[[], None] | None = None) -> None:
        """Serve until cancelled. `ready` is called once, when requests are answered.

        Raises:
            FencedError: a newer manager works on a copy of this store.
        """
        self._ready = ready
        await self._seed()
        self.reports.attach(self.link)
        self.link.subscribe(self.topics.all_requests(), self._on_request)
        self.link.subscribe(self.topics.all_managers(), self._on_manager)
        self.link.on_connect(self._on_connect)
        link = asyncio.create_task(self.link.run(), name="link")
        try:
            await self._work(link)
        finally:
            await self._goodbye()
            link.cancel()
            await asyncio.wait([link], timeout=GOODBYE_S)

    async def _work(self, link: asyncio.Task[None]) -> None:
        """Everything side by side: what ends one of them ends them all."""
        loops: dict[str, Awaitable[None]] = {
            "link": asyncio.shield(link),
            "publisher": self.publisher.run(),
            "repair": self.repair.run(),
            "retention": Retention(self.store, self.clock).run(),
            "monitor": self.monitor.run(),
            "watch": self._watch(),
        }
        fenced: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as group:
                for name, loop in loops.items():
                    group.create_task(_await(loop), name=name)
        except* FencedError as found:
            fenced = found
        if fenced is not None:  # raised out here: before 3.11.4 Python wraps what `except*` raises in a group
            raise FencedError(self.fence.reason) from fenced

    async def _watch(self) -> None:
        """End when fenced; contradict a will that came late; notice when nothing is heard any more."""
        while not self.fence.raised.is_set():
            self.echo.heard(self.memory.last_heard)
            step = self.echo.look(self.clock.monotonic(), self.link.connected)
            if step is Step.RECONNECT:
                self.link.reconnect("deaf: what it says does not come back")
            elif (self.fence.contradicted and self.link.connected) or step is Step.ASK:
                self.fence.contradicted = False
                self._say("online")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECK_S):
                    await self.fence.raised.wait()
        self.publisher.stop()
        raise FencedError(self.fence.reason)

    def _on_manager(self, message: Message) -> None:
        self.echo.heard(self.clock.monotonic())
        self.fence.handle(message)

    def _on_request(self, message: Message) -> None:
        """Requests wait until it is known that no newer manager is at work."""
        self.echo.heard(self.clock.monotonic())
        if not self.publisher.speaks:
            self._early.append(message)
        elif not self.fence.raised.is_set():
            self.dispatch.handle(message)

    async def _seed(self) -> None:
        """Raises StoreRefusedError when the database can't be written for as long as it is tried."""
        for _ in range(SEED_TRIES):
            try:
                await self.store.write(partial(seed, wanted=dict(self.config.principals)))
                if self.store.reads.meta(RESTORED):
                    await self.store.write(partial(tell_restored, manager_id=self.config.manager_id))
                return
            except Exception as error:
                log.warning("the first write waits: %s", error)
                await self.clock.sleep(CHECK_S)
        raise StoreRefusedError(f"{self.store.path}: {self.store.trouble}")

    async def _on_connect(self) -> None:
        await self.clock.sleep(FENCE_WAIT_S)
        if self.fence.raised.is_set():
            return
        self.fence.contradicted = False
        await self.link.publish(*self._state("online"), retain=True)
        await self.publisher.begin()
        self.repair.begin()
        while self._early:
            self.dispatch.handle(self._early.popleft())
        ready, self._ready = self._ready, None
        if ready is not None:
            ready()

    async def _goodbye(self) -> None:
        """Hand over what is committed, then say that we are going; a fenced manager says nothing."""
        if not self.link.connected or self.fence.raised.is_set():
            return
        with contextlib.suppress(Exception):
            async with asyncio.timeout(GOODBYE_S):
                await self.link.publish(*self._state("offline"), retain=True)

    # --- what it says of itself

    def _state(self, state: str) -> tuple[str, bytes]:
        config, store = self.config, self.store
        message = ManagerState(
            state=state,
            manager=config.manager_id,
            store=store.id,
            epoch=store.epoch,
            limits=config.limits(),
            version=version(),
            started=self._started,
        )
        return self.topics.manager_state(config.manager_id), encode(message)

    def _will(self, _conn: int) -> Will:
        return Will(*self._state("offline"))

    def _say(self, state: str) -> None:
        topic, payload = self._state(state)
        self.link.post(topic, payload, retain=True)

    def _command(self, node: str, command: Command) -> None:
        self.link.post(self.topics.node(node, "command"), encode(command))

    def _make_office(self) -> Office:
        config, store = self.config, self.store
        return Office(
            manager=config.manager_id,
            store=store.id,
            epoch=store.epoch,
            realm=config.realm,
            version=version(),
            started=self.started,
            limits=config.limits(),
            conditions=self.conditions,
        )

    def conditions(self) -> list[str]:
        """What a person should know about this manager."""
        return [text for text in (self.store.trouble, self.fence.other, self.memory.hold) if text]

    def _view(self) -> View:
        clock = self.clock
        return View(self.store.reads, self.memory, self._office, clock.monotonic(), clock.time_ns())


async def run(config: ManagerConfig, ready: Callable[[], None] | None = None) -> None:
    """Be the manager until cancelled: first a silent standby while another one holds the state folder.

    Raises:
        ValueError: a name, a role or a number of the configuration is none.
        StoreRefusedError: the database can't be used.
        FencedError: a newer manager works on a copy of this store.
    """
    topics = checked(config)
    clock, random = SystemClock(), Random()
    lock = Lock(config.state / "lock")
    await lock.wait(clock)
    try:
        opening = partial(Store.open, database(config.state), clock, _new_id, topics)
        store = await asyncio.to_thread(opening)
        gc.set_threshold(*COLLECT)
        try:
            options = config.connect
            if not options.client_id:
                options = replace(options, client_id=f"busbar-{config.realm}-{config.manager_id}")
            # Only so can a retained request be told from another one while it is live.
            options = replace(options, as_published=(topics.all_requests(),))
            await Manager(
                config,
                store,
                lambda will: MqttLink(options, clock=clock, random=random, will=will),
                clock,
                _new_id,
            ).run(ready)
        finally:
            await asyncio.to_thread(store.close)
    finally:
        lock.release()


def main(config: ManagerConfig) -> int:
    """Run until SIGTERM or SIGINT and return the exit code: 0, 2 (refused) or 3 (fenced)."""
    try:
        asyncio.run(_main(config))
    except (StoreRefusedError, ValueError, OSError) as error:
        print(f"busbar manager: {error}", file=sys.stderr)
        return EXIT_REFUSED
    except FencedError as error:
        print(f"busbar manager: {error}", file=sys.stderr)
        return EXIT_FENCED
    return 0


async def _main(config: ManagerConfig) -> None:
    task = asyncio.ensure_future(run(config))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _await(loop: Awaitable[None]) -> None:
    await loop


def _new_id() -> str:
    return str(uuid.uuid4())
