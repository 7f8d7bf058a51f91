"""The message router of the embedded broker: sessions, subscriptions, retained messages, delivery.

No sockets and no clock here. Callers of `publish` and `subscribe` have checked access against bus.access.acl.
Retained messages are kept in memory only: every writer of this bus republishes its retained topics on every
connect (contract, section 1), so a restart loses nothing for long, and a file of old states could only
contradict them.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from .limits import Accounting, Meter, Owner, path_cost
from .pace import delivery
from .session import Encode, Publication, Session
from .topic_tree import SubscriptionTree, TopicTree

_STEP: Final = 256  # retained messages sent before others get their turn
SUBACK_FAILURE: Final = 0x80
"""The SUBACK code of a refused filter (MQTT 3.1.1, section 3.9.3)."""

log = logging.getLogger(__name__)


MakeRoom = Callable[[Owner, int], bool]
"""Ends what holds most bytes, for so many more of an account; False when there is nothing to end."""


def _no_room(owner: Owner, count: int) -> bool:
    return False


class _Retained(NamedTuple):
    message: Publication
    owner: Owner

    @property
    def cost(self) -> int:
        return self.message.cost + path_cost(self.message.topic)


class Router:
    """The state shared by all connections. No method blocks."""

    def __init__(
        self, encode: Encode, accounting: Accounting | None = None, make_room: MakeRoom = _no_room
    ) -> None:
        self._make_room = make_room
        self._encode = encode
        self._accounting = accounting or Accounting()
        self._limits = self._accounting.limits
        self._sessions: dict[tuple[Owner, str], Session] = {}
        self._tree: SubscriptionTree[Session] = SubscriptionTree()
        self._retained: TopicTree[_Retained] = TopicTree()
        self._refused = 0
        self._retained_by: dict[Owner, set[str]] = {}

    def open(self, owner: Owner, client_id: str, persistent: bool) -> tuple[Session, bool]:
        """The session for a new connection, and whether it was there before.

        Sessions belong to accounts: only the same account can take a client id over, and another account with
        the same id does not interfere.
        """
        self.supersede(owner, client_id)
        old = self._sessions.get((owner, client_id))
        if old is not None and old.persistent and persistent:
            return old, True
        if old is not None:
            self.forget(old)
        if persistent:
            self._limit_away(owner)
        session = Session(owner, client_id, persistent, self._encode, self._limits, self.meter(owner))
        self._sessions[owner, client_id] = session
        return session, False

    def supersede(self, owner: Owner, client_id: str) -> None:
        """End the connection of this client, if there is one: it has connected again."""
        old = self._sessions.get((owner, client_id))
        if old is not None and old.sink is not None:
            old.sink.supersede()
            old.detach()

    def close(self, session: Session) -> None:
        """The session's connection ended: a clean session ends with it."""
        session.detach()
        if not session.persistent:
            self.forget(session)
        elif self._sessions.pop((session.owner, session.client_id), None) is not None:
            self._sessions[session.owner, session.client_id] = session  # now the most recently disconnected

    def forget(self, session: Session) -> None:
        """Remove the session and its subscriptions."""
        for wanted in session.filters:
            for part in session.parts(wanted):
                self._tree.remove(part, session)
            self._return_filters(session, wanted)
        session.filters.clear()
        session.narrowed.clear()
        session.discard()
        if self._sessions.get((session.owner, session.client_id)) is session:
            del self._sessions[session.owner, session.client_id]

    def away(self) -> list[Session]:
        """The persistent sessions without a connection."""
        return [session for session in self._sessions.values() if session.sink is None]

    def meter(self, owner: Owner) -> Meter:
        """What charges the bytes that are held for an account."""
        return Meter(self._accounting, owner, self._make_room)

    def owners(self) -> set[Owner]:
        """The accounts with a session or a retained message."""
        return {owner for owner, _ in self._sessions} | set(self._retained_by)

    def forget_owner(self, owner: Owner) -> None:
        """Remove all that an account left: its sessions without a connection, and its retained messages."""
        for session in self.away():
            if session.owner == owner:
                self.forget(session)
        for topic in list(self._retained_by.get(owner, ())):
            self._drop_retained(topic)

    def _limit_away(self, owner: Owner) -> None:
        for limit, theirs in ((self._limits.account_away, {owner}), (self._limits.away, self.owners())):
            away = [session for session in self.away() if session.owner in theirs]
            for session in away[: max(0, len(away) - limit + 1)]:
                self.forget(session)

    def subscribe(self, session: Session, wanted: str, qos: int, parts: tuple[str, ...] | None = None) -> int:
        """Grant the filter with at most QoS 1 (the bus has no QoS 2); the code for the SUBACK.

        `parts`: what to subscribe instead, of a filter that matches more than may be read. Refused beyond the
        limits of the session and of its account.
        """
        if wanted not in session.filters and not self._take_filters(session, wanted, parts):
            return SUBACK_FAILURE
        granted = min(qos, 1)
        session.filters[wanted] = granted
        for part in session.parts(wanted):
            most = session.granted(part) if session.narrowed else None
            self._tree.add(part, session, granted if most is None else most)
        return granted

    def unsubscribe(self, session: Session, wanted: str) -> None:
        """Drop the filter, if the session has it."""
        if session.filters.pop(wanted, None) is None:
            return
        self._return_filters(session, wanted)
        for part in (parts := session.narrowed.pop(wanted, (wanted,))):
            left = session.granted(part) if session.narrowed or parts != (wanted,) else None
            if left is None:
                self._tree.remove(part, session)
            else:
                self._tree.add(part, session, left)

    def _take_filters(self, session: Session, wanted: str, parts: tuple[str, ...] | None) -> bool:
        narrowed = parts is not None and parts != (wanted,)
        full = len(session.filters) >= self._limits.session_filters
        if full or (narrowed and len(session.narrowed) >= self._limits.session_narrowed):
            return False
        rows = (wanted, *parts) if parts is not None and narrowed else (wanted,)
        for count, row in enumerate(rows):
            if not self._accounting.take_filter(session.owner, row):
                for taken in rows[:count]:
                    self._accounting.return_filter(session.owner, taken)
                return False
        if parts is not None and narrowed:
            session.narrowed[wanted] = parts
        return True

    def _return_filters(self, session: Session, wanted: str) -> None:
        for row in (wanted, *session.narrowed.get(wanted, ())):
            self._accounting.return_filter(session.owner, row)

    def send_retained(self, session: Session, wanted: str, qos: int) -> Iterator[float]:
        """Send the session the retained messages of what was just granted, some at each step.

        Others are served between the steps; what is replaced meanwhile reached the session as it came.
        Yields each step's work (see bus.broker.pace).
        """
        parts = session.parts(wanted)
        found, work = [kept for part in parts for kept in self._retained.match(part)], 0.0
        if len(parts) > 1:  # each once
            found = list({kept.message.topic: kept for kept in found}.values())
        for count, kept in enumerate(found, 1):
            if self._retained.get(kept.message.topic) is kept:
                session.deliver(kept.message, min(qos, kept.message.qos))
                work += delivery(len(kept.message.payload))
            if count % _STEP == 0 or count == len(found):
                yield work
                work = 0.0

    def publish(self, message: Publication, retain: bool, owner: Owner) -> float:
        """Store the message if `owner` wants it retained, and deliver it to all subscribers: the work."""
        if retain:
            self._retain(message, owner)
        plain: bytes | None = None
        found = self._tree.match(message.topic)
        for session, granted in found.items():
            qos = min(granted, message.qos)
            if plain is None and not qos:
                plain = self._encode(message, None, False)
            session.deliver(message, qos, plain)
        return len(found) * delivery(len(message.payload))

    def _retain(self, message: Publication, owner: Owner) -> None:
        self._drop_retained(message.topic)
        if not message.payload:
            return
        kept = _Retained(Publication(message.topic, message.payload, message.qos, retain=True), owner)
        if not self._accounting.take_retained(owner, kept.cost):
            self._refused += 1
            if self._refused & (self._refused - 1) == 0:  # the 1st, 2nd, 4th, 8th…
                log.warning(
                    "%s retains too much: delivered but not kept (%s so far)", owner.name, self._refused
                )
            return
        self._retained.put(message.topic, kept)
        self._retained_by.setdefault(owner, set()).add(message.topic)

    def _drop_retained(self, topic: str) -> None:
        old = self._retained.pop(topic)
        if old is None:
            return
        self._accounting.return_retained(old.owner, old.cost)
        topics = self._retained_by[old.owner]
        topics.discard(topic)
        if not topics:
            del self._retained_by[old.owner]
