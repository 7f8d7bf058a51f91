"""Who may refuse a definition: all together, and none for the others."""

from __future__ import annotations

import json

from busbar.manager.planner.acceptance import DISTINCT, Voter, condition, node_refusals, refused_by_all
from hypothesis import given
from hypothesis import strategies as st

TRANSPORT = {"type": "mqtt", "options": {"x": 1}}
ACCEPTS = json.dumps({"type": "object"})
REFUSES = json.dumps({"properties": {"options": {"additionalProperties": False}}})
CAN_T_TELL = json.dumps({"$ref": "elsewhere"})
SCHEMAS = st.sampled_from([None, ACCEPTS, REFUSES, CAN_T_TELL])
VOTERS = st.lists(SCHEMAS, max_size=5).map(
    lambda found: [Voter(f"n{index}", schema) for index, schema in enumerate(found)]
)


@given(VOTERS, st.booleans())
def test_a_definition_is_refused_only_where_nobody_accepts_it(voters: list[Voter], table: bool) -> None:
    accepted = [
        table if voter.schema in (None, CAN_T_TELL) else voter.schema == ACCEPTS for voter in voters
    ] or [table]
    refused = refused_by_all(voters, TRANSPORT, table)
    assert (refused is None) == any(accepted)
    if refused is not None:
        assert [each.node for each in refused] == [v.node for v in voters if v.schema == REFUSES]
        assert {each.pointer for each in refused} <= {"/options/x"}


@given(VOTERS, st.booleans(), SCHEMAS)
def test_one_more_node_takes_no_acceptance_away(voters: list[Voter], table: bool, schema: str | None) -> None:
    if voters and refused_by_all(voters, TRANSPORT, table) is None:
        assert refused_by_all([*voters, Voter("more", schema)], TRANSPORT, table) is None


def test_without_a_transport_schemas_say_nothing() -> None:
    assert refused_by_all([Voter("n1", REFUSES)], None, True) is None
    assert refused_by_all([Voter("n1", ACCEPTS)], None, False) == []


def test_a_decision_follows_only_so_many_schemas() -> None:
    voters = [
        Voter(f"n{index}", json.dumps({"title": str(index), "type": "string"}))
        for index in range(2 * DISTINCT)
    ]
    assert len(node_refusals(voters, TRANSPORT)) == DISTINCT
    assert refused_by_all(voters, TRANSPORT, True) is None, "the others are judged by the table"


def test_the_condition_names_nodes() -> None:
    refused = node_refusals([Voter("n1", ACCEPTS), Voter("n2", REFUSES)], TRANSPORT)
    assert condition(refused) == "not accepted by n2: /options/x: unknown member (known: none)"
    assert condition([]) is None
    assert str(condition(refused * 5)).endswith(" and 2 more")
