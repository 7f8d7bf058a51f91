"""Messages of nodes with a real store behind: what is written, and what is ignored."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from busbar.bus.connection.link import Message
from busbar.bus.errors import BusError
from busbar.bus.messages import NOT_REPLACED, Applied, NodeState, Traffic
from busbar.bus.params import GetWorker
from busbar.bus.results import Worker
from busbar.bus.states import NodeStatus
from busbar.manager.api.operations.base import ReadContext
from busbar.manager.api.operations.workers import get_worker
from busbar.manager.ingest.node_session import CONFLICT
from busbar.manager.ingest.reports import UNREAD_BEATS
from busbar.manager.publish.statuses import StatusBuilder
from busbar.manager.state.node_memory import WorkerStat
from busbar.manager.store import Tx
from busbar.manager.store.rows import NO_PROCESS
from msgspec import to_builtins

from tests.integration.watching import TOPICS, Agent, Watch, fleet, watching


def versions(watch: Watch) -> list[int]:
    reads = watch.store.reads
    return [
        row.version
        for table in (reads.nodes(), reads.clusters(), reads.groups(), reads.workers())
        for row in table
    ]


async def test_a_birth_and_a_report_make_a_node_known(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        await watch.pair("n1")
        agent = Agent(watch, "n1", boot="b7", conn=3)
        agent.state("ready")
        agent.tell(capacity={"max_workers": 4}, conditions=["disk is slow"], refused="runtime x is unknown")
        await watch.until(lambda: watch.node("n1").status == "online")
        await watch.rest()
        row = watch.node("n1")
        assert (row.boot, row.conn, row.goodbye) == ("b7", 3, False)
        assert (row.runtimes, row.capacity) == (["amqtt"], {"max_workers": 4})
        assert row.conditions == ["disk is slow", "it refused the assignment: runtime x is unknown"]
        assert (row.applied_epoch, row.applied_version) == (1, 1)


async def test_repeated_messages_write_nothing(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        agents = await fleet(watch, 2)
        before, told = versions(watch), watch.told()
        for agent in agents:
            agent.state("ready")
            agent.say("reported", agent.report)
            agent.beat()
        await watch.rest()
        assert versions(watch) == before
        assert watch.told() == told


async def test_named_listeners_are_stored_and_shown_and_go_with_the_process(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        (agent,) = await fleet(watch, 1, scale=2)
        urls = {"mqtt": "mqtt://n1:1001", "ws": "ws://n1:2001"}
        agent.obey(web_1={"listeners": urls, "address": urls["mqtt"]})
        await watch.until(lambda: watch.worker("web-1").listeners == urls)
        row = watch.worker("web-1")
        builder = StatusBuilder(watch.store, 5000)
        told = {kind: json.loads(builder.status((kind, oid), builder.stamp())[1])  # type: ignore[index]
                for kind, oid in (("worker", row.oid), ("workergroup", row.group_oid))}  # type: ignore[arg-type]  # fmt: skip
        assert told["worker"]["listeners"] == urls
        assert [(each["worker"], each["name"], each["url"]) for each in told["workergroup"]["endpoints"]] == [
            ("web-1", "mqtt", "mqtt://n1:1001"),
            ("web-1", "ws", "ws://n1:2001"),
            ("web-2", "default", "mqtt://n1:1002"),
        ]
        assert len(watch.store.reads.endpoints(row.group_oid, 1)) == 1, "each listener counts"
        other = builder.status(("worker", watch.worker("web-2").oid), builder.stamp())
        assert other is not None and "listeners" not in json.loads(other[1])
        agent.obey(web_1={"state": "BACKOFF", "address": None, "pid": None})
        await watch.until(lambda: watch.worker("web-1").listeners is None)


async def test_a_worker_that_its_node_does_not_replace_is_still_found_by_clients(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        (agent,) = await fleet(watch, 1, scale=1)
        agent.obey(web_1={"address": "mqtt://n1:1001"})
        await watch.until(lambda: watch.worker("web-1").address == "mqtt://n1:1001")
        row = watch.worker("web-1")
        columns = {"state": "STARTING", "generation": row.generation + 1, **NO_PROCESS}
        await watch.store.write(lambda tx: tx.update_worker(row.oid, **columns))
        assert not watch.store.reads.endpoints(row.group_oid, 9)
        kept = {"generation": row.generation, "reason": f"{NOT_REPLACED}/transport/type: no"}
        agent.obey(web_1={**kept, "address": "mqtt://n1:1001"})
        await watch.until(lambda: watch.store.reads.endpoints(row.group_oid, 9))
        assert watch.worker("web-1").state == "STARTING", "it is not what its group asks for"
        agent.obey(web_1={**kept, "state": "BACKOFF", "address": None, "pid": None})
        await watch.until(lambda: not watch.store.reads.endpoints(row.group_oid, 9))


@pytest.mark.parametrize(
    "listeners", [{"Ws": "x"}, {"ws": "x" * 1025}, {f"l{each}": "x" for each in range(9)}, {"ws": None}]
)
async def test_listeners_of_a_report_are_bounded(tmp_path: Path, listeners: Any) -> None:
    async with watching(tmp_path) as watch:
        (agent,) = await fleet(watch, 1, scale=1)
        agent.obey(web_1={"listeners": listeners})
        await watch.rest()
        assert watch.worker("web-1").listeners is None


async def test_a_known_birth_does_not_wake_the_monitor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with watching(tmp_path) as watch:
        (agent,) = await fleet(watch, 1, scale=1)
        woken: list[int] = []
        monkeypatch.setattr(watch.reports, "_wake", lambda: woken.append(agent.conn))
        agent.state("ready")
        await watch.rest()
        assert woken == []
        agent.conn = 2
        agent.state("ready")
        await watch.rest()
        assert woken == [2]


BAD = [
    b"{", b"[]", b"null", b"\xff", b'{"a":1,"a":2}', b"[" * 10_000, b'{"boot":"b1"}', b"NaN",
    b'{"boot":1,"conn":1,"workers":[]}', b'{"boot":"b1","conn":-1,"workers":[]}',
    b'{"boot":"b1","conn":1,"workers":[{"worker":"../x","state":"RUNNING"}]}',
    b'{"boot":"b1","conn":1,"workers":{},"state":5}', b"x" * 2_000_000,
    b'{"boot":"b1","conn":1,"state":"dancing","workers":[]}',
]  # fmt: skip


@pytest.mark.parametrize("leaf", ["state", "reported", "heartbeat"])
@pytest.mark.fault(0, "L")
async def test_messages_that_can_not_be_decoded_are_dropped(
    tmp_path: Path, leaf: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with watching(tmp_path) as watch:
        (agent,) = await fleet(watch, 1, scale=1)
        before = watch.states(), watch.node("n1").boot
        with caplog.at_level(logging.WARNING):
            for payload in BAD:
                agent.say(leaf, payload)
                await watch.rest()
        if leaf == "reported":  # the last of them is a fair report of no workers
            before = {"web-1": "STARTING n1"}, "b1"
        assert (watch.states(), watch.node("n1").boot) == before
        assert len([r for r in caplog.records if "dropped a message" in r.getMessage()]) <= 1
        agent.obey()
        await watch.until(lambda: watch.cluster().status == "RUNNING")


@pytest.mark.fault(0, "L")
async def test_messages_of_an_unknown_node_are_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with watching(tmp_path) as watch:
        await watch.pair("n1")
        stranger = Agent(watch, "n1")
        stranger.name = "n2"
        with caplog.at_level(logging.WARNING):
            for _ in range(50):
                stranger.state("ready")
                stranger.beat()
            await watch.rest()
        assert [row.name for row in watch.store.reads.nodes()] == ["n1"]
        assert len([r for r in caplog.records if "not paired" in r.getMessage()]) == 1
        assert watch.commands == []


async def test_foreign_topics_are_ignored(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        for topic in (
            "busbar/v1/other/node/n1/state",
            TOPICS.node("n1", "assignment"),
            "x",
            "busbar/v1/lab/node",
        ):
            watch.reports.handle(Message(topic, b'{"state":"ready"}'))
        watch.reports.handle(Message(TOPICS.node("n1", "state"), b""))


@pytest.mark.fault(0, "L")
async def test_a_report_about_another_nodes_worker_is_ignored(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        agents = await fleet(watch, 2, scale=2)
        agents[0].tell(
            agents[0].running("web-1"), agents[0].running("web-2", state="BACKOFF", pid=1, reason="forged")
        )
        await watch.rest()
        assert watch.states() == {"web-1": "RUNNING n1", "web-2": "RUNNING n2"}
        assert watch.worker("web-2").pid == 102


@pytest.mark.parametrize(
    "known", [{}, {"oid": None}, {"oid": None, "cluster": None}], ids=["by oid", "by cluster", "by name"]
)
@pytest.mark.parametrize("state", ["RUNNING", "running", "Running"])
async def test_a_reported_worker_is_matched(tmp_path: Path, known: dict[str, Any], state: str) -> None:
    async with watching(tmp_path) as watch:
        (agent,) = await fleet(watch, 1, scale=1, obey=False)
        agent.tell(agent.running("web-1", state=state, **known))
        await watch.until(lambda: watch.states() == {"web-1": "RUNNING n1"})


@pytest.mark.parametrize("wrong", [{"oid": "x"}, {"oid": None, "cluster": "other"}, {"generation": 1}])
async def test_a_foreign_worker_or_an_older_generation_is_not_matched(
    tmp_path: Path, wrong: dict[str, Any]
) -> None:
    async with watching(tmp_path) as watch:
        agents = await fleet(watch, 2, scale=1)
        await watch.pass_time(60, *agents)
        await watch.pass_time(40, agents[1])
        assert watch.states() == {"web-1": "STARTING n2"}
        agents[1].tell(agents[1].running("web-1", **wrong))
        await watch.rest()
        assert watch.states() == {"web-1": "STARTING n2"}
        agents[1].tell(agents[1].running("web-1", generation=0))
        await watch.until(lambda: watch.states() == {"web-1": "RUNNING n2"})


async def test_a_worker_that_the_report_lacks_is_not_running(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        (agent,) = await fleet(watch, 1, scale=2)
        agent.tell(agent.running("web-1"))
        await watch.until(lambda: watch.cluster().status == "DEGRADED")
        assert watch.states() == {"web-1": "RUNNING n1", "web-2": "STARTING n1"}
        assert watch.worker("web-2").pid is None


async def test_a_restart_between_reports_has_its_events(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        (agent,) = await fleet(watch, 1, scale=1)
        agent.obey(web_1={"restarts": 1, "pid": 777})
        await watch.until(lambda: watch.worker("web-1").restarts == 1)
        assert watch.told("web-1")[-2:] == ["worker_failed", "worker_ready"]
        assert watch.worker("web-1").pid == 777
        assert watch.cluster().status == "RUNNING"


async def test_a_stopping_worker_is_gone_only_under_the_new_assignment(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        (agent,) = await fleet(watch, 1, scale=1)
        running = agent.running("web-1")
        await watch.turn("STOPPING")
        unassigned = watch.worker("web-1").unassigned_version
        assert unassigned == watch.node("n1").assignment_version
        epoch = watch.store.epoch
        agent.tell(applied=Applied(epoch, unassigned - 1))
        agent.tell(applied=Applied(epoch + 1, unassigned))
        agent.tell(store="another", applied=Applied(epoch, unassigned))
        agent.tell(running, applied=Applied(epoch, unassigned))
        await watch.rest()
        assert watch.states() == {"web-1": "STOPPING n1"}
        agent.tell(agent.running("web-1", state="stopped"), applied=Applied(epoch, unassigned))
        await watch.until(lambda: watch.states() == {"web-1": "STOPPED"})


async def test_a_node_of_another_store_or_a_newer_manager_says_so(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        (agent,) = await fleet(watch, 1, scale=1)
        agent.tell(agent.running("web-1"), store="s9f2")
        await watch.until(lambda: watch.node("n1").conditions)
        assert "another manager's store (s9f2" in watch.node("n1").conditions[0]
        agent.tell(agent.running("web-1"), applied=Applied(9, 1))
        await watch.until(lambda: "epoch 9, newer than" in watch.node("n1").conditions[0])
        agent.obey()
        await watch.until(lambda: not watch.node("n1").conditions)


# --- retained messages


async def test_retained_messages_are_no_signs_of_life(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        await watch.pair("n1")
        agent = Agent(watch, "n1")
        watch.link.unsubscribe(TOPICS.all_nodes("state"))
        watch.link.unsubscribe(TOPICS.all_nodes("reported"))
        agent.state("ready")
        agent.tell()
        await watch.rest()
        watch.reports.attach(watch.link)
        await watch.until(lambda: watch.node("n1").runtimes == ["amqtt"])
        await watch.rest()
        assert watch.node("n1").status == "offline"
        assert not watch.memory.heard_once(watch.node("n1").oid)
        agent.beat()
        await watch.until(lambda: watch.node("n1").status == "online")


async def test_a_retained_report_counts_once_a_heartbeat_confirms_it(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        (agent,) = await fleet(watch, 1, scale=1)
        watch.link.reachable.clear()
        watch.broker.drop("manager")
        agent.obey(web_1={"state": "BACKOFF", "reason": "exit code 1"})
        watch.link.reachable.set()
        await watch.rest()
        assert watch.states() == {"web-1": "RUNNING n1"}
        agent.beat()
        await watch.until(lambda: watch.states() == {"web-1": "BACKOFF n1"})


@pytest.mark.fault(119, "U")
async def test_a_retained_report_that_comes_before_the_hooks_run_is_a_right_to_read(tmp_path: Path) -> None:
    """A broker sends what is retained right behind its SUBACK: no right is missing then."""
    async with watching(tmp_path) as watch:
        (agent,) = await fleet(watch, 1, scale=1)
        watch.link.reachable.clear()
        watch.broker.drop("manager")
        watch.link.reachable.set()
        await watch.rest()
        await watch.reports.connected()
        for _ in range(2 * UNREAD_BEATS):
            agent.beat()
        await watch.rest()
        assert watch.reports.unread == frozenset()


@pytest.mark.parametrize("broken", ["member", "size"])
async def test_a_report_that_can_not_be_read_is_told_until_one_can(
    tmp_path: Path, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its workers are shown as they were reported last, which is not how they are."""
    async with watching(tmp_path) as watch:
        (agent,) = await fleet(watch, 1, scale=1)
        more = {"runtimes": ["No Name"]} if broken == "member" else {"capacity": {"note": "x" * (1 << 20)}}
        wrong = to_builtins(agent.report) | more
        agent.say("reported", wrong)
        await watch.until(lambda: watch.node("n1").conditions)
        (told,) = watch.node("n1").conditions
        assert told.startswith("its report can't be read")
        assert ("/runtimes/0" if broken == "member" else "the limit is 1048576") in told
        version = watch.node("n1").version
        agent.say("reported", wrong)
        await watch.rest()
        assert watch.node("n1").version == version and "BusError" not in caplog.text
        agent.obey()
        await watch.until(lambda: not watch.node("n1").conditions)


