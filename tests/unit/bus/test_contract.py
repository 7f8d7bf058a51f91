"""The contract's tables: complete, consistent, and as the promise spells them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from busbar.bus.contract import COMMON_ERRORS, OPERATIONS, PLANNER
from busbar.bus.errors import ERRORS, BusError
from busbar.bus.events import EVENT_KINDS, EVENTS, event_type
from busbar.bus.topics import StatusKind, is_name

ANCESTOR = [
    "list_routerclusters",
    "get_routercluster",
    "get_routercluster_by_name",
    "create_routercluster",
    "delete_routercluster",
    "start_routercluster",
    "stop_routercluster",
    "stat_routercluster",
    "add_routercluster_node",
    "remove_routercluster_node",
    "get_routercluster_node",
    "list_routercluster_nodes",
    "add_routercluster_workergroup",
    "remove_routercluster_workergroup",
    "get_routercluster_workergroup",
    "get_routercluster_workergroup_by_name",
    "list_routercluster_workergroups",
    "stat_routercluster_workergroup",
]
MORE = [
    "list_nodes",
    "get_node",
    "get_node_by_name",
    "pair_node",
    "unpair_node",
    "update_routercluster_workergroup",
    "drain_node",
    "undrain_node",
    "cordon_node",
    "uncordon_node",
    "label_node",
    "list_workers",
    "get_worker",
    "get_events",
    "get_manager",
    "plan_rebalance",
    "apply_rebalance",
]


def test_every_procedure_of_the_ancestor_is_there() -> None:
    assert len(ANCESTOR) == 18
    assert set(ANCESTOR) | set(MORE) <= set(OPERATIONS)


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_row_is_whole(name: str) -> None:
    row = OPERATIONS[name]
    assert row.name == name and is_name(name)
    assert row.help.endswith(".") and row.roles
    assert set(row.errors) <= set(ERRORS) and not set(row.errors) & set(COMMON_ERRORS)
    assert msgspec.json.schema(row.params)["$defs"]
    assert msgspec.json.schema(row.result)


@pytest.mark.parametrize("name", OPERATIONS)
def test_reads_are_open_to_viewers_and_changes_are_not(name: str) -> None:
    row = OPERATIONS[name]
    # A plan says what its caller may do, and takes long: it is for those who may apply it.
    assert ("viewer" in row.roles) is not (row.change or name.startswith("plan_"))
    assert row.change is (name.split("_")[0] not in {"list", "get", "stat", "plan", "explain"})


@pytest.mark.parametrize("name", [n for n, row in OPERATIONS.items() if row.owned])
def test_owned_rows_name_what_is_owned(name: str) -> None:
    row = OPERATIONS[name]
    member = {"cluster": "routercluster_oid", "node": "node_oid"}[row.owned or ""]
    assert member in row.params.__struct_fields__


def test_changes_to_a_cluster_can_not_forget_ownership() -> None:
    naming = {
        name
        for name, row in OPERATIONS.items()
        if row.change and "routercluster_oid" in row.params.__struct_fields__ and row.roles != {"owner"}
    }
    assert naming == {name for name, row in OPERATIONS.items() if row.owned == "cluster"}


def test_changes_to_a_node_are_its_owners_or_a_realm_owners() -> None:
    """They move the workers of everybody who runs there."""
    for name, row in OPERATIONS.items():
        members = row.params.__struct_fields__
        if row.change and "node_oid" in members and "routercluster_oid" not in members:
            assert row.owned == "node" or row.roles == {"owner"}, name


def test_whoever_may_make_a_change_may_plan_it() -> None:
    for row in OPERATIONS.values():
        if row.planned_by is not None:
            planner = OPERATIONS[row.planned_by]
            assert row.change and not planner.change and planner.heavy, row.name
            assert row.roles <= planner.roles, row.name
            assert planner.name != PLANNER or set(row.errors) <= set(planner.errors), row.name
        assert row.planned_by or not row.owned, f"{row.name} is of an object that has workers"


def test_event_types() -> None:
    assert event_type("routercluster", "created") == "busbar.on_routercluster_created"
    assert event_type("routercluster_node", "added") == "busbar.on_routercluster_node_added"
    with pytest.raises(KeyError):
        event_type("routercluster", "exploded")
    assert all(is_name(verb) for verbs in EVENTS.values() for verb in verbs)


# --- docs/reference/contract.md


def section(number: int) -> str:
    """A section of the page."""
    page = (Path(__file__).parents[3] / "docs/reference/contract.md").read_text()
    return re.split(r"^## \d+\. ", page, flags=re.MULTILINE)[number]


def code_of(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text)


def test_the_page_names_the_kinds_of_objects() -> None:
    sentence = re.search(r"`kind` is (.*?), in events also (.*?);", section(2), re.DOTALL)
    assert sentence is not None
    with_status, more = map(code_of, sentence.groups())
    assert tuple(with_status) == get_args(StatusKind)
    assert set(with_status) | set(more) == set(EVENT_KINDS.values())


def test_the_page_names_every_operation_with_its_errors() -> None:
    known, text = set(OPERATIONS), section(4)
    assert known == {name for name in re.findall(r"[a-z_]+", text) if name in known}
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\|([^|]*)\|$", text, re.MULTILINE))
    assert list(rows) == ANCESTOR
    for name, cell in rows.items():
        errors = {error.strip() for error in cell.split(",")} - {"", "not_authorized"}
        assert errors == set(OPERATIONS[name].errors), name


def test_the_page_names_only_events_that_there_are() -> None:
    known = {f"on_{subject}_{verb}" for subject, verbs in EVENTS.items() for verb in verbs}
    listed = section(6).partition("Retained status")[0].rpartition("```")[2]
    for family in listed.split(";"):
        first, *verbs = [name for name in code_of(family) if name.startswith(("on_", "_"))] or [""]
        subject = next(
            (each for each in sorted(EVENTS, key=len, reverse=True) if first.startswith(f"on_{each}_")), ""
        )
        for name in filter(None, (first, *(f"on_{subject}{verb}" for verb in verbs))):
            assert name in known


@pytest.mark.parametrize("code", ERRORS)
def test_an_error_survives_the_wire(code: str) -> None:
    error = BusError(code, "why", ["/params/x"], retry_after_ms=5)
    again = BusError.from_wire(error.to_wire())
    assert again.to_wire() == error.to_wire()
    assert again.row.status in {400, 403, 404, 408, 409, 413, 422, 429, 500}
