"""Bounds of the tests scale with what the machine was measured at."""

from __future__ import annotations

import pytest

from tests import pace


def test_a_slow_machine_is_given_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(pace.KNOWN, "1.00")
    quick = pace.bound(2.0)
    assert quick == 2.0 * pace.MARGIN
    monkeypatch.setenv(pace.KNOWN, "4.00")
    assert pace.bound(2.0) == 4 * quick
    monkeypatch.setattr(pace, "measure", lambda: 7.0)
    assert pace.within(2.0) == 42.0


def test_it_is_measured_once_for_all_processes_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(pace.KNOWN)
    measured = iter([2.5])
    monkeypatch.setattr(pace, "measure", lambda: next(measured))
    assert pace.slowness() == pace.slowness() == 2.5


@pytest.mark.timeout(7)
def test_so_is_the_bound_of_each_test(request: pytest.FixtureRequest) -> None:
    (marker, own) = request.node.iter_markers("timeout")
    assert (marker.args, own.args) == ((pace.bound(7),), (7,))
