"""Tells the bus how this node is: birth and will, the latest report, heartbeats. The latest report wins.

It also listens for its own state: a will that came late is corrected, and a link that has gone deaf (the
broker gave the session to somebody else) is noticed because nothing comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from busbar.bus.clock import Clock
from busbar.bus.connection.link import Link, Message, Will
from busbar.bus.decode import digest, encode, read
from busbar.bus.errors import BusError, BusOfflineError
from busbar.bus.messages import Applied, Heartbeat, NodeState, Reported, ReportedWorker
from busbar.bus.states import NodeBirth
from busbar.bus.topics import Topics
from msgspec import structs, to_builtins

log = logging.getLogger("busbar.agent")

COALESCE_S: Final = 0.1
"""Least time between two reports, seconds."""
ECHO_BEATS: Final = 2
"""Own state is told again with every heartbeat, and must come back within so many: a dead link is noticed
within three."""
ECHO_LEAST_S: Final = 2.0
GOODBYE_S: Final = 2.0
CONFLICT_BEATS: Final = 6
"""For so many heartbeats another agent's birth on our topic is shown as a conflict."""


@dataclass(frozen=True, slots=True)
class View:
    """The node's present state, without what is about the connection."""

    workers: list[ReportedWorker] = field(default_factory=list)
    store: str | None = None
    applied: Applied = field(default_factory=Applied)
    refused: str | None = None
    capacity: dict[str, Any] | None = None
    runtimes: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    conditions: list[str] = field(default_factory=list)


def view_digest(view: View) -> str:
    """Fingerprint of what a view says of states; usage is left out, or every report would look like news."""
    workers = [structs.replace(each, uptime_ms=None, cpu_s=None, rss=None) for each in view.workers]
    return digest(
        to_builtins(workers),
        view.store,
        to_builtins(view.applied),
        view.refused,
        view.capacity,
        view.runtimes,
        view.labels,
        view.conditions,
    )


def report_of(view: View, boot: str, conn: int) -> Reported:
    """The report of a view."""
    return Reported(
        boot=boot,
        conn=conn,
        workers=view.workers,
        store=view.store,
        applied=view.applied,
        refused=view.refused,
        capacity=view.capacity,
        runtimes=view.runtimes,
        digest=view_digest(view),
        labels=view.labels,
        conditions=view.conditions[:64],
    )


def will_of(topics: Topics, node: str, boot: str) -> Callable[[int], Will]:
    """The will of each connection: `lost`, with the (boot, conn) of its birth."""

    def will(conn: int) -> Will:
        return Will(topics.node(node, "state"), encode(NodeState(NodeBirth.LOST, boot, conn)))

    return will


