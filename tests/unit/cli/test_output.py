"""What is printed: columns, objects, JSON, YAML, units; waiting; the stack of `busbar up` as values."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from busbar.cli import output, stats, wait
from busbar.cli.commands import status
from busbar.cli.commands.event import cluster_of, line
from busbar.cli.context import Given, Layer, set_given
from busbar.cli.errors import CliError, ExitCode
from busbar.cli.services import up_plan
from busbar.cli.services.supervise import _error_message, describe_exit

ROWS = [
    {"name": "edge", "status": "RUNNING", "tags": ["a", "b"]},
    {"name": "b", "status": None, "tags": None},
]
COLUMNS: list[output.Column] = [
    ("name", "name"),
    ("status", "status"),
    ("tags", lambda r: ", ".join(r["tags"] or [])),
]


@pytest.fixture(autouse=True)
def _plain() -> Iterator[None]:
    set_given(Given())
    yield
    set_given(Given())


def test_a_table_is_aligned_and_begins_with_the_names(capsys: pytest.CaptureFixture[str]) -> None:
    output.show_list(ROWS, COLUMNS)
    assert capsys.readouterr().out.splitlines() == ["NAME  STATUS   TAGS", "edge  RUNNING  a, b", "b"]


def test_an_empty_table_says_so_on_stderr_alone(capsys: pytest.CaptureFixture[str]) -> None:
    output.show_list([], COLUMNS, "no clusters")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "no clusters\n")


@pytest.mark.parametrize(("form", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_json_and_yaml_hold_the_whole_objects(
    capsys: pytest.CaptureFixture[str], form: str, read: Any
) -> None:
    set_given(Given(output=form))
    output.show_list(ROWS, COLUMNS)
    assert read(capsys.readouterr().out) == ROWS
    output.show_list([], COLUMNS)
    assert read(capsys.readouterr().out) == []
    output.done({"oid": "1", "note": "yes: no"}, "a sentence")
    assert read(capsys.readouterr().out) == {"oid": "1", "note": "yes: no"}


def test_an_object_is_shown_names_first_and_oids_last(capsys: pytest.CaptureFixture[str]) -> None:
    output.show_object({"oid": "1", "version": 3, "status": "RUNNING", "name": "edge", "label": None})
    assert capsys.readouterr().out.splitlines() == [
        "name     edge",
        "status   RUNNING",
        "version  3",
        "oid      1",
    ]


def test_data_can_not_steer_the_terminal() -> None:
    assert "\x1b" not in output.as_text("a\x1b[2Jb")
    assert "\x1b" not in output.as_text(["\x1b]0;x\x07"])


def test_units() -> None:
    spans = [output.duration(ms) for ms in (840, 12_000, 180_000, 18_000_000, 172_800_000)]
    assert spans == ["840 ms", "12 s", "3 min", "5 h", "2 d"]
    assert output.duration(None) == ""
    assert output.size(3 * 2**20) == "3.0 MiB"


# --- waiting -----------------------------------------------------------------------------------------------


def test_started_wants_running_and_no_stale_status() -> None:
    goal = wait.started(5)
    assert not goal.reached({"status": "RUNNING", "version": 4})
    assert not goal.reached({"status": "STARTING", "version": 5})
    assert goal.reached({"status": "RUNNING", "version": 6})
    assert goal.spoiled({"status": "STOPPED", "version": 4}) is None, "from before the start"
    assert goal.spoiled({"status": "STOPPED", "version": 7})
    assert goal.spoiled(None)


def test_stopped_and_deleted() -> None:
    assert wait.stopped(5).reached({"status": "STOPPED", "version": 6})
    assert not wait.stopped(5).reached({"status": "STOPPED", "version": 4})
    assert wait.deleted().reached(None)
    assert not wait.deleted().reached({"status": "STOPPED", "version": 9})


def test_waiting_for_a_drain_ends_when_nothing_is_left_or_it_is_called_off() -> None:
    goal = wait.drained(4)
    node = {"status": "online", "version": 5, "draining": "new disk", "drained": False}
    assert not goal.reached(node) and goal.reached({**node, "drained": True})
    assert not goal.reached({**node, "version": 3, "drained": True})
    assert goal.spoiled(node) is None
    assert "take workers again" in str(goal.spoiled({"status": "online", "version": 6}))
    assert goal.spoiled(None) == "it was unpaired meanwhile"
    assert wait.describe(node) == "online, draining"
    assert wait.describe({**node, "drained": True}) == "online, drained"


def test_waiting_for_an_update_ends_with_the_last_worker_or_a_newer_update() -> None:
    goal = wait.updated(7, 3)
    running = {"status": "RUNNING", "version": 9, "revision": 3, "scale": 2, "ready": 2}
    assert goal.reached(running)
    assert not goal.reached({**running, "updated": 1})
    assert not goal.reached({**running, "version": 6})
    assert not goal.reached({**running, "status": "DEGRADED"})
    assert goal.reached({**running, "status": "STOPPED", "updated": 0}), "it takes it with its next start"
    assert goal.spoiled({**running, "updated": 1}) is None
    assert "revision 4 was asked for" in str(goal.spoiled({**running, "revision": 4}))
    assert goal.spoiled(None) == "it was deleted meanwhile"
    assert wait.describe({**running, "updated": 1}) == "RUNNING, 2 of 2 ready, 1 updated"


def test_scaled_wants_as_many_ready_workers_or_a_stopped_group() -> None:
    goal = wait.scaled(3, 4)
    assert goal.reached({"status": "RUNNING", "version": 4, "scale": 4, "ready": 4})
    assert goal.reached({"status": "STOPPED", "version": 3, "scale": 4, "ready": 0})
    assert not goal.reached({"status": "RUNNING", "version": 4, "scale": 4, "ready": 3})
    assert not goal.reached({"status": "RUNNING", "version": 4, "scale": 2, "ready": 2})


def test_a_status_in_describe_exit() -> None:
    assert wait.describe({"status": "STARTING", "scale": 4, "ready": 1}) == "STARTING, 1 of 4 ready"
    assert wait.describe({"status": "online"}) == "online"
    assert wait.describe(None)


# --- screens -----------------------------------------------------------------------------------------------


def test_the_status_screen_tells_problems_with_their_reasons() -> None:
    manager = {
        "realm": "lab",
        "manager": "m1",
        "state": "online",
        "epoch": 2,
        "uptime_ms": 5000,
        "version": "1",
    }
    stat = {
        "name": "edge",
        "status": "DEGRADED",
        "scale": 4,
        "ready": 3,
        "backoff": 1,
        "conditions": ["web-4: x"],
    }
    node = {"name": "n1", "status": "lost", "workers": 2, "conditions": [], "runtimes": []}
    found = {"manager": {**manager, "brake": "2 of 3 nodes"}, "clusters": [stat], "nodes": [node]}
    text = "\n".join(status.screen(found))
    for part in (
        "cluster edge: web-4: x",
        "node n1: lost",
        "the brake is on: 2 of 3 nodes",
        "4 desired: 3 ready",
    ):
        assert part in text
    good = {**stat, "status": "RUNNING", "conditions": ["all 4 workers are ready"]}
    online = {**node, "status": "online", "conditions": ["runtime crossbar: program not found"]}
    calm = {"manager": manager, "clusters": [good], "nodes": [online]}
    assert status.screen(calm)[-1] == "no problems"


def test_counts_in_one_line() -> None:
    assert (
        stats.summary({"scale": 4, "ready": 3, "backoff": 1, "pending": 0}) == "4 desired: 3 ready, 1 backoff"
    )


def test_an_event_on_one_line() -> None:
    event = {
        "time": "2026-11-22T07:30:00Z",
        "type": "busbar.on_worker_failed",
        "subject": "worker/web-1",
        "data": {"reason": "exit code 1", "cluster": "edge"},
    }
    assert line(event).split() == [
        "2026-11-22T07:30:00Z",
        "worker_failed",
        "worker",
        "edge/web-1",
        "exit",
        "code",
        "1",
    ]
    assert cluster_of(event) == "edge"
    assert cluster_of({"subject": "node/n1", "data": {}}) is None
    assert cluster_of({"subject": "node/n1", "data": {"cluster": "edge"}}) == "edge"


# --- the stack ---------------------------------------------------------------------------------------------


def test_the_stack_holds_no_secret_and_each_service_its_own_user(tmp_path: Path) -> None:
    plan = up_plan.Plan(tmp_path, ("n1", "n2"), port=4711)
    found = {service.name: service for service in up_plan.services(plan)}
    assert list(found) == ["broker", "manager", "agent-n1", "agent-n2"]
    assert found["agent-n2"].spec.connect.username == "n2"
    assert found["manager"].spec.connect.password_file == str(tmp_path / "secrets" / "manager")
    up_plan.prepare(plan)
    secrets = [path.read_text().strip() for path in (tmp_path / "secrets").iterdir()]
    assert len(set(secrets)) == 4
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != "secrets"]
    assert written
    for path in written:
        assert path.stat().st_mode & 0o077 == 0, path
        assert not any(secret in path.read_text() for secret in secrets), path


def test_a_second_preparation_changes_no_secret_and_no_account(tmp_path: Path) -> None:
    plan = up_plan.Plan(tmp_path, ("n1",))
    up_plan.prepare(plan)
    watched = [tmp_path / "secrets" / "n1", tmp_path / "broker" / "accounts.json"]
    before = [path.read_bytes() for path in watched]
    up_plan.prepare(plan)
    assert [path.read_bytes() for path in watched] == before


def test_an_outside_broker_leaves_the_embedded_one_out(tmp_path: Path) -> None:
    plan = up_plan.Plan(tmp_path, ("n1",), outside=Layer("mqtts://b:8883", tls_ca="/ca.pem"))
    assert [service.kind for service in up_plan.services(plan)] == ["manager", "agent"]
    assert plan.connect("n1") == Layer(
        "mqtts://b:8883", "default", "busbar", "n1", str(tmp_path / "secrets" / "n1"), "/ca.pem"
    )
    assert up_plan.up_state(plan, {})["tls_ca"] == "/ca.pem"


def test_nodes_are_those_asked_for_else_those_of_last_time() -> None:
    assert up_plan.choose_nodes(None, (), {}) == ("n1",)
    assert up_plan.choose_nodes(2, (), {"nodes": ["a"]}) == ("n1", "n2")
    assert up_plan.choose_nodes(None, (), {"nodes": ["a", "b"]}) == ("a", "b")
    assert up_plan.choose_nodes(None, ("x",), {"nodes": ["a"]}) == ("x",)
    for wrong in (("manager",), ("A",), ("a", "a")):
        with pytest.raises(CliError):
            up_plan.choose_nodes(None, wrong, {})


def test_a_port_that_was_asked_for_and_is_taken_is_refused() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CliError, match="taken") as caught:
            up_plan.choose_port(port, {})
        assert caught.value.exit_code == ExitCode.CONFLICT
        assert up_plan.choose_port(0, {"port": port}) not in (port, 0)
    assert up_plan.choose_port(None, {"port": port}) == port


def test_a_second_up_on_the_folder_is_refused_with_the_pid(tmp_path: Path) -> None:
    import os

    with (
        up_plan.locked(tmp_path),
        pytest.raises(CliError, match=rf"pid {os.getpid()}"),
        up_plan.locked(tmp_path),
    ):
        pass
    with up_plan.locked(tmp_path):
        pass


def test_exit_codes_and_errors_as_text() -> None:
    assert describe_exit(-9) == "killed by SIGKILL"
    assert describe_exit(1) == "ended with exit code 1"
    assert _error_message("2026 ERROR busbar.service: broker: port 1 is taken") == "broker: port 1 is taken"
    assert _error_message("2026 INFO busbar.service: fine") == ""
    assert _error_message("ValueError: no") == "ValueError: no"
    assert _error_message("  File x, line 3, in Error") == ""
