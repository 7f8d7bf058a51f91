"""Faults of workers: ignored signals, descendants, crashes, hangs, floods of output; and some races."""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.census import until
from tests.faults.yard import Cluster, Yard
from tests.pace import within

pytestmark = pytest.mark.timeout(120)


def _worker(cluster: Cluster, name: str = "web-1") -> dict[str, Any]:
    def found() -> Any:
        return next((w for w in cluster.stat()["workers"] if w["name"] == name), None)

    worker: dict[str, Any] = until(found, 10, f"a worker {name}")
    return worker


def _reason(cluster: Cluster, text: str, state: str = "BACKOFF") -> str:
    def found() -> Any:
        worker = _worker(cluster)
        return worker["state"] == state and text in (worker["reason"] or "") and worker["reason"]

    try:
        reason: str = until(found, 15, f"{state} because of '{text}'")
    except AssertionError as error:
        raise AssertionError(f"{error}; it is {_worker(cluster)}") from None
    return reason


@pytest.mark.fault((33, 34), "O")
@pytest.mark.parametrize("mode", ["stubborn", "family"])
def test_no_process_is_left_that_ignores_sigterm_or_left_its_session(here: Yard, mode: str) -> None:
    cluster = here.cluster(2, mode)
    cluster.running(2)
    count = len(here.census.processes(cluster.name))
    assert count >= (4 if mode == "family" else 2)
    began = time.monotonic()
    cluster.stop()
    assert time.monotonic() - began < within(10)


@pytest.mark.fault(34, "B O")
def test_a_dead_workers_descendants_are_gone_before_the_next_start(here: Yard) -> None:
    cluster = here.cluster(1, "family")
    (life,) = cluster.running(1).values()
    family = {each.key for each in here.census.processes(cluster.name)}
    here.census.kill(life)
    until(lambda: life.key not in cluster.pids(), 5, "it is dead")
    cluster.running(1)
    assert not family & {each.key for each in here.census.processes(cluster.name)}
    cluster.stop()


@pytest.mark.fault((35, 36, 38, 40), "L H B")
def test_every_reason_reaches_the_status(here: Yard) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        held = {"type": "tcp", "endpoint": {"type": "tcp", "port": port}}
        wanted = {
            "crash": "exit code 3",
            "early": "exit code 0",
            "deaf": "not ready within 2 s",
        }
        clusters = {mode: here.cluster(1, mode) for mode in wanted}
        clusters["port"] = here.cluster(1, "serve", transport=held)
        assert "boom: cannot go on" in _reason(clusters["crash"], wanted["crash"])
        assert "nothing to do" in _reason(clusters["early"], wanted["early"])
        assert "nothing listens" in _reason(clusters["deaf"], wanted["deaf"])
        assert str(port) in _reason(clusters["port"], "port")
        for mode, cluster in clusters.items():
            worker = _worker(cluster)
            assert worker["state"] != "RUNNING", "a worker that does not answer is never reported as running"
            assert worker["reason"], f"{mode}: {worker}"
            assert cluster.stat()["status"] in ("STARTING", "ERROR")
        for runtime in ("nowhere", "forbidden"):
            wish = {"name": "other", "scale": 1, "runtime": runtime}
            where = {"routercluster_oid": clusters["port"].oid, "workergroup": wish}
            refused = here.alice.ask("add_routercluster_workergroup", where)["error"]
            assert refused["code"] == "invalid_configuration" and runtime in str(refused), refused
        conditions = here.alice.sure("get_node", {"node_oid": here.oids["n1"]})["conditions"]
        assert any("/no/such/program" in text for text in conditions), conditions
        assert any("not-executable" in text for text in conditions), conditions
        other = here.cluster(1)
        other.running(1)  # other workers are unaffected
    clusters["port"].running(1, timeout=40)
    for cluster in (*clusters.values(), other):
        cluster.stop()
    here.check()


@pytest.mark.fault(38, "H")
def test_a_configuration_that_cannot_be_rendered_reports_where(here: Yard) -> None:
    cluster = here.cluster(1, "amqtt", transport={"type": "mqtt", "options": {"password_file": "users"}})
    assert "/transport/options/password_file" in _reason(cluster, "names no 'secrets_root'")
    cluster.stop()


