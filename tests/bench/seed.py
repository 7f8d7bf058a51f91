"""Fills a manager's database before its start: objects by the thousand in a second, not in a minute."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from busbar.bus.states import ClusterState, NodeStatus, WorkerState
from busbar.manager.leader.state_folder import database
from busbar.manager.store import Store, Tx
from busbar.manager.store.rows import ClusterRow, GroupRow, MemberRow, NodeRow

from tests.bench.setting import CLOCK, TOPICS

CHUNK = 1_000


@dataclass
class Fleet:
    """What was made. `nodes` are names; the oids come in the same order."""

    nodes: list[str] = field(default_factory=list)
    node_oids: list[str] = field(default_factory=list)
    clusters: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)


def new_oid() -> str:
    return str(uuid.uuid4())


async def fill(
    state: Path, *, nodes: int = 0, clusters: int = 0, scale: int = 0, placed: bool = False
) -> Fleet:
    """Write `nodes` paired nodes and `clusters` clusters, each with an equal share of the nodes and a group
    of `scale` workers (without both when the scale is 0). With `placed`, nodes are online and every worker
    runs on one.
    """
    os.makedirs(state, mode=0o700, exist_ok=True)
    store = Store.open(database(state), CLOCK, new_oid, TOPICS)
    fleet = Fleet()
    try:
        await _in_chunks(store, nodes, lambda tx, number: _node(tx, fleet, number, placed))
        await _in_chunks(store, clusters, lambda tx, number: _cluster(tx, fleet, number, scale, placed))
        if scale:
            await _in_chunks(store, nodes, lambda tx, number: _member(tx, fleet, number))
        if scale and placed:
            await _in_chunks(store, scale * clusters, lambda tx, number: _worker(tx, fleet, number))
    finally:
        store.close()
    return fleet


async def _in_chunks(store: Store, count: int, insert: Callable[[Tx, int], None]) -> None:
    for start in range(0, count, CHUNK):
        numbers = range(start, min(start + CHUNK, count))
        await store.write(lambda tx, numbers=numbers: [insert(tx, number) for number in numbers])


def _node(tx: Tx, fleet: Fleet, number: int, online: bool) -> None:
    row = NodeRow(
        oid=new_oid(),
        name=f"n{number:05d}",
        labels=None,
        status=NodeStatus.ONLINE if online else NodeStatus.OFFLINE,
        reason=None,
        boot="b-1" if online else None,
        conn=1 if online else None,
        goodbye=False,
        runtimes=["mosquitto"] if online else [],
        capacity=None,
        conditions=[],
        assignment_version=1,
        applied_epoch=0,
        applied_version=0,
        changed=tx.now_ns,
        version=1,
    )
    tx.insert_node(row)
    fleet.nodes.append(row.name)
    fleet.node_oids.append(row.oid)


def _cluster(tx: Tx, fleet: Fleet, number: int, scale: int, running: bool) -> None:
    status = ClusterState.RUNNING if running else ClusterState.STOPPED
    row = ClusterRow(
        oid=new_oid(),
        name=f"c{number:05d}",
        label=None,
        description=None,
        tags=None,
        transport={"type": "mqtt", "endpoint": {"type": "tcp", "port": [20000, 29999]}},
        owner_oid=new_oid(),
        status=status,
        reason=None,
        was_running=running,
        who=None,
        request_id=None,
        changed=tx.now_ns,
        version=1,
    )
    tx.insert_cluster(row)
    fleet.clusters.append(row.oid)
    if scale:
        _group(tx, fleet, row, scale)


def _group(tx: Tx, fleet: Fleet, cluster: ClusterRow, scale: int) -> None:
    row = GroupRow(
        oid=new_oid(),
        cluster_oid=cluster.oid,
        name="web",
        label=None,
        description=None,
        tags=None,
        transport=None,
        scale=scale,
        runtime="mosquitto",
        lost_after=30.0,
        start_deadline=60.0,
        status=cluster.status,
        reason=None,
        was_running=cluster.was_running,
        changed=tx.now_ns,
        version=1,
    )
    tx.insert_group(row)
    fleet.groups.append(row.oid)


def _member(tx: Tx, fleet: Fleet, number: int) -> None:
    cluster = fleet.clusters[number * len(fleet.clusters) // len(fleet.node_oids)]
    tx.insert_member(MemberRow(cluster, fleet.node_oids[number], None, None, tx.now_ns))


def _worker(tx: Tx, fleet: Fleet, number: int) -> None:
    turn, group = divmod(number, len(fleet.groups))
    share = len(fleet.node_oids) // len(fleet.groups)
    node, of = fleet.node_oids[group * share + turn % share], tx.group(fleet.groups[group])
    assert of is not None
    oid = tx.insert_worker(of, turn + 1, None, node).oid
    tx.update_worker(oid, state=WorkerState.RUNNING, pid=4711, address="mqtt://10.0.0.1:1883")
