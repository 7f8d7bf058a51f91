"""Whether nodes accept a transport, by the schemas that they have reported. Pure.

A node's schema speaks for that node alone. What it can't tell (no schema, or one that can't be followed) the
manager's own table of what runtimes understand tells for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple

import msgspec
from busbar.bus.decode import encode
from busbar.bus.json_schema import UndecidedError, violation

NAMED: Final = 3
"""Nodes that a text names."""
DISTINCT: Final = 16
"""Schemas that one decision follows; further ones can't tell."""


class Voter(NamedTuple):
    """A node that might run a definition; `schema` as JSON, None where it can't tell."""

    node: str
    schema: str | None


class NodeRefusal(NamedTuple):
    """Why a node does not accept a transport; `pointer` is within it."""

    node: str
    pointer: str
    detail: str

    @property
    def text(self) -> str:
        return f"{self.node}: {self.pointer or '/'}: {self.detail}"


_Verdict = tuple[str, str] | Literal["accepts", "can't tell"]


def refused_by_all(
    voters: Sequence[Voter], transport: Mapping[str, Any] | None, table_accepts: bool
) -> list[NodeRefusal] | None:
    """Why no node accepts a transport: those that say so by their schema. None where one accepts it."""
    verdicts = _verdicts(voters, transport)
    if "accepts" in verdicts or (table_accepts and (not voters or "can't tell" in verdicts)):
        return None
    return _refusals(voters, verdicts)


def node_refusals(voters: Sequence[Voter], transport: Mapping[str, Any] | None) -> list[NodeRefusal]:
    """The nodes whose schema refuses a transport, in the order given."""
    return _refusals(voters, _verdicts(voters, transport))


def rejection(schema: str | None, transport: Mapping[str, Any] | None) -> str | None:
    """What a node's schema has against a transport, in a few words; None when it accepts it or can't tell."""
    found = node_refusals([Voter("", schema)], transport)
    return f"{found[0].pointer or '/'}: {found[0].detail}"[:300] if found else None


def condition(refusals: Sequence[NodeRefusal]) -> str | None:
    """A group's condition: not accepted by n2: /options/x: unknown member."""
    if not refusals:
        return None
    more = f" and {len(refusals) - NAMED} more" if len(refusals) > NAMED else ""
    return f"not accepted by {'; '.join(refused.text[:300] for refused in refusals[:NAMED])}{more}"


def _refusals(voters: Sequence[Voter], verdicts: Sequence[_Verdict]) -> list[NodeRefusal]:
    pairs = zip(voters, verdicts, strict=True)
    return [NodeRefusal(voter.node, *told) for voter, told in pairs if isinstance(told, tuple)]


def _verdicts(voters: Sequence[Voter], transport: Mapping[str, Any] | None) -> list[_Verdict]:
    """Per node; each schema is followed once."""
    text, known = encode(transport), dict[str | None, _Verdict]({None: "can't tell"})
    for voter in voters:
        if voter.schema not in known and voter.schema is not None:
            follow = transport is not None and len(known) <= DISTINCT
            known[voter.schema] = _verdict(voter.schema, text) if follow else "can't tell"
    return [known[voter.schema] for voter in voters]


@lru_cache(maxsize=128)
def _verdict(schema: str, transport: bytes) -> _Verdict:
    try:
        found = violation(msgspec.json.decode(transport), msgspec.json.decode(schema))
    except UndecidedError:
        return "can't tell"
    return "accepts" if found is None else (found.pointer[:1024], found.detail[:500])
