"""The table of figures is updated with what was measured, and keeps the rest."""

from __future__ import annotations

from tests.faults.figures import HEAD, table

LATE = {"late_beats": {"n": 100, "p50": 2.5, "p99": 3.02}}
HEALED = {"healed": {"n": 20, "p50": 4.1, "p99": 4.6}}


def test_a_row_that_was_not_measured_stays_with_its_date() -> None:
    first = table("", LATE, "2026-01-01")
    assert first[2:] == [
        "| a node is cut off → `late` | ≤ 3 | p50 2.5, p99 3.02 heartbeats | 100 | 2026-01-01 |"
        " `python -m tests.faults.soak --kills 0 --measure` |"
    ]
    both = table("\n".join(first), HEALED, "2026-02-02")
    assert both[: len(first)] == first
    assert both[-1].startswith("| a partition with a change in it heals → converged | p99 < 10 |")
    assert "worst 4.6 s | 20 | 2026-02-02 |" in both[-1], "20 runs have no 99th percentile"
    again = table("\n".join(both), LATE, "2026-03-03")
    assert (len(again), again[:2]) == (len(both), list(HEAD))
    assert again[2].endswith("| 2026-03-03 | `python -m tests.faults.soak --kills 0 --measure` |")
