"""From a request topic to one handler: what is refused, and in which order, stands here alone.

Everything on this path is synchronous: a read is answered in the same breath, a change is handed to the store
and answered after its commit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

import msgspec
from busbar.bus.clock import Clock
from busbar.bus.connection.link import NO_PROPERTIES, Message, Properties
from busbar.bus.contract import OPERATIONS, Operation
from busbar.bus.decode import MAX_PAYLOAD, convert, digest, encode, parse
from busbar.bus.errors import BusError
from busbar.bus.messages import Request, Response, Who
from busbar.bus.params import Params
from busbar.bus.topics import DEFAULT_INBOX, RequestTopic, Topics, is_name

from ..publish.mqtt5 import properties_to_text, reply_properties
from ..rate_limit import Limits
from ..store import Cause, Changes, Store, Tx, files
from ..store.rows import PrincipalRow
from . import authorize
from .operations import CHANGES, READS
from .operations.base import Change, View
from .read_cache import Kept

log = logging.getLogger("busbar.dispatch")

NOT_STORED: Final = frozenset({"busy", "expired", "internal", "malformed_request", "request_id_reused"})
"""Errors of a change that are told but not kept: the same id may be tried again."""
MAX_ID: Final = 64
MAX_ECHO: Final = 64
"""Characters of an unknown operation's name that a reply repeats."""
MAX_TEXT: Final = 1_024
"""Characters of an error's detail and of each pointer."""
CHANGE_COST: Final = 2.0
"""Requests that a change counts as: what it takes of the manager's time, with commit, event and status."""
REPLY_BYTES: Final = 4_096
"""Bytes of a read's reply that count as one request more: a long list costs what it takes to say."""
AUDIT_LIMIT: Final = 4_096
"""Characters of the parameters that the audit keeps."""
LOCKED_RETRY_MS: Final = 500


class Outlet(Protocol):
    """Where replies go that need no transaction."""

    def reply(self, topic: str, payload: bytes, properties: Properties) -> None: ...


class _Address(msgspec.Struct):
    """As much of a request as is needed to answer it."""

    id: Any = None
    reply: Any = None


@dataclass(slots=True)
class Ask:
    """A request on its way."""

    caller: str
    op: str
    new_id: Callable[[], str]
    at: float
    properties: Properties
    inbox: str = DEFAULT_INBOX
    given: bool = False
    """Whether the id is the caller's own."""
    expires: float | None = None
    known_as: str = ""

    @property
    def id(self) -> str:
        """The caller's id; the manager makes one where no legal one was read."""
        if not self.known_as:
            self.known_as = self.new_id()
        return self.known_as

    def read_address(self, request_id: Any, inbox: Any) -> None:
        """Take over id and inbox as far as they are legal."""
        if isinstance(request_id, str) and 1 <= len(request_id) <= MAX_ID:
            self.known_as, self.given = request_id, True
        if isinstance(inbox, str) and is_name(inbox):
            self.inbox = inbox


@dataclass(frozen=True, slots=True)
class Desk:
    """Who answers: the manager's id and epoch, and what a read may look at."""

    manager: str
    epoch: int
    view: Callable[[], View]
    mirror: bool = False
    """Whether replies carry MQTT 5 properties."""


