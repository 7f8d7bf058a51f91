"""The roles of principals, and which of them may do what. Pure."""

from __future__ import annotations

from typing import Final, Literal, get_args

Role = Literal["owner", "operator", "viewer"]

OWNER: Final[Role] = "owner"
"""The role that may change what belongs to others, and give roles."""
ROLES: Final[tuple[Role, ...]] = get_args(Role)
READ_ROLES: Final = frozenset(ROLES)
CHANGE_ROLES: Final = frozenset[str]({"owner", "operator"})
OWNER_ROLES: Final = frozenset[str]({OWNER})


def in_words() -> str:
    """The roles for people: `owner, operator or viewer`."""
    return f"{', '.join(ROLES[:-1])} or {ROLES[-1]}"