async def test_a_retained_heartbeat_is_ignored(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        await watch.pair("n1")
        agent = Agent(watch, "n1")
        payload = b'{"boot":"b1","conn":1}'
        watch.reports.handle(Message(TOPICS.node("n1", "heartbeat"), payload, retain=True))
        await watch.rest()
        assert watch.node("n1").status == "offline"
        assert agent.watch.commands == []


async def test_a_message_of_an_earlier_connection_is_outdated(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        (agent,) = await fleet(watch, 1, scale=1)
        agent.conn = 5
        agent.born()
        await watch.rest()
        agent.state("disconnected", conn=4)
        agent.tell(conn=4)
        await watch.rest()
        assert watch.node("n1").status == "online"
        assert watch.states() == {"web-1": "RUNNING n1"}


# --- heartbeats


async def test_another_digest_requests_a_resync_once_per_interval(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        (agent,) = await fleet(watch, 1, scale=1)
        assert watch.commands == []
        before = versions(watch)
        for _ in range(5):
            agent.beat(digest="sha256:other")
        await watch.rest()
        assert [(node, command.resync) for node, command in watch.commands] == [("n1", True)]
        await watch.clock.advance(5)
        agent.beat(digest="sha256:other")
        await watch.rest()
        assert len(watch.commands) == 2
        assert versions(watch) == before


async def test_a_heartbeat_without_a_known_report_asks_for_one(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        await watch.pair("n1")
        agent = Agent(watch, "n1", boot="b4", conn=9)
        agent.beat()
        await watch.until(lambda: watch.node("n1").status == "online")
        assert [node for node, _ in watch.commands] == ["n1"]
        assert (watch.node("n1").boot, watch.node("n1").conn) == ("b4", 9)
        agent.state("lost")
        await watch.until(lambda: watch.node("n1").status == "late")


async def test_a_node_that_is_paired_again_is_believed_again(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        (agent,) = await fleet(watch, 1, scale=1)
        await watch.unpair("n1")
        agent.runtimes = ["amqtt", "mosquitto"]
        agent.tell()
        await watch.rest()
        assert watch.node("n1").runtimes == ["amqtt"]
        oid = watch.node("n1").oid
        again = {"status": NodeStatus.OFFLINE, "boot": None, "conn": None, "goodbye": False}
        await watch.store.write(lambda tx: tx.update_node(oid, **again))
        agent.beat()
        await watch.until(lambda: watch.node("n1").runtimes == ["amqtt", "mosquitto"])
        await watch.rest()
        assert (watch.node("n1").boot, watch.node("n1").status) == ("b1", "online")


async def test_worker_figures_are_not_stored(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        (agent,) = await fleet(watch, 1, scale=1)
        before = versions(watch)
        traffic = Traffic(3, 20, 40, 200, 400, 1)
        agent.obey(web_1={"uptime_ms": 5000, "cpu_s": 1.5, "rss": 4096, "traffic": traffic})
        await watch.rest()
        oid = watch.worker("web-1").oid
        assert watch.memory.stat(oid) == (5000, 1.5, 4096, traffic)
        await watch.clock.advance(2)
        assert watch.memory.stat(oid).uptime_ms == 7000
        assert versions(watch) == before


@pytest.mark.fault(113, "H")
async def test_a_worker_that_waits_has_no_figures(tmp_path: Path) -> None:
    """Not those of the process that it had, nor those that a late report tells."""
    async with watching(tmp_path) as watch:
        (agent,) = await fleet(watch, 1, scale=1)
        oid = watch.worker("web-1").oid

        def shown() -> Worker:
            reads, now = watch.store.reads, watch.clock.monotonic()
            snapshot, now_ns = watch.monitor.cache.snapshot, watch.clock.time_ns()
            ctx = ReadContext(reads, watch.memory, None, now, now_ns, TOPICS, snapshot)  # type: ignore[arg-type]
            return get_worker(ctx, GetWorker(worker_oid=oid))

        traffic = Traffic(3, 20, 40, 200, 400, 1)
        figures: dict[str, Any] = {"uptime_ms": 5000, "cpu_s": 1.5, "rss": 4096, "traffic": traffic}
        late = agent.running("web-1", **figures)
        agent.obey(web_1=figures)
        await watch.rest()
        assert (shown().status, shown().uptime_ms, shown().traffic) == ("RUNNING", 5000, traffic)
        await watch.remove_member("n1")
        agent.obey()
        await watch.rest()
        for _ in range(2):
            assert shown().status == "PENDING"
            assert (shown().uptime_ms, shown().cpu_s, shown().rss, shown().traffic) == (
                None,
                None,
                None,
                None,
            )
            watch.memory.set_stats({oid: WorkerStat(5000, 1.5, 4096, traffic)})
            agent.tell(late)
            await watch.rest()


async def test_a_node_whose_row_is_gone_is_forgotten(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        await watch.pair("n1", "n2")
        for name in ("n1", "n2"):
            Agent(watch, name).state("ready")
        await watch.rest()
        kept, gone = watch.node("n1").oid, watch.node("n2").oid
        assert set(watch.reports.sessions) == {kept, gone}

        def delete(tx: Tx) -> None:
            tx.db.execute("DELETE FROM nodes WHERE oid = ?", (gone,))
            tx.changes.nodes.add(gone)

        await watch.store.write(delete)
        await watch.rest()
        assert set(watch.reports.sessions) == {kept}


# --- two agents with one name


async def test_two_agents_in_turns_are_a_conflict_until_one_goes(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        (agent,) = await fleet(watch, 1, scale=1)
        other = Agent(watch, "n1", boot="b2")
        other.report = agent.report
        await watch.pass_time(15, agent)
        agent.boot = "b3"  # one restart is no conflict
        await watch.pass_time(15, agent)
        assert watch.node("n1").conditions == []
        await watch.pass_time(20, agent, other)
        assert watch.node("n1").conditions == [CONFLICT]
        await watch.pass_time(70, agent)
        assert watch.node("n1").conditions == []


# --- trouble with the store


async def test_what_could_not_be_written_is_written_later(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        (agent,) = await fleet(watch, 1, scale=1)
        real, refusals = watch.store.submit, []

        def busy(*args: Any, **more: Any) -> None:
            refusals.append(1)
            raise BusError("busy", "too many changes are waiting")

        watch.store.submit = busy  # type: ignore[method-assign]
        agent.conn = 2
        agent.state("ready")
        agent.obey(web_1={"state": "BACKOFF", "reason": "exit code 1"})
        await watch.clock.advance(1)
        assert refusals
        watch.store.submit = real  # type: ignore[method-assign]
        agent.beat()
        await watch.until(lambda: watch.states() == {"web-1": "BACKOFF n1"})
        assert watch.node("n1").conn == 2


async def test_a_node_has_one_write_in_flight(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        (agent,) = await fleet(watch, 1, scale=1)
        most = 0
        for number in range(200):
            agent.obey(web_1={"reason": f"reason {number}"})
            await watch.clock.sleep(0)
            most = max(most, watch.store.waiting)
        await watch.until(lambda: watch.worker("web-1").reason == "reason 199")
        assert most <= 3  # this node's, and the monitor's


async def test_an_unknown_state_word_changes_nothing(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        (agent,) = await fleet(watch, 1, scale=1)
        agent.say("state", NodeState("resting", "b1", 1))
        agent.obey(web_1={"state": "DREAMING"})
        await watch.rest()
        assert watch.node("n1").status == "online"
        assert watch.states() == {"web-1": "RUNNING n1"}


@pytest.mark.fault(44, "C")
async def test_a_node_that_follows_a_forged_assignment_is_given_a_newer_one(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        (agent,) = await fleet(watch, 1)
        epoch, before = watch.store.epoch, watch.node("n1").assignment_version
        agent.tell(store="another", applied=Applied(epoch, before + 500))
        agent.beat()
        await watch.rest()
        assert watch.node("n1").assignment_version == before
        agent.tell(applied=Applied(epoch, before + 1000))
        await watch.until(lambda: watch.node("n1").assignment_version > before + 1000)
        agent.tell(applied=Applied(epoch, 2**53))
        await watch.until(lambda: watch.node("n1").assignment_epoch == epoch + 1)
        assert watch.node("n1").assignment_version < before + 1010


def _given(watch: Watch, name: str) -> dict[str, Any]:
    """The assignment that the manager publishes for a node."""
    found = StatusBuilder(watch.store, 5000).assignment(watch.node(name).oid)
    assert found is not None
    given: dict[str, Any] = json.loads(found[1])
    return given


@pytest.mark.fault(44, "C M")
async def test_a_forged_epoch_is_superseded_on_that_node_alone(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        agent, _ = await fleet(watch, 2, scale=2)
        epoch, before = watch.store.epoch, watch.node("n1").assignment_version
        agent.tell(applied=Applied(epoch + 1000, 2**53))
        await watch.until(lambda: watch.node("n1").assignment_epoch == epoch + 1001)
        given = _given(watch, "n1")
        assert (given["epoch"], given["version"]) == (epoch + 1001, before + 1)
        assert _given(watch, "n2")["epoch"] == epoch, "it moves no other node's epoch"
        assert watch.node("n1").applied_version == before, (
            "an assignment that was never given does not count as applied"
        )
        assert f"epoch {epoch + 1000}" in watch.node("n1").conditions[0]
        agent.tell(applied=Applied(epoch + 1000, 2**53), digest="again")
        await watch.rest()
        assert watch.node("n1").assignment_version == before + 1, "it is superseded once"
        agent.tell(agent.running("web-1"), applied=Applied(epoch + 1001, before + 1))
        await watch.until(lambda: not watch.node("n1").conditions)
        row = watch.node("n1")
        assert (row.applied_epoch, row.applied_version) == (epoch + 1001, before + 1)
        assert watch.states() == {"web-1": "RUNNING n1", "web-2": "RUNNING n2"}


@pytest.mark.fault(17, "M")
async def test_an_epoch_that_was_ahead_from_the_start_is_not_superseded(tmp_path: Path) -> None:
    """This store may be an old copy: it has never led this node, so it says so and waits for a word."""
    async with watching(tmp_path) as watch:
        await watch.pair("n1")
        agent = Agent(watch, "n1")
        agent.state("ready")
        agent.tell(applied=Applied())  # an agent that has just begun knows its store, and follows nothing yet
        agent.beat()
        for number in range(3):
            agent.tell(applied=Applied(9, 4), digest=str(number))
            await watch.clock.advance(60.0)
        await watch.until(lambda: watch.node("n1").conditions)
        assert "busbar manager take-over --epoch 9" in watch.node("n1").conditions[0]
        assert (watch.node("n1").assignment_epoch, watch.node("n1").assignment_version) == (0, 1)
        # Nor after the broker was away: a newer manager may have spoken meanwhile.
        agent.obey()
        await watch.until(lambda: not watch.node("n1").conditions)
        await watch.reports.connected()
        agent.tell(applied=Applied(9, 4))
        await watch.until(lambda: watch.node("n1").conditions)
        assert watch.node("n1").assignment_epoch == 0


async def test_a_superseding_epoch_survives_a_restart_of_the_manager(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        (agent,) = await fleet(watch, 1, scale=1)
        epoch = watch.store.epoch
        agent.tell(applied=Applied(epoch + 50, 7))
        await watch.until(lambda: watch.node("n1").assignment_epoch == epoch + 51)
        version = watch.node("n1").assignment_version
    async with watching(tmp_path) as again:
        given = _given(again, "n1")
        assert again.store.epoch == epoch + 1
        assert (given["epoch"], given["version"]) == (epoch + 51, version)
