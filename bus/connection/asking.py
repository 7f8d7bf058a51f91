"""Asks for subscriptions, and again for those that a broker refuses without a reason.

With MQTT 3.1.1 a cluster that elects a leader refuses what it can't do before it has one, just as what a user
may not. To connect again instead gives the cluster more to do, and all may be refused again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from ..clock import Clock
from ..errors import BusOfflineError, MissingRightError, UnexplainedRefusalError
from .mqtt_connection import MqttConnection

Wanted = list[tuple[str, int]]
"""Filters with their QoS."""
ANSWER_S: Final = 15.0
"""Seconds until what was asked for must be confirmed or refused (brokers are slow in a stampede)."""
ASK_S: Final = 10.0
"""Seconds for which one connection is asked again; then the next broker is."""
PAUSE_S: Final = 0.25
"""Before the second time; doubled up to `MAX_PAUSE_S`."""
MAX_PAUSE_S: Final = 2.0


class Asking:
    """Of one link. `wants`: whether a filter is wanted still; `say` is told of the first refusal."""

    def __init__(
        self,
        clock: Clock,
        user: str | None,
        wants: Callable[[str], bool],
        say: Callable[[MissingRightError], None],
    ) -> None:
        self._clock, self._user, self._wants, self._say = clock, user, wants, say
        self._given_up: dict[str, int] = {}
        """Filters, and how many connections in a row have been given up for them."""

    async def settle(
        self, connection: MqttConnection, wanted: Wanted, answer: asyncio.Future[None] | None = None
    ) -> None:
        """Until all are granted that are wanted. `answer`: to what was asked for already.

        Raises:
            MissingRightError: one was refused; the connection stands.
            BusOfflineError: the connection is broken, or the broker does not answer.
        """
        until, pause = self._clock.monotonic() + ASK_S, PAUSE_S
        while wanted:
            refused = await self._refused(answer or connection.subscribe(wanted))
            for pattern, _ in wanted:
                if pattern not in refused:
                    self._given_up.pop(pattern, None)
            wanted = [(pattern, qos) for pattern, qos in wanted if pattern in refused]
            if not wanted:
                return
            first = wanted[0][0]
            if self._clock.monotonic() >= until:
                self._given_up[first] = self._given_up.get(first, 0) + 1
                raise self._error(first)
            if pause == PAUSE_S:
                self._say(self._error(first))
            await self._clock.sleep(pause)
            answer, pause = None, min(MAX_PAUSE_S, 2 * pause)
            wanted = [(pattern, qos) for pattern, qos in wanted if self._wants(pattern)]

    async def _refused(self, answer: asyncio.Future[None]) -> Sequence[str]:
        try:
            async with asyncio.timeout(ANSWER_S):
                await answer
        except TimeoutError:
            raise BusOfflineError("the broker does not confirm subscriptions") from None
        except UnexplainedRefusalError as error:
            return error.filters
        return ()

    def _error(self, pattern: str) -> MissingRightError:
        times = self._given_up.get(pattern, 0)
        return MissingRightError(self._user, "read", pattern, certain=False, times=times)
