"""What every request goes through: only our own names, headers that keep a page to itself, bounded forms."""

from __future__ import annotations

import asyncio
import secrets
from typing import Final
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .origins import Origins

FORM: Final = 16_384
"""Bytes of a form."""
FORM_S: Final = 10.0
"""Seconds that it may take."""
FIELDS: Final = 16
HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
"""Of every answer."""


class Guard:
    """Answers only requests for one of our origins, changes only from pages of ours."""

    def __init__(self, app: ASGIApp, origins: Origins) -> None:
        self._app, self._origins = app, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        origin, why = self._origins.of(Headers(scope=scope).get("host", "")), ""
        if origin is None:
            why = "this page is not served under that name: see 'busbar web --origin'"
        elif scope["method"] not in ("GET", "HEAD") and not self._is_ours(Headers(scope=scope)):
            why = "a request of another page"
        if why:
            return await PlainTextResponse(f"{why}\n", 403)(scope, receive, guarded)
        scope["busbar.origin"] = origin
        return await self._app(scope, receive, guarded)

    def _is_ours(self, headers: Headers) -> bool:
        """Whether a browser says that one of our pages asks; other programs say nothing, having no cookie."""
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        return (origin is None or self._origins.is_ours(origin)) and site in (None, "same-origin", "none")


async def read_form(request: Request) -> dict[str, str]:
    """A form's fields, each once.

    Raises:
        HTTPException: it is none, too large, or too slow.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind != "application/x-www-form-urlencoded":
        raise HTTPException(415, "a form is expected")
    try:
        async with asyncio.timeout(FORM_S):
            body = await _body(request)
    except TimeoutError:
        raise HTTPException(408, "the form came too slowly", {"connection": "close"}) from None
    try:
        found = parse_qs(body.decode(), keep_blank_values=True, strict_parsing=False, max_num_fields=FIELDS)
    except ValueError:
        raise HTTPException(400, "the form can't be read") from None
    return {name: values[0] for name, values in found.items()}


async def _body(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > FORM:
            raise HTTPException(413, "the form is too large")
    return body


def same(given: str | None, expected: str | None) -> bool:
    """Whether a token is the expected one."""
    if not given or not expected:
        return False
    return secrets.compare_digest(given.encode(errors="replace"), expected.encode(errors="replace"))
