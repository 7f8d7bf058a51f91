"""The command line against a real `busbar up`: names, waiting, formats, errors, every noun."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from busbar.bus.client.names import is_oid

from tests import serving
from tests.integration.cli.harness import Stack, stack, until
from tests.pace import bound

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One stack for all tests of this file; each test uses names of its own."""
    with stack(tmp_path_factory.mktemp("cli")) as found:
        found.up("--agents", "2", "--port", "0", "--stop-workers")
        found.ready()
        yield found
        found.signal(signal.SIGINT)
        assert found.wait() == 0
        assert found.left() == []


def test_a_cluster_from_its_creation_to_its_end(up: Stack) -> None:
    made = up.ask("cluster", "create", "life", "--type", "mqtt", "--port", "26000-26099", "--label", "A life")
    assert (made["status"], made["label"]) == ("STOPPED", "A life")
    assert is_oid(made["oid"])
    for node in ("n1", "n2"):
        up.ok("cluster", "add-node", "life", node, "--hardlimit", "5")
    members = up.ask("cluster", "nodes", "life")
    assert [(row["node"], row["hardlimit"]) for row in members] == [("n1", 5), ("n2", 5)]
    up.ok("group", "add", "life/web", "--scale", "2")
    result = up.run("cluster", "start", "life", "--wait", "-o", "json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["status"] == "RUNNING"
    assert "RUNNING, 2 of 2 ready" in result.stderr
    up.ok("group", "scale", "life/web", "3", "--wait")
    stat = up.ask("cluster", "stat", "life")
    assert (stat["ready"], len(stat["endpoints"])) == (3, 3)
    assert {row["status"] for row in up.ask("worker", "list", "-g", "life/web")} == {"RUNNING"}
    assert up.ok("worker", "show", "life/web-1").startswith("name")
    assert "listening" in up.ok("worker", "logs", "life/web-1")
    away = {
        "BUSBAR_STATE": str(up.folder / "elsewhere"),
        "BUSBAR_BROKER": f"mqtt://127.0.0.1:{up.written()['port']}",
        "BUSBAR_REALM": up.realm,
        "BUSBAR_USERNAME": "admin",
        "BUSBAR_PASSWORD_FILE": str(up.state / "secrets" / "admin"),
    }
    assert "listening" in up.ok("worker", "logs", "life/web-1", **away), "over the bus"
    assert "scaled from 3 to 2" in up.ok("group", "scale", "life/web", "-1")
    assert "scaled from 2 to 3" in up.ok("group", "scale", "life/web", "+1")
    up.ok("group", "scale", "web", "1", "-c", "life", "--wait")
    assert up.ok("worker", "list", "-c", "life", "-q").split() == ["life/web-1"]
    up.ok("cluster", "stop", "life", "--wait")
    up.ok("group", "remove", "life/web")
    up.ok("cluster", "remove-node", "life", "n2")
    assert up.ok("cluster", "nodes", "life", "-q").split() == ["n1"]
    up.ok("cluster", "delete", "life", "--wait")
    assert "no router cluster" in up.fails(3, "cluster", "show", "life")


def test_a_group_is_updated_with_its_workers_in_turn(up: Stack) -> None:
    up.ok("cluster", "create", "roll", "--type", "mqtt", "--port", "26100-26103")
    for node in ("n1", "n2"):
        up.ok("cluster", "add-node", "roll", node)
    up.ok("group", "add", "roll/web", "--scale", "2")
    up.ok("cluster", "start", "roll", "--wait")
    before = {w["name"]: w["pid"] for w in up.ask("worker", "list", "-g", "roll/web")}
    both = [*range(26100, 26104), *range(26150, 26154)]
    with serving.watching(lambda: both, serving.answers_mqtt) as asked:
        result = up.run("group", "update", "roll/web", "--port", "26150-26153", "--wait", "-o", "json")
    assert asked.least == 1 and asked.looks > 20, "one router answers at all times, while the other starts"
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["revision"], told["status"], told["ready"]) == (2, "RUNNING", 2)
    assert "2 ready, 1 updated" in result.stderr, result.stderr
    after = up.ask("worker", "list", "-g", "roll/web")
    assert {w["revision"] for w in after} == {2} and not {w["pid"] for w in after} & set(before.values())
    assert all(26150 <= int(w["address"].rpartition(":")[2]) < 26154 for w in after)
    assert '/endpoint/port: "26100-26103" -> "26150-26153"' in result.stderr
    assert "--allow-anonymous" in up.fails(
        2, "group", "update", "roll/web", "--transport", '{"endpoint": {"interface": "0.0.0.0"}}'
    )
    assert up.ask("group", "update", "roll/web", "--label", "new")["revision"] == 2
    said = up.fails(2, "group", "update", "roll/web", "--runtime", "mosquitto", "--max-unavailable", "0")
    assert "invalid_argument at /params/max_unavailable" in said
    before = up.pids("roll")
    said = up.fails(2, "group", "update", "roll/web", "--runtime", "nonesuch")
    assert "no node offers runtime 'nonesuch'" in said
    assert up.pids("roll") == before, "what can't be run anywhere stops nothing"
    up.ok("group", "restart", "roll/web", "--wait")
    assert not set(up.pids("roll").values()) & set(before.values())
    before = up.pids("roll")
    assert "worker 'roll/web-2' is restarted, RUNNING" in up.ok("worker", "restart", "roll/web-2", "--wait")
    assert {name for name, pid in up.pids("roll").items() if pid != before[name]} == {"web-2"}
    up.ok("group", "add", "roll/slip", "--wait")
    assert "slip' removed" in up.ok("group", "remove", "roll/slip", "--stop")
    up.ok("cluster", "delete", "roll", "--stop")


