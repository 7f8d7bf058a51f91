"""The door for what nodes say: births, wills, goodbyes, reports and heartbeats.

Heartbeats touch memory alone. Whatever else changes a row goes through one write per node at a time; what
arrives meanwhile is folded into the next, so a node that talks a lot can't fill the store's queue.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from busbar.bus.clock import Clock
from busbar.bus.connection.link import Link, Message
from busbar.bus.decode import read
from busbar.bus.errors import BusError
from busbar.bus.messages import Applied, Command, Heartbeat, NodeState, Reported
from busbar.bus.states import NodeBirth, NodeStatus
from busbar.bus.topics import NodeLeaf, Topics

from ..log_throttle import Quiet
from ..rate_limit import Limits
from ..state.mirror import World
from ..state.node_memory import Birth, Observed, WorkerStat
from ..store import Store
from ..store.rows import NodeRow
from .report_diff import is_ahead
from .report_writer import Sighting, write_sighting

log = logging.getLogger(__name__)

NODE_RATE: Final = 100.0
"""Messages of one node per second, in the long run: an agent sends one or two. What is dropped is asked for
again when the digest of the next heartbeat differs."""
NODE_BURST: Final = 1_000
NODE_BYTES: Final = 8_192
"""Bytes that count as one message more: the largest report counts as 129."""
SMALL: Final = 4_096
"""Bytes of a node state or a heartbeat; they have a few short members."""
CONFLICT: Final = "conflict: two agents claim this node, their messages take turns"
QOS: Final[Mapping[NodeLeaf, int]] = {"state": 1, "reported": 1, "heartbeat": 0}


class Reports:
    """`handle` takes every message of `node/+/state`, `node/+/reported` and `node/+/heartbeat`.

    `wake` is called when the monitor should look again; `command(node_name, command)` sends an impulse.
    """

    def __init__(
        self,
        store: Store,
        observed: Observed,
        world: World,
        clock: Clock,
        *,
        wake: Callable[[], None],
        command: Callable[[str, Command], None],
        topics: Topics | None = None,
    ) -> None:
        self._store, self._observed, self._world = store, observed, world
        self._topics = topics or store.topics
        self._wake, self._command = wake, command
        self._quiet = Quiet(clock)
        self._clock = clock
        self._limits = Limits(NODE_RATE, NODE_BURST, in_flight=1)
        self._writing: set[str] = set()
        self._next: dict[str, Sighting] = {}

    def attach(self, link: Link) -> None:
        """Subscribe to the nodes, and count silence anew after every connect."""
        for leaf, qos in QOS.items():
            link.subscribe(self._topics.all_nodes(leaf), self.handle, qos)
        link.on_connect(self.connected)

    async def connected(self) -> None:
        """The broker is (again) in reach: nobody is blamed for what could not be heard before."""
        self._observed.listen()
        self._observed.doubt()
        self._wake()

    def handle(self, message: Message) -> None:
        """Take one message in. Never raises: what can't be read is logged and dropped."""
        try:
            self._handle(message)
        except Exception as error:
            self._complain(f"dropped a message on {message.topic[:200]!r}", error)

    def _handle(self, message: Message) -> None:
        topic = self._topics.parse_node(message.topic)
        if topic is None or not message.payload:
            return
        node = self._world.node_named(topic.node)
        if node is None:
            self._complain(f"node '{topic.node}' is not paired: it is not listened to")
            return
        cost = 1.0 + len(message.payload) / NODE_BYTES
        if self._limits.admit(node.oid, self._clock.monotonic(), cost) is not None:
            self._complain(f"node '{topic.node}' says too much: some of it is dropped")
            return
        if topic.leaf == "state":
            self._on_state(node, read(message.payload, NodeState, SMALL), message.retain)
        elif topic.leaf == "reported":
            self._on_report(node, read(message.payload, Reported), message.retain)
        elif topic.leaf == "heartbeat" and not message.retain:
            self._on_heartbeat(node, read(message.payload, Heartbeat, SMALL))

    # --- births, wills, goodbyes

    def _on_state(self, node: NodeRow, state: NodeState, retained: bool) -> None:
        birth = (state.boot, state.conn)
        if state.state == NodeBirth.LOST:
            self._on_will(node, birth)
        elif self._outdated(node, birth):
            return
        elif state.state == NodeBirth.DISCONNECTED:
            self._observed.said_goodbye(node.oid, birth)
            self._submit(node, Sighting(_birth_columns(birth) | {"goodbye": True}))
            self._wake()
        elif state.state == NodeBirth.READY:
            self._on_ready(node, birth, retained)

    def _on_will(self, node: NodeRow, birth: Birth) -> None:
        """A will counts only for the connection that is the last one known: it may arrive after the next."""
        if birth == self._birth(node) and not self._left(node):
            self._observed.will(node.oid)
            self._wake()

    def _on_ready(self, node: NodeRow, birth: Birth, retained: bool) -> None:
        if retained and birth == self._observed.goodbye(node.oid):
            return
        self._observed.born(node.oid, birth)
        known = (node.boot, node.conn) == birth and not node.goodbye
        if not known or node.oid in self._writing:
            self._submit(node, Sighting(_birth_columns(birth) | {"goodbye": False}))
        if not retained:
            self._alive(node, birth)
            # Agents repeat themselves to hear their own echo: what is known already is no news.
            if not known or node.status is not NodeStatus.ONLINE:
                self._wake()

    # --- reports and heartbeats

    def _on_report(self, node: NodeRow, report: Reported, retained: bool) -> None:
        birth = (report.boot, report.conn)
        if self._outdated(node, birth):
            return
        live = not retained and self._alive(node, birth)
        self._observed.reported(node.oid, report)
        # What the broker had kept is taken in for good once a heartbeat says that it still holds.
        self._observed.set_unapplied(node.oid, not live)
        columns = _birth_columns(birth) if live else {}
        strayed = live and self._strayed(node, report.applied, report.store)
        self._submit(node, Sighting(columns, report, live, self._own_conditions(node), strayed))

    def _on_heartbeat(self, node: NodeRow, beat: Heartbeat) -> None:
        birth = (beat.boot, beat.conn)
        if self._outdated(node, birth) or not self._alive(node, birth):
            return
        if node.status is not NodeStatus.ONLINE:
            self._wake()
        report = self._observed.report(node.oid)
        strayed = report is not None and self._strayed(node, beat.applied, report.store)
        if report is None or report.digest != beat.digest:
            if self._observed.may_resync(node.oid):
                self._command(node.name, Command(resync=True))
        elif self._needs(node, report):
            sighting = Sighting(_birth_columns(birth), report, True, self._own_conditions(node), strayed)
            self._submit(node, sighting)
        if node.boot is None and node.status is not NodeStatus.UNPAIRED:
            self._submit(node, Sighting(_birth_columns(birth)))

    def _needs(self, node: NodeRow, report: Reported) -> bool:
        """Whether the last report, which still holds, is to be taken in once more.

        It could not be written, its workers are UNKNOWN, or the node has just been paired (again). Of an
        unpaired node it counts only that workers are gone, and that once.
        """
        if self._observed.unapplied(node.oid):
            return True
        if node.status is NodeStatus.UNPAIRED:
            return False
        if self._world.has_unknown(node.oid) or node.boot is None:
            return True
        return (CONFLICT in node.conditions) != self._observed.conflict(node.oid)

    def _alive(self, node: NodeRow, birth: Birth) -> bool:
        """Note a sign of life; False for a straggler of a connection that has said goodbye."""
        if birth == self._goodbye(node):
            return False
        if self._left(node):
            self._observed.born(node.oid, birth)
            self._submit(node, Sighting(_birth_columns(birth) | {"goodbye": False}))
        self._observed.heard(node.oid)
        self._observed.saw_boot(node.oid, birth[0])
        return True

    def _strayed(self, node: NodeRow, applied: Applied, store: str | None) -> bool:
        """Whether the node has left this manager for a later epoch while the manager was listening."""
        if is_ahead(applied, self._store.epoch, node.assignment_epoch):
            return self._observed.led_once(node.oid)
        if store == self._store.id and applied.epoch:  # 0: an agent that has just begun follows nothing yet
            self._observed.led(node.oid)
        return False

    def _own_conditions(self, node: NodeRow) -> tuple[str, ...]:
        return (CONFLICT,) if self._observed.conflict(node.oid) else ()

    # --- births known

    def _birth(self, node: NodeRow) -> Birth | None:
        """The last birth, from memory or else from the store."""
        stored = None if node.boot is None or node.conn is None else (node.boot, node.conn)
        return self._observed.birth(node.oid) or stored

    def _goodbye(self, node: NodeRow) -> Birth | None:
        if self._observed.birth(node.oid) is None:
            return self._birth(node) if node.goodbye else None
        return self._observed.goodbye(node.oid)

    def _left(self, node: NodeRow) -> bool:
        return self._goodbye(node) is not None

    def _outdated(self, node: NodeRow, birth: Birth) -> bool:
        """Whether a message is of an earlier connection of the same agent process."""
        known = self._birth(node)
        return known is not None and known[0] == birth[0] and known[1] > birth[1]

    # --- writing

    def _submit(self, node: NodeRow, sighting: Sighting) -> None:
        """Write what was seen, now or with the next write for this node."""
        before = self._next.pop(node.oid, None)
        if before is not None:
            sighting = before.then(sighting)
        if node.oid in self._writing:
            self._next[node.oid] = sighting
            return
        write = partial(
            write_sighting,
            node_oid=node.oid,
            sighting=sighting,
            store=self._store.id,
            epoch=self._store.epoch,
        )
        self._writing.add(node.oid)
        try:
            self._store.submit(write, partial(self._written, node, sighting))
        except BusError as busy:
            self._writing.discard(node.oid)
            self._keep(node, sighting, busy)

    def _written(
        self, node: NodeRow, sighting: Sighting, outcome: Mapping[str, WorkerStat] | Exception
    ) -> None:
        self._writing.discard(node.oid)
        if isinstance(outcome, Exception):
            self._keep(node, sighting, outcome)
            return
        if sighting.live:
            self._observed.set_unapplied(node.oid, False)
            self._observed.set_stats(outcome)
        following = self._next.pop(node.oid, None)
        if following is not None:
            self._submit(node, following)

    def _keep(self, node: NodeRow, sighting: Sighting, error: Exception) -> None:
        """It could not be written: the next heartbeat brings the report again, and the columns with it."""
        self._complain(f"what node '{node.name}' said could not be written yet", error)
        later = self._next.get(node.oid)
        self._next[node.oid] = sighting.then(later) if later else sighting
        self._observed.set_unapplied(node.oid, True)

    def _complain(self, what: str, error: Exception | None = None) -> None:
        if self._quiet.may(what):
            log.warning("%s%s", what, f": {error!r}" if error else "")


def _birth_columns(birth: Birth) -> dict[str, Any]:
    return {"boot": birth[0], "conn": birth[1]}
