"""Publishes the node's state: birth and will, the latest report, heartbeats.

It also subscribes to its own state topic: it overwrites a late will, and detects a connection on which
nothing is received (the broker gave the session to another client): its own state does not come back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from random import Random
from typing import Any, Final

from busbar.bus.clock import Clock
from busbar.bus.connection.link import Link, Message, Will
from busbar.bus.decode import MAX_REPORT, digest, encode, read
from busbar.bus.errors import BusError, BusOfflineError, MessageTooLargeError, MissingRightError
from busbar.bus.messages import Applied, Heartbeat, NodeState, Reported, ReportedWorker, RuntimeDetail
from busbar.bus.states import Leaves, NodeBirth
from busbar.bus.topics import Topics
from msgspec import UNSET, Struct, UnsetType, field, structs, to_builtins

from ..planner.mesh_links import MeshLinks

log = logging.getLogger("busbar.agent")

COALESCE_S: Final = 0.1
"""Minimum time between two reports, seconds."""
ECHO_BEATS: Final = 2
"""The node's state is published with every heartbeat and must come back within so many of them: a dead
connection is noticed within three."""
ECHO_MIN_S: Final = 2.0
GOODBYE_S: Final = 2.0
SHORT: Final = 80
"""Characters of a reason or condition in a report that must be small."""
PACKET_OVERHEAD: Final = 64
"""Bytes of a report's packet besides topic and payload."""
SCHEMAS_OVERHEAD: Final = 16
"""Bytes of a report's member for schemas besides these."""
CONFLICT_BEATS: Final = 6
"""For so many heartbeats another agent's birth on our topic is reported as a conflict."""


class NodeSnapshot(Struct, frozen=True):
    """The node's present state, without the connection's."""

    workers: list[ReportedWorker] = field(default_factory=list)
    store: str | None = None
    applied: Applied = field(default_factory=Applied)
    refused: str | None = None
    capacity: dict[str, Any] | None = None
    runtimes: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    conditions: list[str] = field(default_factory=list)
    details: dict[str, RuntimeDetail] = field(default_factory=dict)
    links: list[tuple[str, str, MeshLinks]] = field(default_factory=list)
    """Of workers of meshed groups: cluster, name, and their connections. For metrics; not reported."""


def snapshot_digest(snapshot: NodeSnapshot) -> str:
    """Digest of a snapshot without usage, which would make every report look like a change."""
    workers = [_without_usage(each) for each in snapshot.workers]
    return digest(
        to_builtins(workers),
        snapshot.store,
        to_builtins(snapshot.applied),
        snapshot.refused,
        snapshot.capacity,
        snapshot.runtimes,
        snapshot.labels,
        snapshot.conditions,
        to_builtins(snapshot.details),
    )


def report_of(snapshot: NodeSnapshot, boot: str, conn: int) -> Reported:
    """The report of a snapshot."""
    return Reported(
        boot=boot,
        conn=conn,
        workers=snapshot.workers,
        store=snapshot.store,
        applied=snapshot.applied,
        refused=snapshot.refused,
        capacity=snapshot.capacity,
        runtimes=snapshot.runtimes,
        digest=snapshot_digest(snapshot),
        labels=snapshot.labels,
        conditions=snapshot.conditions[:64],
        details=snapshot.details,
    )


def shortened(report: Reported) -> Reported:
    """A report with all that states need and little else: short reasons, few conditions, no usage."""
    workers = [structs.replace(_without_usage(each), reason=_short(each.reason)) for each in report.workers]
    conditions = [text[:SHORT] for text in report.conditions[:4]]
    return structs.replace(
        report,
        workers=workers,
        conditions=conditions,
        refused=_short(report.refused),
        details=None,
        schemas=UNSET,
    )