def test_a_node_is_drained_for_maintenance_and_comes_back(up: Stack) -> None:
    up.ok("cluster", "create", "move", "--type", "mqtt", "--port", "26200-26249")
    for node in ("n1", "n2"):
        up.ok("cluster", "add-node", "move", node)
    up.ok("group", "add", "move/web", "--scale", "2")
    up.ok("cluster", "start", "move", "--wait")
    done = up.ask("node", "drain", "n1", "--reason", "new disk", "--wait")
    assert (done["drained"], done["draining"]) == (True, "new disk")
    assert {w["node"] for w in up.ask("worker", "list", "-g", "move/web")} == {"n2"}
    assert "drained: new disk" in up.ok("node", "list")
    assert "drained" in up.ok("node", "drain", "n1"), "once more is no error"
    up.fails(6, "node", "drain", "n2", "--wait", "--timeout", "1.5")
    assert "move/web-1 stays: n1 is draining; n2 is draining" in up.ok("status")
    up.ok("cluster", "stat", "move")
    up.ok("node", "undrain", "n1")
    up.ok("node", "drain", "n2", "--wait")
    assert {w["node"] for w in up.ask("worker", "list", "-g", "move/web")} == {"n1"}
    assert "takes workers again" in up.ok("node", "undrain", "n2")
    up.ok("cluster", "delete", "move", "--stop")


def test_names_and_oids_are_both_accepted(up: Stack) -> None:
    oid = up.ask("cluster", "create", "twice")["oid"]
    assert up.ask("cluster", "show", oid) == up.ask("cluster", "show", "twice")
    group = up.ask("group", "add", "-c", oid, "--scale", "0", "--runtime", "amqtt")
    assert group["name"], "a group without a name gets one"
    by_name = up.ask("group", "show", f"twice/{group['name']}")
    assert up.ask("group", "show", group["oid"], "-c", "twice") == by_name
    assert up.ask("group", "show", f"{oid}/{group['name']}") == by_name
    node = up.ask("node", "show", "n1")
    assert up.ask("node", "show", node["oid"])["name"] == "n1"
    assert up.ok("group", "list", "twice", "-q").split() == [f"twice/{group['name']}"]
    assert up.ask("group", "stat", f"twice/{group['name']}")["scale"] == 0


def test_errors_are_one_sentence_and_an_exit_code(up: Stack) -> None:
    up.ok("cluster", "create", "once")
    said = up.fails(4, "cluster", "create", "once")
    assert said == "error: router cluster 'once' exists (already_exists at /params/routercluster/name)\n"
    shown = json.loads(up.fails(4, "cluster", "create", "once", "-o", "json"))["error"]
    assert (shown["code"], shown["exit_code"]) == ("already_exists", 4)
    assert "no_such_object" in up.fails(3, "node", "show", "nobody")
    assert "invalid_argument" in up.fails(2, "cluster", "create", "Not A Name")
    assert "cannot_stop" in up.fails(4, "cluster", "stop", "once", "--strict")
    assert "version_conflict" in up.fails(4, "cluster", "start", "once", "--expect-version", "99")
    assert "no_such_procedure" in up.fails(3, "call", "make_coffee")
    assert "rawsocket" in up.fails(2, "cluster", "create", "bad", "--type", "carrier-pigeon")
    odd = '{"type": "carrier-pigeon"}'
    assert "invalid_configuration" in up.fails(2, "cluster", "create", "bad", "--transport", odd)


@pytest.mark.fault(101, "U")
def test_an_order_that_was_given_before_is_done(up: Stack) -> None:
    up.ok("cluster", "create", "again")
    for order, status in (("stop", "STOPPED"), ("start", "RUNNING"), ("stop", "STOPPED")):
        up.ok("cluster", order, "again", "--wait")
        assert up.ok("cluster", order, "again") == f"cluster 'again' is already {status}\n"
        assert up.ask("cluster", order, "again", "--wait")["status"] == status
        assert f"cannot_{order}" in up.fails(4, "cluster", order, "again", "--strict")
        assert "version_conflict" in up.fails(4, "cluster", order, "again", "--expect-version", "99")


