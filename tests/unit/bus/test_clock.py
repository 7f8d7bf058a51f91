"""Times as text."""

from __future__ import annotations

from datetime import UTC, datetime

from busbar.bus.clock import rfc3339
from hypothesis import given
from hypothesis import strategies as st

YEAR_2200_NS = 7_258_118_400 * 10**9


def test_milliseconds_are_cut_off_not_rounded() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(1_700_000_000_999_999_999) == "2023-11-14T22:13:20.999Z"


@given(st.integers(0, YEAR_2200_NS))
def test_any_moment_reads_back_to_the_millisecond(time_ns: int) -> None:
    text = rfc3339(time_ns)
    assert text.endswith("Z") and len(text) == len("1970-01-01T00:00:00.000Z")
    back = datetime.fromisoformat(text)
    assert back.tzinfo == UTC
    assert round(back.timestamp() * 1000) == time_ns // 1_000_000
