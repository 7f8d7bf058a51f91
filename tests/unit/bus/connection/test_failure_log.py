"""Which failed connections are logged: each change of the reason, and the present one at a falling rate."""

from __future__ import annotations

from busbar.bus.connection.failure_log import CHANGES, MAX_REPEAT_S, REPEAT_S, FailureLog
from hypothesis import given
from hypothesis import strategies as st

URL = "mqtts://b:8883"


def test_each_change_is_logged_and_the_present_reason_again() -> None:
    failures = FailureLog()
    assert failures.failed(URL, "connection refused", 0) == f"no connection to {URL}: connection refused"
    assert [failures.failed(URL, "connection refused", now) for now in (0.2, 5.0, 59.0)] == [None] * 3
    assert failures.failed(URL, "not authorised", 59.5) == f"no connection to {URL}: not authorised"
    assert failures.failed(URL, "not authorised", 64.0) is None
    again = failures.failed(URL, "not authorised", 120.0)
    assert again == f"still no connection to {URL} (120 s, 7 attempts): not authorised"
    assert failures.failed(URL, "not authorised", 239.0) is None
    assert failures.failed(URL, "not authorised", 240.0) is not None
    assert failures.failed(URL, "connection refused", 241.0) is not None
    failures.connected(URL)
    assert failures.failed(URL, "connection refused", 242.0) == f"no connection to {URL}: connection refused"


def test_brokers_of_a_list_are_told_apart() -> None:
    failures = FailureLog()
    lines = [failures.failed(url, url, now) for now in (0.0, 1.0) for url in ("mqtt://a", "mqtt://b")]
    assert [line is not None for line in lines] == [True, True, False, False]


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=400), st.floats(0.1, 10.0))
def test_the_log_is_bounded_and_ends_with_the_reason_that_lasts(reasons: list[str], pause: float) -> None:
    failures = FailureLog()
    lines = [failures.failed(URL, why, at * pause) for at, why in enumerate(reasons)]
    minutes = len(reasons) * pause / REPEAT_S + 1
    assert sum(line is not None for line in lines) <= 1 + minutes * (CHANGES + 1)
    now, last = len(reasons) * pause, ""
    for _ in range(int(2 * MAX_REPEAT_S / 5)):  # the backoff's cap
        now += 5.0
        last = failures.failed(URL, "z", now) or last
    assert last.endswith(": z")
    assert failures.failed(URL, "z", now + MAX_REPEAT_S) is not None
