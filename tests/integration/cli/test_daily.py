"""What is done every day, against a real `busbar up`: reading logs, looking, waiting, placing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cli.harness import Stack, stack, until

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One stack with a running group, for all tests of this file."""
    with stack(tmp_path_factory.mktemp("daily")) as found:
        found.up("--agents", "2", "--port", "0", "--stop-workers")
        found.ready()
        found.ok("cluster", "create", "edge", "--type", "mqtt", "--port", "26800-26899")
        for node in ("n1", "n2"):
            found.ok("cluster", "add-node", "edge", node)
        found.ok("group", "add", "edge/web", "--scale", "2")
        found.ok("cluster", "start", "edge", "--wait")
        yield found
        found.signal(signal.SIGINT)
        assert found.wait() == 0
        assert found.left() == []


@contextmanager
def running(up: Stack, output: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command that goes on, its output in a file."""
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "busbar.cli.app", *arguments],
            stdout=file, stderr=subprocess.STDOUT, env=up.env, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def rows(path: Path) -> list[dict[str, Any]]:
    """What was written as JSON lines so far."""
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def test_logs_of_a_group_go_on_over_restarts_and_moves(up: Stack, tmp_path: Path) -> None:
    told = tmp_path / "logs"
    with running(up, told, "logs", "edge/web", "-f", "-o", "json"):

        def lines(worker: str, node: str) -> list[str]:
            return [
                r["line"] for r in rows(told) if (r["worker"], r["node"]) == (worker, node) and "line" in r
            ]

        where = {f"edge/{w['name']}": w["node"] for w in up.ask("worker", "list", "-g", "edge/web")}
        until(lambda: all(lines(name, node) for name, node in where.items()), "both workers' past lines")
        name = next(name for name, node in where.items() if node == "n1")
        before = len(lines(name, "n1"))
        up.ok("worker", "restart", name, "--wait")
        until(lambda: len(lines(name, "n1")) > before, "lines of the process that was restarted")
        up.ok("node", "drain", "n1", "--wait")
        until(lambda: any("listening" in line for line in lines(name, "n2")), "lines from the other node")
        assert [row for row in rows(told) if row.get("missing")] == []
        assert "it is on n2 now, before on n1" in {row.get("note") for row in rows(told)}
        up.ok("node", "undrain", "n1")
    shown = up.ok("logs", "edge", "--tail", "3").splitlines()
    assert {line.partition(" | ")[0].strip() for line in shown} == {"web-1", "web-2"}
    assert "listening" in up.ok("logs", name, "--grep", "listen", "--raw")
    # An agent looks once a second how far its workers' logs have grown.
    until(lambda: up.ok("logs", name, "--since", "0s", "--raw") == "", "nothing was written just now")
    assert "no group or worker" in up.fails(3, "logs", "edge/nobody")
    assert "regular expression" in up.fails(2, "logs", "edge", "--grep", "(")
    assert "say how long ago" in up.fails(2, "logs", "edge", "--since", "yesterday")


def test_top_shows_what_is_used(up: Stack) -> None:
    def used() -> bool:
        shown = up.ask("top", "-c", "edge")
        return len(shown["workers"]) == 2 and all(row["rss"] for row in shown["workers"])

    until(used, "the usage of both workers")
    shown = up.ok("top", "--sort", "name")
    assert shown.startswith(f"realm {up.realm}: 2 nodes (2 online); 2 workers (2 RUNNING); CPU ")
    assert [line.split()[0] for line in shown.splitlines() if line.startswith("edge/")] == [
        "edge/web-1",
        "edge/web-2",
    ]


def test_a_list_that_is_watched_is_printed_again_at_a_change(up: Stack, tmp_path: Path) -> None:
    told = tmp_path / "list"
    with running(up, told, "cluster", "list", "--watch", "-o", "json") as process:
        until(lambda: "edge" in told.read_text(), "the first list")
        up.ok("cluster", "create", "seen")
        until(lambda: '"seen"' in told.read_text(), "the list with the new cluster")
        up.ok("cluster", "delete", "seen")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert "Traceback" not in told.read_text()
    assert "--watch" not in up.ok("cluster", "create", "--help"), "a change can't be watched"


def test_waiting_ends_when_it_is_so_and_at_once_with_the_reason_when_it_fails(up: Stack) -> None:
    assert up.ok("wait", "cluster", "edge") == "cluster 'edge' is RUNNING\n"
    assert "is online" in up.ok("wait", "node", "n1")
    assert up.ask("wait", "group", "edge/web")["ready"] == 2
    said = up.fails(6, "wait", "worker", "edge/web-1", "--for", "stopped", "--timeout", "0.5")
    assert "worker 'edge/web-1' is not STOPPED after 0.5 s" in said
    taken = up.ask("worker", "show", "edge/web-1")["address"].rpartition(":")[2]
    up.ok("cluster", "create", "bad", "--type", "mqtt", "--port", taken)
    up.ok("cluster", "add-node", "bad", up.ask("worker", "show", "edge/web-1")["node"])
    up.ok("group", "add", "bad/web")
    assert up.ask("wait", "cluster", "bad", "--for", "stopped")["status"] == "STOPPED"
    up.ok("cluster", "start", "bad")
    said = up.fails(1, "wait", "worker", "bad/web-1", "--timeout", "30")
    assert "worker 'bad/web-1' is not RUNNING: " in said and taken in said
    assert "BACKOFF" in up.ok("wait", "worker", "bad/web-1", "--for", "failed")
    up.ok("cluster", "delete", "bad", "--stop")


def test_a_cordoned_node_keeps_its_workers_and_takes_no_more(up: Stack) -> None:
    before = up.pids("edge")
    on = {row["name"]: row["node"] for row in up.ask("worker", "list", "-g", "edge/web")}
    assert "takes no new workers" in up.ok("node", "cordon", "n1", "--reason", "slow disk")
    assert up.ask("node", "show", "n1")["cordoned"] == "slow disk"
    assert "cordoned: slow disk" in up.ok("node", "list") and "cordoned: slow disk" in up.ok("status")
    up.ok("group", "scale", "edge/web", "4", "--wait")
    after = {row["name"]: row["node"] for row in up.ask("worker", "list", "-g", "edge/web")}
    assert {name: after[name] for name in on} == on and {after["web-3"], after["web-4"]} == {"n2"}
    up.ok("node", "cordon", "n2")
    up.ok("group", "scale", "edge/web", "5")
    until(
        lambda: up.ask("worker", "list", "-g", "edge/web")[-1]["reason"] == "n1 is cordoned; n2 is cordoned",
        "the reason of the worker without a node",
    )
    assert {name: pid for name, pid in up.pids("edge").items() if name in before} == before
    up.ok("node", "uncordon", "n1")
    assert "takes workers again" in up.ok("node", "uncordon", "n1"), "once more is no error"
    until(lambda: up.running("edge", 5), "the fifth worker on the node that takes workers again")
    up.ok("node", "uncordon", "n2")
    up.ok("group", "scale", "edge/web", "2", "--wait")


def test_a_dry_run_of_several_orders_shows_the_first_and_names_the_rest(up: Stack) -> None:
    up.ok("group", "add", "edge/side", "--scale", "2", "--wait")
    remove = ("group", "remove", "edge/side", "--stop")
    before = up.pids("edge")
    shown = up.run(*remove, "--dry-run")
    assert shown.returncode == 0 and shown.stdout.count(" stop ") == 2
    assert shown.stderr.startswith("then group 'edge/side' is removed, once it has stopped; the plan ends")
    assert up.ask(*remove, "--dry-run")["then"] == ["remove_routercluster_workergroup"]
    drain = ("cluster", "remove-node", "edge", "n1", "--drain", "--dry-run")
    planned = up.ask(*drain)
    assert planned["then"] == ["remove_routercluster_node", "undrain_node"]
    assert {step["action"] for step in planned["workers"]} <= {"move"}
    assert up.ask("node", "show", "n1")["draining"] is None and up.pids("edge") == before
    up.ok(*remove)
    assert {name for name in before if name not in up.pids("edge")} == {"side-1", "side-2"}
