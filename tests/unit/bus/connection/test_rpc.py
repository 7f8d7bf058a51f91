"""Calls over a link that misbehaves: every retry waits, the deadline is kept, the first answer counts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from busbar.bus.connection.link import NO_PROPERTIES, ConnectHook, Done, Handler, Message, Properties
from busbar.bus.connection.rpc import Caller
from busbar.bus.decode import MAX_PAYLOAD
from busbar.bus.errors import BusError, BusOfflineError, CallTimeoutError
from busbar.bus.topics import Topics
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.virtual import VirtualClock, VirtualLoop, run_virtually

TOPICS = Topics("lab")
AT_ONCE = 20
"""Steps of one call at one instant: beyond it the event loop is not given back."""
PER_SECOND = 40
"""Publications of one call within a second."""


class ScriptedLink:
    """A link whose next publications go as the script says; `behave` gets the number of the attempt."""

    def __init__(self, loop: VirtualLoop, behave: Callable[[int, ScriptedLink], Any]) -> None:
        self.loop = loop
        self.behave = behave
        self.up = asyncio.Event()
        self.up.set()
        self.published: list[float] = []
        self.handler: Handler | None = None
        self._instant = (0.0, 0)

    @property
    def connected(self) -> bool:
        return self.up.is_set()

    @property
    def conn(self) -> int:
        return 1

    def _step(self) -> None:
        at, steps = self._instant
        self._instant = (self.loop.now, steps + 1 if at == self.loop.now else 1)
        assert self._instant[1] <= AT_ONCE, "the call spins: no time passes between its attempts"

    def subscribe(self, pattern: str, handler: Handler, qos: int = 1) -> None:
        self.handler = handler

    def unsubscribe(self, pattern: str) -> None: ...

    def on_connect(self, hook: ConnectHook) -> None: ...

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        properties: Properties = NO_PROPERTIES,
    ) -> None:
        self._step()
        self.published.append(self.loop.now)
        await self.behave(len(self.published), self)

    def send(self, topic: str, payload: bytes, done: Done, **_: Any) -> None: ...

    def post(self, topic: str, payload: bytes, **_: Any) -> bool:
        return False

    async def wait_connected(self, timeout: float) -> None:
        self._step()
        try:
            async with asyncio.timeout(timeout):
                await self.up.wait()
        except TimeoutError:
            raise BusOfflineError("no connection") from None

    def reconnect(self, reason: str) -> None: ...

    async def run(self) -> None: ...

    # --- what the script may do

    def reply(self, delay: float, **members: Any) -> None:
        """Have a reply come in after so many seconds."""
        payload = json.dumps({"id": "r1", "op": "list_nodes", **members}).encode()
        assert self.handler is not None
        self.loop.call_later(delay, self.handler, Message(TOPICS.response("alice", "box"), payload))

    def down(self, seconds: float) -> None:
        """Lose the connection for so many seconds."""
        self.up.clear()
        self.loop.call_later(seconds, self.up.set)


def call(
    behave: Callable[[int, ScriptedLink], Any],
    timeout: float = 10.0,
    seed: int = 1,
    params: dict[str, Any] | None = None,
) -> Any:
    """One call in virtual time: its result or error, its link, the seconds it took."""
    loop = VirtualLoop()

    async def whole() -> tuple[Any, ScriptedLink, float]:
        link = ScriptedLink(loop, behave)
        clock = VirtualClock(loop)
        caller = Caller(link, TOPICS, "alice", "box", clock, lambda: "r1", Random(seed))
        began = loop.now
        try:
            result = await caller.call("list_nodes", params, timeout=timeout)
        except (BusError, BusOfflineError, CallTimeoutError) as error:
            result = error
        return result, link, loop.now - began

    return run_virtually(whole(), loop)


async def answers_at_once(_: int, link: ScriptedLink) -> None:
    link.reply(0.0, ok=True, result=[])


async def refuses(_: int, link: ScriptedLink) -> None:
    raise BusOfflineError("20000 publications wait for their acknowledgement")


def test_a_request_that_no_manager_takes_is_refused_at_once() -> None:
    for size, sent in ((MAX_PAYLOAD - 200, 1), (MAX_PAYLOAD, 0)):
        result, link, took = call(answers_at_once, params={"text": "x" * size})
        assert len(link.published) == sent and took < 0.1
    assert isinstance(result, BusError) and result.code == "payload_too_large"


def test_a_publication_that_is_refused_at_once_is_retried_with_a_growing_pause() -> None:
    result, link, took = call(refuses)
    assert isinstance(result, BusOfflineError) and "20000" in str(result), "nothing was ever sent"
    assert took == pytest.approx(10.0)
    pauses = [after - before for before, after in zip(link.published, link.published[1:], strict=False)]
    assert len(pauses) < 30 and min(pauses) > 0.02 and max(pauses) > 0.4


def test_a_connection_that_is_lost_with_the_publication_ends_with_what_the_link_knows() -> None:
    """It looks at the loss as a whole; what fails with it has the bare fact alone."""

    async def hangs_up(_: int, link: ScriptedLink) -> None:
        link.down(60.0)
        raise BusOfflineError("connection lost")

    result, link, _ = call(hangs_up, timeout=0.01)  # it ends in the pause before the next attempt
    assert isinstance(result, BusOfflineError) and str(result) == "no connection"
    assert len(link.published) == 1


def test_what_the_broker_never_acknowledges_ends_with_the_deadline() -> None:
    async def hangs(_: int, link: ScriptedLink) -> None:
        await asyncio.get_running_loop().create_future()

    result, _, took = call(hangs, timeout=3.0)
    assert isinstance(result, CallTimeoutError) and result.request_id == "r1"
    assert took == pytest.approx(3.0)


def test_an_answer_that_comes_while_it_pauses_after_a_refusal_is_taken() -> None:
    async def late(number: int, link: ScriptedLink) -> None:
        if number == 1:
            link.reply(2.1, ok=True, result=["n1"])
        else:
            await refuses(number, link)

    result, _, took = call(late)
    assert result == ["n1"] and took == pytest.approx(2.1)


def test_an_answer_that_comes_while_it_pauses_for_a_busy_manager_is_taken() -> None:
    async def late(number: int, link: ScriptedLink) -> None:
        if number == 1:
            link.reply(0.1, ok=False, error={"code": "busy", "retry_after_ms": 5000})
            link.reply(0.2, ok=True, result=[])

    result, link, took = call(late)
    assert (result, len(link.published)) == ([], 1) and took == pytest.approx(0.2)


def test_an_answer_that_comes_behind_a_busy_while_a_publication_hangs_is_taken() -> None:
    async def late(number: int, link: ScriptedLink) -> None:
        if number == 1:
            link.reply(2.5, ok=False, error={"code": "busy", "retry_after_ms": 10})
            link.reply(2.7, ok=True, result=["n1"])
        else:
            await asyncio.sleep(2.5)

    result, *_ = call(late)
    assert result == ["n1"]


@pytest.mark.parametrize("retry_after", [0, None, -1, "soon", 1.5, True])
def test_a_busy_manager_is_asked_again_with_pauses_whatever_it_says(retry_after: Any) -> None:
    async def busy(_: int, link: ScriptedLink) -> None:
        link.reply(0.0, ok=False, error={"code": "busy", "retry_after_ms": retry_after})

    result, link, took = call(busy)
    assert isinstance(result, BusError) and result.code == "busy"
    assert 5.0 < took <= 10.0 and len(link.published) < 40


@pytest.mark.parametrize("reply", [{}, {"error": 7}, {"error": {"errors": 7}}, {"error": {"errors": [1]}}])
def test_a_refusal_without_a_proper_error_is_an_internal_one(reply: dict[str, Any]) -> None:
    async def odd(_: int, link: ScriptedLink) -> None:
        link.reply(0.0, ok=False, **reply)

    result, *_ = call(odd)
    assert isinstance(result, BusError) and result.code == "internal"


DELAY = st.sampled_from([0.0, 0.001, 0.05, 0.5, 1.9, 2.5, 6.0])
STEP = st.one_of(
    st.tuples(st.just("refused")),
    st.tuples(st.just("hangs"), DELAY),
    st.tuples(st.just("flips"), st.sampled_from([0.0, 0.001, 0.3, 4.0])),
    st.tuples(st.just("silent")),
    st.tuples(st.just("busy"), DELAY, st.sampled_from([None, 0, -3, 1, 80, 700, 10**9, "x"])),
    st.tuples(st.just("answer"), DELAY),
    st.tuples(st.just("error"), DELAY),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(STEP, min_size=1, max_size=6), st.sampled_from([0.05, 1.0, 5.0, 10.0]), st.integers(0, 99))
def test_no_schedule_makes_a_call_spin_or_miss_its_deadline(
    script: list[tuple[Any, ...]], timeout: float, seed: int
) -> None:
    answers: list[float] = []

    async def behave(number: int, link: ScriptedLink) -> None:
        what, *more = script[(number - 1) % len(script)]
        if what == "refused":
            raise BusOfflineError("refused")
        if what == "flips":
            link.down(more[0])
            raise BusOfflineError("lost")
        if what == "hangs":
            await asyncio.sleep(more[0])
            raise BusOfflineError("lost before the acknowledgement")
        if what == "busy":
            link.reply(more[0], ok=False, error={"code": "busy", "retry_after_ms": more[1]})
        if what == "error":
            answers.append(link.loop.now + more[0])
            link.reply(more[0], ok=False, error={"code": "no_such_object"})
        if what == "answer":
            answers.append(link.loop.now + more[0])
            link.reply(more[0], ok=True, result="found")

    result, link, took = call(behave, timeout, seed)
    assert took <= timeout + 0.001
    times = link.published
    crowded = [at for at in times if sum(at <= other < at + 1.0 for other in times) > PER_SECOND]
    assert not crowded
    if result == "found" or (isinstance(result, BusError) and result.code == "no_such_object"):
        assert answers, "an answer that nobody gave"
    elif isinstance(result, CallTimeoutError | BusOfflineError):
        assert took >= timeout - 0.001
        assert not [at for at in answers if at < times[0] + timeout - 0.01], "an answer was missed"
    else:
        assert result.code == "busy"
