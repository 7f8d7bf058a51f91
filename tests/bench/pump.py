"""Sends requests with a fixed number in flight and times each; as lean as can be, for manager and echo alike.

The request's id is the first member of request and reply, so that it is found without parsing.
"""

from __future__ import annotations

import asyncio
import secrets
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from busbar.bus.connection.link import Link, Message
from busbar.bus.topics import Topics

from tests.bench.setting import USER

INBOX = "pump"
HEAD = len('{"id":"')
ID = 14
BURST_S = 120.0

Make = Callable[[str, int], tuple[str, bytes]]
"""From a request's id and number to its operation and its payload."""


@dataclass
class Burst:
    """What one burst took. Latencies are seconds."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    failed: int = 0

    @property
    def rate(self) -> float:
        """Replies per second."""
        return len(self.latencies) / self.seconds

    @property
    def p50_ms(self) -> float:
        return statistics.median(self.latencies) * 1000

    @property
    def p99_ms(self) -> float:
        return sorted(self.latencies)[int(len(self.latencies) * 0.99)] * 1000


def request(params: str) -> Callable[[str], bytes]:
    """A request with these parameters (JSON), as a function of its id."""
    return lambda request_id: f'{{"id":"{request_id}","reply":"{INBOX}","params":{params}}}'.encode()


class Pump:
    """One caller. Make it before its link runs."""

    def __init__(self, link: Link, topics: Topics) -> None:
        self._link = link
        self._topics = topics
        self._prefix = secrets.token_hex(3)
        self._count = 0
        self._began: dict[bytes, float] = {}
        self._left = 0
        self._open = 0
        self._make: Make = lambda request_id, number: ("", b"")
        self._must_be_ok = True
        self._burst = Burst()
        self._done = asyncio.Event()
        link.subscribe(topics.response(USER, INBOX), self._on_reply)

    async def run(self, total: int, in_flight: int, make: Make, *, must_be_ok: bool = True) -> Burst:
        """Send `total` requests, never more than `in_flight` unanswered.

        Raises:
            RuntimeError: not everything was answered in time, or not every answer was good.
        """
        self._burst, self._make, self._must_be_ok = Burst(), make, must_be_ok
        self._left, self._open = total, total
        self._done.clear()
        began = time.perf_counter()
        for _ in range(min(in_flight, total)):
            self._send()
        try:
            async with asyncio.timeout(BURST_S):
                await self._done.wait()
        except TimeoutError:
            raise RuntimeError(f"{self._open} of {total} requests were not answered") from None
        self._burst.seconds = time.perf_counter() - began
        if self._burst.failed:
            raise RuntimeError(f"{self._burst.failed} of {total} requests failed")
        return self._burst

    def _send(self) -> None:
        self._left -= 1
        self._count += 1
        request_id = f"{self._prefix}{self._count:08d}"
        op, payload = self._make(request_id, self._count)
        self._began[request_id.encode()] = time.perf_counter()
        if not self._link.post(self._topics.request(USER, op), payload):
            raise RuntimeError("the link took no more")

    def _on_reply(self, message: Message) -> None:
        began = self._began.pop(message.payload[HEAD : HEAD + ID], None)
        if began is None:
            return
        self._burst.latencies.append(time.perf_counter() - began)
        if self._must_be_ok and b'"ok":true' not in message.payload[:160]:
            self._burst.failed += 1
        self._open -= 1
        if self._left > 0:
            self._send()
        elif self._open == 0:
            self._done.set()
