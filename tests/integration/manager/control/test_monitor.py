"""The monitor with a real store: life cycles of clusters, nodes and workers, and faults in between."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from busbar.bus.messages import Applied, NodeState
from busbar.bus.states import NodeStatus
from busbar.bus.testing import FakeClock, MemoryBroker, settle
from busbar.manager.control import monitor as monitor_module
from busbar.manager.control.apply import Batch
from busbar.manager.planner.model import CreateWorker, Evict, MarkStopped, MarkUnknown
from busbar.manager.store.rows import MemberRow

from tests.integration.watching import Agent, Watch, fleet, watching
from tests.unit.manager.planner.fleets import of_kind


async def test_a_cluster_starts_and_runs(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        agents = await fleet(watch, 3, scale=4, obey=False)
        await watch.until(lambda: len(watch.states()) == 4)
        await watch.rest()
        assert watch.states() == {
            "web-1": "STARTING n1", "web-2": "STARTING n2", "web-3": "STARTING n3", "web-4": "STARTING n1",
        }  # fmt: skip
        assert watch.cluster().status == "STARTING"
        for agent in agents:
            agent.obey()
        await watch.until(lambda: watch.cluster().status == "RUNNING")
        assert watch.group().status == "RUNNING"
        assert watch.told("web-1") == ["worker_starting", "worker_ready"]
        (started,) = [event for event in watch.events() if event["type"].endswith("routercluster_started")]
        assert started["data"]["reason"] == "all 4 workers are ready"
        assert started["data"]["who"]["authid"] == "alice"
        assert watch.worker("web-1").address == "mqtt://n1:1001"


async def test_one_bump_of_an_assignment_for_many_workers(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        await fleet(watch, 1, scale=50)
        assert watch.node("n1").assignment_version == 2
        await watch.scale(10)
        assert watch.node("n1").assignment_version == 3
        assert {row.unassigned_version for row in watch.store.reads.workers()} == {None, 3}


async def test_a_failed_worker_degrades_and_its_return_recovers(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        agents = await fleet(watch)
        agents[0].obey(web_1={"state": "BACKOFF", "reason": "exit code 1", "restarts": 1})
        await watch.until(lambda: watch.cluster().status == "DEGRADED")
        assert watch.cluster().reason == "2 of 3 workers are ready; web-1 is BACKOFF: exit code 1"
        agents[0].obey(web_1={"restarts": 1})
        await watch.until(lambda: watch.cluster().status == "RUNNING")
        assert watch.told("edge") == [
            "routercluster_started", "routercluster_degraded", "routercluster_recovered",
        ]  # fmt: skip
        assert watch.told("web-1")[2:] == ["worker_failed", "worker_ready"]


async def test_none_ready_past_the_deadline_is_an_error_until_one_is(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        (agent,) = await fleet(watch, 1, scale=1, obey=False)
        agent.obey(web_1={"state": "BACKOFF", "reason": "port in use"})
        await watch.pass_time(59, agent)
        assert watch.cluster().status == "STARTING"
        await watch.pass_time(3, agent)
        assert watch.cluster().status == "ERROR"
        assert "port in use" in (watch.cluster().reason or "")
        agent.obey()
        await watch.until(lambda: watch.cluster().status == "RUNNING")
        assert watch.told("edge") == ["routercluster_failed", "routercluster_started"]


async def test_a_node_is_late_then_lost_and_its_workers_move(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        agents = await fleet(watch, 3)
        await watch.pass_time(60, *agents)
        dead, *living = agents
        await watch.pass_time(17, *living)
        assert watch.node("n1").status == "late"
        assert watch.states()["web-1"] == "UNKNOWN n1"
        assert watch.cluster().status == "DEGRADED"
        await watch.pass_time(16, *living)
        assert watch.node("n1").status == "lost"
        assert watch.states()["web-1"] == "STARTING n2"
        assert watch.worker("web-1").generation == 2
        (moved,) = [event for event in watch.events() if event["type"].endswith("worker_moved")]
        assert (moved["data"]["from"], moved["data"]["to"]) == ("n1", "n2")
        living[0].obey()
        await watch.until(lambda: watch.cluster().status == "RUNNING")
        # It returns with its worker still running, which is not assigned to it any more.
        assert dead.assigned() == []
        dead.state("ready", conn=2)
        dead.conn = 2
        dead.tell(dead.running("web-1", generation=1))
        await watch.rest()
        assert watch.node("n1").status == "online"
        assert watch.states()["web-1"] == "RUNNING n2"
        assert watch.told("n1") == ["node_online", "node_late", "node_lost", "node_online"]


@pytest.mark.fault(23, "K B")
async def test_a_partition_shorter_than_lost_after_restarts_nothing(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        agents = await fleet(watch, 2, scale=2, lost_after=120.0)
        await watch.pass_time(60, *agents)
        await watch.pass_time(40, agents[1])
        assert watch.states() == {"web-1": "UNKNOWN n1", "web-2": "RUNNING n2"}
        agents[0].beat()
        await watch.rest()
        assert watch.states() == {"web-1": "RUNNING n1", "web-2": "RUNNING n2"}
        assert watch.worker("web-1").generation == 1
        assert watch.cluster().status == "RUNNING"


async def test_workers_of_the_only_node_stay_and_the_reason_says_why(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        (agent,) = await fleet(watch, 1, scale=2)
        await watch.pass_time(200)
        assert watch.states() == {"web-1": "UNKNOWN n1", "web-2": "UNKNOWN n1"}
        assert watch.worker("web-1").reason == "node n1 is lost; not rescheduled: n1 is lost"
        assert watch.cluster().status == "ERROR"
        agent.beat()
        await watch.until(lambda: watch.cluster().status == "RUNNING")
        assert watch.worker("web-1").generation == 1


async def test_stop(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        agents = await fleet(watch)
        await watch.turn("STOPPING")
        assert watch.states() == {"web-1": "STOPPING n1", "web-2": "STOPPING n2", "web-3": "STOPPING n3"}
        assert watch.cluster().status == "STOPPING"
        # The old report says RUNNING under the old assignment; it must not change a state.
        agents[0].say("reported", agents[0].report)
        await watch.rest()
        assert watch.states()["web-1"] == "STOPPING n1"
        for agent in agents:
            agent.obey()
        await watch.until(lambda: watch.cluster().status == "STOPPED")
        assert set(watch.states().values()) == {"STOPPED"}
        assert watch.told("edge")[-1] == "routercluster_stopped"
        assert watch.told("web-1")[-1] == "worker_stopped"
        await watch.turn("STARTING")
        for agent in agents:
            agent.obey()
        await watch.until(lambda: watch.cluster().status == "RUNNING")
        assert "worker_moved" not in watch.told()


async def test_stop_with_a_lost_node(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        agents = await fleet(watch)
        await watch.pass_time(60, *agents)
        await watch.turn("STOPPING")
        for agent in agents[1:]:
            agent.obey()
        await watch.pass_time(25, *agents[1:])
        assert watch.cluster().status == "STOPPING"
        await watch.pass_time(10, *agents[1:])
        assert watch.cluster().status == "STOPPED"
        assert agents[0].assigned() == []


async def test_a_goodbye_is_offline_at_once_and_moved_later(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        agents = await fleet(watch, 2, scale=2)
        await watch.pass_time(60, *agents)
        agents[0].state("disconnected")
        await watch.until(lambda: watch.node("n1").status == "offline")
        agents[0].beat()  # a late message of the connection that said goodbye
        await watch.pass_time(20, agents[1])
        assert watch.states()["web-1"] == "UNKNOWN n1"
        await watch.pass_time(12, agents[1])
        assert watch.states()["web-1"] == "STARTING n2"
        agents[0].boot = "b2"
        agents[0].born()
        await watch.until(lambda: watch.node("n1").status == "online")


@pytest.mark.fault(116, "B C")
async def test_workers_that_an_agent_left_running_are_moved_by_a_drain_alone(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        one, two = await fleet(watch, 2, scale=2)
        await watch.pass_time(60, one, two)
        one.say("state", NodeState("disconnected", one.boot, one.conn, "running"))
        await watch.until(lambda: watch.node("n1").reason == "it said goodbye; its workers run on")
        await watch.pass_time(120, two)
        assert watch.states() == {"web-1": "UNKNOWN n1", "web-2": "RUNNING n2"}
        await watch.turn("STOPPING")
        two.obey()
        await watch.pass_time(120, two)
        assert watch.states()["web-1"] == "STOPPING n1", "it may still run"
        await watch.turn("STARTING")
        await watch.pass_time(120, two)
        assert watch.states()["web-1"] == "STOPPING n1"
        oid = watch.node("n1").oid
        await watch.store.write(lambda tx: tx.update_node(oid, draining="an upgrade"))
        await watch.until(lambda: watch.states()["web-1"] == "STARTING n2")


@pytest.mark.fault(27, "H K")
async def test_a_will_makes_a_node_late_and_a_stale_one_is_ignored(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        agents = await fleet(watch, 2, scale=2)
        agents[0].conn = 2
        agents[0].born()
        await watch.rest()
        agents[0].state("lost", conn=1)
        agents[0].state("lost", boot="b0", conn=2)
        await watch.rest()
        assert watch.node("n1").status == "online"
        agents[0].state("lost")
        await watch.until(lambda: watch.node("n1").status == "late")
        await watch.rest()
        assert watch.states()["web-1"] == "UNKNOWN n1"
        assert watch.node("n1").reason == "its connection broke without a goodbye"
        agents[0].beat()
        await watch.until(lambda: watch.cluster().status == "RUNNING")
        assert watch.node("n1").status == "online"


@pytest.mark.fault(49, "K H")
async def test_the_mass_failure_hold(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        agents = await fleet(watch, 3)
        await watch.pass_time(60, *agents)
        await watch.pass_time(90, agents[2])
        reason = "2 of 3 nodes lost within 60 s: nothing is moved"
        assert watch.memory.hold == reason
        assert watch.states() == {"web-1": "UNKNOWN n1", "web-2": "UNKNOWN n2", "web-3": "RUNNING n3"}
        assert watch.worker("web-1").reason == f"node n1 is lost; it is not moved: {reason}"
        await watch.scale(4)
        assert watch.states()["web-4"] == "STARTING n3"
        assert "manager_braked" in watch.told("m1")
        agents[1].beat()
        await watch.pass_time(2, agents[2])
        assert watch.memory.hold is None
        assert watch.states()["web-1"] == "UNKNOWN n1", "who is still missing gets its whole time again"
        await watch.pass_time(40, *agents[1:])
        assert watch.states()["web-1"] in ("STARTING n2", "STARTING n3")
        assert watch.told("m1") == ["manager_braked", "manager_released"]


@pytest.mark.fault(49, "K")
async def test_the_mass_failure_hold_survives_a_restart_of_the_manager(tmp_path: Path) -> None:
    broker, clock = MemoryBroker(), FakeClock()
    async with watching(tmp_path, broker, clock) as watch:
        agents = await fleet(watch, 3)
        await watch.pass_time(60, *agents)
        await watch.pass_time(40, agents[2])
        assert watch.memory.hold
    async with watching(tmp_path, broker, clock) as watch:
        living = successor(watch, agents[2])
        await watch.pass_time(120, living)
        assert watch.memory.hold
        assert watch.states() == {"web-1": "UNKNOWN n1", "web-2": "UNKNOWN n2", "web-3": "RUNNING n3"}


def successor(watch: Watch, agent: Agent) -> Agent:
    """The same agent, as the next manager hears it."""
    same = Agent(watch, agent.name, agent.boot, agent.conn)
    same.report = agent.report
    return same


async def test_a_restarted_manager_keeps_everything_running(tmp_path: Path) -> None:
    broker, clock = MemoryBroker(), FakeClock()
    async with watching(tmp_path, broker, clock) as watch:
        agents = await fleet(watch, 3)
        before, told = watch.states(), len(watch.told())
        versions = {row.name: row.assignment_version for row in watch.store.reads.nodes()}
    await clock.advance(3600)
    async with watching(tmp_path, broker, clock) as watch:
        assert watch.store.epoch == 2
        assert watch.states() == before
        await watch.pass_time(20)
        assert watch.cluster().status == "RUNNING"
        await watch.pass_time(100, *(successor(watch, agent) for agent in agents))
        assert watch.states() == before
        assert watch.told()[told:] == []
        assert {row.name: row.assignment_version for row in watch.store.reads.nodes()} == versions


async def test_a_node_lost_while_the_manager_was_down_is_detected(tmp_path: Path) -> None:
    broker, clock = MemoryBroker(), FakeClock()
    async with watching(tmp_path, broker, clock) as watch:
        agents = await fleet(watch, 3)
    async with watching(tmp_path, broker, clock) as watch:
        living = [successor(watch, agent) for agent in agents[1:]]
        await watch.pass_time(65, *living)
        assert watch.node("n1").status == "lost"
        assert watch.states()["web-1"] == "STARTING n2"


async def test_an_outage_of_the_broker_makes_no_node_lost(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        agents = await fleet(watch, 3)
        await watch.pass_time(60, *agents)
        watch.link.reachable.clear()
        watch.broker.drop("manager")
        await watch.pass_time(120)
        assert {row.status for row in watch.store.reads.nodes()} == {"lost"}
        assert set(watch.states()) == {"web-1", "web-2", "web-3"}
        watch.link.reachable.set()
        await watch.rest()
        agents[0].beat()
        agents[1].beat()
        await watch.rest()
        # n3 has not been heard yet; the hold is lifted, and its silence counts anew.
        assert watch.memory.hold is None
        assert watch.states() == {"web-1": "RUNNING n1", "web-2": "RUNNING n2", "web-3": "UNKNOWN n3"}
        await watch.pass_time(3)
        agents[2].beat()
        await watch.until(lambda: watch.cluster().status == "RUNNING")
        assert {row.generation for row in watch.store.reads.workers()} == {1}


async def test_workers_of_a_removed_member_are_stopped_there_first(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        agents = await fleet(watch, 2, scale=2)
        await watch.remove_member("n1")
        assert watch.states() == {"web-1": "STOPPING n1", "web-2": "RUNNING n2"}
        agents[0].obey()
        await watch.until(lambda: watch.states()["web-1"] == "STARTING n2")
        assert watch.told("web-1")[2:] == [
            "worker_stopped",
            "worker_moved",
            "worker_starting",
        ]


async def test_an_unpaired_node_is_believed_only_about_what_is_gone(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        agents = await fleet(watch, 2, scale=2)
        await watch.unpair("n1")
        assert watch.states()["web-1"] == "STOPPING n1"
        agents[0].runtimes = ["mosquitto"]
        agents[0].obey()
        await watch.until(lambda: watch.states()["web-1"] == "STARTING n2")
        assert watch.node("n1").runtimes == ["amqtt"]
        assert watch.node("n1").applied_version == watch.node("n1").assignment_version
        assert watch.node("n1").status == "unpaired"


async def test_scaling_up_and_down(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        agents = await fleet(watch, 2, scale=2)
        await watch.scale(4)
        assert watch.cluster().status == "DEGRADED"
        for agent in agents:
            agent.obey()
        await watch.until(lambda: watch.cluster().status == "RUNNING")
        await watch.scale(1)
        assert watch.states() == {
            "web-1": "RUNNING n1", "web-2": "STOPPING n2", "web-3": "STOPPING n1", "web-4": "STOPPING n2",
        }  # fmt: skip
        assert watch.cluster().status == "RUNNING"
        for agent in agents:
            agent.obey()
        await watch.until(lambda: watch.states() == {"web-1": "RUNNING n1"})


async def test_hardlimits_hold_and_freed_capacity_is_used(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        await watch.pair("n1")
        agent = Agent(watch, "n1")
        agent.born()
        await watch.rest()
        await watch.create([("n1", 2)], scale=3)
        assert watch.states() == {"web-1": "STARTING n1", "web-2": "STARTING n1", "web-3": "PENDING"}
        assert watch.worker("web-3").reason == "every node is at its hardlimit (n1: 2/2)"
        assert watch.told("web-3") == ["worker_pending"]
        assert watch.worker("web-3").version == 1
        agent.tell(*(agent.running(row.worker) for row in agent.assigned()), capacity={"max_workers": 2})
        await watch.scale(2)
        assert set(watch.states()) == {"web-1", "web-2"}
        await watch.until(lambda: watch.cluster().status == "RUNNING")


# --- exceptions in a pass


@pytest.mark.fault(15, "L")
async def test_a_plan_that_raises_is_logged_and_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with watching(tmp_path) as watch:
        real = monitor_module.plan

        def broken(*args: Any) -> Any:
            raise RuntimeError("no idea what to do")

        monkeypatch.setattr(monitor_module, "plan", broken)
        with caplog.at_level(logging.ERROR):
            await watch.pass_time(3)
        complaints = [record for record in caplog.records if "no idea what to do" in record.getMessage()]
        assert len(complaints) == 1
        monkeypatch.setattr(monitor_module, "plan", real)
        await watch.pass_time(2)
        await fleet(watch, 1, scale=1)


@pytest.mark.fault(15, "L")
async def test_an_action_that_raises_is_skipped_and_the_others_are_applied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = Batch._create

    def picky(self: Batch, action: CreateWorker) -> None:
        real(self, action)
        if action.ordinal == 2:
            raise RuntimeError("not this one")

    monkeypatch.setattr(Batch, "_create", picky)
    async with watching(tmp_path) as watch:
        with caplog.at_level(logging.ERROR):
            agents = await fleet(watch, 2, scale=3, obey=False)
        assert watch.states() == {"web-1": "STARTING n1", "web-3": "STARTING n1"}
        assert "not this one" in caplog.text
        monkeypatch.setattr(Batch, "_create", real)
        await watch.pass_time(2)
        for agent in agents:
            agent.obey()
        await watch.until(lambda: watch.cluster().status == "RUNNING")


@pytest.mark.fault(12, "L")
async def test_the_monitor_survives_a_store_that_can_not_commit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with watching(tmp_path) as watch:
        agents = await fleet(watch, 2, scale=2)

        def fail(point: str) -> None:
            if point == "before_commit":
                raise OSError("disk is full")

        watch.store.fault = fail
        agents[0].obey(web_1={"state": "BACKOFF", "reason": "exit code 1"})
        for _ in range(10):
            await watch.clock.advance(1)
        assert watch.states()["web-1"] == "RUNNING n1"
        watch.store.fault = lambda point: None
        for _ in range(2):
            await watch.pass_time(5, *agents)
        assert watch.states()["web-1"] == "BACKOFF n1"
        assert watch.cluster().status == "DEGRADED"


async def test_a_burst_larger_than_one_write(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        (agent,) = await fleet(watch, 1, scale=850)
        assert len(watch.states()) == 850
        assert watch.group().status == "RUNNING"
        assert len(agent.assigned()) == 850


async def test_actions_whose_precondition_no_longer_holds_are_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node leaves the cluster while a worker is being placed there."""
    async with watching(tmp_path) as watch:
        await watch.pair("n1")
        agent = Agent(watch, "n1")
        agent.born()
        await watch.rest()
        real = watch.monitor._write

        async def late(actions: Any, *more: Any) -> Any:
            if of_kind(actions, CreateWorker):
                monkeypatch.setattr(watch.monitor, "_write", real)
                await watch.drop_member("n1")
            return await real(actions, *more)

        monkeypatch.setattr(watch.monitor, "_write", late)
        await watch.create(["n1"], scale=1)
        await watch.rest()
        assert watch.states() == {"web-1": "PENDING"}
        assert watch.worker("web-1").reason == "no node in the cluster"
        assert agent.assigned() == []
        assert watch.node("n1").assignment_version == 1


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (MarkUnknown, ["worker_starting", "worker_ready"]),
        (Evict, ["worker_starting", "worker_ready", "worker_unknown", "worker_ready"]),
        (MarkStopped, ["worker_starting", "worker_ready"]),
    ],
)
async def test_a_sign_of_life_between_plan_and_write_cancels_an_eviction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type, told: list[str]
) -> None:
    """n1 is silent, and is heard between the plan that evicts its worker and the write."""
    async with watching(tmp_path) as watch:
        agents = await fleet(watch, 3, scale=1)
        await watch.pass_time(60, *agents)
        real, spoken = watch.monitor._write, list[Agent]()

        async def late(actions: Any, *more: Any) -> Any:
            if of_kind(actions, kind) and not spoken:
                spoken.append(agents[0])
                agents[0].beat()
                await settle()
            return await real(actions, *more)

        monkeypatch.setattr(watch.monitor, "_write", late)
        if kind is MarkStopped:
            await watch.turn("STOPPING")
        for _ in range(40):
            await watch.pass_time(1, *spoken, *agents[1:])
        assert spoken
        assert watch.told("web-1") == told
        assert watch.worker("web-1").node_oid == watch.node("n1").oid
        assert watch.node("n1").status == "online"


