"""One node's session: what each of its messages means, given what was heard before. Pure.

`NodeSession.on` is the whole way of a birth, will, goodbye, report or heartbeat. It returns the session as it
is afterwards and the effects, which the caller carries out in order: a `NodeUpdate` is to be written.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Any, Final, NamedTuple

from busbar.bus.messages import Applied, Heartbeat, NodeState, Reported
from busbar.bus.states import NodeBirth, NodeStatus
from msgspec import Struct
from msgspec.structs import replace

from ..store.rows import NodeRow
from .report_diff import NodeUpdate, Origin, is_ahead

CONFLICT: Final = "conflict: two agents claim this node, their messages take turns"
CONFLICT_WINDOW: Final = 12
"""Heartbeat intervals in which boots that take turns tell of two agents."""
TURNS: Final = 2
"""How often within that time a former boot must come back; once may be a message that came late."""
BOOTS: Final = 4
"""Agent processes remembered."""

Birth = tuple[str, int]
"""(boot, conn): the agent's process and the number of its connection."""
NodeMessage = NodeState | Reported | Heartbeat


class Signal(Enum):
    """Effects beside a write."""

    HEARD = auto()
    """A sign of life: a will that came before it no longer counts."""
    CONNECTION_LOST = auto()
    """The will of its present connection arrived."""
    WAKE_MONITOR = auto()
    REQUEST_RESYNC = auto()
    """Ask the agent for its report."""


Effect = Signal | NodeUpdate


class Facts(NamedTuple):
    """What else counts when a message arrives."""

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


