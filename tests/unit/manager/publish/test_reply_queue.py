"""Replies to a caller who asks for more than the broker takes hold up nobody else's."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from busbar.bus.connection.link import NO_PROPERTIES, Done, Properties
from busbar.bus.errors import BusOfflineError
from busbar.bus.testing import FakeClock
from busbar.bus.topics import Topics
from busbar.manager.publish import reply_queue
from busbar.manager.publish.publisher import Publisher
from busbar.manager.publish.reply_queue import (
    MOST,
    WINDOW,
    WINDOW_BYTES,
    Reply,
    ReplyQueueFullError,
    ReplyQueues,
)
from hypothesis import given
from hypothesis import strategies as st

CALLERS = ("alice", "vic")


def reply(number: int, size: int = 1) -> Reply:
    return Reply(f"reply/{number}", b"x" * size, NO_PROPERTIES)


@given(st.data())
def test_replies_keep_their_caller_s_order_within_the_window(data: st.DataObject) -> None:
    """Those that were not refused are all sent, and a caller with none leaves nothing behind."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("WINDOW", 3), ("WINDOW_BYTES", 8), ("MOST", 4), ("MOST_BYTES", 12)):
            patch.setattr(reply_queue, name, value)
        queues = ReplyQueues()
        accepted: dict[str, list[Reply]] = {caller: [] for caller in CALLERS}
        sent: dict[str, list[Reply]] = {caller: [] for caller in CALLERS}
        acknowledged = Counter[str]()

        def acknowledge(caller: str) -> None:
            size = len(sent[caller][acknowledged[caller]].payload)
            acknowledged[caller] += 1
            sent[caller] += queues.done(caller, size)

        steps = st.tuples(st.sampled_from(CALLERS), st.integers(0, 10) | st.none())
        for number, (caller, size) in enumerate(data.draw(st.lists(steps, max_size=40))):
            in_flight = sent[caller][acknowledged[caller] :]
            if size is None:
                if in_flight:
                    acknowledge(caller)
                continue
            one = reply(number, size)
            waiting = accepted[caller][len(sent[caller]) :]
            full = len(in_flight) >= 3 or sum(len(each.payload) for each in in_flight) >= 8
            try:
                now = queues.add(caller, one)
            except ReplyQueueFullError:
                assert full and (len(waiting) == 4 or sum(len(each.payload) for each in waiting) + size > 12)
                continue
            accepted[caller].append(one)
            assert (now is None) == full
            if now is not None:
                sent[caller].append(now)
        for caller in CALLERS:
            while acknowledged[caller] < len(sent[caller]):
                acknowledge(caller)
        assert sent == accepted
        assert len(queues) == 0


@dataclass
class HeldLink:
    """A connection whose broker acknowledges when the test says so."""

    connected: bool = True
    conn: int = 1
    sent: list[str] = field(default_factory=list)
    held: list[Done] = field(default_factory=list)

    def send(self, topic: str, payload: bytes, done: Done, *, properties: Properties) -> None:
        self.sent.append(topic)
        self.held.append(done)

    def acknowledge(self) -> None:
        held, self.held = self.held, []
        for done in held:
            done(None)


def test_small_replies_go_together_once_a_large_one_is_acknowledged_and_none_overtakes_them() -> None:
    queues = ReplyQueues()
    large, small = reply(0, WINDOW_BYTES), [reply(number) for number in range(1, WINDOW + 3)]
    assert queues.add("alice", large) == large
    assert [queues.add("alice", each) for each in small] == [None] * len(small)
    assert queues.done("alice", WINDOW_BYTES) == small[:WINDOW]
    assert queues.add("alice", reply(99)) is None


def published_on(link: Any) -> Publisher:
    store: Any = SimpleNamespace(topics=Topics("busbar", "lab"), on_commit=lambda _: None)
    builder: Any = None
    return Publisher(store, link, builder, FakeClock())


@pytest.mark.fault(83, "S")
def test_another_caller_s_reply_goes_past_those_that_wait(caplog: pytest.LogCaptureFixture) -> None:
    link = HeldLink()
    publisher = published_on(link)
    with caplog.at_level(logging.WARNING):
        for number in range(WINDOW + MOST + 10):
            publisher.reply("vic", f"vic/{number}", b"x", NO_PROPERTIES)
        publisher.reply("alice", "alice/0", b"x", NO_PROPERTIES)
    assert link.sent == [*(f"vic/{number}" for number in range(WINDOW)), "alice/0"]
    assert [each.message for each in caplog.records] == [
        "replies to 'vic' are dropped: it asks for more than the broker takes"
    ]
    while link.held:
        link.acknowledge()
    assert link.sent[WINDOW + 1 :] == [f"vic/{number}" for number in range(WINDOW, WINDOW + MOST)]


def test_what_waited_at_the_end_of_a_connection_is_not_sent_on_the_next() -> None:
    """The caller asks again; what is acknowledged late counts for the connection that has ended."""
    link = HeldLink()
    publisher = published_on(link)
    for number in range(2 * WINDOW):
        publisher.reply("vic", f"vic/{number}", b"x", NO_PROPERTIES)
    link.connected = False
    publisher.reply("vic", "lost", b"x", NO_PROPERTIES)
    link.connected, link.conn = True, 2
    late, link.held = link.held, []
    publisher.reply("vic", "new/0", b"x", NO_PROPERTIES)
    for done in late:
        done(BusOfflineError("broken"))
    for number in range(1, WINDOW + 1):
        publisher.reply("vic", f"new/{number}", b"x", NO_PROPERTIES)
    assert link.sent[WINDOW:] == [f"new/{number}" for number in range(WINDOW)]


def test_a_fenced_manager_sends_none_of_those_that_wait() -> None:
    link = HeldLink()
    publisher = published_on(link)
    for number in range(2 * WINDOW):
        publisher.reply("vic", f"vic/{number}", b"x", NO_PROPERTIES)
    publisher.stop()
    link.acknowledge()
    assert len(link.sent) == WINDOW
