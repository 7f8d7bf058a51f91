"""The manager's composition root: lock, store, link, dispatch, publisher, monitor."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from random import Random
from typing import TYPE_CHECKING, Final

from busbar.bus.clock import Clock, SystemClock, rfc3339
from busbar.bus.connection.link import Link, Message, Will
from busbar.bus.connection.mqtt_link import MqttLink
from busbar.bus.connection.protocol_memory import ProtocolMemory
from busbar.bus.errors import MissingRightError
from busbar.bus.messages import ManagerState
from busbar.bus.system.service_status import SayStatus, unsaid
from busbar.bus.system.version import commit, version

from .api.operations.base import ManagerIdentity, ReadContext
from .api.operations.principals import seed
from .api.requests import Dispatch, Responder
from .config import ManagerConfig, checked
from .control.monitor import Monitor
from .ingest.reports import Reports
from .leader.fencing import Fence, FencedError, Lock
from .leader.link_watchdog import LinkWatchdog, Step
from .leader.realm_claim import RealmClaim, RealmInUseError
from .leader.rights import Rights
from .leader.state_folder import database
from .planner.model import LivenessTiming
from .publish.discovery import HomeAssistantDiscovery
from .publish.presence import Presence
from .publish.publisher import Publisher
from .publish.render import MAX_CONDITIONS
from .publish.retained_audit import RetainedAudit
from .publish.statuses import StatusBuilder
from .rate_limit import Limits
from .rehearsal.rehearsal import Rehearsal
from .state.node_memory import NodeMemory
from .store import Store, StoreRefusedError
from .store.backup import RESTORED
from .store.meta import record_restored
from .store.object_ids import RANDOM_BYTES, object_id
from .store.retention import Retention

if TYPE_CHECKING:
    from busbar.bus.system.metrics import MetricsServer

__all__ = [
    "FencedError",
    "Manager",
    "ManagerConfig",
    "RealmInUseError",
    "StoreRefusedError",
    "run",
]

log = logging.getLogger("busbar.manager")

FENCE_WAIT_S: Final = 0.15
"""After a connect, how long to wait for retained manager states before publishing."""
EARLY_LIMIT: Final = 1_000
"""Requests queued meanwhile; callers resend those beyond."""
SEED_TRIES: Final = 30
GOODBYE_S: Final = 2.0
CHECK_S: Final = 1.0
GC_THRESHOLDS: Final = (20_000, 20, 20)
"""There are hardly any cycles. With Python's defaults (700, 10, 10) the garbage collector walked the state of
10,000 clusters so often that a change took a quarter more processor time."""

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
        *,
        look_at_rights: bool = False,
    ) -> None:
        self._look_at_rights = look_at_rights
        self.config, self.store, self.clock = config, store, clock
        self.topics = store.topics
        self.started = clock.monotonic()
        started = rfc3339(clock.time_ns())
        self.presence = Presence(self.topics, self._online_state(started))
        self.link = make_link(self.presence.will)
        store.limit_packets(lambda: self.link.max_packet)
        self.fence = Fence(self.topics, config.manager_id, store.id, store.epoch, started)
        user = config.connect.username
        self.claim = RealmClaim(store, self.fence, self.presence, user, adopt=config.adopt_realm)
        self.memory = NodeMemory(clock, timing or _timing(config))
        self.watchdog = LinkWatchdog(config.heartbeat_s, clock.monotonic())
        statuses = StatusBuilder(store, int(config.heartbeat_s * 1000))
        self.publisher = publisher = Publisher(store, self.link, statuses, clock)
        self.retained_audit = RetainedAudit(
            self.link,
            self.topics,
            clock,
            lambda: publisher.published,
            lambda: publisher.idle,
            held_back=lambda: publisher.held_back,
        )
        self.rights = Rights(self.link, self.topics, user, clock, publisher.retry_denied, self._unread)
        self.monitor = Monitor(store, self.memory, clock, manager_id=config.manager_id)
        self.reports = Reports(
            store, self.memory, self.monitor.cache, clock, wake=self.monitor.wake, command=publisher.command
        )
        self.discovery = HomeAssistantDiscovery(
            store, self.link, clock, config.home_assistant, config.manager_id, lambda: publisher.active
        )
        self._identity = self._make_identity()
        self._rehearsal = Rehearsal(store, self.memory, self.monitor.cache, clock, new_id, config.manager_id)
        responder = Responder(
            config.manager_id,
            store.epoch,
            self._read_context,
            mqtt5=config.connect.protocol == 5,
            quotas=config.quotas,
        )
        limits = Limits(config.rate, config.burst, config.in_flight)
        self.dispatch = Dispatch(store, publisher, responder, limits, clock=clock, new_id=new_id)
        self._ready: Callable[[], None] | None = None
        self._refused: RealmInUseError | None = None
        self._early: deque[Message] = deque(maxlen=EARLY_LIMIT)

    async def run(self, ready: Callable[[], None] | None = None) -> None:
        """Serve until cancelled. `ready` is called once, when requests are answered.

        Raises:
            FencedError: a newer manager runs on a copy of this store.
            OSError: the address of the metrics can't be had.
        """
        self._ready = ready
        metrics = self._serve_metrics()
        try:
            await self._serve()
        finally:
            if metrics is not None:
                await asyncio.to_thread(metrics.close)

    async def _serve(self) -> None:
        await self._seed()
        self.reports.attach(self.link)
        self.link.subscribe(self.topics.all_requests(), self._on_request)
        self.link.subscribe(self.topics.all_managers(), self._on_manager)
        self.discovery.attach()
        self.link.on_connect(self._on_connect)
        link = asyncio.create_task(self.link.run(), name="link")
        try:
            await self._run_loops(link)
        finally:
            await self._say_goodbye()
            link.cancel()
            await asyncio.wait([link], timeout=GOODBYE_S)

    async def _run_loops(self, link: asyncio.Task[None]) -> None:
        """Run all loops concurrently: the end of one ends all."""
        loops: dict[str, Awaitable[None]] = {
            "link": asyncio.shield(link),
            "publisher": self.publisher.run(),
            "retained-audit": self.retained_audit.run(),
            "rights": self.rights.run(),
            "refusals": self.dispatch.refusals.run(),
            "plans": self.dispatch.plans.run(),
            "retention": Retention(self.store, self.clock).run(),
            "monitor": self.monitor.run(),
            "watch": self._watch(),
        }
        if self.discovery.needed:
            loops["discovery"] = self.discovery.run()
        fenced: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as group:
                for name, loop in loops.items():
                    group.create_task(_await(loop), name=name)
        except* FencedError as found:
            fenced = found
        if fenced is not None:  # raised out here: before 3.11.4 Python wraps what `except*` raises in a group
            raise self._fencing() from fenced

    def _serve_metrics(self) -> MetricsServer | None:
        """Raises OSError when the address can't be had."""
        if self.config.metrics is None:
            return None
        from .metrics.serving import serve  # an extra, which takes a tenth of a second to import

        return serve(
            *self.config.metrics,
            store=self.store,
            dispatch=self.dispatch,
            publisher=self.publisher,
            link=self.link,
            memory=self.memory,
            clock=self.clock,
            snapshot=self.monitor.cache.snapshot,
            manager=self.config.manager_id,
            realm=self.config.realm,
        )

    async def _watch(self) -> None:
        """End when fenced; restore our overwritten state; reconnect when nothing is received any more."""
        while not self.fence.raised.is_set():
            self.watchdog.heard(self.memory.last_heard)
            step = self.watchdog.check(self.clock.monotonic(), self.link.connected)
            if step is Step.RECONNECT:
                self.link.reconnect(self._nothing_received())
            elif (self.fence.own_state_overwritten and self.link.connected) or step is Step.PROBE:
                self.fence.own_state_overwritten = False
                self.presence.post_online(self.link)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECK_S):
                    await self.fence.raised.wait()
        self.publisher.stop()
        raise self._fencing()

    def _nothing_received(self) -> str:
        topic, user = self.topics.manager_state(self.config.manager_id), self.config.connect.username
        times = self.watchdog.silences
        missing = MissingRightError(user, "write or to read", topic, certain=False, times=times)
        return f"nothing is received, the own state does not come back: {missing}"

    def _fencing(self) -> FencedError:
        return self._refused or FencedError(self.fence.reason)

    def _on_manager(self, message: Message) -> None:
        self.watchdog.heard(self.clock.monotonic())
        self.fence.handle(message)
        self.claim.handle(message)

    def _on_request(self, message: Message) -> None:
        """Requests are queued until it is known that no newer manager is running."""
        self.watchdog.heard(self.clock.monotonic())
        if not self.publisher.active:
            self._early.append(message)
        elif not self.fence.raised.is_set() and message.topic not in self.rights.probes:
            self.dispatch.handle(message)

    async def _seed(self) -> None:
        """Raises StoreRefusedError when the database can't be written within `SEED_TRIES` tries."""
        for _ in range(SEED_TRIES):
            try:
                await self.store.write(partial(seed, wanted=dict(self.config.principals)))
                if self.store.reads.meta(RESTORED):
                    await self.store.write(partial(record_restored, manager_id=self.config.manager_id))
                return
            except Exception as error:
                log.warning("the first write failed; trying again: %s", error)
                await self.clock.sleep(CHECK_S)
        raise StoreRefusedError(f"{self.store.path}: {self.store.write_error}")

    async def _on_connect(self) -> None:
        await self.clock.sleep(FENCE_WAIT_S)
        if self.fence.raised.is_set() or not await self._claim_realm():
            return
        self.fence.own_state_overwritten = False
        await self.presence.publish_online(self.link)
        await self.publisher.start_session()
        self.retained_audit.wake()
        self.discovery.connected()
        if self._look_at_rights:
            self.rights.wake()
        while self._early:
            self.dispatch.handle(self._early.popleft())
        ready, self._ready = self._ready, None
        if ready is not None:
            ready()

    async def _claim_realm(self) -> bool:
        """Whether the realm is this store's; else the manager ends as a fenced one does."""
        try:
            await self.claim.settle(self.link)
        except RealmInUseError as error:
            self._refused = error
            self.fence.reason = str(error)
            self.fence.raised.set()
        return not self.fence.raised.is_set()

    async def _say_goodbye(self) -> None:
        """Publish that we are offline; a fenced manager publishes nothing."""
        if not self.link.connected or self.fence.raised.is_set():
            return
        with contextlib.suppress(Exception):
            async with asyncio.timeout(GOODBYE_S):
                await self.presence.publish_offline(self.link)

    def _unread(self) -> Iterator[MissingRightError]:
        """The rights without a probe that are probably missing: persons read all topics of these."""
        user = self.config.connect.username
        if self.retained_audit.statuses_unread:
            yield MissingRightError(user, "write or to read", self.topics.all_status(), certain=False)
        for leaf in sorted(self.reports.unread):
            yield MissingRightError(user, "read", self.topics.all_nodes(leaf), certain=False)

    # --- facts about itself

    def _online_state(self, started: str) -> ManagerState:
        config, store = self.config, self.store
        return ManagerState(
            state="online",
            manager=config.manager_id,
            store=store.id,
            epoch=store.epoch,
            limits=config.limits(),
            version=version(),
            started=started,
        )

    def _make_identity(self) -> ManagerIdentity:
        config, store = self.config, self.store
        return ManagerIdentity(
            manager=config.manager_id,
            store=store.id,
            epoch=store.epoch,
            realm=config.realm,
            version=version(),
            started=self.started,
            limits=config.limits(),
            conditions=self.conditions,
            commit=commit(),
        )

    def conditions(self) -> list[str]:
        """Conditions of this manager, as text for people."""
        own = [text for text in (self.store.write_error, self.fence.other, self.memory.hold) if text]
        own += self.rights.missing
        return own + [str(held) for held in islice(self.publisher.held_back.values(), MAX_CONDITIONS)]

    def _read_context(self) -> ReadContext:
        clock, reads = self.clock, self.store.reads
        return ReadContext(
            reads,
            self.memory,
            self._identity,
            clock.monotonic(),
            clock.time_ns(),
            self.topics,
            self.monitor.cache.snapshot,
            self._rehearsal,
        )


