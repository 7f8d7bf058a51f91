"""What is printed: columns, objects, JSON, YAML, units; the stack of `busbar up` as values."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from busbar.bus.addresses import IPV4
from busbar.bus.broker.limits import LIMITS
from busbar.bus.client.events import cluster_of
from busbar.bus.events import EVENTS
from busbar.bus.messages import Endpoint, Event, MeshSeen, Status, Traffic
from busbar.bus.params import ManagerInfo, Node, Stat, Worker
from busbar.cli.commands import status
from busbar.cli.commands.event import line, types_of
from busbar.cli.context import GlobalOptions, Settings, set_global_options
from busbar.cli.errors import CliError, ExitCode
from busbar.cli.printing import numbers, output, stats
from busbar.cli.services import up_plan
from busbar.cli.services.limits import show_limits
from busbar.cli.services.supervise import _error_message, describe_exit
from msgspec import structs

ROWS = [
    {"name": "edge", "status": "RUNNING", "tags": ["a", "b"]},
    {"name": "b", "status": None, "tags": None},
]
COLUMNS: list[output.Column[dict[str, Any]]] = [
    ("name", lambda r: r["name"]),
    ("status", lambda r: r["status"]),
    ("tags", lambda r: ", ".join(r["tags"] or [])),
]


@pytest.fixture(autouse=True)
def _plain() -> Iterator[None]:
    set_global_options(GlobalOptions())
    yield
    set_global_options(GlobalOptions())


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
    set_global_options(GlobalOptions(output=form))
    output.show_list(ROWS, COLUMNS)
    assert read(capsys.readouterr().out) == ROWS
    output.show_list([], COLUMNS)
    assert read(capsys.readouterr().out) == []
    output.done({"oid": "1", "note": "yes: no"}, "a sentence")
    assert read(capsys.readouterr().out) == {"oid": "1", "note": "yes: no"}


def test_objects_are_shown_with_the_members_they_have(capsys: pytest.CaptureFixture[str]) -> None:
    set_global_options(GlobalOptions(output="json"))
    found = Status(3, 1, "9", "RUNNING", "edge", "", scale=1, endpoints=[Endpoint("w", "n", "u")])
    output.done(output.merged({"oid": "1", "version": 2}, found, None), "a sentence")
    shown = json.loads(capsys.readouterr().out)
    assert (shown["version"], shown["endpoints"]) == (
        3,
        [{"worker": "w", "node": "n", "url": "u", "name": "default"}],
    )
    assert list(shown)[:2] == ["oid", "version"] and "ready" not in shown


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
    spans = [numbers.duration(ms) for ms in (840, 12_000, 180_000, 18_000_000, 172_800_000)]
    assert spans == ["840 ms", "12 s", "3 min", "5 h", "2 d"]
    assert numbers.duration(None) == ""
    sizes = [
        numbers.size(count) for count in (999, 640_000, 1_400_000, 27_900_000, 999_700_000, 1_400_000_000)
    ]
    assert sizes == ["999 B", "640 kB", "1.4 MB", "28 MB", "1.0 GB", "1.4 GB"]
    assert [numbers.seconds(value) for value in (0.84, 12.4, 180, None)] == ["0.8 s", "12 s", "3 min", ""]
    assert [numbers.percent(share) for share in (0.004, 0.12, 1.5, None)] == ["0.4 %", "12 %", "150 %", ""]


def test_an_object_is_shown_with_numbers_for_people_and_dumped_with_exact_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = {
        "name": "web-1",
        "rss": 27_900_000,
        "cpu_s": 12.42,
        "uptime_ms": 180_000,
        "changed": 1_700_000_000_000_000_000,
        "heard_ms_ago": 12_400,
        "lost_after": 30.0,
        "capacity": {"version": "0.1.0", "memory": 8_300_000_000, "max_workers": None, "cpus": 2},
    }
    output.show_object(shown)
    told = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (told["rss"], told["cpu_s"], told["uptime_ms"]) == ("28 MB", "12 s", "3 min")
    assert (told["heard_ms_ago"], told["lost_after"]) == ("12 s", "30 s")
    assert told["capacity"] == "version 0.1.0, memory 8.3 GB, cpus 2"
    assert told["changed"] == "2023-11-14T22:13:20.000Z"
    set_global_options(GlobalOptions(output="json"))
    try:
        output.show_object(shown)
    finally:
        set_global_options(GlobalOptions())
    assert json.loads(capsys.readouterr().out) == shown


# --- screens -----------------------------------------------------------------------------------------------


def manager(**more: Any) -> ManagerInfo:
    known: dict[str, Any] = {
        "manager": "m1", "state": "online", "store": "s", "epoch": 2, "realm": "lab", "version": "1",
        "uptime_ms": 5000, "sequence": 1, "nodes": {}, "clusters": {}, "workers": {}, "outbox": 0,
        "brake": None, "limits": {},
    }  # fmt: skip
    return ManagerInfo(**{**known, **more})


def stat(name: str, status: str, **more: Any) -> Stat:
    counts = dict.fromkeys(
        (
            "scale",
            "ready",
            "starting",
            "backoff",
            "pending",
            "unknown",
            "stopping",
            "restarts",
            "cpu_s",
            "rss",
        ),
        0,
    )
    known: dict[str, Any] = {"since_ms": 0, "conditions": [], "endpoints": [], "workers": []}
    return Stat(oid="o", name=name, status=status, **{**counts, **known, **more})


def test_the_status_screen_tells_problems_with_their_reasons() -> None:
    bad = stat("edge", "DEGRADED", scale=4, ready=3, backoff=1, conditions=["web-4: x"])
    node = Node("o", "n1", None, "lost", 1, 1, workers=2)
    screen = status.screen(status.Realm(manager(brake="2 of 3 nodes"), [bad], [node]))
    text = "\n".join("".join(parts) for parts in screen)
    for part in (
        "cluster edge: web-4: x",
        "node n1: lost",
        "the brake is on: 2 of 3 nodes",
        "4 desired: 3 ready",
    ):
        assert part in text
    good = stat("edge", "RUNNING", scale=4, ready=4, conditions=["all 4 workers are ready"])
    online = structs.replace(node, status="online", conditions=["runtime crossbar: program not found"])
    assert status.screen(status.Realm(manager(), [good], [online]))[-1] == ("no problems",)


@pytest.mark.fault(112, "U")
@pytest.mark.parametrize(
    ("condition", "shown"),
    [
        ("group web: update to revision 3: 1 of 4 workers; web-2 stays as it is: no room", True),
        ("worker web-5: pending, n1 is full (4/4 workers)", True),
        ("worker web-5: restarting, exit code 1", True),
        ("worker web-2 stays on n1, which has no label zone (zone=a is required): …", True),
        ("worker web-5: starting, n1 is the least loaded node", False),
        ("all 4 workers are ready", False),
    ],
)
def test_a_running_cluster_tells_what_cannot_go_on(condition: str, shown: bool) -> None:
    good = stat("edge", "RUNNING", scale=4, ready=4, conditions=["all 4 workers are ready", condition])
    found = "\n".join("".join(parts) for parts in status.screen(status.Realm(manager(), [good], [])))
    assert (f"cluster edge: {condition}" in found) is shown
    assert ("no problems" in found) is not shown


def test_limits_and_peers_are_told_in_units(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    show_limits(tmp_path)
    told = {line.split()[0]: line.split(maxsplit=3) for line in capsys.readouterr().out.splitlines()}
    assert told["packet_bytes"][1:3] == ["1.0", "MB"] and told["connections"][1] == str(LIMITS.connections)
    assert [stats.mesh_text(seen) for seen in (None, MeshSeen(2), MeshSeen(3, 1, ["web-2", "web-3"]))] == [
        "", "2", "1/3 (not web-2, web-3)"
    ]  # fmt: skip


def test_a_runtime_that_a_node_does_not_offer_is_no_problem_of_a_lost_one() -> None:
    lost = Node("o", "n1", None, "lost", 0, 1, conditions=["lost: silent for 30 s", "runtime crossbar: none"])
    assert status.causes(lost) == ["lost: silent for 30 s"]


def test_counts_in_one_line() -> None:
    assert (
        stats.summary(stat("edge", "DEGRADED", scale=4, ready=3, backoff=1))
        == "4 desired: 3 ready, 1 backoff"
    )


def test_traffic_is_shown_of_those_that_tell_it(capsys: pytest.CaptureFixture[str]) -> None:
    facts: dict[str, Any] = {"cluster": "edge", "workergroup": "web", "state": "RUNNING", "status": "RUNNING"}
    facts |= dict.fromkeys(("oid", "cluster_oid", "workergroup_oid"), "o") | {"node": "n1", "node_oid": "o"}
    facts |= {"generation": 1, "address": None, "pid": 1, "restarts": 0, "reason": None, "since_ms": 0}
    traffic = Traffic(3, 28_400, 999, 1_400_000, 64_000, 1)
    told, silent = Worker(name="web-1", traffic=traffic, **facts), Worker(name="web-2", **facts)
    stats.print_stat(stat("web", "RUNNING", workers=[told, silent], traffic=traffic))
    out = capsys.readouterr().out
    assert "  clients 3, messages in 28 k (1.4 MB), out 999 (64 kB), slow consumers 1\n" in out
    header, first, second = out.splitlines()[-3:]
    assert header.lower().split()[-4:] == ["clients", "in", "out", "reason"]
    assert first.split()[-4:] == ["3", "28", "k", "999"] and second.split()[-1] != "999"
    stats.print_stat(stat("web", "RUNNING", workers=[silent]))
    assert "clients" not in capsys.readouterr().out.lower()
    assert [numbers.count(n) for n in (0, 0.4, 999, 1000, 9_140, 999_600, 2e9, None)] == [
        "0", "0", "999", "1.0 k", "9.1 k", "1.0 M", "2.0 G", ""
    ]  # fmt: skip


def event(subject: str, **data: Any) -> Event:
    return Event(
        "s-1", "/busbar/lab/s", "1", "busbar.on_worker_failed", subject, "2026-11-22T07:30:00Z", data
    )


def test_kinds_of_events_are_all_their_types() -> None:
    assert types_of(None) is None and types_of(["worker_failed"]) == ["worker_failed"]
    assert types_of(["group", "busbar.on_node_lost"]) == [
        *(f"workergroup_{verb}" for verb in EVENTS["workergroup"]),
        "node_lost",
    ]
    with pytest.raises(CliError, match="no event type 'worker_found'"):
        types_of(["worker_found"])


def test_an_event_on_one_line() -> None:
    failed = event("worker/web-1", reason="exit code 1", cluster="edge")
    assert line(failed).split() == [
        "2026-11-22T07:30:00Z",
        "worker_failed",
        "worker",
        "edge/web-1",
        "exit",
        "code",
        "1",
    ]
    assert cluster_of(failed) == "edge"
    assert cluster_of(event("node/n1")) is None
    assert cluster_of(event("node/n1", cluster="edge")) == "edge"


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
    plan = up_plan.Plan(tmp_path, ("n1",), outside=Settings("mqtts://b:8883", tls_ca="/ca.pem"))
    assert [service.kind for service in up_plan.services(plan)] == ["manager", "agent"]
    assert plan.connect("n1") == Settings(
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
            up_plan.choose_port(IPV4, port, {})
        assert caught.value.exit_code == ExitCode.CONFLICT
        assert up_plan.choose_port(IPV4, 0, {"port": port}) not in (port, 0)
    assert up_plan.choose_port(IPV4, None, {"port": port}) == port


def test_a_port_that_may_not_be_bound_is_not_told_to_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    denied = PermissionError(13, "Permission denied")
    monkeypatch.setattr(up_plan, "bind_error", lambda host, port: denied)
    with pytest.raises(CliError, match=r"can't listen on port 80 of 127\.0\.0\.1: Permission denied"):
        up_plan.choose_port(IPV4, 80, {})


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
