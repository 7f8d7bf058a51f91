"""Connections of browsers. The only file that relies on uvicorn's protocol class (docs/decisions/0017)."""

from __future__ import annotations

import asyncio
from typing import Final

from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_S: Final = 10.0
"""Seconds that a client has to send the head of a request."""


class Connection(H11Protocol):
    """uvicorn's, closed where no whole request comes in time: a few slow ones would keep out all others."""

    _late: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As uvicorn's."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """As uvicorn's."""
        if self._late is None and self._is_waiting():
            self._watch()
        super().data_received(data)
        if not self._is_waiting():
            self._unwatch()

    def connection_lost(self, exc: Exception | None) -> None:
        """As uvicorn's."""
        self._unwatch()
        super().connection_lost(exc)

    def _is_waiting(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _watch(self) -> None:
        self._late = asyncio.create_task(self._limit(), name="web request")

    async def _limit(self) -> None:
        try:
            async with asyncio.timeout(REQUEST_S):
                await asyncio.get_running_loop().create_future()
        except TimeoutError:
            self.transport.abort()

    def _unwatch(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