async def run(
    config: ManagerConfig, ready: Callable[[], None] | None = None, say: SayStatus = unsaid
) -> None:
    """Run the manager until cancelled; stand by first while another one holds the state folder.

    `say` is told about that, and about the connection to the broker.

    Raises:
        ValueError: a name, a role or a number of the configuration is invalid.
        StoreRefusedError: the database can't be used.
        FencedError: a newer manager runs on a copy of this store.
        RealmInUseError: the realm is another store's.
    """
    topics = checked(config)
    clock, random = SystemClock(), Random()
    new_oid = partial(_new_oid, clock)
    lock = Lock(config.state / "lock")
    say("waits for the manager that holds the state folder")
    await lock.wait(clock)
    say("opens the store")
    try:
        opening = partial(Store.open, database(config.state), clock, new_oid, topics)
        store = await asyncio.to_thread(opening)
        gc.set_threshold(*GC_THRESHOLDS)
        try:
            options = config.connect
            if not options.client_id:
                options = replace(options, client_id=f"busbar-{config.realm}-{config.manager_id}")
            memory = ProtocolMemory(config.state / "mqtt-version.json")
            # MQTT 5, Retain As Published: shows that a live request was published with RETAIN.
            options = replace(options, as_published=(topics.all_requests(),))
            await Manager(
                config,
                store,
                lambda will: MqttLink(options, clock=clock, random=random, will=will, memory=memory, say=say),
                clock,
                new_oid,
                look_at_rights=True,
            ).run(ready)
        finally:
            await asyncio.to_thread(store.close)
    finally:
        lock.release()


async def _await(loop: Awaitable[None]) -> None:
    await loop


def _timing(config: ManagerConfig) -> LivenessTiming:
    return LivenessTiming(heartbeat=config.heartbeat_s, offline_after=config.offline_after_s)


def _new_oid(clock: Clock) -> str:
    return object_id(clock.time_ns(), os.urandom(RANDOM_BYTES))