class Reporter:
    """Speaks for one node. `view` gives its present state, `beat_s` is the heartbeat interval in seconds."""

    def __init__(
        self,
        link: Link,
        topics: Topics,
        node: str,
        boot: str,
        clock: Clock,
        random: Random,
        view: Callable[[], View],
    ) -> None:
        self.beat_s = 5.0
        self.conflict: str | None = None
        self._link, self._clock, self._random = link, clock, random
        self._boot, self._view = boot, view
        self._state_topic = topics.node(node, "state")
        self._report_topic = topics.node(node, "reported")
        self._beat_topic = topics.node(node, "heartbeat")
        self._news = asyncio.Event()
        self._new_interval = asyncio.Event()
        self._force = False
        self._told: tuple[int, str] = (0, "")
        self._seq = 0
        self._began = clock.monotonic()
        self._asked: float | None = None
        self._born_at = 0.0
        self._conflict_at = 0.0
        self._leaving = False
        link.subscribe(self._state_topic, self._on_state)
        link.on_connect(self._on_connect)

    def changed(self) -> None:
        """Something may have changed: it is reported at once, but never more often than each `COALESCE_S`."""
        self._news.set()

    def again(self) -> None:
        """Report even if no state has changed: somebody asked, or usage is to be told."""
        self._force = True
        self._news.set()

    # --- reports

    async def reports(self) -> None:
        """Publish what is new; never ends of itself."""
        while True:
            await self._news.wait()
            self._news.clear()
            await self._report()
            await self._clock.sleep(COALESCE_S)

    async def _report(self) -> None:
        if not self._link.connected:
            return  # every connection begins with a full report
        view, conn = self._view(), self._link.conn
        told = (conn, view_digest(view))
        if told == self._told and not self._force:
            return
        self._force = False
        try:
            payload = encode(report_of(view, self._boot, conn))
            await self._link.publish(self._report_topic, payload, qos=1, retain=True)
            self._told = told
        except BusOfflineError as error:
            log.debug("report not published: %s", error)
            self._news.set()

    async def _on_connect(self) -> None:
        # Before the birth is sent: its echo may be here before its acknowledgement.
        self._asked = self._clock.monotonic()
        await self._publish_state(NodeBirth.READY)
        self._force = True
        await self._report()

    async def _publish_state(self, state: NodeBirth) -> None:
        payload = encode(NodeState(state, self._boot, self._link.conn))
        self._born_at = self._clock.monotonic()
        await self._link.publish(self._state_topic, payload, qos=1, retain=True)

    # --- heartbeats and the echo

    def set_interval(self, seconds: float) -> None:
        """Beat this often from now on."""
        if seconds != self.beat_s:
            self.beat_s = seconds
            self._new_interval.set()

    async def heartbeats(self) -> None:
        """Beat every `beat_s` seconds, the first after a random part of that; never ends of itself."""
        await self._rest(self._random.random() * self.beat_s)
        while True:
            try:
                self._beat()
            except Exception:
                log.exception("a heartbeat failed")
            await self._rest(self.beat_s)

    async def _rest(self, seconds: float) -> None:
        """Until the next beat; a new interval cuts it short, lest a node that was slow be taken for lost."""
        self._new_interval.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._new_interval.wait()

    def _beat(self) -> None:
        if not self._link.connected or self._leaving:
            return
        self._seq += 1
        now = self._clock.monotonic()
        beat = Heartbeat(
            boot=self._boot,
            conn=self._link.conn,
            seq=self._seq,
            uptime_ms=int((now - self._began) * 1000),
            applied=self._view().applied,
            digest=self._told[1],
        )
        self._link.post(self._beat_topic, encode(beat), qos=0)
        self._end_conflict(now)
        self._check_echo(now)

    def _check_echo(self, now: float) -> None:
        bound = max(ECHO_LEAST_S, ECHO_BEATS * self.beat_s)
        if self._asked is not None and now - self._asked >= bound:
            self._asked = None
            self._link.reconnect("deaf: what it says does not come back")
        elif self._asked is None:
            self._say_ready(now)

    def _say_ready(self, now: float) -> None:
        self._born_at = now
        payload = encode(NodeState(NodeBirth.READY, self._boot, self._link.conn))
        if self._link.post(self._state_topic, payload, qos=1, retain=True) and self._asked is None:
            self._asked = now

    def _on_state(self, message: Message) -> None:
        if message.retain or self._leaving:
            return  # from before this connection: the birth has overwritten it
        try:
            state = read(message.payload, NodeState)
        except BusError:
            state = NodeState("", "unknown", 0)
        now = self._clock.monotonic()
        if (state.state, state.boot, state.conn) == (NodeBirth.READY, self._boot, self._link.conn):
            self._asked = None
            return
        if state.boot != self._boot and state.state == NodeBirth.READY:
            self._note_conflict(state, now)
        # Not more than once per heartbeat: two agents of one name must not drive each other on.
        if state.state != NodeBirth.READY or now - self._born_at >= self.beat_s:
            self._say_ready(now)

    def _note_conflict(self, state: NodeState, now: float) -> None:
        self._conflict_at = now
        if self.conflict is None:
            self.conflict = f"conflict: another agent of this node's name is on the bus (boot {state.boot})"
            log.warning("%s", self.conflict)
            self.changed()

    def _end_conflict(self, now: float) -> None:
        if self.conflict is not None and now - self._conflict_at > CONFLICT_BEATS * self.beat_s:
            self.conflict = None
            self.changed()

    async def goodbye(self) -> None:
        """Say the last report and `disconnected`, within `GOODBYE_S` seconds; never raises."""
        self._leaving = True
        try:
            async with asyncio.timeout(GOODBYE_S):
                await self._report()
                await self._publish_state(NodeBirth.DISCONNECTED)
        except (TimeoutError, BusOfflineError):
            log.warning("left without a goodbye: the broker is not in reach")
