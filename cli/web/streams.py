"""Server-sent events: the realm as it changes, and a worker's output."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any, Final

from busbar.bus.client.logs import LogItem, LogLine
from busbar.bus.clock import Clock
from busbar.bus.decode import encode
from busbar.bus.printable import printable
from starlette.responses import StreamingResponse

from .session import FAILED, Session

STREAMS: Final = 16
"""Pages and logs that one session may have open."""
GATHER_S: Final = 0.05
"""What comes within this time goes as one message."""
QUIET_S: Final = 10.0
"""After so long without news a comment tells whether the browser is still there."""
LINES: Final = 200
"""Past lines of a log, and lines of one message."""
LINE: Final = 4_000
"""Characters of a line."""
_HEADERS: Final = {"x-accel-buffering": "no"}
"""For a proxy that would gather what comes."""


def message(event: str, value: Any) -> bytes:
    """One server-sent event: JSON has no line ends."""
    return f"event: {event}\ndata: ".encode() + encode(value) + b"\n\n"


def stream(session: Session, parts: AsyncGenerator[bytes]) -> StreamingResponse:
    """The answer that goes on."""
    return StreamingResponse(
        _counted(session, parts), media_type="text/event-stream; charset=utf-8", headers=_HEADERS
    )


async def _counted(session: Session, parts: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    session.streams += 1
    try:
        yield b"retry: 1000\n\n"
        if session.streams > STREAMS:  # that were asked for at one moment
            return
        async for part in parts:
            yield part
    finally:
        session.streams -= 1
        await parts.aclose()


async def live(session: Session, clock: Clock) -> AsyncGenerator[bytes]:
    """The whole realm, then what changes of it."""
    news = asyncio.Event()
    page = session.board.open(news.set)
    try:
        while not session.ended:
            news.clear()
            found = session.board.take(page)
            if found is not None:
                yield message("realm", found)
                await clock.sleep(GATHER_S)
            elif not await _came(news):
                yield b": still here\n\n"
        yield message("over", {})
    finally:
        session.board.close(page)


async def _came(news: asyncio.Event) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(QUIET_S):
            await news.wait()
    return news.is_set()


async def output(session: Session, target: str) -> AsyncGenerator[bytes]:
    """The last lines of a worker, a group or a cluster, and then each that it writes."""
    try:
        watch = await session.bus.watch_logs(target, lines=LINES)
    except (*FAILED, ValueError) as error:
        yield message("failed", {"text": printable(str(error))})
        return
    async with watch:
        waiting = asyncio.ensure_future(watch.__anext__())
        try:
            while not session.ended:
                done, _ = await asyncio.wait({waiting}, timeout=QUIET_S)
                if not done:
                    yield b": still here\n\n"
                    continue
                lines = [_line(waiting.result())]
                while len(lines) < LINES and (item := watch.take()) is not None:
                    lines.append(_line(item))
                waiting = asyncio.ensure_future(watch.__anext__())
                yield message("lines", lines)
        except FAILED as error:
            yield message("failed", {"text": printable(str(error))})
        except StopAsyncIteration:
            pass
        finally:
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration, *FAILED):
                await waiting


def _line(item: LogItem) -> dict[str, Any]:
    text = item.text if len(item.text) <= LINE else f"{item.text[:LINE]}…"
    return {"worker": item.worker, "text": printable(text), "note": not isinstance(item, LogLine)}
