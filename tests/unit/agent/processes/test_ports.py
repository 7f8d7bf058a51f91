"""Which port a worker gets, or the reason why none."""

from __future__ import annotations

import pytest
from busbar.agent.processes.ports import NoPortError, PortWish, choose
from hypothesis import given
from hypothesis import strategies as st


def every(_port: int) -> bool:
    return True


def none(_port: int) -> bool:
    return False


def test_fixed_port_serves_one_worker_unless_shared() -> None:
    assert choose(PortWish(8080, 8080), (), every) == 8080
    with pytest.raises(NoPortError, match="port 8080 is held by another worker of this node"):
        choose(PortWish(8080, 8080), {8080}, every)
    assert choose(PortWish(8080, 8080, shared=True), {8080}, every) == 8080


def test_port_in_use_by_a_stranger_is_told() -> None:
    with pytest.raises(NoPortError, match=r"port 80 on 0\.0\.0\.0 is in use by another program"):
        choose(PortWish(80, 80, interface="0.0.0.0"), (), none)
    with pytest.raises(NoPortError, match="in use by another program"):
        choose(PortWish(80, 80, shared=True), {80}, none)
    with pytest.raises(NoPortError, match=r"no free port in 10-12 on 127.0.0.1 \(2 held by this node"):
        choose(PortWish(10, 12), {10, 11, 99}, none)


def test_last_port_is_kept_where_it_can_be() -> None:
    wish = PortWish(100, 103)
    assert choose(wish, (), every, prefer=102) == 102
    assert choose(wish, {102}, every, prefer=102) == 100
    assert choose(wish, (), every, prefer=7) == 100


def test_offset_spreads_workers() -> None:
    assert [choose(PortWish(100, 103), (), every, offset=each) for each in (0, 1, 5, 2**32)] == [
        100,
        101,
        101,
        100,
    ]


@given(
    st.integers(1, 60),
    st.integers(0, 20),
    st.sets(st.integers(1, 80)),
    st.sets(st.integers(1, 80)),
    st.integers(0, 2**64),
    st.none() | st.integers(0, 100),
)
def test_chosen_port_is_wanted_free_and_untaken(
    low: int, size: int, taken: set[int], busy: set[int], offset: int, prefer: int | None
) -> None:
    wish = PortWish(low, low + size)
    good = {port for port in range(low, low + size + 1) if port not in taken | busy}
    try:
        port = choose(wish, taken, lambda each: each not in busy, offset=offset, prefer=prefer)
    except NoPortError:
        assert not good
    else:
        assert port in good
        assert prefer not in good or port == prefer
