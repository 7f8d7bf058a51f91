"""-o jsonl, -o name, --no-headers and BUSBAR_OUTPUT."""

from __future__ import annotations

import json
from typing import Any

import pytest
from busbar.cli.errors import ExitCode

from ..realm import OID, Line, Realm, result_of
from ..realm import line as line
from ..table import CALLS


def answer(operation: str, given: dict[str, Any]) -> Any:
    """A realm of the clusters edge and core, with the group web, the worker web-3 and the node n1 each."""
    if operation in ("list_routerclusters", "list_workers"):
        return [OID, OID[:-1] + "f"]
    name = {"get_routercluster": "edge", "get_worker": "web-3", "get_node": "n1"}
    if operation == "get_routercluster" and given["routercluster_oid"] != OID:
        name = {"get_routercluster": "core"}
    known = {
        "oid": OID,
        "node_oid": OID,
        "sequence": "2",
        "cluster": "edge",
        "node": "n1",
        "name": name.get(operation, "web"),
        "status": "RUNNING",
    }
    return result_of(operation, lambda member: known.get(member, "x"))


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("cluster list", ["core", "edge"]),
        ("cluster show edge", ["web"]),
        ("cluster nodes edge", ["n1"]),
        ("group list", ["core/web", "edge/web"]),
        ("group show edge/web", ["edge/web"]),
        ("group show web -c edge", ["edge/web"]),
        ("worker list", ["edge/web-3", "edge/web-3"]),
        ("worker list -q", ["edge/web-3", "edge/web-3"]),
        (f"worker show {OID}", ["edge/web-3"]),
        ("node list", ["n1"]),
        (f"node show {OID}", ["n1"]),
        ("principal list", ["web"]),
    ],
)
def test_names_are_references_that_commands_accept(
    line: Line, capsys: pytest.CaptureFixture[str], command: str, names: list[str]
) -> None:
    assert line.against(Realm(answer)).run(*command.split(), "-o", "name") == 0
    shown = capsys.readouterr()
    assert (shown.out.splitlines(), shown.err) == (names, "")


@pytest.mark.parametrize(
    "command", ["cluster create", "apply", "status", "event list", "manager show", "call"]
)
def test_names_of_what_has_none_are_refused_before_anything_is_asked(
    line: Line, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    realm = Realm(answer)
    assert line.against(realm).run(*command.split(), *CALLS[command], "-o", "name") == ExitCode.USAGE
    assert "-o name" in capsys.readouterr().err
    assert realm.calls == []


def test_jsonl_is_an_object_a_line(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    line.against(Realm(answer))
    shown: dict[str, list[Any]] = {}
    for command in ("cluster list", "cluster list -q", "cluster show edge", "export", "status"):
        assert line.run(*command.split(), "-o", "jsonl") == 0
        shown[command] = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert [row["name"] for row in shown["cluster list"]] == ["core", "edge"]
    assert all(isinstance(name, str) for name in shown["cluster list -q"])
    assert [len(shown[one]) for one in ("cluster show edge", "export", "status")] == [1, 1, 1]
    assert line.run("context", "show", "no-such", "-o", "jsonl") == ExitCode.NOT_FOUND
    (said,) = capsys.readouterr().err.splitlines()
    assert json.loads(said)["error"]["code"] == "no_such_context"


def test_an_empty_list_is_no_line(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    line.against(Realm(lambda operation, given: []))
    for form in ("jsonl", "name"):
        assert line.run("cluster", "list", "-o", form) == 0
        assert capsys.readouterr() == ("", "")


def test_headings_can_be_left_out_of_every_list(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    line.against(Realm(answer))
    lists = [name for name in CALLS if name.endswith(" list")]
    for command in (*lists, "cluster nodes", "audit", "history cluster"):
        assert line.run(*command.split(), *CALLS[command]) == 0
        whole = capsys.readouterr().out.splitlines()
        assert line.run(*command.split(), *CALLS[command], "--no-headers") == 0
        assert capsys.readouterr().out.splitlines() == whole[1:], command
        assert len(whole) > 1
    assert line.run("cluster", "list", "--no-headers", "-o", "json") == 0
    assert len(json.loads(capsys.readouterr().out)) == 2


def test_the_variable_is_the_default_of_the_format(
    line: Line, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line.against(Realm(answer))

    def shown(variable: str, *arguments: str) -> str:
        monkeypatch.setenv("BUSBAR_OUTPUT", variable)
        assert line.run(*arguments) == 0
        return capsys.readouterr().out

    assert json.loads(shown("json", "cluster", "show", "edge"))["name"] == "web"
    assert json.loads(shown("json", "export"))["busbar"] == 1
    assert (
        shown("json", "cluster", "list", "-o", "name") == shown("name", "cluster", "list") == "core\nedge\n"
    )
    assert shown("json", "-o", "table", "cluster", "list") == shown("", "cluster", "list")
    # A default that a command has no use for does not stop it.
    assert shown("name", "cluster", "create", "edge") == shown("", "cluster", "create", "edge")
    assert shown("xml", "cluster", "list", "-o", "name") == "core\nedge\n"
    assert line.run("cluster", "list") == ExitCode.USAGE
    assert (
        "BUSBAR_OUTPUT=xml: the formats are table, wide, json, yaml, jsonl, name, jsonpath="
        in capsys.readouterr().err
    )