class Dispatch:
    """Answers requests. `handle` is the subscription's handler; it never raises."""

    def __init__(
        self,
        store: Store,
        outlet: Outlet,
        desk: Desk,
        limits: Limits,
        *,
        clock: Clock,
        new_id: Callable[[], str],
    ) -> None:
        self._store = store
        self._topics: Topics = store.topics
        self._outlet = outlet
        self._desk = desk
        self._limits = limits
        self._clock = clock
        self._new_id = new_id
        self._principals: dict[str, PrincipalRow] = {}
        self._kept = Kept(lambda: store.commits)
        store.on_commit(self._on_commit)

    def handle(self, message: Message) -> None:
        """Answer one request, now or after its commit."""
        route = self._topics.parse_request(message.topic)
        if route is None or not route.caller:
            log.warning("a request on an odd topic was dropped: %.100r", message.topic)
            return
        if message.retain:
            # A retained command would run again at every reconnect.
            log.warning("a retained request of '%s' (%.64s) was dropped", route.caller, route.operation)
            return
        ask = self._ask(route, message)
        try:
            self._admit(ask, message.payload)
            self._serve(ask, message.payload)
        except Exception as error:
            self._refuse(ask, error)

    def _ask(self, route: RequestTopic, message: Message) -> Ask:
        now = self._clock.monotonic()
        ask = Ask(route.caller, route.operation, self._new_id, now, message.properties)
        if message.properties.expiry_s is not None:
            ask.expires = now + message.properties.expiry_s
        return ask

    def _admit(self, ask: Ask, payload: bytes) -> None:
        """Raises BusError `payload_too_large` or `busy`: before anything is parsed or looked up."""
        if len(payload) > MAX_PAYLOAD:
            raise BusError("payload_too_large", f"{len(payload)} bytes; the limit is {MAX_PAYLOAD}")
        row = OPERATIONS.get(ask.op)
        cost = CHANGE_COST if row is not None and row.change else 1.0
        retry_ms = self._limits.admit(ask.caller, ask.at, cost)
        if retry_ms is not None:
            _peek(ask, payload)
            raise BusError("busy", f"too many requests of '{ask.caller}'", retry_after_ms=retry_ms)

    def _serve(self, ask: Ask, payload: bytes) -> None:
        body = parse(payload)
        ask.read_address(body.get("id"), body.get("reply"))
        request = convert(body, Request)
        if "reply" not in body:
            self._use_response_topic(ask)
        row = OPERATIONS.get(ask.op)
        if row is None:
            raise BusError("no_such_procedure", f"no operation '{ask.op[:MAX_ECHO]}'")
        principal = self._principal(ask.caller)
        authorize.check_role(row, principal)
        if not isinstance(request.ttl_ms, msgspec.UnsetType):
            own = ask.at + request.ttl_ms / 1000
            ask.expires = own if ask.expires is None else min(own, ask.expires)
        if row.change:
            self._submit(ask, row, request, principal)
            return
        params = convert(request.params, row.params, "/params")
        read = partial(READS[row.name], self._desk.view(), params)
        self._answer(ask, self._kept.answer(row.name, params, read))

    def _use_response_topic(self, ask: Ask) -> None:
        """MQTT 5 (contract, section 8): the reply may be sent to the caller's own inboxes alone."""
        topic = ask.properties.response_topic
        if topic is None:
            return
        inbox = topic.rpartition("/")[2]
        if not is_name(inbox) or topic != self._topics.response(ask.caller, inbox):
            raise BusError(
                "invalid_argument", "the Response Topic is not one of the caller's own", ["/reply"]
            )
        ask.inbox = inbox

    def _principal(self, name: str) -> PrincipalRow:
        row = self._principals.get(name) or self._store.reads.principal(name)
        if row is None:
            raise BusError("no_such_principal", f"no principal '{name}'")
        self._principals[name] = row
        return row

    # --- changes

    def _submit(self, ask: Ask, row: Operation, request: Request, principal: PrincipalRow) -> None:
        """Hand a change to the store; wrong parameters too if it has an id, since that answer is kept too."""
        params: Params | BusError
        try:
            params = convert(request.params, row.params, "/params")
        except BusError as error:
            if not ask.given:
                raise
            params = error
        who = Who(principal.name, principal.role, ask.inbox)
        order = _Order(self, ask, row, request, params, principal, who)
        cause = Cause({"authid": who.authid, "authrole": who.authrole, "session": who.session}, ask.id)
        self._store.submit(order.run, order.done, cause)
        self._limits.began(ask.caller)

    def _on_commit(self, changes: Changes) -> None:
        if changes.principals:
            self._principals.clear()

    # --- answers

    def ok(self, ask: Ask, result: Any) -> bytes:
        """A reply with a result, as bytes."""
        desk = self._desk
        return encode(Response(ask.id, ask.op, True, desk.manager, desk.epoch, result=result))

    def error(self, ask: Ask, error: BusError) -> bytes:
        """A reply with an error, as bytes."""
        desk, op = self._desk, ask.op[:MAX_ECHO]
        return encode(Response(ask.id, op, False, desk.manager, desk.epoch, error=_clip(error).to_wire()))

    def address(self, ask: Ask) -> str:
        """Where a request's reply goes."""
        return self._topics.response(ask.caller, ask.inbox)

    def properties(self, ask: Ask, error: BusError | None = None) -> Properties:
        """The MQTT 5 mirror of a reply."""
        return reply_properties(ask.properties, error) if self._desk.mirror else NO_PROPERTIES

    def send(self, ask: Ask, payload: bytes, error: BusError | None = None) -> None:
        """Reply without a transaction."""
        self._outlet.reply(self.address(ask), payload, self.properties(ask, error))

    def settle(self, ask: Ask, outcome: Any) -> None:
        """A change has been committed or has failed: send what its transaction did not."""
        self._limits.ended(ask.caller)
        if isinstance(outcome, Exception):
            self._refuse(ask, outcome)
        elif outcome is not None:
            self.send(ask, outcome)

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def _answer(self, ask: Ask, result: Any) -> None:
        reply = self.ok(ask, result)
        self._limits.charge(ask.caller, len(reply) // REPLY_BYTES)
        self.send(ask, reply)

    def _refuse(self, ask: Ask, error: Exception) -> None:
        told = error if isinstance(error, BusError) else self._hide(ask, error)
        try:
            self.send(ask, self.error(ask, told), told)
        except Exception:
            log.exception("an error could not be told to '%s'", ask.caller)

    def _hide(self, ask: Ask, error: Exception) -> BusError:
        """What a client may know of a failure inside; the log knows the rest."""
        if files.is_locked(error):
            detail = "the database is locked by another program"
            return BusError("busy", detail, retry_after_ms=LOCKED_RETRY_MS)
        correlation = self._new_id()
        log.error("%s of '%s' failed [%s]", ask.op, ask.caller, correlation, exc_info=error)
        detail = f"the manager failed; its log says more under {correlation}"
        return BusError("internal", detail, correlation=correlation)


@dataclass(frozen=True, slots=True)
class _Order:
    """One change on its way through the store: `run` with its group, `done` after the commit."""

    dispatch: Dispatch
    ask: Ask
    row: Operation
    request: Request
    params: Params | BusError
    """The parameters, or what is wrong with them."""
    principal: PrincipalRow
    who: Who

    def run(self, tx: Tx) -> bytes | None:
        """The reply that was stored before; or None: it has been written to the outbox."""
        ask = self.ask
        fingerprint = digest(ask.op, self.request.params, msgspec.to_builtins(self.request.expect))
        seen = tx.seen(ask.caller, ask.id) if ask.given else None
        if seen is not None:
            if seen.digest != fingerprint:
                raise BusError("request_id_reused", f"id '{ask.id}' was used for another request", ["/id"])
            return seen.reply
        if ask.expires is not None and self.dispatch.monotonic() > ask.expires:
            raise BusError("expired", "the request's time was over before it could run")
        self._perform(tx, fingerprint)
        return None

    def done(self, outcome: bytes | None | Exception) -> None:
        self.dispatch.settle(self.ask, outcome)

    def _perform(self, tx: Tx, fingerprint: str) -> None:
        ask, dispatch = self.ask, self.dispatch
        failure: BusError | None = None
        try:
            reply = dispatch.ok(ask, tx.attempt(lambda: self._handle(tx)))
        except BusError as error:
            if error.code in NOT_STORED:
                raise
            failure, reply = error, dispatch.error(ask, error)
        if ask.given:
            tx.remember(ask.caller, ask.id, fingerprint, reply)
        outcome = failure.code if failure else "ok"
        told = encode(self.request.params).decode()[:AUDIT_LIMIT]
        target = None if isinstance(self.params, BusError) else authorize.target(self.params)
        tx.audit(self.principal.role, ask.op, ask.id, target, outcome, told)
        properties = properties_to_text(dispatch.properties(ask, failure))
        tx.send(dispatch.address(ask), reply, properties=properties)

    def _handle(self, tx: Tx) -> Any:
        if isinstance(self.params, BusError):
            raise self.params
        authorize.check_owner(self.row, self.principal, self.params, tx)
        authorize.check_version(self.request.expect, self.params, tx)
        change = Change(tx, self.who, self.principal.oid, self.ask.id)
        return CHANGES[self.row.name](change, self.params)


def _clip(error: BusError) -> BusError:
    """An error that repeats a caller's text is kept short."""
    if len(error.detail) <= MAX_TEXT and all(len(pointer) <= MAX_TEXT for pointer in error.pointers):
        return error
    pointers = [pointer[:MAX_TEXT] for pointer in error.pointers]
    return BusError(error.code, error.detail[:MAX_TEXT], pointers)


def _peek(ask: Ask, payload: bytes) -> None:
    """Find id and inbox for a `busy`, as cheaply as can be."""
    try:
        address = msgspec.json.decode(payload, type=_Address)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return
    ask.read_address(address.id, address.reply)
