"""Writes docs/reference/faults.md from the catalogue and the markers on the tests.

python -m tests.faults.page            exits 1 when the page differs
python -m tests.faults.page --write    writes it
"""

from __future__ import annotations

import ast
import gc
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.faults.catalogue import BAD_INPUT, IN_PART, INVARIANTS, NOT_PROVEN, ROWS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "faults.md"


def proofs() -> dict[int, dict[str, set[str]]]:
    """By row number: the tests (`path::name`) with the marker, and the invariants they name."""
    # Objects of other tests that log while garbage collected confuse CPython 3.11's parser (SystemError).
    gc.collect()
    found: dict[int, dict[str, set[str]]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        tree = ast.parse(path.read_text())
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for numbers, invariants in _marks(node):
                    for number in numbers:
                        name = f"{path.relative_to(ROOT).as_posix()}::{node.name}"
                        found.setdefault(number, {}).setdefault(name, set()).update(invariants.split())
    return found


def _marks(node: ast.AST) -> Iterator[tuple[tuple[int, ...], str]]:
    """Every `pytest.mark.fault(…)` among a function's decorators, those inside `parametrize` included."""
    decorators = getattr(node, "decorator_list", [])
    for decorator in decorators:
        for call in ast.walk(decorator):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.fault":
                number, invariants = (ast.literal_eval(argument) for argument in call.args)
                yield (number if isinstance(number, tuple) else (number,)), invariants


def page() -> Iterator[str]:
    """The page's lines."""
    found = proofs()
    yield from ("# Faults and their tests", "")
    yield "<!-- Written by tests/faults/page.py from the marks on the tests; change those instead. -->"
    yield from (
        "",
        "Each row is a fault, with the invariants that must hold and the tests that cover it. Invariants:",
        "",
    )
    yield from (f"- **{letter}**: {text}." for letter, text in INVARIANTS.items())
    group = ""
    for number, row in ROWS.items():
        if row.group != group:
            group = row.group
            yield from ("", f"## {group}", "", "| # | fault | must hold | tests |", "|---|---|---|---|")
        yield f"| {number} | {row.fault} | {row.must} | {_shown(number, found)} |"
    yield from ("", "## Bad input", "")
    yield "Each is answered with an error code, or dropped where there is no caller; no loop ends."
    yield ""
    yield from (f"- {_link(name)}" for name in sorted(found.get(BAD_INPUT, {})))
    proven = sum(1 for number in ROWS if number in found)
    yield from ("", f"{proven} of {len(ROWS)} rows are covered by a test.")


def _shown(number: int, found: dict[int, dict[str, set[str]]]) -> str:
    parts = [_link(name) for name in sorted(found.get(number, {}))]
    if number in NOT_PROVEN:
        parts.append(f"**not covered**: {NOT_PROVEN[number]}")
    if number in IN_PART:
        parts.append(f"partly: {IN_PART[number]}")
    return "<br>".join(parts)


def _link(name: str) -> str:
    path, _, test = name.partition("::")
    return f"[{test.removeprefix('test_')}](../../{path})"


def text() -> str:
    """The whole page."""
    return "\n".join(page()) + "\n"


def main() -> int:
    if "--write" in sys.argv:
        PAGE.write_text(text())
        return 0
    if not PAGE.exists() or PAGE.read_text() != text():
        print("docs/reference/faults.md is stale: run python -m tests.faults.page --write")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
