"""Calling an operation over the bus: correlation, deadline, and the same request id until an answer comes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from ..clock import Clock
from ..decode import MAX_REPORT, encode, parse
from ..errors import BusError, BusOfflineError, CallTimeoutError
from ..topics import Topics
from .link import Link, Message

log = logging.getLogger("busbar.rpc")

RESEND_AFTER: Final = 2.0
"""Seconds without an answer until the same id is sent again; harmless, since ids are remembered."""
REPLY_LIMIT: Final = 64 * MAX_REPORT
"""Bytes of a reply: lists may be long."""


class Caller:
    """Calls operations as one principal, with answers in one inbox. Make it before the link runs."""

    def __init__(
        self, link: Link, topics: Topics, caller: str, inbox: str, clock: Clock, new_id: Callable[[], str]
    ) -> None:
        self._link = link
        self._topics = topics
        self._caller = caller
        self._inbox = inbox
        self._clock = clock
        self._new_id = new_id
        self._waiting: dict[str, asyncio.Future[Any]] = {}
        link.subscribe(topics.response(caller, inbox), self._on_reply)

    async def call(
        self,
        op: str,
        params: dict[str, Any] | None = None,
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
            BusError: the manager answered with an error (a `busy` is retried while there is time).
            CallTimeoutError: the manager did not answer in time.
            BusOfflineError: the broker was out of reach all the time.
        """
        request_id = request_id or self._new_id()
        request: dict[str, Any] = {"id": request_id, "reply": self._inbox, "params": params or {}}
        if expect_version is not None:
            request["expect"] = {"version": expect_version}
        payload = encode(request)
        deadline = self._clock.monotonic() + timeout
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = future
        try:
            return await self._send_until(op, payload, request_id, deadline)
        finally:
            self._waiting.pop(request_id, None)

    async def _send_until(self, op: str, payload: bytes, request_id: str, deadline: float) -> Any:
        topic = self._topics.request(self._caller, op)
        while True:
            left = deadline - self._clock.monotonic()
            if left <= 0:
                raise CallTimeoutError(f"no manager answered {op} in time")
            await self._link.wait_connected(left)
            try:
                await self._link.publish(topic, payload)
                return await self._answer(request_id, min(left, RESEND_AFTER))
            except BusOfflineError:
                continue
            except TimeoutError:
                continue
            except BusError as error:
                wait = (error.retry_after_ms or 0) / 1000
                if error.code != "busy" or self._clock.monotonic() + wait >= deadline:
                    raise
                await self._clock.sleep(max(wait, 0.05))
                self._waiting[request_id] = asyncio.get_running_loop().create_future()

    async def _answer(self, request_id: str, timeout: float) -> Any:
        async with asyncio.timeout(timeout):
            reply = await asyncio.shield(self._waiting[request_id])
        if reply.get("ok"):
            return reply.get("result")
        raise BusError.from_wire(reply.get("error") or {})

    def _on_reply(self, message: Message) -> None:
        try:
            reply = parse(message.payload, REPLY_LIMIT)
        except BusError as error:
            log.warning("a reply was not understood: %s", error)
            return
        future = self._waiting.get(str(reply.get("id")))
        if future is not None and not future.done():
            future.set_result(reply)
