"""busbar diff and apply against a manager of the test's making: what is shown, retried, and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from busbar.bus.errors import BusError
from busbar.cli.errors import ExitCode

from ..realm import Line, Realm, result_of
from ..realm import line as line

NOTHING: dict[str, Any] = {
    "changes": [],
    "workers": [],
    "refused": [],
    "left": [],
    "fence": {"/clusters/edge": 3},
}
UPDATE = {
    "pointer": "/clusters/edge",
    "action": "update",
    "members": [{"pointer": "/label", "before": None, "after": "L"}],
}
MOVE = {"order": 1, "worker": "edge/web-1", "action": "move", "node": "n2", "before": "n1", "reason": "r"}
PLAN = {**NOTHING, "changes": [UPDATE], "workers": [MOVE]}


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "realm.yaml"
    path.write_text("busbar: 1\nowner: team\nclusters:\n  edge:\n    label: L\n")
    return str(path)


def realm(plans: list[dict[str, Any]], outcomes: list[Any]) -> Realm:
    """Its plans one after the other, the last one again and again; likewise what applying comes to."""

    def answer(operation: str, given: dict[str, Any]) -> Any:
        found = (plans if operation == "plan_changes" else outcomes).pop(0)
        (plans if operation == "plan_changes" else outcomes).append(found)
        if isinstance(found, Exception):
            raise found
        return found

    return Realm(answer)


DONE = {"changes": [], "left": []}
CONFLICT = BusError("version_conflict", "/clusters/edge is at version 4, not 3: plan again")


def test_a_plan_in_words(line: Line, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    plan = {**PLAN, "left": [{"pointer": "/clusters/west", "owner": None}], "complete": False}
    assert line.against(realm([plan], [])).run("diff", "-f", file) == 0
    shown = capsys.readouterr()
    assert '~ update cluster edge\n    /label: (none) -> "L"\n' in shown.out
    assert "1  edge/web-1  move  n1 -> n2  r" in shown.out
    assert "stays: cluster west, created without a file" in shown.err and "the plan is longer" in shown.err


def test_unchanged_is_said_and_nothing_applied(
    line: Line, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    talked = realm([NOTHING], [])
    assert line.against(talked).run("apply", "-f", file, "--wait") == 0
    assert capsys.readouterr().out == "unchanged\n"
    assert [operation for operation, _ in talked.calls] == ["plan_changes"]


def test_a_dry_run_applies_nothing(line: Line, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    talked = realm([PLAN], [])
    assert line.against(talked).run("apply", "-f", file, "--dry-run", "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)["changes"][0]["action"] == "update"
    assert [operation for operation, _ in talked.calls] == ["plan_changes"]


def test_a_rollback_can_be_seen_before(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("rollback", "cluster", "edge", "--to", "1", "--dry-run")
    refused = {"pointer": "/clusters/edge/groups/new", "code": "not_stopped", "detail": "it runs"}
    for plan, code, told in (
        (PLAN, 0, "1  edge/web-1  move  n1 -> n2  r"),
        (NOTHING, 0, "unchanged"),
        ({**PLAN, "refused": [refused]}, ExitCode.CONFLICT, "refused: group edge/new: it runs (not_stopped)"),
    ):

        def answer(operation: str, given: dict[str, Any], plan: Any = plan) -> Any:
            return plan if operation.startswith("plan_") else result_of(operation, str)

        talked = Realm(answer)
        assert line.against(talked).run(*words) == code
        shown = capsys.readouterr()
        assert told in shown.out + shown.err
        assert line.run(*words, "-o", "json") == code
        assert json.loads(capsys.readouterr().out)["applied"] is False
        assert "rollback_routercluster" not in [operation for operation, _ in talked.calls]
    assert line.run(*words, "--expect-version", "9") == ExitCode.CONFLICT
    assert "is at version 3, not 9" in capsys.readouterr().err


def test_what_is_refused_is_named_with_its_line(
    line: Line, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = {"pointer": "/clusters/edge/label", "code": "not_authorized", "detail": "not yours"}
    talked = realm([{**PLAN, "refused": [refused]}], [])
    assert line.against(talked).run("apply", "-f", file) == ExitCode.NOT_AUTHORIZED
    shown = capsys.readouterr().err
    assert "realm.yaml:5: /clusters/edge/label: not yours (not_authorized)" in shown
    assert "nothing was changed" in shown and len(talked.calls) == 1


@pytest.mark.parametrize("words", [("diff",), ("apply", "--dry-run")])
def test_a_refused_plan_ends_as_refused_in_json_too(
    line: Line, file: str, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    refused = {"pointer": "/clusters/edge", "code": "not_authorized", "detail": "bob's"}
    plan = {**PLAN, "refused": [refused]}
    assert line.against(realm([plan], [])).run(*words, "-f", file, "-o", "json") == ExitCode.NOT_AUTHORIZED
    assert json.loads(capsys.readouterr().out)["refused"] == [refused]


def test_the_same_plan_is_made_again_and_another_one_is_not_applied(line: Line, file: str) -> None:
    moved = {**PLAN, "fence": {"/clusters/edge": 4}}
    talked = realm([PLAN, moved], [CONFLICT, DONE])
    assert line.against(talked).run("apply", "-f", file) == 0
    fences = [given["fence"] for operation, given in talked.calls if operation == "apply_changes"]
    assert fences == [{"/clusters/edge": 3}, {"/clusters/edge": 4}]
    other = {**moved, "workers": []}
    assert line.against(realm([PLAN, other], [CONFLICT])).run("apply", "-f", file) == ExitCode.CONFLICT


def test_a_file_that_is_not_valid_asks_nobody(line: Line, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("busbar: 1\nclusters: {edge: {x: 1}}\n")
    talked = realm([], [])
    assert line.against(talked).run("apply", "-f", str(path)) == ExitCode.USAGE
    assert talked.calls == []
