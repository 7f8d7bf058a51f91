"""Calls of operations: correlation, deadline, and retries with the same request id."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from random import Random
from typing import Any, Final

from ..backoff import Backoff
from ..clock import Clock
from ..decode import MAX_PAYLOAD, MAX_REPORT, encode, parse
from ..errors import BusError, BusOfflineError, CallTimeoutError, MessageTooLargeError, MissingRightError
from ..topics import Topics
from .link import Link, Message

log = logging.getLogger("busbar.rpc")

RESEND_AFTER: Final = 2.0
"""Seconds without a reply until the request is sent again; its id makes that idempotent."""
RESEND_JITTER: Final = 0.25
"""Share of that by which it is shortened at random, so that callers do not resend in step."""
RETRY: Final = Backoff(base=0.05, cap=1.0)
"""Pauses after a refused publication, and the minimum after a `busy`."""
WHOSE: Final = "/principal"
"""The pointer of an error that asks a change for its principal's oid."""
PAGE: Final = 32
"""Principals asked for at once: a reply that the smallest broker takes."""
REPLY_LIMIT: Final = 64 * MAX_REPORT
"""Bytes of a reply: lists may be long."""


class Caller:
    """Calls operations as one principal, with answers in one inbox. Make it before the link runs."""

    def __init__(
        self,
        link: Link,
        topics: Topics,
        caller: str,
        inbox: str,
        clock: Clock,
        new_id: Callable[[], str],
        random: Random,
    ) -> None:
        self._link = link
        self._topics = topics
        self._caller = caller
        self._inbox = inbox
        self._clock = clock
        self._new_id = new_id
        self._random = random
        self._principal: str | None = None
        self._waiting: dict[str, asyncio.Future[dict[str, Any]]] = {}
        link.subscribe(topics.response(caller, inbox), self._on_reply)

    async def call(
        self,
        op: str,
        params: Mapping[str, Any] | None = None,
        *,
        timeout: float = 10.0,
        expect_version: int | None = None,
        request_id: str | None = None,
    ) -> Any:
        """Call one operation and return its result in plain form.

        Args:
            timeout: seconds until the whole call is given up.
            expect_version: refuse the change unless the object is at this version.

        Raises:
            BusError: the manager answered with an error (a `busy` is retried while there is time), or
                `payload_too_large`: it takes no request of this size.
            CallTimeoutError: the manager did not answer in time.
            MissingRightError: the broker does not let this user send requests.
            BusOfflineError: the broker was out of reach all the time, or the link refused every publication.
        """
        request_id = request_id or self._new_id()
        request: dict[str, Any] = {"id": request_id, "reply": self._inbox, "params": params or {}}
        if expect_version is not None:
            request["expect"] = {"version": expect_version}
        deadline = self._clock.monotonic() + timeout
        if self._principal is None:
            try:
                return await self._call(op, request, timeout)
            except BusError as error:
                if WHOSE not in error.pointers:
                    raise
            self._principal = await self._own_oid(deadline)
        request["principal"] = self._principal
        return await self._call(op, request, deadline - self._clock.monotonic())

    async def _own_oid(self, deadline: float) -> str:
        """The oid of the principal that this caller's name belongs to now; it is kept from then on."""
        page: dict[str, Any] = {"limit": PAGE}
        while True:
            request = {"id": self._new_id(), "reply": self._inbox, "params": page}
            found = await self._call("list_principals", request, deadline - self._clock.monotonic())
            rows = [row for row in found if isinstance(row, Mapping)] if isinstance(found, list) else []
            for row in rows:
                if row.get("name") == self._caller:
                    return str(row.get("oid"))
            if len(rows) < PAGE:
                raise BusError("no_such_principal", f"no principal '{self._caller}'")
            page = {"limit": PAGE, "after": rows[-1].get("oid")}

    async def _call(self, op: str, request: dict[str, Any], timeout: float) -> Any:
        request_id, payload = request["id"], encode(request)
        if len(payload) > MAX_PAYLOAD:
            # The manager would refuse it unread, and so could not say which request it answers.
            detail = f"the request has {len(payload)} bytes; a manager takes {MAX_PAYLOAD}"
            raise BusError("payload_too_large", detail)
        attempts = _Attempts(payload, self._clock.monotonic() + timeout)
        self._waiting[request_id] = asyncio.get_running_loop().create_future()
        try:
            return await self._until_answered(op, request_id, attempts)
        finally:
            self._waiting.pop(request_id, None)

    async def _until_answered(self, op: str, request_id: str, attempts: _Attempts) -> Any:
        """Alternately send and wait. It can't spin: `pause` is above 0 after every attempt."""
        topic, pause = self._topics.request(self._caller, op), 0.0
        while True:
            left = attempts.deadline - self._clock.monotonic()
            reply = await self._answer(request_id, min(pause, left))
            if reply is None:
                if attempts.deadline <= self._clock.monotonic():
                    if not attempts.may_have_run:
                        await self._link.wait_connected(0.0)  # it knows why the connection was lost
                    raise attempts.failure(op, request_id)
                pause = await self._attempt(topic, request_id, attempts)
            elif reply.get("ok"):
                return reply.get("result")
            else:
                pause = self._pause_if_busy(reply.get("error"), attempts)
                self._waiting[request_id] = asyncio.get_running_loop().create_future()

    async def _attempt(self, topic: str, request_id: str, attempts: _Attempts) -> float:
        """Publish once; return how many seconds to wait for an answer before the next attempt.

        Raises:
            BusOfflineError: there was no connection until the deadline.
            MissingRightError: the broker does not let this user send requests.
            BusError: `payload_too_large`: the broker does not take a request of this size.
        """
        if not self._link.connected and await self._answered_before_connected(request_id, attempts):
            return 0.0
        try:
            async with asyncio.timeout(attempts.deadline - self._clock.monotonic()):
                await self._link.publish(topic, attempts.payload)
        except MessageTooLargeError as error:
            detail = f"the request has {error.size} bytes; the broker takes {error.limit}"
            raise BusError("payload_too_large", detail) from None
        except MissingRightError:
            raise
        except BusOfflineError as error:
            attempts.refusals += 1
            attempts.refusal = error
            return RETRY.delay(attempts.refusals, self._random.random())
        except TimeoutError:
            attempts.may_have_run = True
            return RESEND_AFTER  # the deadline comes first
        attempts.refusals = 0
        attempts.may_have_run = True
        return RESEND_AFTER * (1.0 - RESEND_JITTER * self._random.random())

    async def _answered_before_connected(self, request_id: str, attempts: _Attempts) -> bool:
        """Wait for a connection; the reply to an earlier attempt may come first."""
        waiting = self._waiting[request_id]
        left = attempts.deadline - self._clock.monotonic()
        connecting = asyncio.ensure_future(self._link.wait_connected(left))
        either: set[asyncio.Future[Any]] = {connecting, waiting}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            failure = connecting.exception() if connecting.done() else None
        finally:
            connecting.cancel()
        if failure is not None and not waiting.done():
            raise failure
        return waiting.done()

    def _pause_if_busy(self, wire: Any, attempts: _Attempts) -> float:
        error = BusError.from_wire(wire if isinstance(wire, Mapping) else {})
        if error.code != "busy":
            raise error
        attempts.busy += 1
        least = RETRY.delay(attempts.busy, self._random.random())
        pause = max((error.retry_after_ms or 0) / 1000, least)
        if self._clock.monotonic() + pause >= attempts.deadline:
            raise error
        return pause

    async def _answer(self, request_id: str, seconds: float) -> dict[str, Any] | None:
        if not self._waiting[request_id].done() and seconds > 0:
            await asyncio.wait({self._waiting[request_id]}, timeout=seconds)
        waiting = self._waiting[request_id]
        return waiting.result() if waiting.done() else None

    def _on_reply(self, message: Message) -> None:
        try:
            reply = parse(message.payload, REPLY_LIMIT)
        except BusError as error:
            log.warning("a reply was not understood: %s", error)
            return
        request_id = str(reply.get("id"))
        future = self._waiting.get(request_id)
        if future is None:
            return
        if future.done():
            if not _is_busy(future.result()):
                return
            # The answer to an earlier attempt counts more than a "busy" that nobody has looked at yet.
            future = self._waiting[request_id] = asyncio.get_running_loop().create_future()
        future.set_result(reply)


def _is_busy(reply: Mapping[str, Any]) -> bool:
    error = reply.get("error")
    return not reply.get("ok") and isinstance(error, Mapping) and error.get("code") == "busy"


class _Attempts:
    """The request, its deadline, and the outcome of the attempts so far."""

    def __init__(self, payload: bytes, deadline: float) -> None:
        self.payload = payload
        self.deadline = deadline
        self.refusals = 0
        """Refused publications in a row."""
        self.busy = 0
        self.may_have_run = False
        self.refusal: BusOfflineError | None = None

    def failure(self, op: str, request_id: str) -> BusOfflineError | CallTimeoutError:
        """Why there is no answer at the deadline."""
        if self.refusal is not None and not self.may_have_run:
            return self.refusal
        return CallTimeoutError(f"no manager answered {op} in time", request_id=request_id)
