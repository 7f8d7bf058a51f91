"""What would hold up the agent's event loop is run in a thread, or in a process that is awaited.

`tests/test_layers.py` says who imports `subprocess`: `agent/routers/`, which no wing imports. Here:
folders that may be large.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.test_layers import ROOT, nodes_of

SLOW = {
    "listdir", "scandir", "walk", "glob", "rglob", "iterdir", "rmtree", "copytree",
    "getaddrinfo", "gethostbyname", "create_connection", "urlopen",
}  # fmt: skip
BOUNDED = {"by_token"}
"""Reads one folder with an entry for each worker, when one has ended."""


class Function(NamedTuple):
    path: Path
    name: str
    is_async: bool
    calls: frozenset[str]
    """Names of what it calls itself; what it hands to a thread is no call."""


def calls(function: ast.AST) -> Iterator[str]:
    left = list(ast.iter_child_nodes(function))
    while left:
        node = left.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.Call):
            yield node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        left += ast.iter_child_nodes(node)


@cache
def functions() -> list[Function]:
    """Those of the agent's own process."""
    return [
        Function(path, node.name, isinstance(node, ast.AsyncFunctionDef), frozenset(calls(node)))
        for path in sorted((ROOT / "agent").rglob("*.py"))
        if path.parent.name != "routers"
        for node in nodes_of(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


@cache
def slow() -> frozenset[str]:
    """Names of functions that take long, directly or by what they call, where a name says which one it is."""
    count = Counter(each.name for each in functions())
    found: set[str] = set()
    while True:
        known = SLOW | {name for name in found if count[name] == 1}
        plain = (each for each in functions() if not each.is_async and each.name not in BOUNDED)
        more = {each.name for each in plain if each.calls & known}
        if more <= found:
            return frozenset(known)
        found |= more


def test_it_knows_what_takes_long() -> None:
    assert {"rotate_all", "version_question", "records", "any_has_socket"} <= slow()


def test_no_coroutine_of_the_agent_reads_large_folders_itself() -> None:
    held_up = {
        f"{each.path.relative_to(ROOT)}: {each.name}": found
        for each in functions()
        if each.is_async and (found := sorted(each.calls & slow()))
    }
    assert not held_up
