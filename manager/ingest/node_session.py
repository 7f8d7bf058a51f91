"""One node's session: what each of its messages means, given what was heard before. Pure.

`NodeSession.on` is the whole way of a birth, will, goodbye, report or heartbeat. It returns the session as it
is afterwards and the effects, which the caller carries out in order: a `NodeUpdate` is to be written.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Any, Final, NamedTuple

from busbar.bus.messages import MAX_SCHEMAS, Applied, Heartbeat, NodeState, Reported
from busbar.bus.states import Leaves, NodeBirth, NodeStatus
from msgspec import Struct
from msgspec.structs import replace

from ..store.rows import NodeRow
from .report_diff import NodeUpdate, Origin, is_ahead

CONFLICT: Final = "conflict: two agents claim this node, their messages take turns"
CONFLICT_WINDOW: Final = 12
"""Heartbeat intervals within which boots that alternate mean two agents."""
TURNS: Final = 2
"""How often a former boot must return within that time; a single return may be a late message."""
BOOTS: Final = 4
"""Agent processes remembered."""

_LEAVES: Final = frozenset(Leaves)

Birth = tuple[str, int]
"""(boot, conn): the agent's process and the number of its connection."""
NodeMessage = NodeState | Reported | Heartbeat


class Signal(Enum):
    """Effects beside a write."""

    HEARD = auto()
    """A sign of life: a will that arrived before it no longer counts."""
    CONNECTION_LOST = auto()
    """The will of its present connection arrived."""
    WAKE_MONITOR = auto()
    REQUEST_RESYNC = auto()
    """Ask the agent for its report."""


class AskForSchemas(NamedTuple):
    """Ask the agent for schemas that the store does not have."""

    digests: tuple[str, ...]


Effect = Signal | NodeUpdate | AskForSchemas


class Facts(NamedTuple):
    """What `on` needs beside the message and the session."""

    node: NodeRow
    now: float
    """Monotonic seconds."""
    heartbeat: float
    """The heartbeat interval in seconds."""
    origin: Origin
    unknown_workers: bool = False
    """Whether workers on the node are UNKNOWN."""
    writing: bool = False
    """Whether an update of the node is being written: its row may be about to change."""
    missing_schemas: frozenset[str] = frozenset()
    """Digests in this report whose schemas are not known."""


