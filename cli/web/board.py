"""What is known of the realm now, and what each open page has not been sent of it yet. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from typing import Any, Final

from .rows import Row

OBJECTS: Final = 20_000
"""Objects that are shown; what comes beyond is left out, and said."""
EVENTS: Final = 200
"""The last events, which a page that is opened begins with."""


class Page:
    """What one open page has not been sent yet: of each object its last row, the last events.

    `wake` is called when there is something to send.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.wake = wake
        self.reset = True
        self.objects: dict[str, Row | None] = {}
        self.usage: dict[str, Row] = {}
        self.events: deque[Row] = deque(maxlen=EVENTS)
        self.state = False


class Board:
    """Objects by key, the last events, and the state of connection, manager and user."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.objects: dict[str, Row] = {}
        self.usage: dict[str, Row] = {}
        self.events: deque[Row] = deque(maxlen=EVENTS)
        self.state = {**state, "truncated": False}
        self._heard: dict[str, int] = {}
        self._pages: set[Page] = set()
        self._count = 0

    # --- changes

    def put(self, key: str, row: Row | None) -> None:
        """An object is like this now; None: it is gone."""
        if row is not None and key not in self.objects and len(self.objects) >= OBJECTS:
            return self.set(truncated=True)
        self._count += 1
        if row is None:
            self.objects.pop(key, None)
            self.usage.pop(key, None)
            self._heard.pop(key, None)
        else:
            self.objects[key], self._heard[key] = row, self._count
        for page in self._pages:
            page.objects[key] = row
            page.wake()
        return None

    def use(self, key: str, usage: Row) -> None:
        """What a worker or node uses now; for a known object alone."""
        if key in self.objects:
            self.usage[key] = usage
            for page in self._pages:
                page.usage[key] = usage
                page.wake()

    def add(self, event: Row) -> None:
        """An event has come."""
        self.events.append(event)
        for page in self._pages:
            page.events.append(event)
            page.wake()

    def set(self, **state: Any) -> None:
        """Connection, manager or user are like this now."""
        if all(self.state.get(name) == value for name, value in state.items()):
            return
        self.state |= state
        for page in self._pages:
            page.state = True
            page.wake()

    # --- what was deleted while there was no connection

    @property
    def mark(self) -> int:
        """A moment, for `keep`."""
        return self._count

    def keep(self, oids: Collection[str], mark: int) -> None:
        """Forget objects that are not among these, and were not heard of since the mark."""
        for key, row in tuple(self.objects.items()):
            if self._heard[key] <= mark and row.get("oid") is not None and row["oid"] not in oids:
                self.put(key, None)

    # --- pages

    def open(self, wake: Callable[[], None]) -> Page:
        """A page that is opened: its first message has everything."""
        page = Page(wake)
        self._pages.add(page)
        return page

    def close(self, page: Page) -> None:
        """It is closed."""
        self._pages.discard(page)

    @property
    def open_pages(self) -> int:
        """How many there are."""
        return len(self._pages)

    def wake_all(self) -> None:
        """Have every page look."""
        for page in tuple(self._pages):
            page.wake()

    def take(self, page: Page) -> dict[str, Any] | None:
        """The next message for a page; None: nothing is new."""
        if page.reset:
            page.reset = False
            page.objects, page.usage, page.state = {}, {}, False
            page.events.clear()
            return {
                "reset": True,
                "state": self.state,
                "objects": self.objects,
                "usage": self.usage,
                "events": list(self.events),
            }
        found: dict[str, Any] = {}
        if page.state:
            found["state"], page.state = self.state, False
        for name in ("objects", "usage"):
            if changed := getattr(page, name):
                found[name] = changed
                setattr(page, name, {})
        if page.events:
            found["events"] = list(page.events)
            page.events.clear()
        return found or None
