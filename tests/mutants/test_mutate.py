"""The faults that are made: each is one, and none is left behind."""

from __future__ import annotations

import ast

import pytest

from tests.mutants.areas import AREAS, ROOT, equivalents
from tests.mutants.mutate import mutants, with_fault

SOURCE = '''"""Text."""
LIMIT = 3

def decide(a: int, b: int) -> bool:
    """Text: 3."""
    if a < LIMIT and not b:
        return True
    log.warning("said")
    note(f"{a + b}")
    return replace(a, x=1, y=b) is not None
'''


def test_each_small_fault_is_made_alone() -> None:
    made = {each.name for each in mutants(SOURCE)}
    assert made == {
        "3 -> 4",
        "if a < LIMIT and (not b) -> if True",
        "if a < LIMIT and (not b) -> if False",
        "a < LIMIT and (not b) -> a < LIMIT or not b",
        "a < LIMIT and (not b) -> a < LIMIT",
        "a < LIMIT and (not b) -> not b",
        "a < LIMIT -> a <= LIMIT",
        "a < LIMIT -> a >= LIMIT",
        "not b -> b",
        "return True -> return None",
        "True -> False",
        "note(f'{a + b}') -> pass",
        "return replace(a, x=1, y=b) is not None -> return None",
        "replace(a, x=1, y=b) is not None -> replace(a, x=1, y=b) is None",
        "replace(a, x=1, y=b) -> replace(a, y=b)",
        "replace(a, x=1, y=b) -> replace(a, x=1)",
        "1 -> 2",
    }
    plain = ast.unparse(ast.parse(SOURCE))
    for each in mutants(SOURCE):
        faulty = with_fault(SOURCE, each.number)
        assert sum(a != b for a, b in zip(plain.split("\n"), faulty.split("\n"), strict=True)) == 1


@pytest.mark.parametrize("file", AREAS)
def test_every_file_and_its_tests_exist(file: str) -> None:
    assert (ROOT / file).is_file() and all((ROOT / test).exists() for test in AREAS[file])


def test_what_is_listed_as_equivalent_is_of_a_file_that_is_tried() -> None:
    """Whether each is still made, `make mutants` says: the suite is not to fail for an edited line."""
    assert {file for file, _ in equivalents()} <= set(AREAS)
    assert all(" -> " in name for _, name in equivalents())
