"""Clients of Autobahn|Python, which WAMP's users have: they join a realm or are refused."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import Any

from autobahn.asyncio.component import Component
from autobahn.wamp.exception import ApplicationError

from tests.pace import bound


class RefusedError(Exception):
    """The router refused the client; the text is its reason, a URI."""


@contextlib.asynccontextmanager
async def joined(
    url: str,
    realm: str,
    authentication: Mapping[str, Any] | None = None,
    *,
    tls: ssl.SSLContext | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 15.0,
) -> AsyncIterator[Any]:
    """A session that has joined; it leaves at the end. `authentication` as Autobahn has it.

    Raises:
        RefusedError: the router refused it.
    """
    transport: dict[str, Any] = {"type": "websocket", "url": url, "max_retries": 0, "serializers": ["json"]}
    if url.startswith(("rs://", "rss://")):
        transport = {"type": "rawsocket", "url": url, "max_retries": 0, "serializer": "json"}
    if tls is not None:
        transport["endpoint"] = {
            "type": "tcp",
            "host": url.split("/")[2].rpartition(":")[0],
            "port": int(url.split("/")[2].rpartition(":")[2]),
            "tls": tls,
        }
    if headers:
        transport["headers"] = dict(headers)
    component = Component(
        transports=[transport], realm=realm, authentication=dict(authentication or {"anonymous": {}})
    )
    outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    @component.on_join  # type: ignore[untyped-decorator]
    def on_join(session: Any, details: Any) -> None:
        session.welcome = details
        if not outcome.done():
            outcome.set_result(session)

    @component.on_leave  # type: ignore[untyped-decorator]
    def on_leave(_session: Any, details: Any) -> None:
        if not outcome.done():
            outcome.set_exception(RefusedError(details.reason))

    done = component.start(asyncio.get_running_loop())
    done.add_done_callback(lambda future: future.cancelled() or future.exception())
    try:
        async with asyncio.timeout(bound(timeout_s)):
            await asyncio.wait([outcome, done], return_when=asyncio.FIRST_COMPLETED)
        if not outcome.done():
            raise RefusedError("no connection") from done.exception()
        yield outcome.result()
    finally:
        if outcome.done() and outcome.exception() is None:
            outcome.result().leave()
        else:
            outcome.cancel()
        await asyncio.wait([done], timeout=bound(timeout_s))
        assert done.done(), "the client did not end"


async def refusal(url: str, realm: str, authentication: Mapping[str, Any] | None = None, **more: Any) -> str:
    """The reason for which the router refuses a client."""
    try:
        async with joined(url, realm, authentication, **more):
            return "it joined"
    except RefusedError as error:
        return str(error)


async def error_of(call: Any) -> str:
    """The URI of the error that a call or publication ends with; empty if it succeeds."""
    try:
        await call
    except ApplicationError as error:
        return str(error.error)
    return ""
