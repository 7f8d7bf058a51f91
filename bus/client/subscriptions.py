"""Several handlers for one topic filter of a link, and the watches that stand on them."""

from __future__ import annotations

import asyncio
import weakref
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

from ..connection.link import Handler, Link, Message

T = TypeVar("T")


class Subscriptions:
    """A link takes one handler per filter; this shares it."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._handlers: dict[str, list[Handler]] = {}
        self.watches: weakref.WeakSet[Watch[Any]] = weakref.WeakSet()
        link.on_connect(self._on_connect)

    def add(self, pattern: str, handler: Handler, qos: int = 1) -> Callable[[], None]:
        """Subscribe; returns what takes it back. Retained messages come (again) to all its handlers."""
        handlers = self._handlers.setdefault(pattern, [])
        handlers.append(handler)

        def dispatch(message: Message) -> None:
            for each in tuple(handlers):
                each(message)

        self._link.subscribe(pattern, dispatch, qos)

        def cancel() -> None:
            if handler in handlers:
                handlers.remove(handler)
            if not handlers and self._handlers.get(pattern) is handlers:
                del self._handlers[pattern]
                self._link.unsubscribe(pattern)

        return cancel

    async def _on_connect(self) -> None:
        for watch in tuple(self.watches):
            watch.reconnected()

    def close(self) -> None:
        """End every watch: whoever iterates over one stops."""
        for watch in tuple(self.watches):
            watch.close()


class Watch(AsyncIterator[T], Generic[T]):
    """Something to iterate over while it comes in. It ends with `close`, with the client, or when forgotten.

    Messages count from when it was made, not from the first step of the iteration. It has one reader.
    """

    def __init__(self, subscriptions: Subscriptions, pattern: str, qos: int = 1) -> None:
        self._news = asyncio.Event()
        self._closed = False
        this: Final = weakref.ref(self)

        def note(message: Message) -> None:
            if (watch := this()) is not None:
                watch.note(message)

        self._cancel = subscriptions.add(pattern, note, qos)
        # Whoever breaks out of `async for` without `close` leaves no subscription behind.
        loop = asyncio.get_running_loop()
        self._forgotten = weakref.finalize(self, _soon, loop, self._cancel)
        self._forgotten.atexit = False
        subscriptions.watches.add(self)

    @abstractmethod
    def note(self, message: Message) -> None:
        """A message has come; called on the event loop."""

    @abstractmethod
    def take(self) -> T | None:
        """The next item that is there; None when there is none yet."""

    def reconnected(self) -> None:
        """A new connection stands, subscriptions included."""

    async def __anext__(self) -> T:
        while True:
            item = self.take()
            if item is not None:
                return item
            if self._closed:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()

    def close(self) -> None:
        """End the subscription and the iteration."""
        self._closed = True
        self._forgotten.detach()
        self._cancel()
        self._news.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _soon(loop: asyncio.AbstractEventLoop, cancel: Callable[[], None]) -> None:
    """Objects are forgotten in any thread."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(cancel)
