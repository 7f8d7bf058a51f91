"""The page of faults is up to date, and every row has a test or a reason."""

from __future__ import annotations

from tests.faults.catalogue import BAD_INPUT, INVARIANTS, NOT_PROVEN, ROWS
from tests.faults.page import PAGE, proofs, text


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == text(), "run python -m tests.faults.page --write"


def test_every_row_has_a_test_or_a_reason() -> None:
    found = proofs()
    assert not [number for number in ROWS if (number in found) == (number in NOT_PROVEN)]
    assert set(found) <= {*ROWS, BAD_INPUT}


def test_the_tests_check_the_invariants_that_must_hold() -> None:
    for number, tests in proofs().items():
        named = {letter for letters in tests.values() for letter in letters}
        assert named <= set(INVARIANTS), f"{number}: {named - set(INVARIANTS)}"
        if number in ROWS:
            assert set(ROWS[number].must.split()) <= named, (
                f"row {number} lacks a test of all of {ROWS[number].must}"
            )