@pytest.mark.fault(123, "U")
def test_monitoring_has_an_exit_code(up: Stack) -> None:
    assert "no problems" in up.ok("status", "--check")
    up.ok("cluster", "create", "sick", "--type", "mqtt")
    up.ok("group", "add", "sick/web")
    up.ok("cluster", "start", "sick")
    until(lambda: up.run("status", "--check").returncode == 8, "the pending worker is a problem")
    result = up.run("status", "--check", "-o", "json")
    assert result.returncode == 8 and json.loads(result.stdout)["clusters"]
    assert up.run("status").returncode == 0
    up.ok("cluster", "delete", "sick", "--stop")


def test_a_wait_in_vain_ends_with_6_and_says_why(up: Stack) -> None:
    up.ok("cluster", "create", "lonely", "--type", "mqtt")
    up.ok("group", "add", "lonely/web")
    said = up.fails(6, "cluster", "start", "lonely", "--wait", "--timeout", "1.5")
    assert "not RUNNING after 1.5 s" in said
    assert "web-1" in said
    up.ok("cluster", "delete", "lonely", "--stop")


def test_a_group_in_a_stopped_cluster_needs_no_waiting(up: Stack) -> None:
    up.ok("cluster", "create", "calm", "--type", "mqtt")
    made = up.ask("group", "add", "calm/web", "--scale", "2", "--wait", "--timeout", "10")
    assert (made["name"], made["status"]) == ("web", "STOPPED")


def test_formats_hold_the_same(up: Stack) -> None:
    up.ok("cluster", "create", "forms", "--tag", "a", "--tag", "b", "--description", "yes: no")
    shown = yaml.safe_load(up.ok("cluster", "show", "forms", "-o", "yaml"))
    assert shown == up.ask("cluster", "show", "forms")
    assert shown["tags"] == ["a", "b"]
    assert up.ask("-o", "json", "cluster", "show", "forms") == shown, "global options stand anywhere"
    table = up.ok("cluster", "list").splitlines()
    assert table[0].split()[:2] == ["NAME", "STATUS"]
    assert any(line.startswith("forms") for line in table)
    assert "forms" in up.ask("cluster", "list", "-q")


def test_nodes_are_paired_and_unpaired(up: Stack) -> None:
    made = up.ask("node", "pair", "ship-7", "--label", "site=sea")
    assert (made["status"], made["labels"]) == ("offline", {"site": "sea"})
    assert "ship-7" in up.ok("node", "list", "--status", "offline", "-q").split()
    up.ok("node", "unpair", "ship-7")
    assert "ship-7" not in up.ok("node", "list", "-q").split()


def test_principals_and_their_roles(up: Stack) -> None:
    up.ok("principal", "add", "alice", "viewer")
    up.ok("principal", "role", "alice", "operator")
    assert {row["name"]: row["role"] for row in up.ask("principal", "list")} == {
        "admin": "owner",
        "alice": "operator",
    }
    secret = up.ok("broker", "add-account", "alice", "person").strip()
    alice = ("--username", "alice", "--password-file", secret)
    assert up.ok("node", "list", "-q", *alice).split() == ["n1", "n2"]
    assert "not_authorized" in up.fails(5, "principal", "add", "eve", "owner", *alice)
    up.ok("principal", "remove", "alice")  # and the account with it
    assert up.run("node", "list", *alice).returncode == 2, "its password file is gone"
    up.ok("broker", "add-account", "alice", "person")
    assert up.run("node", "list", *alice).returncode == 5, "a user without a role may do nothing"
    up.ok("broker", "remove-account", "alice")


def test_the_doctor_finds_nothing_wrong(up: Stack) -> None:
    found = {check["name"]: check["status"] for check in up.ask("doctor")}
    assert {"broker", "manager", "acl", "retained", "packet size", "delay", "nodes", "disk"} <= set(found)
    assert "failed" not in found.values()


def test_events_are_listed_and_watched(up: Stack) -> None:
    start = int(up.ask("manager", "show")["sequence"])
    watch = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "busbar.cli.app",
            "event",
            "watch",
            "-c",
            "seen",
            "--count",
            "2",
            "--since",
            str(start),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env=up.env,
    )
    try:
        up.ok("cluster", "create", "seen")
        up.ok("cluster", "delete", "seen")
        lines = watch.communicate(timeout=bound(20))[0].splitlines()
    finally:
        watch.kill()
        watch.wait()
    assert [line.split()[1] for line in lines] == ["routercluster_created", "routercluster_deleted"]
    listed = up.ask("event", "list", "--since", str(start))
    sequences = [int(event["sequence"]) for event in listed]
    assert sequences == list(range(start + 1, start + 1 + len(listed)))
    assert "routercluster_deleted" in up.ok("event", "list")


