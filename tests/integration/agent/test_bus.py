"""What the agent publishes, and how it reacts to messages."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from busbar.agent.processes import logs
from busbar.agent.processes.log_history import LogHistory
from busbar.agent.processes.process import WorkerProcesses
from busbar.agent.reporting.log_stream import read_lines
from busbar.bus.connection.link import Message
from busbar.bus.decode import encode
from busbar.bus.messages import NodeState

from tests.agents import QUICK, Bench, bench, worker
from tests.pace import bound


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench(tmp_path) as made:
        yield made


def published(node: Bench, leaf: str) -> list[dict[str, Any]]:
    topic = node.topics.node("n1", leaf)  # type: ignore[arg-type]
    return [json.loads(each.payload) for each in node.messages if each.topic == topic and each.payload]


def state(node: Bench, **members: Any) -> Any:
    topic = node.topics.node("n1", "state")

    def wanted(message: Message) -> bool:
        if message.topic != topic:
            return False
        found = json.loads(message.payload)
        return all(found.get(key) == value for key, value in members.items())

    return wanted


async def test_birth_comes_before_the_report_and_the_will_bears_its_boot_and_conn(node: Bench) -> None:
    agent = await node.start()
    await node.report(lambda last: True)
    topics = [each.topic.rsplit("/", 1)[1] for each in node.messages]
    assert topics.index("state") < topics.index("reported")
    birth = published(node, "state")[0]
    assert birth == {"state": "ready", "boot": agent.boot, "conn": 1}
    will = agent.link._present_will  # type: ignore[attr-defined]
    assert json.loads(will.payload) == {"state": "lost", "boot": agent.boot, "conn": 1}
    assert (will.topic, will.qos, will.retain) == (node.topics.node("n1", "state"), 1, True)
    last = node.reports[-1]
    assert (last["boot"], last["conn"]) == (agent.boot, 1)


async def test_state_and_report_are_republished_on_a_new_connection(node: Bench) -> None:
    agent = await node.start()
    node.assign(worker())
    first = await node.state("web-1", "RUNNING")
    node.broker.drop("n1")
    await node.message(state(node, state="ready", conn=2))
    again = await node.report(lambda last: last["conn"] == 2)
    assert again["workers"][0]["pid"] == first["pid"]
    assert again["digest"] == next(r["digest"] for r in reversed(node.reports) if r["conn"] == 1)
    assert json.loads(node.broker.retained[node.topics.node("n1", "state")])["boot"] == agent.boot


@pytest.mark.fault(27, "H")
async def test_a_late_will_is_overwritten(node: Bench) -> None:
    agent = await node.start()
    await node.message(state(node, state="ready"))
    late = encode(NodeState("lost", agent.boot, 0))
    node.observer.post(node.topics.node("n1", "state"), late, retain=True)
    await node.message(state(node, state="lost"))
    await node.message(lambda each: published(node, "state")[-1]["state"] == "ready", timeout=2)


async def test_garbage_on_its_own_state_topic_is_overwritten(node: Bench) -> None:
    await node.start()
    await node.message(state(node, state="ready"))
    node.observer.post(node.topics.node("n1", "state"), b"", retain=True)
    topic = node.topics.node("n1", "state")
    await node.message(lambda each: node.broker.retained.get(topic, b"") != b"", timeout=2)
    assert json.loads(node.broker.retained[topic])["state"] == "ready"


@pytest.mark.fault(22, "B")
async def test_another_agent_of_the_same_name_is_a_conflict_without_a_message_storm(node: Bench) -> None:
    await node.start()
    node.assign(heartbeat_ms=300)
    await node.report(lambda last: last["store"] == "s1")
    other = encode(NodeState("ready", "b-other", 3))
    before = len(published(node, "state"))
    for _ in range(20):
        node.observer.post(node.topics.node("n1", "state"), other, retain=True)
    last = await node.report(lambda last: last["conditions"] and "conflict" in last["conditions"][0])
    assert "b-other" in last["conditions"][0]
    own = [each for each in published(node, "state")[before:] if each["boot"] != "b-other"]
    assert len(own) <= 2
    await node.report(lambda last: not any("conflict" in each for each in last["conditions"]))


async def test_heartbeats_carry_what_is_applied_and_the_digest_of_the_last_report(node: Bench) -> None:
    agent = await node.start()
    node.assign(worker(), heartbeat_ms=100)
    await node.state("web-1", "RUNNING")
    digest = node.reports[-1]["digest"]
    seen = len(published(node, "heartbeat"))
    await node.message(lambda _: len(published(node, "heartbeat")) >= seen + 3)
    beats = published(node, "heartbeat")
    assert [each["seq"] for each in beats] == list(range(1, len(beats) + 1))
    assert beats[-1]["digest"] == digest
    assert (beats[-1]["boot"], beats[-1]["applied"]) == (agent.boot, {"epoch": 1, "version": 1})
    sent = [(each.qos, each.retain) for each in node.messages if each.topic.endswith("heartbeat")]
    assert sent[0] == (1, False), "what is refused is told"
    assert set(sent[1:]) == {(0, False)}


@pytest.mark.fault(26, "C")
async def test_a_deaf_connection_is_noticed_and_reconnected(node: Bench) -> None:
    agent = await node.start()
    node.assign(worker(), heartbeat_ms=100)
    first = await node.state("web-1", "RUNNING")
    agent.link.offer = lambda message: None  # type: ignore[attr-defined]
    await node.message(state(node, state="ready", conn=2), timeout=10)
    assert node.living() == {first["pid"]}


async def test_a_healthy_connection_is_kept(node: Bench) -> None:
    agent = await node.start()
    node.assign(heartbeat_ms=50)
    await node.message(lambda _: len(published(node, "heartbeat")) >= 60, timeout=10)
    assert agent.link.conn == 1
    assert len(published(node, "state")) >= 5


async def test_usage_is_reported_but_does_not_change_the_digest(node: Bench) -> None:
    agent = await node.start()
    node.assign(worker())
    await node.state("web-1", "RUNNING")
    before = node.reports[-1]
    await agent.supervisor.registry.refresh_usage()
    agent.reporter.force_report()
    last = await node.report(lambda last: last["workers"][0]["rss"])
    assert last["digest"] == before["digest"]
    assert last["workers"][0]["rss"] > 1_000_000
    assert last["workers"][0]["cpu_s"] >= 0
    assert last["workers"][0]["uptime_ms"] > 0


async def test_a_resync_forces_a_report(node: Bench) -> None:
    await node.start()
    await node.report(lambda last: True)
    await asyncio.sleep(0.3)
    count = len(node.reports)
    node.command(resync=True)
    await node.report(lambda last: len(node.reports) > count)
    node.observer.post(node.topics.node("n1", "command"), b"{", retain=False)
    node.observer.post(node.topics.node("n1", "command"), b"")
    node.command(resync=True)
    await node.report(lambda last: len(node.reports) > count + 1)


def followed(node: Bench) -> list[str]:
    topic = node.topics.node_log("n1", "web-1")
    chunks = [json.loads(each.payload) for each in node.messages if each.topic == topic]
    return [line for chunk in chunks for line in chunk["lines"]]


async def test_a_followed_log_streams_the_last_lines_and_then_new_ones(node: Bench) -> None:
    agent = await node.start()
    node.assign(worker())
    await node.state("web-1", "RUNNING")
    node.command(follow="web-1", lease_ms=60_000, lines=1)
    await node.message(lambda _: followed(node) == ["listening"])
    path = agent.supervisor.registry.log_path("web-1", "edge")
    assert path is not None
    with path.open("a") as file:
        file.write("new \x1b[31mline\nhalf")
        file.flush()
        await node.message(lambda _: followed(node) == ["listening", "new [31mline"])
        file.write(" done\n")
    await node.message(lambda _: followed(node)[-1] == "half done")
    node.command(follow="web-1", lease_ms=0)
    node.command(follow="nobody", lease_ms=1000)
    async with asyncio.timeout(bound(5)):
        while agent.logs._streams:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def test_lines_beyond_the_rate_are_dropped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("".join(f"line {number}\n" for number in range(150)))
    history = LogHistory()
    lines, dropped, at = read_lines(history, path, 0)
    assert (lines[0], lines[-1], dropped) == ("line 50", "line 149", 50)
    assert read_lines(history, path, at) == ([], 0, at)
    path.write_text("fresh\n")
    assert read_lines(history, path, at)[0] == ["fresh"]
    path.write_text("x" * 200_000 + "\nlast\n")
    lines, dropped, at = read_lines(history, path, 0)
    assert (lines[-1], dropped, at) == ("last", 1, 200_006)
    assert read_lines(history, tmp_path / "none", 0) == ([], 0, 0)


@pytest.mark.fault(39, "L")
async def test_a_flood_of_output_stays_bounded(node: Bench) -> None:
    agent = await node.start()
    node.assign(worker(runtime="flood"))
    await node.state("web-1", "RUNNING")
    path = agent.supervisor.registry.log_path("web-1", None)
    assert path is not None
    async with asyncio.timeout(bound(10)):
        while path.stat().st_size > logs.MAX_BYTES:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert sum(each.stat().st_size for each in path.parent.iterdir()) <= 2 * logs.MAX_BYTES + 1000


@pytest.mark.fault(30, "B L")
async def test_nothing_is_started_while_proc_cannot_be_read(
    node: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await node.start()
    node.assign(worker())
    first = await node.state("web-1", "RUNNING")
    await node.stop()
    real, calls = WorkerProcesses.scan, 0

    def failing(self: WorkerProcesses) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise OSError(24, "Too many open files")
        return real(self)

    monkeypatch.setattr(WorkerProcesses, "scan", failing)
    node.reports.clear()
    await node.start()
    again = await node.state("web-1", "RUNNING")
    assert calls >= 2
    assert (again["pid"], again["restarts"]) == (first["pid"], first["restarts"])


@pytest.mark.fault(15, "L")
async def test_an_internal_error_in_one_worker_is_retried_and_does_not_affect_the_others(
    node: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await node.start()
    real, failed = agent.supervisor.controller.runner.probe, 0

    async def failing(instance: Any, **more: Any) -> Any:
        nonlocal failed
        if instance.worker.name == "web-1" and not failed:
            failed += 1
            raise RuntimeError("a defect")
        return await real(instance, **more)

    monkeypatch.setattr(agent.supervisor.controller.runner, "probe", failing)
    node.assign(worker(), worker("web-2"))
    await node.state("web-2", "RUNNING", restarts=0)
    again = await node.state("web-1", "RUNNING", restarts=1)
    assert again["reason"] == "restarted: internal error: a defect"
    assert len(node.living()) == 2


@pytest.mark.fault(21, "O")
async def test_a_pid_reused_by_a_foreign_process_is_not_touched(node: Bench) -> None:
    await node.start()
    node.assign(worker())
    first = await node.state("web-1", "RUNNING")
    await node.stop()
    os.kill(first["pid"], signal.SIGKILL)
    stranger = await asyncio.create_subprocess_exec("sleep", "600", start_new_session=True)
    try:
        path = node.folder / "state" / "records" / "oid-web-1.json"
        record = json.loads(path.read_bytes())
        path.write_text(json.dumps({**record, "pid": stranger.pid}))
        await node.start(QUICK)
        again = await node.state("web-1", "RUNNING", restarts=1)
        assert again["pid"] != stranger.pid
        node.assign()
        await node.report(lambda last: not last["workers"])
        assert stranger.returncode is None
    finally:
        stranger.kill()
        await stranger.wait()


@pytest.mark.fault(19, "B O")
async def test_a_fork_whose_pid_was_never_stored_is_adopted(node: Bench) -> None:
    await node.start()
    node.assign(worker())
    first = await node.state("web-1", "RUNNING")
    await node.stop()
    path = node.folder / "state" / "records" / "oid-web-1.json"
    record = json.loads(path.read_bytes())
    path.write_text(json.dumps({**record, "pid": 0, "boot_id": "", "start_ticks": 0, "ready": False}))
    node.reports.clear()
    await node.start()
    kept = await node.state("web-1", "RUNNING")
    assert (kept["pid"], kept["restarts"]) == (first["pid"], first["restarts"])
    assert node.living() == {first["pid"]}


@pytest.mark.fault(22, "B")
async def test_two_agents_of_one_node_on_one_host_never_run_a_worker_twice(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    async with bench(tmp_path / "one") as one, bench(tmp_path / "two") as two:
        (
            two.realm,
            two.topics,
        ) = one.realm, one.topics
        await one.start()
        one.assign(worker())
        first = await one.state("web-1", "RUNNING")
        two.observer.subscribe(f"{two.topics.prefix}/node/#", two._on_message)
        await two.start()
        two.assign(worker())
        refused = await two.state("web-1", "BACKOFF")
        assert "another agent of this node runs it on this host" in refused["reason"]
        assert one.living() == {first["pid"]}
        await one.stop()
        taken = await two.state("web-1", "RUNNING")
        assert (taken["pid"], taken["restarts"]) == (first["pid"], first["restarts"])
