"""Which state of a manager ends this one, which is another store's, and which is our own overwritten."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest
from busbar.bus.connection.link import Message
from busbar.bus.testing import FakeClock
from busbar.bus.topics import Topics
from busbar.manager.leader.fencing import LOCK_POLL_S, MAX_OTHERS, MAX_STATE, Fence, Lock

TOPICS = Topics("lab")
OWN, OTHER = TOPICS.manager_state("m1"), TOPICS.manager_state("m2")


def fence(started: str | None = "now") -> Fence:
    return Fence(TOPICS, "m1", "s1", 7, started)


def state(fence: Fence, topic: str = OTHER, **more: Any) -> Fence:
    """Have it hear a state; of our store and epoch, unless told otherwise."""
    facts = {"state": "online", "manager": "m2", "store": "s1", "epoch": 7, "started": "now"}
    fence.handle(Message(topic, msgspec.json.encode({**facts, **more}), True, 1))
    return fence


def quiet(fence: Fence) -> bool:
    return not (fence.raised.is_set() or fence.own_state_overwritten or fence.others or fence.other)


@pytest.mark.parametrize("topic", [OWN, OTHER])
@pytest.mark.parametrize("more", [{"epoch": 8}, {"epoch": 8, "state": "offline"}, {"started": "before"}])
def test_a_higher_epoch_and_a_twin_fence_it(topic: str, more: dict[str, Any]) -> None:
    heard = state(fence(), topic, **more)
    assert heard.raised.is_set()
    assert f"--epoch {more.get('epoch', 7)}" in heard.reason and "manager 'm2'" in heard.reason
    assert heard.others == {} and heard.other is None


def test_the_first_reason_stays() -> None:
    heard = state(state(fence(), epoch=8), epoch=9)
    assert "--epoch 8" in heard.reason


@pytest.mark.parametrize(
    "more", [{}, {"epoch": 6}, {"epoch": 6, "started": "before"}, {"epoch": 6, "state": "offline"}]
)
def test_our_own_state_and_that_of_an_earlier_epoch_are_nothing(more: dict[str, Any]) -> None:
    assert quiet(state(fence(), OTHER, **more))
    if "state" not in more:
        assert quiet(state(fence(), OWN, **more))


def test_nobody_is_a_twin_where_starts_are_not_known() -> None:
    assert quiet(state(fence(None), started="before"))
    heard = fence()
    heard.handle(
        Message(OTHER, b'{"state":"online","manager":"m2","store":"s1","epoch":7}', True, 1)
    )  # an older version does not say when it started
    assert quiet(heard)


@pytest.mark.parametrize("payload", [b"", b"{", b'{"state":"online"}', b" " * (MAX_STATE + 1)])
@pytest.mark.parametrize("topic", [OWN, OTHER])
def test_a_state_that_is_gone_or_unreadable_is_restored_where_it_is_ours(topic: str, payload: bytes) -> None:
    heard = fence()
    heard.handle(Message(topic, payload, True, 1))
    assert heard.own_state_overwritten == (topic == OWN)
    heard.own_state_overwritten = True
    heard.handle(Message(OTHER, payload, True, 1))
    assert heard.own_state_overwritten, "what is to be restored stays so"


def test_the_will_of_an_earlier_connection_overwrites_our_state() -> None:
    assert state(fence(), OWN, state="offline").own_state_overwritten
    assert state(fence(), OWN, state="offline", epoch=6).own_state_overwritten
    assert not state(fence(), OTHER, state="offline").own_state_overwritten


def test_managers_of_other_stores_are_a_condition_while_they_are_online() -> None:
    heard = state(fence(), store="s2", epoch=99)
    assert not heard.raised.is_set(), "its epochs are of another store"
    assert heard.other == "manager 'm2' with another store (s2) is online in this realm"
    state(heard, store="s3", manager="m3")
    assert (heard.other or "").count("; ") == 1
    state(state(heard, store="s2", state="offline"), store="s3", state="offline")
    assert heard.other is None and set(heard.others) == {"s2", "s3"}
    assert not heard.own_state_overwritten


def test_one_of_another_store_that_starts_is_not_held_against_it() -> None:
    assert quiet(state(fence(), store="s2", state="starting"))


def test_the_will_of_another_store_on_our_topic_is_overwritten() -> None:
    assert state(fence(), OWN, store="s2", state="offline").own_state_overwritten
    assert not state(fence(), OTHER, store="s2", state="offline").own_state_overwritten
    assert not state(fence(), OWN, store="s2").own_state_overwritten, (
        "two would overwrite each other for ever"
    )


def test_what_is_remembered_of_others_is_bounded() -> None:
    heard = fence()
    for number in range(MAX_OTHERS + 5):
        state(heard, store=f"other-{number}")
    assert len(heard.others) == MAX_OTHERS
    state(heard, store="other-0", state="offline")
    assert heard.others["other-0"].state == "offline", "of those that are remembered it is kept"


# --- the lock


async def test_a_standby_takes_over_when_the_lock_is_free(tmp_path: Path) -> None:
    path, clock = tmp_path / "deep" / "manager" / "lock", FakeClock()
    active, standby = Lock(path), Lock(path)
    assert active.take() is True
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert standby.take() is False
    waiting = asyncio.create_task(standby.wait(clock))
    await clock.advance(1.0)
    assert not waiting.done()
    active.release()
    await clock.advance(LOCK_POLL_S)
    assert waiting.done() and LOCK_POLL_S == 0.25
    assert active.take() is False
    standby.release()
    await active.wait(clock)
    active.release()