class NodeSession(Struct, frozen=True):
    """What was heard of one node since this process started. Immutable."""

    birth: Birth | None = None
    """The present connection; None: that of the row."""
    goodbye: Birth | None = None
    """The connection that ended with a goodbye, while no other has followed."""
    report: Reported | None = None
    """The last report."""
    unapplied: bool = False
    """Whether the report is still to be written: it was retained, or the store refused it."""
    followed_us: bool = False
    """Whether the node followed an assignment of this store since the last connect."""
    resync_at: float | None = None
    """When it was last asked for its report."""
    boots: tuple[str, ...] = ()
    """The last agent processes, the present one last."""
    returns: tuple[float, ...] = ()
    """When former boots returned, the last `TURNS` times."""
    asked: tuple[Birth, frozenset[str]] | None = None
    """The schemas that a connection was asked for: once, as an agent may have none of that size to send."""

    def on(
        self, message: NodeMessage, facts: Facts, *, retained: bool = False
    ) -> tuple[NodeSession, list[Effect]]:
        """The session after a message, and the effects to carry out in order.

        A `retained` message was sent before: it is no sign of life.
        """
        birth = (message.boot, message.conn)
        if isinstance(message, NodeState) and message.state == NodeBirth.LOST:
            return self._on_will(birth, facts)
        if _is_outdated(self, birth, facts.node):
            return self, []
        if isinstance(message, Heartbeat):
            return (self, []) if retained else self._on_heartbeat(message, birth, facts)
        if isinstance(message, Reported):
            return self._on_report(message, birth, facts, retained)
        if message.state == NodeBirth.READY:
            return self._on_birth(birth, facts, retained)
        return self._on_goodbye(message) if message.state == NodeBirth.DISCONNECTED else (self, [])

    def written(self, update: NodeUpdate) -> NodeSession:
        """An update is in the store."""
        if self.unapplied and update.live and update.report is self.report:
            return replace(self, unapplied=False)
        return self

    def not_written(self) -> NodeSession:
        """The store refused an update: the next heartbeat is to bring the report again."""
        return self if self.unapplied else replace(self, unapplied=True)

    def reconnected(self) -> NodeSession:
        """A new connection to the broker: while there was none, a newer manager may have come and gone."""
        return replace(self, followed_us=False) if self.followed_us else self

    def in_conflict(self, now: float, heartbeat: float) -> bool:
        """Whether two agents use this node's name: their boots alternate."""
        returns = self.returns
        return len(returns) == TURNS and returns[0] >= now - CONFLICT_WINDOW * heartbeat

    # --- births, wills, goodbyes

    def _on_will(self, birth: Birth, facts: Facts) -> tuple[NodeSession, list[Effect]]:
        """Only the present connection's will counts: one may arrive after the next connection's birth."""
        present = birth == _present(self, facts.node) and _ended(self, facts.node) is None
        return self, ([Signal.CONNECTION_LOST, Signal.WAKE_MONITOR] if present else [])

    def _on_goodbye(self, message: NodeState) -> tuple[NodeSession, list[Effect]]:
        birth = (message.boot, message.conn)
        leaves = message.leaves if message.leaves in _LEAVES else None
        update = NodeUpdate(_columns(birth) | {"goodbye": True, "leaves": leaves})
        return replace(self, birth=birth, goodbye=birth), [update, Signal.WAKE_MONITOR]

    def _on_birth(self, birth: Birth, facts: Facts, retained: bool) -> tuple[NodeSession, list[Effect]]:
        node = facts.node
        if retained and birth == self.goodbye:
            return self, []
        session = _with_birth(self, birth)
        effects: list[Effect] = []
        known = (node.boot, node.conn) == birth and not node.goodbye
        if not known or facts.writing:
            effects.append(NodeUpdate(_columns(birth) | {"goodbye": False}))
        if retained:
            return session, effects
        effects.append(Signal.HEARD)
        # Agents repeat their birth to check the link: one that is known is no news.
        if not known or node.status is not NodeStatus.ONLINE:
            effects.append(Signal.WAKE_MONITOR)
        return _with_boot(session, birth[0], facts.now), effects

    # --- reports and heartbeats

    def _on_report(
        self, report: Reported, birth: Birth, facts: Facts, retained: bool
    ) -> tuple[NodeSession, list[Effect]]:
        alive = None if retained else _alive(self, birth, facts)
        session, effects = alive or (self, [])
        live = alive is not None
        # A retained report is applied in full once a heartbeat confirms that it still holds.
        session = replace(session, report=report, unapplied=not live)
        diverged = False
        if live:
            session, diverged = _note_followed(session, report.applied, report.store, facts)
        columns = _columns(birth) if live else {}
        effects.append(NodeUpdate(columns, report, live, _conditions(session, facts), diverged))
        missing = facts.missing_schemas - set(report.schemas or ())
        if missing and session.asked != (birth, missing):
            session = replace(session, asked=(birth, missing))
            effects.append(AskForSchemas(tuple(sorted(missing))[:MAX_SCHEMAS]))
        return session, effects

    def _on_heartbeat(self, beat: Heartbeat, birth: Birth, facts: Facts) -> tuple[NodeSession, list[Effect]]:
        node = facts.node
        alive = _alive(self, birth, facts)
        if alive is None:
            return self, []
        session, effects = alive
        if node.status is not NodeStatus.ONLINE:
            effects.append(Signal.WAKE_MONITOR)
        report, diverged = session.report, False
        if report is not None:
            session, diverged = _note_followed(session, beat.applied, report.store, facts)
        if report is None or report.digest != beat.digest:
            if session.resync_at is None or facts.now - session.resync_at >= facts.heartbeat:
                session = replace(session, resync_at=facts.now)
                effects.append(Signal.REQUEST_RESYNC)
        elif _must_repeat(session, facts):
            conditions = _conditions(session, facts)
            effects.append(NodeUpdate(_columns(birth), report, True, conditions, diverged))
        if node.boot is None and node.status is not NodeStatus.UNPAIRED:
            effects.append(NodeUpdate(_columns(birth)))
        return session, effects


