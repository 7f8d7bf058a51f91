"""Planning and applying admit the same: a plan's snapshot against a transaction whose rows equal it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from busbar.bus.decode import digest
from busbar.bus.topics import Topics
from busbar.manager.control.apply import Batch, apply_all
from busbar.manager.planner import model as m
from busbar.manager.planner import rolling
from busbar.manager.planner.liveness import Fleet
from busbar.manager.planner.placement import Candidates, Load
from busbar.manager.planner.plan import plan
from busbar.manager.store import Tx, sql
from busbar.manager.store.migrations import migrations
from busbar.manager.store.rows import MemberRow, NodeRow, WorkerRow
from busbar.manager.store.tx import StoreContext
from hypothesis import HealthCheck, given, settings
from sqlite_utils import Database

from tests.integration.manager.store.test_store import cluster_row, group_row, node_row
from tests.unit.manager.planner.fleets import NOW
from tests.unit.manager.planner.test_model_properties import some_fleet

replace = msgspec.structs.replace


def _unheard(node_oid: str) -> bool:
    """No node has given a sign of life since the plan."""
    return False


@contextmanager
def rows_of(state: m.Snapshot) -> Iterator[Tx]:
    """A transaction on a store in memory that holds exactly this snapshot."""
    db = Database(memory=True)
    try:
        migrations.apply(db)
        db.conn.isolation_level = None
        db.execute("BEGIN")
        tx = Tx(db, StoreContext("s1", 1, Topics("lab"), lambda: str(uuid.uuid4())), 1)
        db.execute("SAVEPOINT job")
        for node in state.nodes.values():
            tx.insert_node(_node(node))
            digests = {runtime: digest(text) for runtime, text in node.schemas.items()}
            tx.set_schemas(node.oid, digests, {digest(text): text for text in node.schemas.values()})
        for cluster in state.clusters.values():
            facts = replace(cluster_row(cluster.name, cluster.oid), status=cluster.status)
            tx.insert_cluster(facts)
            for member in cluster.members:
                limits = member.hardlimit, member.softlimit
                tx.insert_member(MemberRow(cluster.oid, member.node_oid, *limits, 1))
            for group in cluster.groups:
                _insert_group(tx, group)
        yield tx
    finally:
        db.conn.close()


def _node(view: m.NodeView) -> NodeRow:
    return replace(
        node_row(view.name),
        oid=view.oid,
        status=view.status,
        goodbye=view.goodbye,
        runtimes=sorted(view.runtimes),
        capacity=None if view.max_workers is None else {"max_workers": view.max_workers},
        draining="upkeep" if view.draining else None,
        cordoned="slow" if view.cordoned else None,
        labels=dict(view.labels),
    )


def _insert_group(tx: Tx, view: m.GroupView) -> None:
    tx.insert_group(
        replace(
            group_row(view.cluster_oid, view.name),
            oid=view.oid,
            scale=view.scale,
            runtime=view.runtime,
            status=view.status,
            revision=view.revision,
            settled=view.settled,
            max_unavailable=view.max_unavailable,
            max_surge=view.max_surge,
            transport=None if view.transport is None else dict(view.transport),
            placement=view.placement,
        )
    )
    for worker in view.workers:
        row = WorkerRow(
            oid=worker.oid, group_oid=view.oid, cluster_oid=view.cluster_oid, name=worker.name,
            ordinal=worker.ordinal, state=worker.state, reason=None, node_oid=worker.node_oid,
            last_node_oid=None, generation=worker.generation, address=None, pid=None, restarts=0, changed=1,
            version=1, revision=worker.revision,
            unassigned_version=1 if worker.state == "STOPPING" else None,
        )  # fmt: skip
        tx.db.execute(sql.WORKERS.insert, sql.WORKERS.cells(row))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(some_fleet())
def test_what_a_plan_places_is_admitted(state: m.Snapshot) -> None:
    actions = plan(state, NOW)
    with rows_of(state) as tx:
        outcome = apply_all(tx, actions, "m1", _unheard)
        assert outcome.failures == []
        for action in actions:
            if isinstance(action, m.Place):
                row = tx.worker(action.worker_oid)
                assert row is not None and row.node_oid == action.node_oid
            elif isinstance(action, m.CreateWorker):
                made = {row.ordinal: row.node_oid for row in tx.workers_of(action.group_oid)}
                assert made[action.ordinal] == action.node_oid


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(some_fleet())
def test_both_refuse_for_the_same_reason(state: m.Snapshot) -> None:
    status = {oid: node.status for oid, node in state.nodes.items()}
    fleet, load = Fleet(state.nodes, status, state.timing, NOW), Load(state)
    with rows_of(state) as tx:
        batch = Batch(tx, "m1", _unheard)
        for cluster in state.clusters.values():
            for group in cluster.groups:
                candidates = Candidates(fleet, load, cluster, group)
                row = tx.group(group.oid)
                assert row is not None
                for node_oid in (*state.nodes, "unknown"):
                    assert candidates.refusal(node_oid) == batch.refusal(row, node_oid)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(some_fleet())
def test_an_update_is_counted_alike_in_views_rows_and_sql(state: m.Snapshot) -> None:
    with rows_of(state) as tx:
        for cluster in state.clusters.values():
            for view in cluster.groups:
                row = tx.group(view.oid)
                assert row is not None
                assert rolling.updated(view) == tx.updated(view.oid)
                assert rolling.updating(view) == rolling.updating(row)
                assert rolling.slots(view) <= rolling.max_slots(view) == rolling.max_slots(row)
