"""Takes in what nodes publish: births, wills, goodbyes, reports and heartbeats.

What a message means is decided by `NodeSession.on`; here it is decoded, and the effects are carried out. A
heartbeat touches memory alone. There is one write per node at a time; updates that arrive meanwhile are
merged into the next, so that a node which publishes a lot can't fill the store's queue.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from busbar.bus.clock import Clock
from busbar.bus.connection.link import Link, Message
from busbar.bus.decode import read
from busbar.bus.errors import BusError
from busbar.bus.messages import Command, Heartbeat, NodeState, Reported
from busbar.bus.printable import printable
from busbar.bus.topics import NodeLeaf, Topics

from ..log_throttle import LogThrottle
from ..rate_limit import Limits
from ..state.mirror import StateCache
from ..state.node_memory import NodeMemory, WorkerStat
from ..store import Store
from ..store.rows import NodeRow
from .node_session import AskForSchemas, Effect, Facts, NodeMessage, NodeSession, Signal
from .report_diff import NodeUpdate, Origin, foreign_schemas
from .report_writer import write_report

log = logging.getLogger(__name__)

NODE_RATE: Final = 100.0
"""Sustained messages per second of one node: an agent sends one or two. A report that is dropped is requested
again when the digest of the next heartbeat differs."""
NODE_BURST: Final = 1_000
NODE_BYTES: Final = 8_192
"""Bytes that count as one more message: the largest report counts as 129."""
SMALL: Final = 4_096
"""Most bytes of a node state or a heartbeat, which have a few short members."""
UNREADABLE: Final = "its report can't be read, what is told of its workers is from before: "
MAX_WHY: Final = 512
"""Characters of why a message was dropped."""
UNREAD_BEATS: Final = 4
"""So many heartbeats of one connection without a state or report, which come with each or first: the right to
read those is missing. An agent without the right to write its own connects again before."""
_AWAITED: Final[frozenset[NodeLeaf]] = frozenset({"state", "reported"})
_NEW: Final = NodeSession()
QOS: Final[Mapping[NodeLeaf, int]] = {"state": 1, "reported": 1, "heartbeat": 0}


class Reports:
    """`handle` takes every message of `node/+/state`, `node/+/reported` and `node/+/heartbeat`.

    `wake` triggers a pass of the monitor; `command(node_name, command)` sends a command to an agent.
    """

    def __init__(
        self,
        store: Store,
        memory: NodeMemory,
        cache: StateCache,
        clock: Clock,
        *,
        wake: Callable[[], None],
        command: Callable[[str, Command], None],
        topics: Topics | None = None,
    ) -> None:
        self._store, self._memory, self._cache = store, memory, cache
        self._topics = topics or store.topics
        self._wake, self._command = wake, command
        self._origin = Origin(store.id, store.epoch)
        self._heartbeat = memory.timing.heartbeat
        self._throttle = LogThrottle(clock)
        self._clock = clock
        self._limits = Limits(NODE_RATE, NODE_BURST, in_flight=1)
        self._writing: set[str] = set()
        self._next: dict[str, NodeUpdate] = {}
        self.unread: frozenset[NodeLeaf] = frozenset()
        """What does not come of nodes that are heard: the right to read it may be missing."""
        self._awaited, self._conn = _AWAITED, 0  # on this connection
        self._present_conn: Callable[[], int] = lambda: 0
        self._beats: dict[str, tuple[str, int, int]] = {}  # meanwhile: boot, conn, heartbeats
        self.sessions: dict[str, NodeSession] = {}
        """By node oid."""
        cache.on_node_removed(self._forget)

    def attach(self, link: Link) -> None:
        """Subscribe to the nodes' topics; silence counts anew after every connect."""
        self._present_conn = lambda: link.conn
        for leaf, qos in QOS.items():
            link.subscribe(self._topics.all_nodes(leaf), self.handle, qos)
        link.on_connect(self.connected)

    async def connected(self) -> None:
        """Connected to the broker (again): nodes could not be heard before."""
        self._memory.start_listening()
        self.sessions = {oid: session.reconnected() for oid, session in self.sessions.items()}
        self._wake()

    def _forget(self, node_oid: str) -> None:
        self.sessions.pop(node_oid, None)
        self._next.pop(node_oid, None)
        self._beats.pop(node_oid, None)

    def handle(self, message: Message) -> None:
        """Take in one message. Never raises: a message that can't be decoded is logged and dropped."""
        try:
            self._handle(message)
        except Exception as error:
            self._warn(f"dropped a message on {message.topic[:200]!r}", error)

    def _handle(self, message: Message) -> None:
        topic = self._topics.parse_node(message.topic)
        if topic is None or not message.payload:
            return
        node = self._cache.node_named(topic.node)
        if node is None:
            self._warn(f"node '{topic.node}' is not paired: its messages are ignored")
            return
        self._note_connection()
        if topic.leaf in self._awaited:
            self._came(topic.leaf)
        now = self._clock.monotonic()
        cost = 1.0 + len(message.payload) / NODE_BYTES
        if self._limits.admit(node.oid, now, cost) is not None:
            self._warn(f"node '{topic.node}' exceeds its message rate: some messages are dropped")
            return
        try:
            decoded = _decode(topic.leaf, message.payload)
        except BusError as error:
            if topic.leaf == "reported":
                self._submit(node, NodeUpdate({"conditions": [f"{UNREADABLE}{_in_words(error)}"]}))
            raise
        if decoded is None:
            return
        if isinstance(decoded, Heartbeat) and self._awaited:
            self._count(node.oid, decoded)
        facts = Facts(
            node,
            now,
            self._heartbeat,
            self._origin,
            self._cache.has_unknown(node.oid),
            node.oid in self._writing,
            self._missing_schemas(decoded) if isinstance(decoded, Reported) else frozenset(),
        )
        session, effects = self._session(node.oid).on(decoded, facts, retained=message.retain)
        self.sessions[node.oid] = session
        for effect in effects:
            self._carry_out(node, effect)

    def _note_connection(self) -> None:
        """States and reports are awaited anew. Not in `connected`: what is retained may come before that."""
        if self._conn != (conn := self._present_conn()):
            self._conn, self._awaited = conn, _AWAITED
            self._beats.clear()

    def _came(self, leaf: NodeLeaf) -> None:
        self._awaited, self.unread = self._awaited - {leaf}, self.unread - {leaf}
        if not self._awaited:
            self._beats.clear()

    def _count(self, node_oid: str, beat: Heartbeat) -> None:
        boot, conn, count = self._beats.get(node_oid, ("", 0, 0))
        count = count + 1 if (boot, conn) == (beat.boot, beat.conn) else 1
        self._beats[node_oid] = (beat.boot, beat.conn, count)
        if count >= UNREAD_BEATS:
            self.unread = self._awaited

    def _missing_schemas(self, report: Reported) -> frozenset[str]:
        digests = set(foreign_schemas(report).values())
        return frozenset(digests - self._store.reads.known_schemas(digests)) if digests else frozenset()

    def _session(self, node_oid: str) -> NodeSession:
        return self.sessions.get(node_oid, _NEW)

    def _keep(self, node_oid: str, session: NodeSession) -> None:
        """After a write; the node may have been removed meanwhile."""
        if node_oid in self.sessions:
            self.sessions[node_oid] = session

    def _carry_out(self, node: NodeRow, effect: Effect) -> None:
        if effect is Signal.HEARD:
            self._memory.record_heard(node.oid)
        elif effect is Signal.CONNECTION_LOST:
            self._memory.record_will(node.oid)
        elif effect is Signal.WAKE_MONITOR:
            self._wake()
        elif effect is Signal.REQUEST_RESYNC:
            self._command(node.name, Command(resync=True))
        elif isinstance(effect, AskForSchemas):
            self._command(node.name, Command(resync=True, schemas=list(effect.digests)))
        elif isinstance(effect, NodeUpdate):
            self._submit(node, effect)

    # --- writing

    def _submit(self, node: NodeRow, update: NodeUpdate) -> None:
        """Write an update, now or with the next write for this node."""
        before = self._next.pop(node.oid, None)
        if before is not None:
            update = before.merge(update)
        if node.oid in self._writing:
            self._next[node.oid] = update
            return
        write = partial(
            write_report,
            node_oid=node.oid,
            update=update,
            origin=self._origin,
        )
        self._writing.add(node.oid)
        try:
            self._store.submit(write, partial(self._written, node, update))
        except BusError as busy:
            self._writing.discard(node.oid)
            self._put_back(node, update, busy)

    def _written(
        self, node: NodeRow, update: NodeUpdate, outcome: Mapping[str, WorkerStat] | Exception
    ) -> None:
        self._writing.discard(node.oid)
        if isinstance(outcome, Exception):
            self._put_back(node, update, outcome)
            return
        self._keep(node.oid, self._session(node.oid).written(update))
        self._memory.set_stats(outcome)
        following = self._next.pop(node.oid, None)
        if following is not None:
            self._submit(node, following)

    def _put_back(self, node: NodeRow, update: NodeUpdate, error: Exception) -> None:
        """Keep an update that the store refused for the next write, which the next heartbeat triggers."""
        self._warn(f"an update of node '{node.name}' could not be written yet", error)
        later = self._next.get(node.oid)
        self._next[node.oid] = update.merge(later) if later else update
        self._keep(node.oid, self._session(node.oid).not_written())

    def _warn(self, what: str, error: Exception | None = None) -> None:
        if self._throttle.allows(what):
            why = _in_words(error) if isinstance(error, BusError) else repr(error)
            log.warning("%s%s", what, f": {why}" if error else "")


def _in_words(error: BusError) -> str:
    where = f" at {', '.join(error.pointers)}" if error.pointers else ""
    return printable(f"{error.detail}{where} ({error.code})"[:MAX_WHY])


def _decode(leaf: str, payload: bytes) -> NodeMessage | None:
    """Raises BusError for what can't be read; None for a topic that nodes do not publish on."""
    if leaf == "heartbeat":
        return read(payload, Heartbeat, SMALL)
    if leaf == "reported":
        return read(payload, Reported)
    return read(payload, NodeState, SMALL) if leaf == "state" else None
