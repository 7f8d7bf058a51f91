"""From a request topic to one handler. The order of the checks is defined here and nowhere else.

The path is synchronous: a read is answered before `handle` returns, a change is submitted to the store and
answered after its commit. A plan waits for its turn, and is made in slices.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

import msgspec
from busbar.bus.clock import Clock
from busbar.bus.connection.link import NO_PROPERTIES, Message, Properties
from busbar.bus.connection.packet_limit import packet_size
from busbar.bus.contract import OPERATIONS, Operation
from busbar.bus.decode import MAX_PAYLOAD, convert, digest, encode, parse
from busbar.bus.errors import BusError
from busbar.bus.messages import Request, Response, Who
from busbar.bus.params import GetEvents, ListAudit, Params
from busbar.bus.topics import DEFAULT_INBOX, RequestTopic, Topics, is_name
from msgspec import Struct, field
from msgspec.structs import replace

from ..log_throttle import LogThrottle
from ..publish.mqtt5 import properties_to_text, reply_properties
from ..quotas import Quotas
from ..rate_limit import Limits
from ..slices import Slices
from ..store import Cause, Store, Tx, files
from ..store.rows import PrincipalRow
from . import authorize
from .operations import CHANGES, PLANS, READS
from .operations.base import Asker, ChangeContext, ReadContext
from .operations.brief import shortened, without_texts
from .operations.history import note_revisions
from .plan_queue import PlanQueue
from .read_cache import ReadCache
from .refusals import Refusals
from .reply_size import too_large, truncate

log = logging.getLogger("busbar.dispatch")

NOT_STORED: Final = frozenset({"busy", "expired", "internal", "malformed_request", "request_id_reused"})
"""Errors of a change that are sent but not stored: the same id may be retried."""
MAX_ID: Final = 64
MAX_OP: Final = 64
"""Characters of an unknown operation's name that a reply repeats."""
CHANGE_COST: Final = 2.0
"""Rate limit tokens per change: its share of processor time, with commit, event and status."""
HEAVY_COST: Final = 200.0
"""Those of an operation that takes as long as many."""
HEAVY_RATE: Final = 4_000.0
"""And for each second that it took, as for a search of a whole table: a caller has a tenth of the loop's time
for them at most."""
REPLY_BYTES: Final = 4_096
"""Bytes of a read's reply that cost one more token."""
AUDIT_LIMIT: Final = 4_096
"""Characters of the parameters that the audit stores."""
PACKET_OVERHEAD: Final = 256
"""Bytes of a reply's packet with MQTT 5 besides payload, topic and correlation data."""
LOCKED_RETRY_MS: Final = 500
DISK_RETRY_MS: Final = 5_000


class ReplySink(Protocol):
    """Takes replies that bypass the outbox."""

    @property
    def max_packet(self) -> int: ...

    def reply(self, caller: str, topic: str, payload: bytes, properties: Properties) -> None: ...


class _Address(msgspec.Struct):
    """The members of a request that a reply needs, unchecked."""

    id: object = None
    reply: object = None


class RequestContext(Struct):
    """A request in progress. `received` and `expires` are monotonic seconds."""

    caller: str
    op: str
    new_id: Callable[[], str]
    received: float
    properties: Properties
    inbox: str = DEFAULT_INBOX
    has_own_id: bool = False
    """Whether the caller chose the id."""
    expires: float | None = None
    outcome: str = "ok"
    """Of a change, as the audit has it."""
    _id: str = ""

    @property
    def id(self) -> str:
        """The caller's id, or a generated one when the request has no valid id."""
        if not self._id:
            self._id = self.new_id()
        return self._id

    def read_address(self, request_id: object, inbox: object) -> None:
        """Use the request's id and inbox, each if it is valid."""
        if isinstance(request_id, str) and 1 <= len(request_id) <= MAX_ID:
            self._id, self.has_own_id = request_id, True
        if isinstance(inbox, str) and is_name(inbox):
            self.inbox = inbox


