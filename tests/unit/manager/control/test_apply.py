"""Applying a plan's actions: each changes what it says, and nothing once its precondition no longer holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from busbar.bus.plans import MoveOrder
from busbar.bus.states import ASSIGNED, STARTED, ClusterState, NodeStatus, WorkerState
from busbar.manager.control.apply import Outcome, apply_all
from busbar.manager.planner import model as m
from busbar.manager.planner.draining import DRAINED
from busbar.manager.store import Tx, sql
from busbar.manager.store.meta import BRAKE_KEY, read_brake
from busbar.manager.store.rows import ClusterRow, GroupRow, MemberRow, NodeRow, WorkerRow
from msgspec.structs import replace

from tests.unit.manager.memory import transaction

C, W, N = ClusterState, WorkerState, NodeStatus
CLUSTER = ClusterRow(
    "c", "edge", None, None, None, None, "o", C.RUNNING, None, True, {"authid": "a"}, "r1", 1, 1
)
GROUP = GroupRow(
    "g", "c", "web", None, None, None, None, 3, "amqtt", 30.0, 60.0, C.RUNNING, None, True, 1, 1
)  # fmt: skip
NODE = NodeRow("n1", "n1", None, N.ONLINE, None, None, None, False, ["amqtt"], None, [], 7, 0, 0, 1, 1)


class Rows:
    """A cluster `c` with group `g` over members n1 and n2, in a transaction."""

    def __init__(self, tx: Tx) -> None:
        self.tx = tx
        self.heard: set[str] = set()
        tx.insert_cluster(CLUSTER)
        tx.insert_group(GROUP)
        for name in ("n1", "n2"):
            tx.insert_node(replace(NODE, oid=name, name=name))
            tx.insert_member(MemberRow("c", name, None, None, 1))

    def worker(self, ordinal: int, state: W = W.RUNNING, on: str | None = "n1", **more: Any) -> str:
        row = WorkerRow(
            f"w{ordinal}", "g", "c", f"web-{ordinal}", ordinal, state, "r", on, None, 4, None, "tcp://x", 9,
            2, 1, 1,
        )  # fmt: skip
        row = replace(row, **more)
        self.tx.db.execute(sql.WORKERS.insert, sql.WORKERS.cells(row))
        return row.oid

    def apply(self, *actions: m.Action) -> Outcome:
        found = apply_all(self.tx, actions, "m1", self.heard.__contains__)
        assert found.failures == []
        return found

    def of(self, oid: str) -> WorkerRow:
        row = self.tx.worker(oid)
        assert row is not None
        return row

    def node(self, oid: str = "n1") -> NodeRow:
        row = self.tx.node(oid)
        assert row is not None
        return row

    def group(self) -> GroupRow:
        row = self.tx.group("g")
        assert row is not None
        return row

    def cluster(self) -> ClusterRow:
        row = self.tx.cluster("c")
        assert row is not None
        return row

    def events(self) -> list[tuple[str, dict[str, Any]]]:
        """Verb and data of each."""
        told = [(str(cells[2]), json.loads(cells[3])) for cells in self.tx.context.appends.events]  # type: ignore[arg-type]
        return [(topic.rpartition("/")[2], event["data"]) for topic, event in told]

    def verbs(self) -> list[str]:
        return [verb for verb, _ in self.events()]

    def content(self) -> dict[str, list[Any]]:
        tables = ("nodes", "clusters", "members", "workergroups", "workers", "meta")
        return {name: self.tx.db.execute(f"SELECT * FROM {name}").fetchall() for name in tables}

    def unchanged_by(self, *actions: m.Action) -> None:
        before = self.content()
        self.tx.changes.__init__()  # type: ignore[misc]
        outcome = self.apply(*actions)
        assert (outcome.changed, [*outcome.done]) == (False, [])
        assert self.content() == before and self.events() == []


@pytest.fixture
def rows() -> Iterator[Rows]:
    with transaction() as tx:
        yield Rows(tx)


# --- nodes


@pytest.mark.parametrize("status", ["late", "lost", "offline"])
def test_a_node_gets_its_status(rows: Rows, status: str) -> None:
    if status == "offline":
        rows.tx.update_node("n1", goodbye=True)
    assert rows.apply(m.SetNode("n1", N(status), "why")).changed
    assert (rows.node().status, rows.node().reason) == (N(status), "why")
    ((verb, data),) = rows.events()
    assert (verb, data["status"], data["reason"], data["oid"]) == (status, status, "why", "n1")


@pytest.mark.parametrize("status", ["online", "late", "lost"])
def test_a_stale_verdict_does_not_pair_a_node_again(rows: Rows, status: str) -> None:
    rows.tx.update_node("n1", status=N.UNPAIRED)
    rows.unchanged_by(m.SetNode("n1", N(status), "stale"))


def test_what_is_so_already_and_what_is_gone_is_left_alone(rows: Rows) -> None:
    rows.unchanged_by(m.SetNode("n1", N.ONLINE, "again"), m.SetNode("gone", N.LOST, "stale"))


def test_a_goodbye_is_not_overruled(rows: Rows) -> None:
    rows.tx.update_node("n1", goodbye=True)
    rows.unchanged_by(m.SetNode("n1", N.LOST, "stale"), m.SetNode("n1", N.LATE, "stale"))


def test_a_node_that_was_heard_meanwhile_is_not_called_silent(rows: Rows) -> None:
    rows.heard = {"n1"}
    rows.unchanged_by(m.SetNode("n1", N.LOST, "stale"))
    rows.tx.update_node("n1", status=N.LATE)
    rows.apply(m.SetNode("n1", N.ONLINE, "heard"))
    assert rows.node().status is N.ONLINE


def test_the_progress_of_a_drain_is_noted_and_its_end_is_told_once(rows: Rows) -> None:
    note = m.NoteDrain("n1", DRAINED, DRAINED)
    rows.unchanged_by(note, m.NoteDrain("gone", "x", "x"))
    rows.tx.update_node("n1", draining="upkeep")
    rows.apply(m.NoteDrain("n1", "2 workers are to move", "x"))
    assert (rows.node().drain_note, rows.verbs()) == ("2 workers are to move", [])
    rows.apply(note)
    rows.apply(note)
    assert (rows.node().drain_note, rows.verbs()) == (DRAINED, ["drained"])
    assert rows.events()[0][1]["reason"] == "upkeep"


def test_a_hold_is_stored_with_its_nodes_and_told_when_it_begins_and_ends(rows: Rows) -> None:
    for hold in (
        m.MassFailureHold("most", frozenset({"n1", "x"})),
        m.MassFailureHold("all", frozenset({"n2"})),
    ):
        rows.apply(hold)
        assert read_brake(rows.tx.meta(BRAKE_KEY)) == (hold.reason, hold.nodes)
    rows.apply(m.MassFailureHold(None))
    assert read_brake(rows.tx.meta(BRAKE_KEY)) == (None, frozenset())
    (begun, ended) = rows.events()
    assert (begun[0], begun[1]["name"], begun[1]["reason"]) == ("braked", "m1", "most")
    assert begun[1]["nodes"] == ["n1", "x"]
    assert (ended[0], ended[1]["reason"]) == ("released", "enough nodes are heard again")


# --- slots


def test_a_slot_is_opened_on_its_node(rows: Rows) -> None:
    rows.apply(m.CreateWorker("g", 1, "why", "n1"), m.CreateWorker("g", 2, "no room"))
    one, two = sorted(rows.tx.workers_of("g"), key=lambda row: row.ordinal)
    assert (one.state, one.node_oid, one.generation, one.reason) == (W.STARTING, "n1", 1, "why")
    assert (two.state, two.node_oid, two.generation, two.reason) == (W.PENDING, None, 0, "no room")
    assert rows.verbs() == ["starting", "pending"]
    assert [data["generation"] for _, data in rows.events()] == [1, 0]
    assert [data["version"] for _, data in rows.events()] == [1, 1]
    assert (rows.node().assignment_version, rows.node("n2").assignment_version) == (8, 7)


@pytest.mark.parametrize("node", [None, "n1"])
def test_no_slot_is_opened_that_nobody_asks_for_any_more(rows: Rows, node: str | None) -> None:
    """The group was scaled down, its cluster stopped or deleted, or the slot is there."""
    rows.worker(1)
    rows.unchanged_by(m.CreateWorker("g", 1, "stale", node), m.CreateWorker("gone", 2, "stale", node))
    rows.tx.update_group("g", scale=1)
    rows.unchanged_by(m.CreateWorker("g", 2, "stale", node))
    rows.tx.update_group("g", scale=3)
    for status in set(C) - STARTED:
        rows.tx.update_cluster("c", status=status)
        rows.unchanged_by(m.CreateWorker("g", 2, "stale", node))


def test_a_surge_has_a_slot_while_an_update_is_under_way(rows: Rows) -> None:
    rows.tx.update_group("g", max_surge=1)
    rows.unchanged_by(m.CreateWorker("g", 4, "stale", "n1"))
    rows.tx.update_group("g", revision=2)
    rows.apply(m.CreateWorker("g", 4, "surge", "n1"))
    (row,) = rows.tx.workers_of("g")
    assert (row.ordinal, row.revision) == (4, 2)
    rows.tx.changes.__init__()  # type: ignore[misc]
    assert not rows.apply(m.CreateWorker("g", 5, "stale", "n1")).changed


@pytest.mark.parametrize("state", [W.STOPPED, W.PENDING])
def test_a_slot_is_closed_when_nobody_asks_for_it(rows: Rows, state: W) -> None:
    rows.worker(3, state, None)
    rows.unchanged_by(m.DropWorker("w3", "stale"), m.DropWorker("gone", "stale"))
    rows.tx.update_group("g", scale=2)
    rows.tx.changes.__init__()  # type: ignore[misc]
    rows.apply(m.DropWorker("w3", "scaled"))
    assert rows.tx.worker("w3") is None and "w3" in rows.tx.changes.workers


@pytest.mark.parametrize("state", sorted(set(W) - {W.STOPPED, W.PENDING}))
def test_a_worker_that_may_run_keeps_its_slot(rows: Rows, state: W) -> None:
    rows.worker(9, state)
    rows.unchanged_by(m.DropWorker("w9", "stale"), m.MarkPending("w9", "stale"), m.Place("w9", "n2", "stale"))


@pytest.mark.parametrize("state", [W.STOPPED, W.PENDING])
def test_a_waiting_worker_has_its_reason(rows: Rows, state: W) -> None:
    rows.worker(1, state, None)
    rows.apply(m.MarkPending("w1", "no room"))
    rows.apply(m.MarkPending("w1", "no room"))
    assert (rows.of("w1").state, rows.of("w1").reason, rows.verbs()) == (W.PENDING, "no room", ["pending"])
    rows.tx.update_cluster("c", status=C.STOPPING)
    rows.tx.changes.__init__()  # type: ignore[misc]
    assert not rows.apply(m.MarkPending("w1", "stale")).changed


# --- places


@pytest.mark.parametrize("state", [W.STOPPED, W.PENDING])
@pytest.mark.parametrize("last", [None, "n1", "n2"])
def test_a_placed_worker_starts_as_a_new_generation(rows: Rows, state: W, last: str | None) -> None:
    rows.tx.update_group("g", revision=5)
    rows.worker(1, state, None, last_node_oid=last, unassigned_version=6)
    rows.apply(m.Place("w1", "n2", "least loaded"))
    row = rows.of("w1")
    assert (row.state, row.node_oid, row.generation, row.revision) == (W.STARTING, "n2", 5, 5)
    assert (row.reason, row.unassigned_version, row.address, row.pid, row.restarts) == (
        "least loaded", None, None, None, 0
    )  # fmt: skip
    assert rows.verbs() == (["moved", "starting"] if last == "n1" else ["starting"])
    assert all(data["node"] == "n2" and data["generation"] == 5 for _, data in rows.events())
    if last == "n1":
        moved = rows.events()[0][1]
        assert (moved["from"], moved["to"]) == ("n1", "n2")
    assert (rows.node("n2").assignment_version, rows.node().assignment_version) == (8, 7)


def test_the_last_slot_is_placed_too(rows: Rows) -> None:
    rows.worker(3, W.PENDING, None)
    rows.apply(m.Place("w3", "n1", "r"), m.CreateWorker("g", 2, "r", "n1"))
    assert rows.of("w3").node_oid == "n1"
    rows.tx.update_group("g", scale=4)
    rows.apply(m.CreateWorker("g", 4, "r", "n1"))
    assert {row.ordinal for row in rows.tx.workers_of("g")} == {2, 3, 4}


def test_nothing_is_placed_that_is_no_longer_wanted_or_admitted(rows: Rows) -> None:
    rows.worker(1, W.PENDING, None)
    rows.worker(4, W.PENDING, None)
    rows.unchanged_by(
        m.Place("w4", "n1", "stale"), m.Place("gone", "n1", "stale"), m.Place("w1", "n9", "stale")
    )
    for facts in ({"status": N.LATE}, {"draining": "x"}, {"runtimes": []}, {"capacity": {"max_workers": 0}}):
        before = rows.node()
        rows.tx.update_node("n1", **facts)
        rows.unchanged_by(m.Place("w1", "n1", "stale"), m.CreateWorker("g", 2, "stale", "n1"))
        rows.tx.update_node("n1", **{name: getattr(before, name) for name in facts})
    rows.tx.update_cluster("c", status=C.STOPPING)
    rows.unchanged_by(m.Place("w1", "n1", "stale"))


@pytest.mark.parametrize("limit", ["hardlimit", "capacity"])
def test_each_place_of_a_batch_takes_one_seat(rows: Rows, limit: str) -> None:
    """A node with two seats of which one is taken, also by a worker that is being stopped."""
    if limit == "capacity":
        rows.tx.update_node("n1", capacity={"max_workers": 3})
    else:
        rows.tx.delete_member(MemberRow("c", "n1", None, None, 1))
        rows.tx.insert_member(MemberRow("c", "n1", 3, None, 1))
    rows.tx.update_group("g", scale=9)
    rows.worker(1, W.STOPPING, "n1")
    rows.worker(2, W.PENDING, None)
    rows.worker(3, W.STOPPED, None)
    rows.worker(4, W.PENDING, None)
    rows.apply(
        *(m.Place(f"w{ordinal}", "n1", "r") for ordinal in (2, 3, 4)), m.CreateWorker("g", 5, "r", "n1")
    )
    assert [rows.of(f"w{ordinal}").node_oid for ordinal in (2, 3, 4)] == ["n1", "n1", None]
    assert len(rows.tx.workers_of("g")) == 4
    assert rows.node().assignment_version == 8, "one version for all of a batch"


def test_a_new_slot_takes_a_seat_and_an_eviction_frees_one(rows: Rows) -> None:
    rows.tx.update_node("n1", capacity={"max_workers": 1})
    rows.apply(m.CreateWorker("g", 1, "r", "n1"), m.CreateWorker("g", 2, "r", "n1"))
    (row,) = rows.tx.workers_of("g")
    rows.tx.delete_member(MemberRow("c", "n1", None, None, 1))
    rows.apply(m.Evict(row.oid, "removed"))
    rows.tx.insert_member(MemberRow("c", "n1", None, None, 1))
    rows.worker(2, W.PENDING, None)
    rows.apply(m.Place("w2", "n1", "r"))
    assert rows.of("w2").node_oid == "n1"


@pytest.mark.parametrize("state", sorted(ASSIGNED))
def test_an_unassigned_worker_is_stopping_until_its_node_says_so(rows: Rows, state: W) -> None:
    rows.worker(1, state)
    rows.apply(m.Unassign("w1", "why"))
    row = rows.of("w1")
    assert (row.state, row.reason, row.node_oid) == (W.STOPPING, "why", "n1")
    assert row.unassigned_version == rows.node().assignment_version == 8
    assert "n1" in rows.tx.changes.assignments


def test_only_an_assigned_worker_is_unassigned(rows: Rows) -> None:
    for ordinal, state in enumerate(sorted(set(W) - ASSIGNED), 1):
        rows.worker(ordinal, state)
        rows.unchanged_by(m.Unassign(f"w{ordinal}", "stale"))
    rows.unchanged_by(m.Unassign("gone", "stale"))


CAUSES = {
    m.StopCause.SURPLUS: ("surplus",),
    m.StopCause.DRAINING: ("draining",),
    m.StopCause.REMOVED: ("member", "unpaired"),
    m.StopCause.ANY: (),
    m.StopCause.MOVE: (),
}


@pytest.mark.parametrize("cause", list(m.StopCause))
@pytest.mark.parametrize("fact", ["none", "surplus", "draining", "member", "unpaired", "stopped"])
def test_a_stop_whose_cause_is_gone_is_left_out(rows: Rows, cause: m.StopCause, fact: str) -> None:
    rows.worker(3)
    match fact:
        case "surplus":
            rows.tx.update_group("g", scale=2)
        case "draining":
            rows.tx.update_node("n1", draining="upkeep")
        case "member":
            rows.tx.delete_member(MemberRow("c", "n1", None, None, 1))
        case "unpaired":
            rows.tx.update_node("n1", status=N.UNPAIRED)
        case "stopped":
            rows.tx.update_cluster("c", status=C.STOPPING)
    rows.apply(m.Unassign("w3", "why", cause))
    due = cause is m.StopCause.ANY or fact == "stopped" or fact in CAUSES[cause]
    assert (rows.of("w3").state is W.STOPPING) == due


def test_an_ordered_worker_leaves_only_where_its_new_node_takes_it(rows: Rows) -> None:
    """And keeps its order until it is placed; another reason to leave ends it."""
    rows.worker(1, move=MoveOrder("n1", 1, "rebalance"))
    rows.worker(2, move=MoveOrder("n1", 2, "rebalance"))
    rows.unchanged_by(m.CancelMove("w1", "stale: the node takes it"))
    rows.tx.update_node("n1", cordoned="slow")
    rows.unchanged_by(m.Unassign("w1", "stale", m.StopCause.MOVE))
    rows.tx.update_node("n1", cordoned=None)
    rows.apply(m.Unassign("w1", "rebalance", m.StopCause.MOVE))
    assert rows.of("w1").state is W.STOPPING and rows.of("w1").move is not None
    rows.apply(m.Unassign("w2", "why"))
    assert rows.of("w2").state is W.STOPPING and rows.of("w2").move is None
    rows.worker(3, move=MoveOrder("n9", 3, "rebalance"))
    rows.apply(m.CancelMove("w3", "it is gone"))
    assert rows.of("w3").move is None


# --- rollouts


def test_a_replaced_worker_runs_the_new_revision_in_its_place(rows: Rows) -> None:
    rows.tx.update_group("g", revision=2)
    for ordinal in (1, 2, 3):
        rows.worker(ordinal)
    rows.apply(m.Replace("w1", "update to revision 2"))
    row = rows.of("w1")
    assert (row.state, row.node_oid, row.generation, row.revision) == (W.STARTING, "n1", 5, 2)
    assert (row.reason, row.address, row.pid, row.restarts) == ("update to revision 2", None, None, 0)
    ((verb, data),) = rows.events()
    assert (verb, data["generation"], data["revision"]) == ("starting", 5, 2)
    assert rows.node().assignment_version == 8


def test_replacing_keeps_the_budget_of_the_rows_as_they_are(rows: Rows) -> None:
    """Of three, of which two must stay ready, one has failed since the plan; what is not ready needs none."""
    rows.tx.update_group("g", revision=2)
    rows.worker(1)
    rows.worker(2)
    rows.worker(3, W.BACKOFF)
    rows.unchanged_by(m.Replace("w1", "stale"))
    rows.apply(m.Replace("w3", "r"), m.Replace("w1", "stale"))
    assert [rows.of(oid).revision for oid in ("w1", "w3")] == [1, 2]
    rows.tx.update_group("g", max_unavailable=2)
    rows.apply(m.Replace("w1", "r"), m.Replace("w2", "stale"))
    assert [rows.of(oid).revision for oid in ("w1", "w2")] == [2, 1]


def test_the_ready_workers_of_a_group_are_counted_once_for_all_its_replacements(
    rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[str] = []
    states = Tx.worker_states

    def counting(tx: Tx, column: Any, oid: str) -> Any:
        counted.append(oid)
        return states(tx, column, oid)

    monkeypatch.setattr(Tx, "worker_states", counting)
    rows.tx.update_group("g", revision=2, scale=8, max_unavailable=5)
    workers = [rows.worker(ordinal) for ordinal in range(1, 9)]
    rows.apply(*(m.Replace(oid, "r") for oid in workers))
    assert [rows.of(oid).revision for oid in workers] == [2] * 5 + [1] * 3, "within the budget"
    assert counted == ["g"]


def test_ready_workers_are_counted_again_after_another_action(rows: Rows) -> None:
    rows.tx.update_group("g", revision=2, max_unavailable=2)
    workers = [rows.worker(ordinal) for ordinal in range(1, 4)]
    rows.apply(m.Replace("w1", "r"), m.Unassign("w2", "r"), m.Replace("w3", "stale"))
    assert [rows.of(oid).revision for oid in workers] == [2, 1, 1]


def test_what_is_not_outdated_or_not_at_hand_is_not_replaced(rows: Rows) -> None:
    for ordinal in (1, 2, 3):
        rows.worker(ordinal)
    rows.unchanged_by(m.Replace("w1", "stale"), m.Replace("gone", "stale"))
    rows.tx.update_group("g", revision=2)
    for ordinal, state in enumerate((W.UNKNOWN, W.PENDING, W.STOPPING, W.STOPPED), 4):
        rows.worker(ordinal, state)
        rows.unchanged_by(m.Replace(f"w{ordinal}", "stale"))
    rows.tx.update_node("n1", status=N.LATE)
    rows.unchanged_by(m.Replace("w1", "stale"))
    rows.tx.update_node("n1", status=N.ONLINE)
    rows.tx.update_cluster("c", status=C.PAUSED)
    rows.unchanged_by(m.Replace("w1", "stale"))
    rows.tx.update_cluster("c", status=C.RUNNING)
    rows.tx.delete_member(MemberRow("c", "n1", None, None, 1))
    rows.unchanged_by(m.Replace("w1", "stale"))


def test_what_blocks_a_rollout_is_stored_until_it_is_complete(rows: Rows) -> None:
    rows.unchanged_by(m.BlockRollout("g", "stale", "r"), m.CompleteRollout("g", 1, "stale"))
    rows.tx.update_group("g", revision=2)
    rows.apply(m.BlockRollout("g", "no room", "r"))
    assert rows.group().held_back == "no room"
    rows.unchanged_by(m.BlockRollout("g", "no room", "r"), m.CompleteRollout("g", 1, "stale"))
    rows.unchanged_by(m.BlockRollout("gone", "x", "r"), m.CompleteRollout("gone", 2, "x"))
    rows.apply(m.CompleteRollout("g", 2, "all ready"), m.CompleteRollout("g", 2, "again"))
    assert (rows.group().settled, rows.group().held_back, rows.verbs()) == (2, None, ["updated"])


# --- silent nodes


@pytest.mark.parametrize("state", sorted(ASSIGNED))
def test_workers_of_a_silent_node_are_unknown_or_leave_it(rows: Rows, state: W) -> None:
    rows.tx.update_node("n1", status=N.LOST)
    rows.worker(1, state)
    rows.apply(m.MarkUnknown("w1", "silent"))
    assert (rows.of("w1").state, rows.of("w1").reason, rows.of("w1").node_oid) == (W.UNKNOWN, "silent", "n1")
    assert rows.verbs() == ([] if state is W.UNKNOWN else ["unknown"])
    rows.apply(m.Evict("w1", "lost"))
    row = rows.of("w1")
    assert (row.state, row.reason, row.node_oid, row.last_node_oid) == (W.PENDING, "lost", None, "n1")
    assert (row.unassigned_version, row.address, row.pid) == (None, None, None)
    assert rows.verbs()[-1] == "pending" and rows.node().assignment_version == 8


def test_a_node_that_is_heard_again_keeps_its_workers(rows: Rows) -> None:
    rows.tx.update_node("n1", status=N.LOST)
    rows.worker(1)
    rows.worker(2, W.STOPPING)
    rows.heard = {"n1"}
    rows.unchanged_by(m.Evict("w1", "stale"), m.MarkUnknown("w1", "stale"), m.MarkStopped("w2", "stale"))
    rows.heard = set()
    rows.tx.update_node("n1", status=N.ONLINE)
    rows.unchanged_by(m.Evict("w1", "stale"), m.MarkUnknown("w1", "stale"), m.MarkStopped("w2", "stale"))
    rows.tx.update_node("n1", status=N.LATE)
    rows.unchanged_by(m.MarkStopped("w2", "stale"))
    rows.unchanged_by(m.Evict("w2", "it stops"), m.MarkUnknown("w2", "it stops"), m.Evict("gone", "x"))


def test_a_worker_without_a_node_is_not_made_unknown(rows: Rows) -> None:
    rows.worker(1, W.STARTING, None)
    rows.unchanged_by(m.MarkUnknown("w1", "stale"), m.Unassign("w1", "stale"))


def test_a_worker_of_a_node_that_is_no_member_is_evicted(rows: Rows) -> None:
    rows.worker(1)
    rows.tx.delete_member(MemberRow("c", "n1", None, None, 1))
    rows.apply(m.Evict("w1", "removed"))
    assert rows.of("w1").state is W.PENDING


def test_a_stop_on_a_node_that_is_gone_is_over(rows: Rows) -> None:
    rows.tx.update_node("n1", status=N.LOST)
    rows.worker(1, W.STOPPING, unassigned_version=6)
    rows.worker(2, W.PENDING, None)
    rows.unchanged_by(m.MarkStopped("w2", "stale"), m.MarkStopped("gone", "stale"))
    rows.apply(m.MarkStopped("w1", "lost"))
    row = rows.of("w1")
    assert (row.state, row.reason, row.node_oid, row.last_node_oid) == (W.STOPPED, "lost", None, "n1")
    assert row.unassigned_version is None and rows.verbs() == ["stopped"]
    rows.tx.update_cluster("c", status=C.STOPPING)
    rows.apply(m.MarkStopped("w2", "to stop"))
    assert rows.of("w2").state is W.STOPPED


@pytest.mark.parametrize("state", sorted(ASSIGNED | {W.STOPPED}))
def test_a_worker_that_is_not_to_stop_is_not_called_stopped(rows: Rows, state: W) -> None:
    rows.tx.update_node("n1", status=N.LOST)
    rows.worker(1, state)
    rows.unchanged_by(m.MarkStopped("w1", "stale"))


# --- nodes that do not run what they are told


def test_a_worker_that_can_not_start_leaves_its_node(rows: Rows) -> None:
    rows.worker(1, W.BACKOFF)
    rows.unchanged_by(m.Relocate("w1", "g", "n2", "stale"), m.Relocate("gone", "g", "n1", "stale"))
    rows.apply(m.Relocate("w1", "g", "n1", "its port is taken"))
    assert (rows.of("w1").state, rows.of("w1").reason) == (W.STOPPING, "its port is taken")
    for ordinal, state in enumerate(sorted(set(W) - {W.BACKOFF}), 2):
        rows.worker(ordinal, state)
        rows.unchanged_by(m.Relocate(f"w{ordinal}", "g", "n1", "stale"))


def test_why_a_worker_does_not_start_is_its_reason(rows: Rows) -> None:
    rows.worker(1, W.STARTING, pid=None)
    rows.worker(2, W.STARTING)
    rows.worker(3, W.RUNNING, pid=None)
    rows.apply(m.Explain("w1", "its node follows another manager"))
    assert rows.of("w1").reason == "its node follows another manager"
    told = [m.Explain(oid, "stale") for oid in ("w2", "w3", "gone")]
    rows.unchanged_by(m.Explain("w1", "its node follows another manager"), *told)


@pytest.mark.parametrize("refuses", [None, "store s2"])
def test_only_a_worker_that_its_node_refuses_leaves_it_while_it_is_heard(
    rows: Rows, refuses: str | None
) -> None:
    rows.tx.update_node("n1", refuses=refuses)
    rows.heard = {"n1"}
    rows.worker(1, W.STARTING, pid=None)
    rows.worker(2, W.STARTING)
    rows.worker(3, W.RUNNING, pid=None)
    rows.apply(*(m.Evict(f"w{ordinal}", "refused", refused=True) for ordinal in (1, 2, 3)))
    left = [rows.of(f"w{ordinal}").state is W.PENDING for ordinal in (1, 2, 3)]
    assert left == [refuses is not None, False, False]
    rows.worker(4, W.STOPPING)
    rows.apply(m.MarkStopped("w4", "refused"))
    assert (rows.of("w4").state is W.STOPPED) == (refuses is not None)
    rows.tx.update_group("g", revision=2, max_unavailable=3)
    rows.apply(m.Replace("w3", "r"))
    assert (rows.of("w3").revision == 2) == (refuses is None)


# --- groups and clusters


@pytest.mark.parametrize(
    ("before", "was", "after", "verb", "running"),
    [
        ("STARTING", False, "RUNNING", "started", True),
        ("DEGRADED", True, "RUNNING", "recovered", True),
        ("RUNNING", True, "DEGRADED", "degraded", True),
        ("RUNNING", True, "ERROR", "failed", True),
        ("STOPPING", True, "STOPPED", "stopped", False),
    ],
)
def test_a_cluster_and_its_groups_get_their_status(
    rows: Rows, before: str, was: bool, after: str, verb: str, running: bool
) -> None:
    rows.tx.update_cluster("c", status=C(before), was_running=was)
    rows.tx.update_group("g", status=C(before), was_running=was)
    rows.apply(m.SetGroup("g", C(after), "why"), m.SetCluster("c", C(after), "why"))
    for row in (rows.cluster(), rows.group()):
        assert (row.status, row.reason, row.was_running) == (C(after), "why", running)
    ((told, data),) = rows.events()
    assert (told, data["status"], data["reason"]) == (verb, after, "why")
    assert ("request_id" in data) == (verb in ("started", "stopped"))


def test_a_stale_status_is_left_out(rows: Rows) -> None:
    for action in (m.SetCluster("c", C.RUNNING, "again"), m.SetGroup("g", C.RUNNING, "again")):
        rows.unchanged_by(action)
    rows.tx.update_cluster("c", status=C.STOPPING)
    rows.tx.update_group("g", status=C.STOPPED)
    rows.unchanged_by(
        m.SetCluster("c", C.DEGRADED, "stale"),
        m.SetCluster("gone", C.ERROR, "stale"),
        m.SetGroup("g", C.DEGRADED, "stale"),
        m.SetGroup("gone", C.ERROR, "stale"),
    )


def test_a_cluster_is_not_stopped_while_a_worker_may_live(rows: Rows) -> None:
    rows.tx.update_cluster("c", status=C.STOPPING)
    rows.worker(1, W.STOPPED, None)
    rows.worker(2, W.STOPPING)
    rows.unchanged_by(m.SetCluster("c", C.STOPPED, "stale"))
    rows.tx.update_worker("w2", state=W.STOPPED)
    rows.apply(m.SetCluster("c", C.STOPPED, "all gone"))
    assert rows.cluster().status is C.STOPPED


def test_a_start_makes_it_start_anew(rows: Rows) -> None:
    rows.tx.update_group("g", status=C.STOPPED)
    rows.apply(m.SetGroup("g", C.STARTING, "asked for"))
    assert (rows.group().status, rows.group().was_running) == (C.STARTING, False)


# --- batches


def test_an_action_that_raises_is_left_out_alone(rows: Rows) -> None:
    rows.worker(1, W.PENDING, None)
    rows.worker(2, W.PENDING, None)
    broken = m.MassFailureHold(object(), frozenset())  # type: ignore[arg-type]
    actions = [m.Place("w1", "n1", "r"), broken, m.Place("w2", "n1", "r")]
    outcome = apply_all(rows.tx, actions, "m1", lambda oid: False)
    ((failed, error),) = outcome.failures
    assert failed is broken and isinstance(error, TypeError) and outcome.changed
    assert [*outcome.done] == [actions[0], actions[2]], "each once, though the first was tried twice"
    assert [rows.of(oid).node_oid for oid in ("w1", "w2")] == ["n1", "n1"]
    assert rows.verbs() == ["starting", "starting"]
    assert rows.node().assignment_version == 9


def test_a_status_set_earlier_in_a_batch_counts(rows: Rows) -> None:
    """Rows that are remembered within a batch are read again once it changed them."""
    rows.worker(1, W.PENDING, None)
    rows.worker(2, W.PENDING, None)
    rows.apply(m.Place("w1", "n1", "r"), m.SetNode("n1", N.LATE, "silent"), m.Place("w2", "n1", "stale"))
    assert rows.of("w2").node_oid is None
    rows.tx.update_group("g", revision=2)
    rows.worker(3)
    rows.tx.update_node("n1", status=N.ONLINE)
    rows.apply(
        m.BlockRollout("g", None, "r"), m.CompleteRollout("g", 2, "r"), m.BlockRollout("g", "x", "stale")
    )
    assert rows.group().held_back is None
    rows.apply(
        m.Place("w2", "n1", "r"), m.SetCluster("c", C.ERROR, "r"), m.MarkPending("w2", "stale")
    )  # it is started still
    assert rows.of("w2").state is W.STARTING