def _alive(session: NodeSession, birth: Birth, facts: Facts) -> tuple[NodeSession, list[Effect]] | None:
    """Note a sign of life; None for a late message of a connection that has said goodbye."""
    ended = _ended(session, facts.node)
    effects: list[Effect] = []
    if ended == birth:
        return None
    if ended is not None:
        session = _with_birth(session, birth)
        effects.append(NodeUpdate(_columns(birth) | {"goodbye": False}))
    elif birth != session.birth and _is_next(session, birth, facts.node):
        session = _with_birth(session, birth)
    effects.append(Signal.HEARD)
    return _with_boot(session, birth[0], facts.now), effects


def _must_repeat(session: NodeSession, facts: Facts) -> bool:
    """Whether the last report, which a heartbeat has confirmed, must be written again.

    It is not written yet, its workers are UNKNOWN, the node has just been paired (again), or the conflict has
    changed. Of an unpaired node a report is written once, for the workers that are gone.
    """
    node = facts.node
    if session.unapplied:
        return True
    if node.status is NodeStatus.UNPAIRED:
        return False
    if facts.unknown_workers or node.boot is None:
        return True
    return (CONFLICT in node.conditions) != session.in_conflict(facts.now, facts.heartbeat)


def _note_followed(
    session: NodeSession, applied: Applied, store: str | None, facts: Facts
) -> tuple[NodeSession, bool]:
    """Note whose assignment the node follows; True when it diverged from this manager to a later epoch."""
    if is_ahead(applied, facts.origin.epoch, facts.node.assignment_epoch):
        return session, session.followed_us
    # Epoch 0: an agent that has just begun follows nothing yet.
    if not session.followed_us and store == facts.origin.store and applied.epoch:
        return replace(session, followed_us=True), False
    return session, False


def _conditions(session: NodeSession, facts: Facts) -> tuple[str, ...]:
    return (CONFLICT,) if session.in_conflict(facts.now, facts.heartbeat) else ()


def _present(session: NodeSession, node: NodeRow) -> Birth | None:
    """The present connection, or the last one: as heard, or else as stored."""
    if session.birth is not None or node.boot is None or node.conn is None:
        return session.birth
    return node.boot, node.conn


def _ended(session: NodeSession, node: NodeRow) -> Birth | None:
    """The connection that ended with a goodbye; None while another has followed, or none has ended."""
    if session.birth is None:
        return _present(session, node) if node.goodbye else None
    return session.goodbye


def _is_outdated(session: NodeSession, birth: Birth, node: NodeRow) -> bool:
    """Whether a message is of an earlier connection of the same agent process."""
    present = _present(session, node)
    return present is not None and present[0] == birth[0] and present[1] > birth[1]


def _is_next(session: NodeSession, birth: Birth, node: NodeRow) -> bool:
    """Whether a connection whose birth was not received follows the present one.

    Not where its boot was heard before: that is a late message, or the other of two agents.
    """
    present = _present(session, node)
    if present is None or present[0] == birth[0]:
        return present != birth
    return birth[0] not in session.boots


def _with_birth(session: NodeSession, birth: Birth) -> NodeSession:
    if session.birth == birth and session.goodbye is None:
        return session
    return replace(session, birth=birth, goodbye=None)


def _with_boot(session: NodeSession, boot: str, now: float) -> NodeSession:
    """Note which agent process sent a message; one that returns after another hints at two agents."""
    boots, returns = session.boots, session.returns
    if boots and boots[-1] == boot:
        return session
    if boot in boots:
        returns = (*returns, now)[-TURNS:]
        boots = tuple(each for each in boots if each != boot)
    return replace(session, boots=(*boots, boot)[-BOOTS:], returns=returns)


def _columns(birth: Birth) -> dict[str, Any]:
    return {"boot": birth[0], "conn": birth[1]}
