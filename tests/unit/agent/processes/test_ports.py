"""Which port a worker gets, or the reason why it gets none."""

from __future__ import annotations

import pytest
from busbar.agent.processes.ports import NoPortError, PortRequest, choose_port
from hypothesis import given
from hypothesis import strategies as st


def every(_port: int) -> bool:
    return True


def none(_port: int) -> bool:
    return False


def test_fixed_port_serves_one_worker_unless_shared() -> None:
    assert choose_port(PortRequest(8080, 8080), (), every) == 8080
    with pytest.raises(NoPortError, match="port 8080 is held by another worker of this node"):
        choose_port(PortRequest(8080, 8080), {8080}, every)
    assert choose_port(PortRequest(8080, 8080, shared=True), {8080}, every) == 8080


def test_the_reason_names_a_port_used_by_another_program() -> None:
    with pytest.raises(NoPortError, match=r"port 80 on 0\.0\.0\.0 is in use by another program"):
        choose_port(PortRequest(80, 80, interface="0.0.0.0"), (), none)
    with pytest.raises(NoPortError, match="in use by another program"):
        choose_port(PortRequest(80, 80, shared=True), {80}, none)
    with pytest.raises(NoPortError, match=r"no free port in 10-12 on 127.0.0.1 \(2 held by this node"):
        choose_port(PortRequest(10, 12), {10, 11, 99}, none)


def test_the_last_port_is_kept_if_it_is_free() -> None:
    request = PortRequest(100, 103)
    assert choose_port(request, (), every, prefer=102) == 102
    assert choose_port(request, {102}, every, prefer=102) == 100
    assert choose_port(request, (), every, prefer=7) == 100


def test_the_offset_spreads_workers() -> None:
    assert [choose_port(PortRequest(100, 103), (), every, offset=each) for each in (0, 1, 5, 2**32)] == [
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
def test_a_chosen_port_is_requested_free_and_not_taken(
    low: int, size: int, taken: set[int], busy: set[int], offset: int, prefer: int | None
) -> None:
    request = PortRequest(low, low + size)
    good = {port for port in range(low, low + size + 1) if port not in taken | busy}
    try:
        port = choose_port(request, taken, lambda each: each not in busy, offset=offset, prefer=prefer)
    except NoPortError:
        assert not good
    else:
        assert port in good
        assert prefer not in good or port == prefer
