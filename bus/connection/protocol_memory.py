"""Which MQTT version is tried at which broker: 5 first, and 3.1.1 where a broker does not have it."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Final

from ..clock import Clock
from ..options import ConnectOptions
from ..system.files import write_atomically

KEPT_NS: Final = 24 * 3600 * 10**9
"""How long it is known that a broker lacks MQTT 5: it may be replaced or updated."""


class ProtocolMemory:
    """One link's file: which brokers lack MQTT 5, so that the next start does not try it there first. It is a
    hint: what can't be read or written is ignored."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, int]:
        """Since when it is known, by URL: nanoseconds since the epoch."""
        try:
            known = json.loads(self._path.read_text(encoding="utf-8"))["lack_mqtt_5"]
            return {str(url): int(since) for url, since in known.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {}

    def write(self, known: dict[str, int]) -> None:
        """Replace what it holds."""
        with contextlib.suppress(OSError):
            if known:
                write_atomically(self._path, json.dumps({"lack_mqtt_5": known}), durable=False)
            else:
                self._path.unlink(missing_ok=True)


class ProtocolChoice:
    """Of one link, for each of its brokers."""

    def __init__(self, options: ConnectOptions, clock: Clock, memory: ProtocolMemory | None = None) -> None:
        self._may_fall_back = options.falls_back and options.protocol == 5
        self._clock = clock
        self._memory = memory if self._may_fall_back else None
        urls = {broker.url for broker in options.brokers}
        read = self._memory.read() if self._memory else {}
        self._known = {url: since for url, since in read.items() if url in urls}
        self._suspected: set[str] = set()

    def tries_3_1_1(self, url: str) -> bool:
        """Whether the next attempt at this broker is one of MQTT 3.1.1, though 5 would be preferred."""
        return url in self._suspected or self._lacks_v5(url)

    def _lacks_v5(self, url: str) -> bool:
        since = self._known.get(url)
        return since is not None and 0 <= self._clock.time_ns() - since < KEPT_NS

    def failed(self, url: str, *, refused: bool) -> bool:
        """An attempt was not accepted; True: the same broker is to be tried with 3.1.1, at once.

        `refused`: it may have ended as with a broker without MQTT 5. One that has not answered is tried with
        3.1.1 when it is its turn again: it may hang, and the next one not.
        """
        if not self._may_fall_back:
            return False
        if self.tries_3_1_1(url):
            self._suspected.discard(url)
            return False
        self._suspected.add(url)
        return refused

    def accepted(self, url: str) -> None:
        """The broker has accepted; the first time in a day counts, so that MQTT 5 is tried once a day."""
        if not self._may_fall_back:
            return
        before = dict(self._known)
        if not self.tries_3_1_1(url):
            self._known.pop(url, None)
        elif not self._lacks_v5(url):
            self._known[url] = self._clock.time_ns()
        self._suspected.discard(url)
        if self._memory is not None and self._known != before:
            self._memory.write(self._known)