def fitted(report: Reported, schemas: Mapping[str, dict[str, Any]], room: int) -> bytes:
    """The report with as much of it, and of the schemas, as has room; without labels, and with as many
    runtimes as fit, where it must be, which a condition tells. Larger than `room` for its workers alone."""
    payload = encode(report)
    if len(payload) <= room:
        chosen = _fitting(schemas, room - len(payload))
        return encode(structs.replace(report, schemas=chosen)) if chosen else payload
    less = shortened(report)
    payload = encode(less)
    if len(payload) <= room:
        return payload
    told = f"this report has {len(payload)} bytes, the broker takes {room}: labels and runtimes are left out"
    less = structs.replace(less, labels=None, conditions=[told, *less.conditions[:3]])
    while len(payload := encode(less)) > room and less.runtimes:
        less = structs.replace(less, runtimes=less.runtimes[: len(less.runtimes) // 2])
    return payload


def _fitting(schemas: Mapping[str, dict[str, Any]], room: int) -> dict[str, dict[str, Any]]:
    """Those that have room together: the manager asks for the others again."""
    found: dict[str, dict[str, Any]] = {}
    room -= SCHEMAS_OVERHEAD
    for name, schema in schemas.items():
        size = len(name) + len(encode(schema)) + 4
        if size <= room:
            found[name] = schema
            room -= size
    return found


def _without_usage(worker: ReportedWorker) -> ReportedWorker:
    return structs.replace(worker, uptime_ms=None, cpu_s=None, rss=None, traffic=UNSET)


def _short(text: str | None) -> str | None:
    return None if text is None else text[:SHORT]


def will_of(topics: Topics, node: str, boot: str) -> Callable[[int], Will]:
    """The will of a connection: `lost`, with the (boot, conn) of its birth."""

    def will(conn: int) -> Will:
        return Will(topics.node(node, "state"), encode(NodeState(NodeBirth.LOST, boot, conn)))

    return will


class Reporter:
    """Reports for one node. `take_snapshot` gives its state, `heartbeat_s` is the interval in seconds."""

    def __init__(
        self,
        link: Link,
        topics: Topics,
        node: str,
        boot: str,
        clock: Clock,
        random: Random,
        take_snapshot: Callable[[], NodeSnapshot],
        user: str | None = None,
    ) -> None:
        self.heartbeat_s = 5.0
        self.conflict: str | None = None
        self._link, self._clock, self._random = link, clock, random
        self._boot, self._take_snapshot, self._user = boot, take_snapshot, user
        self._state_topic = topics.node(node, "state")
        self._report_topic = topics.node(node, "reported")
        self._heartbeat_topic = topics.node(node, "heartbeat")
        self._report_due = asyncio.Event()
        self._new_interval = asyncio.Event()
        self._force = False
        self._schemas: dict[str, dict[str, Any]] = {}
        self._published: tuple[int, str] = (0, "")
        self._seq = 0
        self._beat_conn = 0
        self._started_at = clock.monotonic()
        self._echo_due_since: float | None = None
        self._silences = 0
        """How often in a row the own state has not come back."""
        self._ready_sent_at = 0.0
        self._conflict_at = 0.0
        self._leaving = False
        link.subscribe(self._state_topic, self._on_state)
        link.on_connect(self._on_connect)

    def changed(self) -> None:
        """Report if something has changed: at once, but at most once per `COALESCE_S`."""
        self._report_due.set()

    def force_report(self) -> None:
        """Report even if only usage, or nothing, has changed."""
        self._force = True
        self._report_due.set()

    def include_schemas(self, schemas: dict[str, dict[str, Any]]) -> None:
        """Put these schemas into the next report, and into no other."""
        self._schemas = schemas

    # --- reports

    async def run_reports(self) -> None:
        """Publish reports until cancelled."""
        while True:
            await self._report_due.wait()
            self._report_due.clear()
            await self._report()
            await self._clock.sleep(COALESCE_S)

    async def _report(self) -> None:
        if not self._link.connected:
            return  # every connection begins with a full report
        snapshot, conn = self._take_snapshot(), self._link.conn
        version = (conn, snapshot_digest(snapshot))
        if version == self._published and not self._force:
            return
        self._force = False
        try:
            await self._publish_report(report_of(snapshot, self._boot, conn))
            self._published = version
        except MessageTooLargeError:
            self._published = version  # logged by the link; the next change is tried again
        except MissingRightError as error:
            self._published = version
            self._link.reconnect(str(error))
        except BusOfflineError as error:
            log.debug("report not published: %s", error)
            self._report_due.set()

    async def _publish_report(self, report: Reported) -> None:
        """Publish the report; where the broker does not take it, with shortened reasons.

        Raises:
            BusOfflineError, MessageTooLargeError: it was not published.
        """
        schemas, self._schemas = self._schemas, {}
        room = min(self._link.max_packet - len(self._report_topic) - PACKET_OVERHEAD, MAX_REPORT)
        payload = fitted(report, schemas, room)
        await self._link.publish(self._report_topic, payload, qos=1, retain=True)

    async def _on_connect(self) -> None:
        # Set before publishing: the echo may arrive before the acknowledgement.
        self._echo_due_since = self._clock.monotonic()
        await self._publish_state(NodeBirth.READY)
        self._force = True
        await self._report()

    async def _publish_state(self, state: NodeBirth, leaves: Leaves | UnsetType = UNSET) -> None:
        payload = encode(NodeState(state, self._boot, self._link.conn, leaves))
        self._ready_sent_at = self._clock.monotonic()
        await self._link.publish(self._state_topic, payload, qos=1, retain=True)

    # --- heartbeats, and the echo of our own state

    def set_interval(self, seconds: float) -> None:
        """Set the heartbeat interval."""
        if seconds != self.heartbeat_s:
            self.heartbeat_s = seconds
            self._new_interval.set()

    async def run_heartbeats(self) -> None:
        """Send heartbeats until cancelled, the first after a random part of the interval."""
        await self._wait_for_heartbeat(self._random.random() * self.heartbeat_s)
        while True:
            try:
                self._send_heartbeat()
            except Exception:
                log.exception("a heartbeat failed")
            await self._wait_for_heartbeat(self.heartbeat_s)

    async def _wait_for_heartbeat(self, seconds: float) -> None:
        """A new interval ends the wait, or a node with a long one might be taken for lost."""
        self._new_interval.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._new_interval.wait()

    def _send_heartbeat(self) -> None:
        if not self._link.connected or self._leaving:
            return
        self._seq += 1
        now = self._clock.monotonic()
        heartbeat = Heartbeat(
            boot=self._boot,
            conn=self._link.conn,
            seq=self._seq,
            uptime_ms=int((now - self._started_at) * 1000),
            applied=self._take_snapshot().applied,
            digest=self._published[1],
        )
        # Of QoS 0 no broker says that the right is missing.
        first, self._beat_conn = self._beat_conn != self._link.conn, self._link.conn
        self._link.post(self._heartbeat_topic, encode(heartbeat), qos=1 if first else 0)
        self._end_conflict(now)
        self._check_echo(now)

    def _check_echo(self, now: float) -> None:
        bound = max(ECHO_MIN_S, ECHO_BEATS * self.heartbeat_s)
        if self._echo_due_since is not None and now - self._echo_due_since >= bound:
            self._echo_due_since = None
            self._silences += 1
            missing = MissingRightError(
                self._user, "write or to read", self._state_topic, certain=False, times=self._silences
            )
            self._link.reconnect(f"nothing is received, the own state does not come back: {missing}")
        elif self._echo_due_since is None:
            self._publish_ready(now)

    def _publish_ready(self, now: float) -> None:
        self._ready_sent_at = now
        payload = encode(NodeState(NodeBirth.READY, self._boot, self._link.conn))
        if self._link.post(self._state_topic, payload, qos=1, retain=True) and self._echo_due_since is None:
            self._echo_due_since = now

    def _on_state(self, message: Message) -> None:
        if message.retain or self._leaving:
            return  # retained from before this connection: our birth has overwritten it
        try:
            state = read(message.payload, NodeState)
        except BusError:
            state = NodeState("", "unknown", 0)
        now = self._clock.monotonic()
        if (state.state, state.boot, state.conn) == (NodeBirth.READY, self._boot, self._link.conn):
            self._echo_due_since, self._silences = None, 0
            return
        if state.boot != self._boot and state.state == NodeBirth.READY:
            self._note_conflict(state, now)
        # At most once per heartbeat: two agents of one name must not trigger each other endlessly.
        if state.state != NodeBirth.READY or now - self._ready_sent_at >= self.heartbeat_s:
            self._publish_ready(now)

    def _note_conflict(self, state: NodeState, now: float) -> None:
        self._conflict_at = now
        if self.conflict is None:
            self.conflict = f"conflict: another agent with this node's name is connected (boot {state.boot})"
            log.warning("%s", self.conflict)
            self.changed()

    def _end_conflict(self, now: float) -> None:
        if self.conflict is not None and now - self._conflict_at > CONFLICT_BEATS * self.heartbeat_s:
            self.conflict = None
            self.changed()

    async def goodbye(self, leaves: Leaves) -> None:
        """Publish the last report and `disconnected`, within `GOODBYE_S` seconds; never raises."""
        self._leaving = True
        try:
            async with asyncio.timeout(GOODBYE_S):
                await self._report()
                await self._publish_state(NodeBirth.DISCONNECTED, leaves)
        except (TimeoutError, BusOfflineError):
            log.warning("left without a goodbye: the broker is unreachable")
