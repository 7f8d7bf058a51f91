"""busbar rebalance against a manager of the test's making: what is shown, asked, ordered and retried."""

from __future__ import annotations

import json
from typing import Any

import pytest
from busbar.bus.errors import BusError
from busbar.cli.errors import ExitCode

from ..realm import OID, TOPICS, Line, Realm, result_of
from ..realm import line as line

NODE = OID[:-1] + "f"
MOVE = {
    "worker": "edge/web-3",
    "worker_oid": OID,
    "before": "n1",
    "node": "n2",
    "node_oid": NODE,
    "reason": "of edge/web, n1 has 2 and n2 0",
    "order": 1,
}
NONE: dict[str, Any] = {"moves": [], "under_way": [], "refused": [], "fence": {}}
ONE = {**NONE, "moves": [MOVE], "fence": {"/nodes/n2": 3}}
DONE = {"moves": [{"worker": "edge/web-3", "worker_oid": OID, "before": "n1", "node": "n2", "version": 5}]}
CONFLICT = BusError("version_conflict", "/nodes/n2 is at version 4, not 3: plan again")


def realm(plans: list[dict[str, Any]], outcomes: list[Any]) -> Realm:
    """Its plans one after the other, the last one again and again; likewise what ordering comes to."""

    def answer(operation: str, given: dict[str, Any]) -> Any:
        if not operation.endswith("_rebalance"):
            return result_of(operation, lambda member: "edge" if member == "name" else member) | {"oid": OID}
        found = (plans if operation == "plan_rebalance" else outcomes).pop(0)
        (plans if operation == "plan_rebalance" else outcomes).append(found)
        if isinstance(found, Exception):
            raise found
        return found

    return Realm(answer)


def test_a_realm_in_balance_is_said_to_be(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    assert line.against(realm([NONE], [])).run("rebalance") == 0
    assert capsys.readouterr().out == "balanced\n"
    theirs = {"pointer": "/clusters/a", "code": "not_authorized", "detail": "d"}
    busy = {**NONE, "under_way": ["edge/web-1"], "refused": [theirs]}
    assert line.against(realm([busy], [])).run("rebalance", "--yes", "--wait") == 0
    shown = capsys.readouterr()
    assert "on the way by earlier orders: edge/web-1" in shown.err and "left alone: d" in shown.err
    stuck = {**NONE, "misplaced": ["edge/ssd-1 stays on n3, which has no label disk"]}
    assert line.against(realm([stuck], [])).run("rebalance") == 0
    shown = capsys.readouterr()
    assert shown.out == "nothing can be moved\n" and "! edge/ssd-1 stays on n3" in shown.err
    held = realm([{**NONE, "hold": "2 of 3 nodes lost"}], [])
    assert line.against(held).run("rebalance") == 0
    shown = capsys.readouterr()
    assert "nothing is moved: 2 of 3 nodes lost" in shown.err and "balanced" not in shown.out


def test_moves_are_shown_and_ordered_only_with_a_yes(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    waits = {**MOVE, "order": None, "waits": "group web is being updated"}
    talked = realm([{**ONE, "moves": [MOVE, waits], "complete": False}], [DONE])
    assert line.against(talked).run("rebalance", "--dry-run") == 0
    shown = capsys.readouterr()
    assert "1  edge/web-3  n1    n2  of edge/web, n1 has 2 and n2 0" in shown.out
    assert "of edge/web, n1 has 2 and n2 0; waits: group web is being updated" in shown.out
    assert "rebalance again" in shown.err
    assert line.run("rebalance", "edge") == ExitCode.CONFLICT, "nobody can be asked"
    assert "say --yes to move 2 workers, one of a group at a time" in capsys.readouterr().err
    assert "apply_rebalance" not in dict(talked.calls)
    talked = realm([ONE], [DONE])
    assert line.against(talked).run("rebalance", "edge/edge", "-y") == 0
    assert "1 worker to be moved" in capsys.readouterr().out
    calls = dict(talked.calls)
    assert calls["plan_rebalance"] == {"routercluster_oid": OID, "workergroup_oid": OID}
    assert calls["apply_rebalance"] == {"moves": {OID: NODE}, "fence": {"/nodes/n2": 3}}
    assert line.run("rebalance", "--yes", "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)["moves"][0]["worker"] == "edge/web-3"


def test_the_same_moves_are_ordered_again_others_are_not(line: Line) -> None:
    newer = {**ONE, "fence": {"/nodes/n2": 4}}
    talked = realm([ONE, newer], [CONFLICT, DONE])
    assert line.against(talked).run("rebalance", "--yes") == 0
    assert talked.calls[-1][1]["fence"] == {"/nodes/n2": 4}
    other = {**ONE, "moves": [{**MOVE, "node_oid": OID}]}
    assert line.against(realm([ONE, other], [CONFLICT])).run("rebalance", "--yes") == ExitCode.CONFLICT


@pytest.mark.parametrize(("node", "code"), [("n2", 0), ("n1", 4)])
def test_waiting_ends_when_the_worker_runs_there_or_stays(
    line: Line, capsys: pytest.CaptureFixture[str], node: str, code: int
) -> None:
    talked = realm([ONE], [DONE])
    status = {"epoch": 1, "sequence": "1", "name": "web-3", "time": "t", "oid": OID, "status": "RUNNING"}
    topic = TOPICS.status("edge", "worker", "web-3")
    talked.retain(topic, status | {"version": 4, "node": "n1"})

    def after(operation: str) -> None:
        if operation == "apply_rebalance":
            talked.retain(topic, status | {"version": 5, "node": "n1", "moving_to": "n2"})
            talked.retain(topic, status | {"version": 9, "node": node})

    talked.after = after
    assert line.against(talked).run("rebalance", "--yes", "--wait") == code
    shown = capsys.readouterr()
    assert ("1 worker moved" in shown.out) is (code == 0)
    assert ("it is on n1: the move was given up" in shown.err) is (code == 4)
