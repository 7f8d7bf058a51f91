"""Roles are named in one place."""

from __future__ import annotations

import ast
from pathlib import Path

from busbar.bus.contract import OPERATIONS
from busbar.bus.roles import CHANGE_ROLES, OWNER_ROLES, READ_ROLES, ROLES, in_words

from tests.test_layers import parsed

ROOT = Path(__file__).parents[3]
ROOMS = ("bus", "manager", "agent", "cli")
SPELT = {"bus/roles.py", "cli/commands/export.py"}
"""The latter means a member of a document."""


def test_each_role_may_do_what_the_one_below_it_may() -> None:
    assert OWNER_ROLES < CHANGE_ROLES < READ_ROLES == set(ROLES)
    assert {row.roles for row in OPERATIONS.values()} <= {OWNER_ROLES, CHANGE_ROLES, READ_ROLES}
    assert in_words() == "owner, operator or viewer"


def test_no_role_is_spelt_elsewhere() -> None:
    """The database's own check (a migration that is released never changes) is SQL, not a constant."""
    for path in sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        found = {
            node.value
            for node in ast.walk(parsed(path))
            if isinstance(node, ast.Constant) and node.value in ROLES
        }
        assert name in SPELT or not found, f"{name} spells {found}: take it from bus.roles"
