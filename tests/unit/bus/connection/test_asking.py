"""Subscriptions that a broker refuses without a reason."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import cast

import pytest
from busbar.bus.connection.asking import ASK_S, MAX_PAUSE_S, Asking
from busbar.bus.connection.mqtt_connection import MqttConnection
from busbar.bus.errors import BusOfflineError, MissingRightError, UnexplainedRefusalError
from busbar.bus.testing import FakeClock


class Connection:
    """Refuses so many times what is asked for."""

    def __init__(self, refused: dict[str, int]) -> None:
        self.left = dict(refused)
        self.asked: list[list[str]] = []

    def subscribe(self, wanted: Iterable[tuple[str, int]]) -> asyncio.Future[None]:
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.asked.append([pattern for pattern, _ in wanted])
        refused = [pattern for pattern in self.asked[-1] if self.left.get(pattern, 0) > 0]
        for pattern in refused:
            self.left[pattern] -= 1
        if refused:
            answer.set_exception(UnexplainedRefusalError(refused))
        else:
            answer.set_result(None)
        return answer


class Asked:
    def __init__(self, unwanted: Iterable[str] = ()) -> None:
        self.clock, self.said = FakeClock(), list[str]()
        wants = lambda pattern: pattern not in unwanted  # noqa: E731
        self.asking = Asking(self.clock, "n1", wants, lambda error: self.said.append(str(error)))

    async def on(self, connection: Connection, *patterns: str) -> None:
        wanted = [(pattern, 1) for pattern in patterns]
        settling = asyncio.create_task(self.asking.settle(cast(MqttConnection, connection), wanted))
        await self.clock.advance(ASK_S + 2 * MAX_PAUSE_S)
        assert settling.done()
        settling.result()


async def test_what_is_refused_is_asked_for_again_and_nothing_else() -> None:
    here, broker = Asked(), Connection({"b": 2})
    await here.on(broker, "a", "b", "c")
    assert broker.asked == [["a", "b", "c"], ["b"], ["b"]]
    (said,) = here.said
    assert "can't do it at present" in said and "'n1' has no right to read b: " in said


async def test_what_is_refused_for_long_is_a_right_that_is_probably_missing_at_the_third_connection() -> None:
    here, told = Asked(), []
    for _ in range(3):
        with pytest.raises(MissingRightError) as found:
            await here.on(Connection({"b": 99}), "a", "b")
        told.append(str(found.value))
    assert ["at present" in text for text in told] == [True, True, False]
    assert "probably has no right to read b: " in told[2]
    await here.on(Connection({}), "b")
    with pytest.raises(MissingRightError, match="at present"):
        await here.on(Connection({"b": 99}), "b")


async def test_what_is_no_longer_wanted_is_not_asked_for_again() -> None:
    here, broker = Asked(unwanted="b"), Connection({"b": 99})
    await here.on(broker, "a", "b")
    assert broker.asked == [["a", "b"]]


async def test_a_connection_that_is_lost_meanwhile_ends_it() -> None:
    here = Asked()
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    answer.set_exception(BusOfflineError("lost"))
    with pytest.raises(BusOfflineError, match="lost"):
        await here.asking.settle(cast(MqttConnection, Connection({})), [("a", 1)], answer)