def test_status_shows_the_realm_on_one_screen(up: Stack) -> None:
    text = up.ok("status")
    assert f"realm {up.realm}: manager m1 online" in text
    assert "n1" in text
    assert set(up.ask("status")) == {"manager", "clusters", "nodes"}


def test_any_operation_can_be_called(up: Stack) -> None:
    assert json.loads(up.ok("call", "list_nodes", '{"return_names": true}')) == ["n1", "n2"]
    assert json.loads(up.ok("call", "get_manager"))["realm"] == up.realm


def test_nobody_there_is_said_clearly(up: Stack) -> None:
    said = up.fails(7, "cluster", "list", "--broker", "mqtt://127.0.0.1:1", "--username", "admin")
    assert "can't be reached: connection refused: is 'busbar up' running?" in said
    said = up.fails(6, "cluster", "list", "--realm", "elsewhere", BUSBAR_TIMEOUT="1")
    assert "no manager answered" in said
    assert "'elsewhere'" in said
    wrong = up.folder / "wrong"
    wrong.write_text("not the password, though long enough for one")
    wrong.chmod(0o600)
    up.fails(5, "cluster", "list", "--password-file", str(wrong))


def test_contexts_choose_the_broker(up: Stack) -> None:
    written = up.written()
    secret = written["password_file"]
    add = ("context", "add", "here", "--broker", written["broker"], "--realm", up.realm)
    up.ok(*add, "--username", "admin", "--password-file", secret)
    try:
        up.ok("context", "add", "away", "--broker", "mqtt://127.0.0.1:1", "--username", "admin")
        assert up.ok("node", "list", "-q", BUSBAR_STATE="/nowhere").split() == ["n1", "n2"]
        up.fails(7, "node", "list", "--context", "away")
        up.fails(7, "node", "list", BUSBAR_CONTEXT="away")
        up.ok("context", "use", "away")
        up.fails(7, "node", "list")
        assert [row["name"] for row in up.ask("context", "list") if row["current"]] == ["away"]
        assert "exists" in up.fails(4, *add)
        up.fails(3, "context", "use", "nowhere")
    finally:
        up.ok("context", "remove", "away")
        up.ok("context", "remove", "here")
    assert up.ask("context", "list") == []


def test_completion_offers_nouns_and_living_names(up: Stack) -> None:
    up.ok("cluster", "create", "complete-me")
    words = {"_BUSBAR_COMPLETE": "complete_bash", "COMP_CWORD": "3"}
    found = up.run("dummy", COMP_WORDS="busbar cluster show compl", **words).stdout
    assert "complete-me" in found
    nouns = up.run("dummy", COMP_WORDS="busbar cl", **{**words, "COMP_CWORD": "1"}).stdout
    assert nouns.split() == ["cluster"]


def test_services_run_one_by_one_too(up: Stack, tmp_path: Path) -> None:
    """broker, manager and agent as single commands, with accounts made by hand."""
    env = {**up.env, "BUSBAR_STATE": str(tmp_path / "s"), "BUSBAR_REALM": up.realm}
    from tests.brokers import free_port

    port = free_port()
    url = f"mqtt://127.0.0.1:{port}"

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        log = (tmp_path / f"{arguments[0]}.log").open("wb")
        return subprocess.Popen([sys.executable, "-m", "busbar.cli.app", *arguments], stderr=log, env=env)

    started = [start("broker", "--port", str(port))]
    try:
        until(lambda: b"ready" in (tmp_path / "broker.log").read_bytes(), "the broker is ready")
        up.ok("broker", "add-account", "n9", "node", BUSBAR_STATE=str(tmp_path / "s"))
        started.append(start("manager", "--broker", url))
        started.append(start("agent", "--node", "n9", "--broker", url))
        secret = str(tmp_path / "s" / "secrets" / "admin")
        admin = ("--broker", url, "--username", "admin", "--password-file", secret)
        up.ok("node", "pair", "n9", "--realm", up.realm, *admin)
        until(
            lambda: up.ok("node", "list", "-q", "--status", "online", "--realm", up.realm, *admin),
            "n9 is online",
        )
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
            assert process.wait(bound(15)) == 0
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_the_acl_is_that_of_the_contract(up: Stack) -> None:
    assert f"topic readwrite busbar/v1/{up.realm}/#" in up.ok("acl", "--broker", "mosquitto")
    assert "{deny, all}." in up.ok("acl", "--broker", "emqx", "--realm", "lab")
    assert 'user: "n1"' in up.ok("acl", "--broker", "nats", "--realm", "lab", "--node", "n1")
