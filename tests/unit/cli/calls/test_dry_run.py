"""--dry-run of every command that has it: the manager's plan is shown, and no change is asked for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from busbar.bus.contract import OPERATIONS, PLANNER
from busbar.bus.errors import BusError
from busbar.cli.errors import ExitCode
from busbar.cli.services import accounts

from ..realm import OID, Line, Realm, result_of
from ..realm import line as line
from ..table import CALLS, all_commands

MOVE = {"order": 1, "worker": "edge/web-1", "action": "move", "node": "n2", "before": "n1", "reason": "r"}
WAIT = {"order": 3, "worker": "edge/web-2", "action": "wait", "node": "n1", "before": "n1", "reason": "full"}
PLAN: dict[str, Any] = {"workers": [MOVE, WAIT], "version": 7, "complete": True}
OTHERS = {"apply", "rebalance", "rollback cluster"}
"""Commands whose changes other operations plan; they have tests of their own."""
WITH_PLAN = {
    path
    for path, command in all_commands().items()
    if path in CALLS and "--dry-run" in {option for param in command.params for option in param.opts}
}
SINGLE = sorted(WITH_PLAN - OTHERS)
ORDERS: dict[str, tuple[str, ...]] = {
    "cluster delete --stop": ("stop_routercluster", "delete_routercluster"),
    "group remove --stop": ("stop_routercluster_workergroup", "remove_routercluster_workergroup"),
    "cluster remove-node --drain": ("drain_node", "remove_routercluster_node", "undrain_node"),
}
"""Commands that change more than one thing, and what they ask for, in order."""


def realm(plan: Any = PLAN, **members: Any) -> Realm:
    """Cluster `edge` with no worker on node n1; `members` of what is found there. An exception is raised."""

    def answer(operation: str, given: dict[str, Any]) -> Any:
        if operation.startswith("plan_") and isinstance(plan, Exception):
            raise plan
        if operation == PLANNER:
            return plan
        if operation == "list_workers":
            return []
        found = result_of(operation, lambda member: OID if member.endswith("oid") else member)
        return found if isinstance(found, list) else found | members

    return Realm(answer)


def changes(talked: Realm) -> list[str]:
    return [name for name, _ in talked.calls if OPERATIONS[name].change]


def test_every_order_to_one_object_can_be_planned() -> None:
    """Whatever command asks for a change that the manager can plan, but for those that touch no worker."""
    with_change = {
        path
        for path, command in all_commands().items()
        if any(OPERATIONS[name].planned_by for name in getattr(_inner(command), "operations", ()))
    }
    assert with_change - WITH_PLAN == {"cluster create", "node pair"}


def _inner(command: Any) -> Any:
    """The function behind a command, which the global options wrap."""
    cells = command.callback.__closure__ or ()
    return next((each for cell in cells if hasattr(each := cell.cell_contents, "operations")), None)


@pytest.mark.parametrize("command", SINGLE)
def test_a_dry_run_asks_for_the_plan_alone_and_shows_it(
    line: Line, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(accounts, "remove", lambda *_: pytest.fail("the account was touched"))
    talked = realm()
    words = [*command.split(), *CALLS[command], "--dry-run"]
    assert line.against(talked).run(*words) == 0
    shown = capsys.readouterr().out
    assert "workers, in this order:" in shown and "1  edge/web-1  move  n1 -> n2  r" in shown
    assert "3  edge/web-2  wait  n1        full" in shown
    assert line.run(*words, "-o", "json") == 0
    told = json.loads(capsys.readouterr().out)
    (asked,) = [given for name, given in talked.calls[len(talked.calls) // 2 :] if name == PLANNER]
    assert told == {**PLAN, "operation": asked["operation"], "applied": False}
    assert asked["operation"] in getattr(_inner(all_commands()[command]), "operations", ())
    assert changes(talked) == []


@pytest.mark.parametrize("command", SINGLE)
def test_the_plan_is_of_what_the_command_would_ask_for(line: Line, command: str) -> None:
    planned, done = realm(), realm()
    words = [word for word in (*command.split(), *CALLS[command]) if word != "--wait"]
    assert line.against(planned).run(*words, "--dry-run") == 0
    line.against(done).run(*words)
    asked = next(given for name, given in planned.calls if name == PLANNER)
    assert next((name, given) for name, given in done.calls if OPERATIONS[name].change) == (
        asked["operation"],
        asked["params"],
    )


@pytest.mark.parametrize("command", sorted(WITH_PLAN - {"apply", "rebalance"}))
def test_of_a_manager_that_can_not_plan_nothing_is_asked(
    line: Line, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    talked = realm(BusError("no_such_procedure", f"no operation '{PLANNER}'"))
    assert line.against(talked).run(*command.split(), *CALLS[command], "--dry-run") == ExitCode.NOT_FOUND
    assert "a manager of an earlier version does not know it" in capsys.readouterr().err
    assert changes(talked) == []


def of_order(command: str) -> tuple[str, ...]:
    """The words of a command of `ORDERS`."""
    name, option = command.rsplit(" ", 1)
    return (*name.split(), *CALLS[name], option, "--dry-run")


def refuses(refused: dict[str, BusError], plan: Any = PLAN) -> Realm:
    """As `realm`, where these changes are refused."""
    found = realm(plan, status="RUNNING", stop_ordered=False, draining=None)
    answer = found.answer

    def refusing(operation: str, given: dict[str, Any]) -> Any:
        if operation == PLANNER and given["operation"] in refused:
            raise refused[given["operation"]]
        return answer(operation, given)

    found.answer = refusing
    return found


NOT_STOPPED = BusError("not_stopped", "it is RUNNING", ["/params/params/routercluster_oid"])


@pytest.mark.parametrize("command", sorted(ORDERS))
def test_of_several_changes_the_first_is_planned_and_it_is_told_what_is_not(
    line: Line, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    first, *later = ORDERS[command]
    talked = refuses(dict.fromkeys(("delete_routercluster", "remove_routercluster_workergroup"), NOT_STOPPED))
    assert line.against(talked).run(*of_order(command)) == 0
    assert [given["operation"] for name, given in talked.calls if name == PLANNER] == [first, *later]
    shown = capsys.readouterr()
    told = shown.err.splitlines()
    assert "edge/web-1" in shown.out and shown.out.count("workers, in this order:") == 1
    assert [each.startswith("then ") and "plan" in each for each in told[:-1]] == [True] * len(later)
    assert told[-1].startswith("! it would not come to that: edge/web-2 would stay")
    assert changes(talked) == []
    assert line.run(*of_order(command), "-o", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["operation"], found["then"]) == (first, later)


@pytest.mark.parametrize("command", sorted(ORDERS))
def test_a_later_change_that_would_be_refused_is_told_before_the_first_is_made(
    line: Line, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    _, second, *_ = ORDERS[command]
    talked = refuses({second: BusError("not_authorized", "not yours", ["/params/params/node_oid"])})
    assert line.against(talked).run(*of_order(command)) == ExitCode.NOT_AUTHORIZED
    shown = capsys.readouterr()
    assert "edge/web-1" in shown.out and f"after that, {second} would be refused: not yours" in shown.err
    assert changes(talked) == []


def test_a_manager_that_is_busy_is_no_refusal_of_what_follows(
    line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    talked = refuses({"undrain_node": BusError("busy", "too many", retry_after_ms=1)})
    assert line.against(talked).run(*of_order("cluster remove-node --drain")) == 1
    assert "would be refused" not in capsys.readouterr().err


def test_the_version_that_is_expected_is_of_the_removal(line: Line) -> None:
    talked = refuses({})
    assert line.against(talked).run(*of_order("cluster remove-node --drain"), "--expect-version", "7") == 0
    planned = {
        given["operation"]: given.get("expect_version") for name, given in talked.calls if name == PLANNER
    }
    assert planned == {"drain_node": None, "remove_routercluster_node": 7, "undrain_node": None}


@pytest.mark.parametrize("command", ["cluster delete", "group remove"])
def test_what_was_ordered_before_is_not_waited_for(
    line: Line, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    talked = realm(status="STOPPING", stop_ordered=True)
    assert line.against(talked).run(*command.split(), *CALLS[command], "--stop", "--dry-run") == 0
    shown = capsys.readouterr()
    assert shown.out == "no worker is touched\n" and shown.err.startswith("then ")
    assert changes(talked) == []


def test_a_refusal_is_told_as_that_of_the_change(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    for error, code, told in (
        (BusError("not_authorized", "not yours", ["/params/params/node_oid"]), 5, "at /params/node_oid"),
        (BusError("version_conflict", "it is at 8", ["/params/expect_version"]), 4, "at /expect/version"),
        (BusError("busy", "too many", retry_after_ms=1), 1, "too many"),
    ):
        talked = realm(error)
        words = ("node", "drain", "n1", "--dry-run", "--expect-version", "7")
        assert line.against(talked).run(*words) == code
        assert told in capsys.readouterr().err
        assert next(given["expect_version"] for name, given in talked.calls if name == PLANNER) == 7
        assert changes(talked) == []


def test_an_order_that_was_given_before_says_so_and_waits_for_nothing(
    line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    talked = realm(BusError("cannot_start", "it runs"), name="edge", status="STARTING")
    assert line.against(talked).run("cluster", "start", "edge", "--wait", "--dry-run") == 0
    shown = capsys.readouterr()
    assert shown.out == "cluster 'edge' is already STARTING\n" and "no change" in shown.err
    assert line.run("cluster", "start", "edge", "--strict", "--dry-run") == 4


def test_nothing_is_done_besides(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a node that is unpaired already only the account is left, which stays."""
    monkeypatch.setattr(accounts, "remove", lambda *_: pytest.fail("the account was removed"))
    monkeypatch.setattr(accounts, "explain_external", lambda *_: pytest.fail("it is no order"))
    for command in ("unpair", "forget"):
        talked = realm(status="unpaired")
        assert line.against(talked).run("node", command, "n1", "--dry-run") == 0
        assert changes(talked) == []


def test_where_no_worker_is_touched_that_is_said(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    talked = realm({**PLAN, "workers": []})
    assert line.against(talked).run("node", "cordon", "n1", "--dry-run") == 0
    assert capsys.readouterr().out == "no worker is touched\n"
    talked = realm({**PLAN, "complete": False})
    assert line.against(talked).run("node", "drain", "n1", "--dry-run") == 0
    assert "more workers are touched" in capsys.readouterr().err