@pytest.mark.fault(51, "C")
async def test_a_membership_is_seen_even_if_a_message_came_first(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        await fleet(watch, 1)
        await watch.pair("n2")
        await watch.rest()
        node, cluster = watch.node("n2"), watch.cluster()
        world = watch.monitor.cache
        await watch.store.write(lambda tx: tx.insert_member(MemberRow(cluster.oid, node.oid, None, None, 0)))
        assert world.node_named("n2") is not None  # as any message of a node does
        members = world.snapshot().clusters[cluster.oid].members
        assert node.oid in {member.node_oid for member in members}


OTHER = {"store": "sold", "applied": Applied(9, 9)}
"""What an agent says that follows another store's manager."""


@pytest.mark.fault(108, "B C")
async def test_a_node_that_follows_another_store_is_given_no_worker(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        one, two = await fleet(watch, 2, scale=1)
        two.tell(**OTHER)
        await watch.rest()
        await watch.scale(4)
        await watch.rest()
        one.obey()
        await watch.until(lambda: watch.cluster().status == "RUNNING")
        assert watch.states() == {f"web-{number}": "RUNNING n1" for number in (1, 2, 3, 4)}


@pytest.mark.fault(108, "B C")
async def test_workers_that_a_refusing_node_does_not_start_are_placed_elsewhere_in_time(
    tmp_path: Path,
) -> None:
    """It gives no other sign: it is heard all the time, and never reports them."""
    async with watching(tmp_path) as watch:
        one, two = await fleet(watch, 2, scale=4, obey=False)
        await watch.pass_time(60, one, two)
        one.obey()
        two.tell(**OTHER)
        await watch.until(lambda: "is not started there" in (watch.worker("web-2").reason or ""))
        assert (watch.worker("web-2").reason or "").startswith(
            "node n2 follows another manager's store (sold)"
        )
        await watch.pass_time(25, one, two)
        assert watch.states()["web-2"] == "STARTING n2", "one report may be forged, or late"
        await watch.pass_time(10, one, two)
        one.obey()
        await watch.until(lambda: watch.cluster().status == "RUNNING")
        assert watch.store.reads.assigned(watch.node("n2").oid) == []
        two.obey()
        await watch.rest()
        await watch.scale(6)
        await watch.until(lambda: "STARTING n2" in watch.states().values())


@pytest.mark.fault(108, "B C")
@pytest.mark.parametrize("state", ["RUNNING", "BACKOFF", "STARTING"])
async def test_what_a_refusing_node_runs_is_never_moved(tmp_path: Path, state: str) -> None:
    async with watching(tmp_path) as watch:
        one, two = await fleet(watch, 2, scale=2)
        two.tell(two.running("web-2", state=state), **OTHER)
        await watch.rest()
        await watch.pass_time(90, one, two)
        assert watch.states()["web-2"] == f"{state} n2"


@pytest.mark.fault(108, "B C")
async def test_a_false_report_between_true_ones_moves_nothing(tmp_path: Path) -> None:
    """Anybody with the node's credentials can say so; the agent itself contradicts within two heartbeats."""
    async with watching(tmp_path) as watch:
        one, two = await fleet(watch, 2, scale=2)
        for _ in range(12):
            two.tell(**OTHER)
            await watch.pass_time(10, one, two)
            assert watch.states()["web-2"] == "STARTING n2"
            two.obey()
            await watch.rest()
            assert watch.states()["web-2"] == "RUNNING n2"
            assert watch.worker("web-2").reason is None


@pytest.mark.fault(108, "B C")
async def test_a_node_that_follows_us_again_is_no_longer_said_to_refuse(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        (one,) = await fleet(watch, 1, scale=1, obey=False)
        await watch.pass_time(60, one)
        one.tell(**OTHER)
        await watch.until(lambda: "another manager's store (sold)" in (watch.worker("web-1").reason or ""))
        await watch.pass_time(40, one)
        assert "not rescheduled: n1 follows another manager's store" in (watch.worker("web-1").reason or "")
        one.tell()
        await watch.until(lambda: watch.worker("web-1").reason == "node n1 follows this manager again")
        assert watch.node("n1").conditions == []


@pytest.mark.fault(108, "B C")
async def test_a_cluster_stops_although_a_node_went_over_to_another_store(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        one, two = await fleet(watch, 2, scale=2)
        await watch.pass_time(60, one, two)
        await watch.turn("STOPPING")
        one.obey()
        two.tell(**OTHER)
        await watch.rest()
        await watch.pass_time(20, one, two)
        assert watch.states()["web-2"] == "STOPPING n2"
        await watch.pass_time(15, one, two)
        assert watch.cluster().status == "STOPPED"


@pytest.mark.fault(111, "C")
async def test_a_worker_that_cannot_start_on_one_node_is_tried_on_another(tmp_path: Path) -> None:
    failed = {"state": "BACKOFF", "pid": None, "address": None, "reason": "port 8080 is in use"}
    async with watching(tmp_path) as watch:
        one, two = await fleet(watch, 2, scale=2)
        two.obey(web_2=failed)
        await watch.pass_time(20, one, two)
        assert watch.states()["web-2"] == "BACKOFF n2", "it was ready there: its program fails, not its place"
        await watch.scale(3)
        home = {"n1": one, "n2": two}[watch.states()["web-3"].split()[-1]]
        assert home is one
        two.obey()
        one.obey(web_3=failed)
        await watch.pass_time(10, one, two)
        assert watch.states()["web-3"] == "BACKOFF n1"
        await watch.pass_time(10, one, two)
        assert watch.states()["web-3"] == "STOPPING n1"
        why = watch.worker("web-3").reason or ""
        assert why == "it can't start on n1, which its group avoids for 600 s: port 8080 is in use"
        one.obey()
        await watch.until(lambda: watch.states()["web-3"] == "STARTING n2")
        assert "a worker of the group could not start on n1" in (watch.worker("web-3").reason or "")
        moved = [event["data"] for event in watch.events() if event["type"].endswith("worker_moved")]
        assert [(data["from"], data["to"]) for data in moved] == [("n1", "n2")]
        two.obey(web_3=failed)
        await watch.pass_time(60, one, two)
        assert watch.states()["web-3"] == "BACKOFF n2", "n1 is avoided"
        await watch.pass_time(600, one, two)
        assert watch.states()["web-3"] == "STOPPING n2"


@pytest.mark.fault(111, "C")
async def test_a_worker_that_ran_and_can_start_no_more_is_tried_on_another_node_too(tmp_path: Path) -> None:
    """Such as one whose port was taken while it was restarted."""
    failed = {"state": "BACKOFF", "pid": None, "address": None, "reason": "port 8080 is in use"}
    async with watching(tmp_path) as watch:
        one, two = await fleet(watch, 2, scale=2)
        for _ in range(3):
            two.obey(web_2=failed)
            await watch.pass_time(90, one, two)
            assert watch.states()["web-2"] == "BACKOFF n2"
            two.obey()
            await watch.pass_time(10, one, two)
            assert watch.states()["web-2"] == "RUNNING n2", "it starts again and again: not the node's fault"
        two.obey(web_2=failed)
        await watch.pass_time(150, one, two)
        assert watch.states()["web-2"] == "STOPPING n2"
        two.obey()
        await watch.until(lambda: watch.states()["web-2"] == "STARTING n1")
        assert "a worker of the group could not start on n2" in (watch.worker("web-2").reason or "")


@pytest.mark.fault(113, "U")
async def test_a_node_that_is_paired_again_is_not_lost_for_what_was_before(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        (one,) = await fleet(watch, 1, scale=1)
        await watch.unpair("n1")
        await watch.pass_time(120)
        oid = watch.node("n1").oid
        await watch.store.write(
            lambda tx: tx.update_node(oid, status=NodeStatus.OFFLINE, boot=None, conn=None, goodbye=False)
        )
        await watch.rest()
        await watch.pass_time(60)
        assert watch.node("n1").status == "offline"
        assert "node_lost" not in watch.told("n1")
        one.boot = "b2"
        one.born()
        await watch.until(lambda: watch.node("n1").status == "online")


@pytest.mark.fault(70, "U")
async def test_a_reason_ends_with_its_cause(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        (one,) = await fleet(watch, 1, scale=1)
        one.tell(one.running("web-1", reason="does not answer"), conditions=["2 workers of another store"])
        await watch.until(lambda: watch.worker("web-1").reason == "does not answer")
        one.obey()
        await watch.until(lambda: watch.worker("web-1").reason is None and watch.node("n1").conditions == [])


@pytest.mark.fault(121, "U")
async def test_what_the_monitor_does_is_logged_once_with_its_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "busbar.manager.control.monitor")
    async with watching(tmp_path) as watch:
        one, two, three = await fleet(watch, 3, scale=3)
        await watch.pass_time(120, one, two)
        await watch.until(lambda: not any("n3" in state for state in watch.states().values()))
        lines = [record.getMessage() for record in caplog.records]
    (placed,) = [line for line in lines if line.startswith("worker edge/web-3: placed on n3: ")]
    (lost,) = [line for line in lines if line.startswith("node n3: lost: silent for ")]
    (moved,) = [line for line in lines if line.startswith("worker edge/web-3: given up on its node")]
    assert lines.index(placed) < lines.index(lost) < lines.index(moved)
    assert "node n3 is lost" in moved
    assert three.name == "n3"
