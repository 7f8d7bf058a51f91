"""The proof that the net which judges the schedules has no holes: it catches a bug for each invariant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.simulation.activity import VACUOUS
from tests.simulation.plants import PLANTS
from tests.simulation.slices import Runs, outcome

FIRST = {"A": 181, "H": 87, "L": 42, "M": 134, "O": 12}
"""Where the search for a planted bug begins, to save time: these take a rarer mishap to show."""
BOUND = {VACUOUS: 60}
"""Schedules within which it must be caught, if not `MOST`."""
MOST = 500


@pytest.mark.timeout(300)
@pytest.mark.parametrize("invariant", sorted(PLANTS))
def test_a_planted_bug_is_caught(runs: Runs, invariant: str) -> None:
    first = FIRST.get(invariant, 2)
    code, text = outcome(
        runs.start("--plant", invariant, "--count", BOUND.get(invariant, MOST), "--seed", first)
    )
    assert code == 0, f"not caught: {text}"
    assert f"{invariant}: " in text


def test_each_invariant_has_its_planted_bug() -> None:
    assert set(PLANTS) == {*"DABKOCMHLT", VACUOUS}


@pytest.mark.timeout(300)
def test_a_failure_tells_its_seed_and_a_shorter_timeline_that_fails_again(runs: Runs, tmp_path: Path) -> None:
    code, text = outcome(runs.start("--plant", "K", "--shorten", "--seed", 2))
    assert code == 0, text
    (again,) = [line for line in text.splitlines() if line.startswith("  again: ")]
    (kept,) = [line.partition("known.jsonl: ")[2] for line in text.splitlines() if "known.jsonl: " in line]
    short = json.loads(kept)
    whole, shortened = text.split("  shortened:")
    assert f"--seed {short['seed']} " in again
    assert whole.startswith(f"seed {short['seed']}: ")
    assert 0 < len(short["timeline"]) < sum(line.startswith("   ") for line in whole.splitlines())
    assert all(entry[1] in shortened for entry in short["timeline"])
    (tmp_path / "short.jsonl").write_text(kept)
    code, text = outcome(runs.start("--plant", "K", "--from", tmp_path / "short.jsonl"))
    assert code == 0, text
    code, text = outcome(runs.start("--from", tmp_path / "short.jsonl"))
    assert code == 0, f"it fails without the planted bug: {text}"