class Responder(Struct, frozen=True):
    """The manager that answers: its id and epoch, and the context of a read."""

    manager: str
    epoch: int
    read_context: Callable[[], ReadContext]
    mqtt5: bool = False
    """Whether replies carry MQTT 5 properties."""
    quotas: Quotas = field(default_factory=Quotas)


class Dispatch:
    """Answers requests. `handle` is the subscription's handler; it never raises."""

    def __init__(
        self,
        store: Store,
        sink: ReplySink,
        responder: Responder,
        limits: Limits,
        *,
        clock: Clock,
        new_id: Callable[[], str],
    ) -> None:
        self._store = store
        self._topics: Topics = store.topics
        self._sink = sink
        self._responder = responder
        self._limits = limits
        self._throttle = LogThrottle(clock)
        self._clock = clock
        self._new_id = new_id
        self._principals: dict[str, PrincipalRow] = {}
        self._principals_at = -1
        self.quotas = responder.quotas
        self.answered: Callable[[str, str, float], None] = _uncounted
        """Told of each answer: the operation as it was asked for, `ok` or the error's code, seconds since the
        request came."""
        self.refusals = Refusals(store, clock)
        self.plans = PlanQueue(clock)
        self._cache = ReadCache(lambda: store.commits)

    def handle(self, message: Message) -> None:
        """Answer one request, now or after its commit."""
        route = self._topics.parse_request(message.topic)
        if route is None or not route.caller:
            log.warning("dropped a request on an invalid topic: %.100r", message.topic)
            return
        if message.retain:
            # A retained command would run again after every reconnect.
            log.warning("dropped a retained request of '%s' (%.64s)", route.caller, route.operation)
            self.refusals.note(route.caller, route.operation, "malformed_request", "it was retained")
            return
        ctx = self._context(route, message)
        try:
            self._admit(ctx, message.payload)
            self._serve(ctx, message.payload)
        except Exception as error:
            self._refuse(ctx, error)

    def _context(self, route: RequestTopic, message: Message) -> RequestContext:
        now = self._clock.monotonic()
        ctx = RequestContext(route.caller, route.operation, self._new_id, now, message.properties)
        if message.properties.expiry_s is not None:
            ctx.expires = now + message.properties.expiry_s
        # Also where the payload can't be read, or is not looked at.
        ctx.inbox = self._response_inbox(ctx) or DEFAULT_INBOX
        return ctx

    def _response_inbox(self, ctx: RequestContext) -> str | None:
        """The inbox of the Response Topic (contract, section 8); None: it is none of the caller's own."""
        topic = ctx.properties.response_topic
        inbox = topic.rpartition("/")[2] if topic else ""
        return inbox if is_name(inbox) and topic == self._topics.response(ctx.caller, inbox) else None

    def _admit(self, ctx: RequestContext, payload: bytes) -> None:
        """Raises BusError `payload_too_large` or `busy`, before anything is parsed or read."""
        if len(payload) > MAX_PAYLOAD:
            raise BusError("payload_too_large", f"{len(payload)} bytes; the limit is {MAX_PAYLOAD}")
        row = OPERATIONS.get(ctx.op)
        cost = CHANGE_COST if row is not None and row.change else 1.0
        if row is not None and row.heavy:
            cost = HEAVY_COST
        retry_ms = self._limits.admit(ctx.caller, ctx.received, cost)
        if retry_ms is not None:
            _peek(ctx, payload)
            raise BusError("busy", f"too many requests of '{ctx.caller}'", retry_after_ms=retry_ms)

    def _serve(self, ctx: RequestContext, payload: bytes) -> None:
        body = parse(payload)
        ctx.read_address(body.get("id"), body.get("reply"))
        request = convert(body, Request)
        if "reply" not in body and ctx.properties.response_topic is not None:
            self._check_response_topic(ctx)
        row = OPERATIONS.get(ctx.op)
        if row is None:
            raise BusError("no_such_procedure", f"no operation '{ctx.op[:MAX_OP]}'")
        # Decides for a read. For a change it only saves the transaction, which decides (`ChangeJob.run`).
        principal = self._principal(ctx.caller)
        authorize.check_identity(request, principal, change=row.change)
        authorize.check_role(row, principal)
        if not isinstance(request.ttl_ms, msgspec.UnsetType):
            own = ctx.received + request.ttl_ms / 1000
            ctx.expires = own if ctx.expires is None else min(own, ctx.expires)
        if row.change:
            self._submit(ctx, row, request, principal.oid)
            return
        params = convert(request.params, row.params, "/params")
        if row.name in PLANS:
            begin = partial(self._begin, ctx, row, request, params)
            self.plans.submit(ctx.caller, begin, partial(self._planned, ctx, params))
            self._limits.began(ctx.caller)
            return
        read = partial(READS[row.name], self._context_of(ctx, row, principal), params)
        began = self._clock.monotonic()
        try:
            self._answer(ctx, params, self._cache.result(row.name, params, read))
        finally:
            if row.heavy or searches(params):
                self._limits.charge(ctx.caller, (self._clock.monotonic() - began) * HEAVY_RATE)

    def _context_of(self, ctx: RequestContext, row: Operation, principal: PrincipalRow) -> ReadContext:
        context = self._responder.read_context()
        if not row.heavy:
            return context
        who = Who(principal.name, principal.role, ctx.inbox)
        return replace(context, asker=Asker(principal, who, self.quotas))

    def _begin(self, ctx: RequestContext, row: Operation, request: Request, params: Params) -> Slices[object]:
        """A plan when its turn has come. Raises BusError: the caller may not have it any more, or waits no
        more."""
        if ctx.expires is not None and self._clock.monotonic() > ctx.expires:
            raise BusError("expired", "the request expired before it could run")
        principal = self._principal(ctx.caller)
        authorize.check_identity(request, principal, change=False)
        authorize.check_role(row, principal)
        return PLANS[row.name](self._context_of(ctx, row, principal), params)

    def _planned(self, ctx: RequestContext, params: Params, outcome: object, seconds: float) -> None:
        self._limits.ended(ctx.caller)
        self._limits.charge(ctx.caller, seconds * HEAVY_RATE)
        try:
            if isinstance(outcome, Exception):
                raise outcome
            self._answer(ctx, params, outcome)
        except Exception as error:
            self._refuse(ctx, error)

    def _check_response_topic(self, ctx: RequestContext) -> None:
        """Raises BusError: it is not one of the caller's own inboxes."""
        if self._response_inbox(ctx) is None:
            raise BusError(
                "invalid_argument", "the Response Topic is not one of the caller's own", ["/reply"]
            )

    def _principal(self, name: str) -> PrincipalRow:
        """The caller as of the last commit."""
        commits = self._store.commits
        if commits != self._principals_at:
            self._principals.clear()
            self._principals_at = commits
        row = self._principals.get(name)
        if row is None:
            row = self._principals[name] = authorize.need_principal(self._store.reads, name)
        return row

    # --- changes

    def _submit(self, ctx: RequestContext, row: Operation, request: Request, principal_oid: str) -> None:
        """Submit a change; with an id even one with invalid parameters, because its reply is stored too."""
        params: Params | BusError
        try:
            params = convert(request.params, row.params, "/params")
        except BusError as error:
            if not ctx.has_own_id:
                raise
            params = error
        job = ChangeJob(self, ctx, row, request, principal_oid, params)
        # The transaction fills in who the caller is then.
        self._store.submit(job.run, job.done, Cause({"authid": ctx.caller}, ctx.id))
        self._limits.began(ctx.caller)

    # --- answers

    def ok(self, ctx: RequestContext, result: object) -> bytes:
        """A reply with a result, as bytes."""
        by = self._responder
        return encode(Response(ctx.id, ctx.op, True, by.manager, by.epoch, result=result))

    def error(self, ctx: RequestContext, error: BusError) -> bytes:
        """A reply with an error, as bytes."""
        by, op = self._responder, ctx.op[:MAX_OP]
        return encode(Response(ctx.id, op, False, by.manager, by.epoch, error=truncate(error).to_wire()))

    def reply_topic(self, ctx: RequestContext) -> str:
        """The topic of a request's reply."""
        return self._topics.response(ctx.caller, ctx.inbox)

    def room(self, ctx: RequestContext) -> int:
        """Bytes of the largest reply that the broker takes.

        Exact for MQTT 3.1.1: a stored reply that came through once must come through again.
        """
        most, topic = self._sink.max_packet, self.reply_topic(ctx)
        if not self._responder.mqtt5:
            return 2 * most - packet_size(topic, most, 1)
        correlation = len(ctx.properties.correlation or b"")
        return most - len(topic) - correlation - PACKET_OVERHEAD

    def properties(self, ctx: RequestContext, reply: bytes, error: BusError | None = None) -> Properties:
        """The MQTT 5 properties of a reply; without correlation data that leaves it no room."""
        if not self._responder.mqtt5:
            return NO_PROPERTIES
        found = reply_properties(ctx.properties, error)
        return found if len(reply) <= self.room(ctx) else replace(found, correlation=None)

    def send(self, ctx: RequestContext, payload: bytes, error: BusError | None = None) -> None:
        """Reply at once, without the outbox; with an error when the broker would not take it."""
        if error is None and len(payload) > (room := self.room(ctx)):
            error = BusError("payload_too_large", too_large(ctx.op, len(payload), room))
            payload = self.error(ctx, error)
        self._sink.reply(ctx.caller, self.reply_topic(ctx), payload, self.properties(ctx, payload, error))
        self._note_answer(ctx, error.code if error else "ok")

    def complete(self, ctx: RequestContext, outcome: bytes | None | Exception) -> None:
        """A change was committed or has failed: send the reply that is not in the outbox, if any."""
        self._limits.ended(ctx.caller)
        if isinstance(outcome, Exception):
            self._refuse(ctx, outcome)
        elif outcome is not None:
            self.send(ctx, outcome)
        else:
            self._note_answer(ctx, ctx.outcome)

    def _note_answer(self, ctx: RequestContext, code: str) -> None:
        self.answered(ctx.op, code, self._clock.monotonic() - ctx.received)

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def _answer(self, ctx: RequestContext, params: Params, result: object) -> None:
        reply = self.ok(ctx, result)
        if getattr(params, "limit", None) == 1 and len(reply) > self.room(ctx):
            reply = self.ok(ctx, shortened(result))  # a page can't be smaller
        self._limits.charge(ctx.caller, len(reply) // REPLY_BYTES)
        self.send(ctx, reply)

    def _refuse(self, ctx: RequestContext, error: Exception) -> None:
        public = error if isinstance(error, BusError) else self._internal_error(ctx, error)
        request_id = ctx.id if ctx.has_own_id else None
        self.refusals.note(ctx.caller, ctx.op, public.code, public.detail, request_id)
        try:
            self.send(ctx, self.error(ctx, public), public)
        except Exception:
            log.exception("sending an error to '%s' failed", ctx.caller)

    def _internal_error(self, ctx: RequestContext, error: Exception) -> BusError:
        """What a client may see of an internal failure; the details go to the log."""
        if files.is_locked(error):
            detail = "the database is locked by another program"
            return BusError("busy", detail, retry_after_ms=LOCKED_RETRY_MS)
        failure = files.disk_failure(error)
        if failure is not None:
            # A change was logged, and rolled back, by the store.
            if ctx.op not in CHANGES and self._throttle.allows(failure):
                log.error("%s of '%s' failed: %s", ctx.op, ctx.caller, failure)
            detail = f"{failure}: nothing was changed; ask again later with the same id"
            return BusError("busy", detail, retry_after_ms=DISK_RETRY_MS)
        correlation = self._new_id()
        log.error("%s of '%s' failed [%s]", ctx.op, ctx.caller, correlation, exc_info=error)
        detail = f"the manager failed; see its log under {correlation}"
        return BusError("internal", detail, correlation=correlation)


class ChangeJob(Struct, frozen=True):
    """One change in the store's queue: `run` is its transaction, `done` its reply after the commit."""

    dispatch: Dispatch
    ctx: RequestContext
    row: Operation
    request: Request
    principal_oid: str
    """Who asked: the name may have another holder when the transaction runs."""
    params: Params | BusError
    """The parameters, or why they are invalid."""

    def run(self, tx: Tx) -> bytes | None:
        """The reply stored earlier for this id; None when a new one was written to the outbox.

        Who the caller is and what it may do is read here: its role may have changed while the request waited.
        """
        ctx = self.ctx
        principal = authorize.need_principal(tx, ctx.caller)
        if principal.oid != self.principal_oid:
            raise BusError("no_such_principal", f"the principal '{ctx.caller}' that asked was removed")
        authorize.check_identity(self.request, principal, change=True)
        authorize.check_role(self.row, principal)
        who = Who(principal.name, principal.role, ctx.inbox)
        tx.cause = Cause({"authid": who.authid, "authrole": who.authrole, "session": who.session}, ctx.id)
        request_digest = digest(ctx.op, self.request.params, msgspec.to_builtins(self.request.expect))
        stored = tx.stored_reply(principal.oid, ctx.id) if ctx.has_own_id else None
        if stored is not None:
            if stored.digest != request_digest:
                raise BusError("request_id_reused", f"id '{ctx.id}' was used for another request", ["/id"])
            return stored.reply
        if ctx.expires is not None and self.dispatch.monotonic() > ctx.expires:
            raise BusError("expired", "the request expired before it could run")
        self._perform(tx, request_digest, principal, who)
        return None

    def done(self, outcome: bytes | None | Exception) -> None:
        self.dispatch.complete(self.ctx, outcome)

    def _perform(self, tx: Tx, request_digest: str, principal: PrincipalRow, who: Who) -> None:
        ctx, dispatch = self.ctx, self.dispatch
        failure: BusError | None = None
        try:
            reply = tx.attempt(lambda: self._answered(tx, principal, who))
        except BusError as error:
            if error.code in NOT_STORED:
                raise
            failure, reply = error, dispatch.error(ctx, error)
        if ctx.has_own_id:
            tx.store_reply(principal.oid, ctx.id, request_digest, reply)
        ctx.outcome = outcome = failure.code if failure else "ok"
        params = encode(self.request.params).decode()[:AUDIT_LIMIT]
        target = None if isinstance(self.params, BusError) else authorize.target(self.params)
        tx.audit(principal.role, ctx.op, ctx.id, target, outcome, params, principal.oid)
        properties = properties_to_text(dispatch.properties(ctx, reply, failure))
        tx.send(dispatch.reply_topic(ctx), reply, properties=properties)

    def _answered(self, tx: Tx, principal: PrincipalRow, who: Who) -> bytes:
        """Make the change; its reply, where the broker takes it only so without what may be large.

        Raises:
            BusError: among others `payload_too_large`: nobody could be told what was done.
        """
        result, room = self._handle(tx, principal, who), self.dispatch.room(self.ctx)
        reply = self.dispatch.ok(self.ctx, result)
        if len(reply) > room:
            reply = self.dispatch.ok(self.ctx, without_texts(result))
        if len(reply) > room:
            raise BusError("payload_too_large", too_large(self.ctx.op, len(reply), room))
        return reply

    def _handle(self, tx: Tx, principal: PrincipalRow, who: Who) -> object:
        if isinstance(self.params, BusError):
            raise self.params
        authorize.check_owner(self.row, principal, self.params, tx)
        authorize.check_version(self.request.expect, self.params, tx)
        context = ChangeContext(tx, who, principal.oid, self.ctx.id, self.dispatch.quotas)
        result = CHANGES[self.row.name](context, self.params)
        note_revisions(tx, principal, self.row.name, self.ctx.id)
        return result


def _uncounted(operation: str, code: str, seconds: float) -> None:
    """Replaced where metrics are served."""


def searches(params: Params) -> bool:
    """Whether a read may look at a whole table for what it asks."""
    match params:
        case GetEvents():
            return bool(params.types or params.object or params.within_ms is not None)
        case ListAudit():
            return any(each is not None for each in (params.caller, params.operation, params.within_ms))
    return False


def _peek(ctx: RequestContext, payload: bytes) -> None:
    """Find id and inbox for a `busy` reply at the least cost."""
    try:
        address = msgspec.json.decode(payload, type=_Address)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return
    ctx.read_address(address.id, address.reply)