class NodeSession(Struct, frozen=True):
    """What this process has heard of one node."""

    birth: Birth | None = None
    """The connection that is taken for the present one; None: the row's."""
    goodbye: Birth | None = None
    """The connection that ended with a goodbye, while no other has followed."""
    report: Reported | None = None
    """The last one."""
    unapplied: bool = False
    """Whether that is still to be written: it was retained, or the store refused it."""
    followed_us: bool = False
    """Whether the node followed an assignment of this store since the last connect."""
    resync_at: float | None = None
    """When it was last asked for its report."""
    boots: tuple[str, ...] = ()
    """Agent processes in the order in which they last began to speak."""
    returns: tuple[float, ...] = ()
    """When former boots spoke again, the last `TURNS` times."""

    def on(
        self, message: NodeMessage, facts: Facts, *, retained: bool = False
    ) -> tuple[NodeSession, list[Effect]]:
        """Take one message in. `retained`: the broker had kept it, so it is no sign of life."""
        birth = (message.boot, message.conn)
        if isinstance(message, NodeState) and message.state == NodeBirth.LOST:
            return self._on_will(birth, facts)
        if self._is_outdated(birth, facts.node):
            return self, []
        if isinstance(message, Heartbeat):
            return (self, []) if retained else self._on_heartbeat(message, birth, facts)
        if isinstance(message, Reported):
            return self._on_report(message, birth, facts, retained)
        if message.state == NodeBirth.READY:
            return self._on_birth(birth, facts, retained)
        return self._on_goodbye(birth) if message.state == NodeBirth.DISCONNECTED else (self, [])

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
        """Whether two agents have just been speaking in this node's name, in turns."""
        returns = self.returns
        return len(returns) == TURNS and returns[0] >= now - CONFLICT_WINDOW * heartbeat

    # --- births, wills, goodbyes

    def _on_will(self, birth: Birth, facts: Facts) -> tuple[NodeSession, list[Effect]]:
        """A will counts for the present connection alone: it may arrive after the next one's birth."""
        present = birth == self._present(facts.node) and self._ended(facts.node) is None
        return self, ([Signal.CONNECTION_LOST, Signal.WAKE_MONITOR] if present else [])

    def _on_goodbye(self, birth: Birth) -> tuple[NodeSession, list[Effect]]:
        update = NodeUpdate(_columns(birth) | {"goodbye": True})
        return replace(self, birth=birth, goodbye=birth), [update, Signal.WAKE_MONITOR]

    def _on_birth(self, birth: Birth, facts: Facts, retained: bool) -> tuple[NodeSession, list[Effect]]:
        node = facts.node
        if retained and birth == self.goodbye:
            return self, []
        session = self._with_birth(birth)
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
        return session._with_boot(birth[0], facts.now), effects

    # --- reports and heartbeats

    def _on_report(
        self, report: Reported, birth: Birth, facts: Facts, retained: bool
    ) -> tuple[NodeSession, list[Effect]]:
        alive = None if retained else self._alive(birth, facts)
        session, effects = alive or (self, [])
        live = alive is not None
        # A retained report is applied in full once a heartbeat confirms that it still holds.
        session = replace(session, report=report, unapplied=not live)
        diverged = False
        if live:
            session, diverged = session._following(report.applied, report.store, facts)
        columns = _columns(birth) if live else {}
        effects.append(NodeUpdate(columns, report, live, session._conditions(facts), diverged))
        return session, effects

    def _on_heartbeat(self, beat: Heartbeat, birth: Birth, facts: Facts) -> tuple[NodeSession, list[Effect]]:
        node = facts.node
        alive = self._alive(birth, facts)
        if alive is None:
            return self, []
        session, effects = alive
        if node.status is not NodeStatus.ONLINE:
            effects.append(Signal.WAKE_MONITOR)
        report, diverged = session.report, False
        if report is not None:
            session, diverged = session._following(beat.applied, report.store, facts)
        if report is None or report.digest != beat.digest:
            if session.resync_at is None or facts.now - session.resync_at >= facts.heartbeat:
                session = replace(session, resync_at=facts.now)
                effects.append(Signal.REQUEST_RESYNC)
        elif session._must_repeat(facts):
            conditions = session._conditions(facts)
            effects.append(NodeUpdate(_columns(birth), report, True, conditions, diverged))
        if node.boot is None and node.status is not NodeStatus.UNPAIRED:
            effects.append(NodeUpdate(_columns(birth)))
        return session, effects

    def _alive(self, birth: Birth, facts: Facts) -> tuple[NodeSession, list[Effect]] | None:
        """Note a sign of life; None for a late message of a connection that has said goodbye."""
        session, ended = self, self._ended(facts.node)
        effects: list[Effect] = []
        if ended == birth:
            return None
        if ended is not None:
            session = self._with_birth(birth)
            effects.append(NodeUpdate(_columns(birth) | {"goodbye": False}))
        elif birth != self.birth and self._follows(birth, facts.node):
            session = self._with_birth(birth)
        effects.append(Signal.HEARD)
        return session._with_boot(birth[0], facts.now), effects

    def _must_repeat(self, facts: Facts) -> bool:
        """Whether the last report, which a heartbeat has confirmed, is to be written once more.

        It is not written yet, its workers are UNKNOWN, or the node has just been paired (again). An unpaired
        node is believed only once, when it says that workers are gone.
        """
        node = facts.node
        if self.unapplied:
            return True
        if node.status is NodeStatus.UNPAIRED:
            return False
        if facts.unknown_workers or node.boot is None:
            return True
        return (CONFLICT in node.conditions) != self.in_conflict(facts.now, facts.heartbeat)

    def _following(self, applied: Applied, store: str | None, facts: Facts) -> tuple[NodeSession, bool]:
        """Note whom the node follows; True when it has left this manager for a later epoch meanwhile."""
        if is_ahead(applied, facts.origin.epoch, facts.node.assignment_epoch):
            return self, self.followed_us
        # Epoch 0: an agent that has just begun follows nothing yet.
        if not self.followed_us and store == facts.origin.store and applied.epoch:
            return replace(self, followed_us=True), False
        return self, False

    def _conditions(self, facts: Facts) -> tuple[str, ...]:
        return (CONFLICT,) if self.in_conflict(facts.now, facts.heartbeat) else ()

    # --- connections

    def _present(self, node: NodeRow) -> Birth | None:
        """The present connection, or the last one: as heard, or else as stored."""
        if self.birth is not None or node.boot is None or node.conn is None:
            return self.birth
        return node.boot, node.conn

    def _ended(self, node: NodeRow) -> Birth | None:
        """The connection that ended with a goodbye; None while another has followed, or none has ended."""
        if self.birth is None:
            return self._present(node) if node.goodbye else None
        return self.goodbye

    def _is_outdated(self, birth: Birth, node: NodeRow) -> bool:
        """Whether a message is of an earlier connection of the same agent process."""
        present = self._present(node)
        return present is not None and present[0] == birth[0] and present[1] > birth[1]

    def _follows(self, birth: Birth, node: NodeRow) -> bool:
        """Whether a connection whose birth was not seen comes after the present one.

        A boot that spoke before does not: it may be a late message, or the other of two agents.
        """
        present = self._present(node)
        if present is None or present[0] == birth[0]:
            return present != birth
        return birth[0] not in self.boots

    def _with_birth(self, birth: Birth) -> NodeSession:
        if self.birth == birth and self.goodbye is None:
            return self
        return replace(self, birth=birth, goodbye=None)

    def _with_boot(self, boot: str, now: float) -> NodeSession:
        """Note which agent process spoke; a former one that speaks again hints at two agents."""
        boots, returns = self.boots, self.returns
        if boots and boots[-1] == boot:
            return self
        if boot in boots:
            returns = (*returns, now)[-TURNS:]
            boots = tuple(each for each in boots if each != boot)
        return replace(self, boots=(*boots, boot)[-BOOTS:], returns=returns)


def _columns(birth: Birth) -> dict[str, Any]:
    return {"boot": birth[0], "conn": birth[1]}