@pytest.mark.fault(39, "L")
def test_a_flood_of_output_is_bounded_and_delays_nobody(here: Yard) -> None:
    cluster = here.cluster(1, "flood", nodes=("n1",))
    cluster.running(1)

    def written() -> int:
        total = 0
        for path in (here.stack.folder / "agent-n1").rglob("*.log*"):
            with contextlib.suppress(FileNotFoundError):  # rotated away meanwhile
                total += path.stat().st_size
        return total

    most = 0
    end = time.monotonic() + 4
    while time.monotonic() < end:
        most = max(most, written())
        time.sleep(0.1)
    assert 2**20 < most < 200 * 2**20
    assert cluster.stat()["ready"] == 1
    other = here.cluster(1, nodes=("n1",))
    other.running(1)
    other.stop()
    cluster.stop()
    assert written() < 64 * 2**20


@pytest.mark.fault(41, "O")
def test_no_zombie_is_left(here: Yard) -> None:
    cluster = here.cluster(3, nodes=("n1",))
    agent = here.pid("n1")
    for _ in range(2):
        for life in cluster.running(3).values():
            here.census.kill(life)
        until(lambda: not _zombies(agent), 5, "the dead are reaped")
    cluster.running(3, timeout=30)
    cluster.stop()
    until(lambda: not _zombies(agent), 5, "the dead are reaped")


def _zombies(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] == "Z" and int(fields[1]) == parent:
                found.append(int(entry.name))
    return found


@pytest.mark.fault(30, "L")
def test_a_descriptor_limit_is_a_reason_and_recovers(here: Yard) -> None:
    cluster = here.cluster(1, nodes=("n1",))
    before = cluster.running(1)
    agent = here.pid("n1")
    soft, hard = resource.prlimit(agent, resource.RLIMIT_NOFILE)
    # Not one above the highest number in use: a file that is open for a moment would leave its number free.
    resource.prlimit(agent, resource.RLIMIT_NOFILE, (3, hard))
    try:
        more = here.cluster(1, nodes=("n1",))
        # Probing a port and spawning both need a descriptor: the reason is the same.
        _reason(more, "the agent has no file descriptor left")
        cluster.kept(before)
        assert cluster.stat()["ready"] == 1
    finally:
        resource.prlimit(agent, resource.RLIMIT_NOFILE, (soft, hard))
    more.running(1, timeout=40)
    cluster.kept(before)
    cluster.stop()
    more.stop()


@pytest.mark.fault(51, "B O")
def test_delete_during_start_stop_during_scaling_and_scale_during_loss(here: Yard) -> None:
    first = here.cluster(4)
    refused = here.alice.ask("delete_routercluster", {"routercluster_oid": first.oid})
    assert refused["error"]["code"] == "not_stopped"
    here.alice.sure("stop_routercluster", {"routercluster_oid": first.oid})
    first.gone()
    here.alice.sure("delete_routercluster", {"routercluster_oid": first.oid})
    second = here.cluster(2)
    second.running(2)
    second.scale(6)
    second.stop()
    third = here.cluster(2)
    before = third.running(2)
    here.proxies["n1"].blackhole()
    third.scale(6)
    until(lambda: third.stat()["scale"] == 6, 5, "the new scale")
    here.node("n1", "late", "lost")
    third.scale(3)
    here.proxies["n1"].heal()
    here.node("n1", "online")
    after = third.running(3)
    assert before.items() <= after.items()
    here.check()
    third.stop()


@pytest.mark.fault(51, "O C")
def test_a_cluster_stopped_while_a_node_is_lost(here: Yard) -> None:
    cluster = here.cluster(2)
    cluster.running(2)
    here.proxies["n1"].blackhole()
    here.node("n1", "lost")
    here.alice.sure("stop_routercluster", {"routercluster_oid": cluster.oid})
    cluster.is_("STOPPED", "STOPPING")
    here.proxies["n1"].heal()
    here.node("n1", "online")
    cluster.gone()
