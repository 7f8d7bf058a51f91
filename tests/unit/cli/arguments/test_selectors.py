"""Lists of some objects: by state, by labels, by tags."""

from __future__ import annotations

from typing import Any

import pytest
from busbar.cli.arguments.selectors import by_labels, has_tags
from busbar.cli.errors import CliError, ExitCode

from ..realm import OID, Line, Realm, result_of
from ..realm import line as line

LABELS = {"zone": "a", "disk": ""}


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        (None, True),
        (["zone=a"], True),
        (["zone"], True),
        (["disk="], True),
        (["zone=a", "disk"], True),
        (["zone=b"], False),
        (["zone="], False),
        (["zone=a", "rack"], False),
        (["zone=a=b"], False),
    ],
)
def test_labels_match_when_all_asked_for_are_there(asked: list[str] | None, wanted: bool) -> None:
    assert by_labels(asked)(LABELS) is wanted
    assert by_labels(asked)(None) is (asked is None)


def test_a_label_without_a_key_is_refused() -> None:
    with pytest.raises(CliError, match="key=value"):
        by_labels(["=a"])


def test_tags_match_when_all_asked_for_are_there() -> None:
    assert has_tags(None, None) and has_tags(["a"], None) and has_tags(["a", "b"], ["b", "a"])
    assert not has_tags(None, ["a"])
    assert not has_tags(["a"], ["a", "b"])


def answer(operation: str, given: dict[str, Any]) -> Any:
    """Two objects of each kind: one is up, has the tag t and the label zone=a; two is down."""
    ids = {OID: "one", OID[:-1] + "f": "two"}
    if operation.startswith("list_"):
        wanted = {None: ids, "RUNNING": [OID], "online": [OID]}.get(given.get("filter_by_status"), [*ids][1:])
        return [ids[oid] if given.get("return_names") else oid for oid in wanted]
    asked = (given.get(f"{kind}_oid") for kind in ("workergroup", "node", "routercluster"))
    up = next(filter(None, asked), OID) == OID
    down_or_up = ("lost", "online") if operation == "get_node" else ("STOPPED", "RUNNING")
    found: Any = result_of(operation, lambda member: OID if member == "oid" else "x")
    shown = {"name": "one", "tags": ["t"], "labels": {"zone": "a"}} if up else {"name": "two", "tags": None}
    return {**found, "labels": {}, **shown, "status": down_or_up[up]}


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ("cluster list --status RUNNING", ["one"]),
        ("cluster list --status STOPPED", ["two"]),
        ("cluster list --status ERROR", []),
        ("cluster list -l t", ["one"]),
        ("cluster list -l t --status STOPPED", []),
        ("group list one --status RUNNING", ["one/one"]),
        ("group list one --status STOPPED -l t", []),
        ("group list one -l t", ["one/one"]),
        ("node list --status lost", ["two"]),
        ("node list -l zone=a", ["one"]),
        ("node list -l zone=b", []),
    ],
)
@pytest.mark.parametrize("form", [["-q"], ["-o", "name"]])
def test_a_list_is_narrowed(
    line: Line, capsys: pytest.CaptureFixture[str], arguments: str, names: list[str], form: list[str]
) -> None:
    assert line.against(Realm(answer)).run(*arguments.split(), *form) == 0
    assert capsys.readouterr().out.splitlines() == names


def test_a_wrong_label_asks_for_nothing(line: Line) -> None:
    realm = Realm(answer)
    assert line.against(realm).run("node", "list", "-l", "=x") == ExitCode.USAGE
    assert realm.calls == []
