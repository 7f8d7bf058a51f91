"""Rolling updates with a real store: what is assigned, told and kept, step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from busbar.bus import params as p
from busbar.bus.decode import digest
from busbar.bus.errors import BusError
from busbar.bus.messages import Who
from busbar.manager.api.operations.base import ChangeContext
from busbar.manager.api.operations.workergroups import update_routercluster_workergroup
from busbar.manager.control.apply import apply_all
from busbar.manager.planner import model as m
from busbar.manager.planner.rolling import updating
from busbar.manager.quotas import Quotas
from busbar.manager.store import Store, Tx
from busbar.manager.store.migrations import migrations
from sqlite_utils import Database

from tests.integration.manager.store.test_store import cluster_row, group_row, node_row, open_store
from tests.integration.watching import OWNER, Agent, Watch, fleet, watching

WEB = {"type": "mqtt", "endpoint": {"type": "tcp", "port": 1883}}


def _unheard(node_oid: str) -> bool:
    """No node has given a sign of life since the plan."""
    return False


async def update(watch: Watch, params: dict[str, Any] | None = None, **wish: Any) -> p.Group:
    """The operation, as the dispatcher runs it."""
    group = watch.group()
    whole = {
        "routercluster_oid": group.cluster_oid,
        "workergroup_oid": group.oid,
        "workergroup": wish,
        **(params or {}),
    }
    asked = msgspec.convert(whole, p.UpdateGroup)
    who = Who("alice", "owner", "box")

    def change(tx: Tx) -> p.Group:
        return update_routercluster_workergroup(ChangeContext(tx, who, OWNER, "r-9", Quotas()), asked)

    found = await watch.store.write(change)
    await watch.rest()
    return found


def transport(port: int) -> dict[str, Any]:
    return {"type": "mqtt", "endpoint": {"type": "tcp", "port": port}}


def ports(watch: Watch, agents: list[Agent]) -> dict[str, int | None]:
    """What every worker is assigned, by its name."""
    return {
        row.worker: row.transport["endpoint"]["port"] if row.transport else None
        for agent in agents
        for row in agent.assigned()
    }


async def through(watch: Watch, agents: list[Agent]) -> None:
    """All goes well until the update is over."""
    for _ in range(20):
        for agent in agents:
            agent.obey()
        await watch.rest()
        if not updating(watch.group()):
            return
    raise AssertionError(watch.states())


async def test_each_worker_is_assigned_its_own_revision_until_it_is_replaced(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        agents = await fleet(watch, 3)
        made = await update(watch, transport=transport(5000))
        assert (made.revision, made.updated) == (2, 0)
        assert ports(watch, agents) == {"web-1": 5000, "web-2": None, "web-3": None}
        assert watch.states() == {"web-1": "STARTING n1", "web-2": "RUNNING n2", "web-3": "RUNNING n3"}
        row = watch.worker("web-1")
        assert (row.generation, row.revision, row.address) == (2, 2, None)
        assert agents[0].assigned()[0].generation == 2
        assert watch.node("n1").assignment_version == 3 and watch.node("n2").assignment_version == 2
        assert [each.revision for each in watch.store.reads.revisions(watch.group().oid)] == [1, 2]
        await through(watch, agents)
        assert ports(watch, agents) == {"web-1": 5000, "web-2": 5000, "web-3": 5000}
        assert [each.revision for each in watch.store.reads.revisions(watch.group().oid)] == [2]
        told = [name for name in watch.told("web") if name.startswith("workergroup")]
        assert told == ["workergroup_updating", "workergroup_updated"]
        (updated,) = [e for e in watch.events() if e["type"].endswith("workergroup_updated")]
        assert updated["data"]["revision"] == 2
        for name in ("web-1", "web-2", "web-3"):
            assert watch.told(name)[-2:] == ["worker_starting", "worker_ready"]


async def test_an_older_report_does_not_make_a_replaced_worker_ready(tmp_path: Path) -> None:
    """The agent still runs the old process when it hears of the new definition: that is not readiness."""
    async with watching(tmp_path) as watch:
        agents = await fleet(watch, 2, scale=2)
        await update(watch, transport=transport(5000))
        agents[0].tell(agents[0].running("web-1", generation=1))
        await watch.rest()
        assert watch.states() == {"web-1": "STARTING n1", "web-2": "RUNNING n2"}
        agents[0].obey()
        await watch.until(lambda: watch.worker("web-1").state == "RUNNING")


async def test_a_blocked_rollout_says_so_and_rolling_back_restarts_only_failed_workers(
    tmp_path: Path,
) -> None:
    async with watching(tmp_path) as watch:
        agents = await fleet(watch, 3, transport=transport(1000))
        await update(watch, transport=transport(5000))
        for _ in range(3):
            for agent in agents:
                agent.obey(web_1={"state": "BACKOFF", "reason": "exit code 1", "restarts": 1})
            await watch.rest()
        assert ports(watch, agents) == {"web-1": 5000, "web-2": 1000, "web-3": 1000}
        generations = {name: watch.worker(name).generation for name in ("web-2", "web-3")}
        back = await update(watch, transport=transport(1000))
        assert (back.revision, back.updated) == (3, 2), "two are only named anew"
        await through(watch, agents)
        assert [each.revision for each in watch.store.reads.revisions(watch.group().oid)] == [3]
        assert {name: watch.worker(name).generation for name in ("web-2", "web-3")} == generations
        assert watch.worker("web-1").generation == 3
        assert ports(watch, agents) == {"web-1": 1000, "web-2": 1000, "web-3": 1000}


async def test_a_newer_revision_supersedes_and_unused_revisions_are_deleted(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        agents = await fleet(watch, 3)
        await update(watch, transport=transport(5000))
        await update(watch, transport=transport(6000))
        assert ports(watch, agents) == {"web-1": 6000, "web-2": None, "web-3": None}
        await update(watch, transport=transport(7000))
        assert [each.revision for each in watch.store.reads.revisions(watch.group().oid)] == [1, 3, 4]
        await update(watch, transport=transport(8000))
        assert [each.revision for each in watch.store.reads.revisions(watch.group().oid)] == [1, 4, 5]
        await through(watch, agents)
        assert set(ports(watch, agents).values()) == {8000}
        assert watch.told("web").count("workergroup_updated") == 1


async def test_a_change_of_labels_alone_replaces_no_worker(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        await fleet(watch, 2, scale=2, label="old", tags=["a"])
        before = watch.node("n1").assignment_version
        made = await update(watch, label=None, description="text", lost_after=5.0)
        assert (made.label, made.description, made.tags, made.lost_after) == (None, "text", ["a"], 5.0)
        assert (made.revision, made.updated, updating(watch.group())) == (1, 2, False)
        await update(watch, runtime="amqtt")
        assert watch.node("n1").assignment_version == before and watch.group().revision == 1
        assert watch.told("web") == []
        assert watch.states() == {"web-1": "RUNNING n1", "web-2": "RUNNING n2"}


async def test_limits_stay_unless_given_and_both_at_zero_are_refused(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        await fleet(watch, 2, scale=2)
        made = await update(watch, {"max_unavailable": 0, "max_surge": 2}, transport=transport(5000))
        assert (made.max_unavailable, made.max_surge) == (0, 2)
        kept = await update(watch, label="x")
        assert (kept.max_unavailable, kept.max_surge) == (0, 2)
        again = await update(watch, transport=transport(6000))
        assert (again.max_unavailable, again.max_surge) == (1, 0)
        for limits, at in (
            ({"max_unavailable": 0}, "max_unavailable"),
            ({"max_unavailable": 0, "max_surge": 0}, "max_unavailable"),
        ):
            with pytest.raises(BusError) as refused:
                await update(watch, limits, transport=transport(8000))
            assert (refused.value.code, refused.value.pointers) == ("invalid_argument", (f"/params/{at}",))


async def test_what_the_runtime_can_not_serve_is_refused(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        await fleet(watch, 1, scale=1)
        web = {"type": "web", "endpoint": {"type": "tcp", "port": 8080}, "paths": {"/": {"type": "nodeinfo"}}}
        for wish, at in (
            ({"transport": web}, "/params/workergroup/transport/type"),
            ({"runtime": "crossbar"}, "/params/workergroup/runtime"),
            ({"transport": {"type": 7}}, "/params/workergroup/transport/type"),
        ):
            with pytest.raises(BusError) as refused:
                await update(watch, **wish)
            assert refused.value.code == "invalid_configuration"
            assert refused.value.pointers[0].startswith(at)
        assert watch.group().revision == 1


async def test_a_surge_is_opened_and_closed_with_its_status(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        agents = await fleet(watch, 2, scale=2)
        await update(watch, {"max_unavailable": 0, "max_surge": 1}, transport=transport(5000))
        assert watch.states()["web-3"].startswith("STARTING")
        await through(watch, agents)
        for agent in agents:
            agent.obey()
        await watch.until(lambda: set(watch.states()) == {"web-1", "web-2"})
        assert watch.cluster().status == "RUNNING"
        assert not [t for t in watch.told("edge") if "degraded" in t], "the surge has kept it at its scale"


async def test_a_removed_transport_is_that_of_the_cluster(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        agents = await fleet(watch, 1, scale=1, transport=transport(1000))
        cluster = watch.cluster()
        await watch.store.write(lambda tx: tx.update_cluster(cluster.oid, transport=transport(2000)))
        await update(watch, label="x")
        assert ports(watch, agents) == {"web-1": 1000}
        made = await update(watch, transport=None)
        assert made.transport is None and ports(watch, agents) == {"web-1": 2000}


async def test_an_unassign_whose_cause_was_undone_is_skipped(tmp_path: Path) -> None:
    """Between a plan and its being carried out, an operation may have asked for the opposite."""
    async with watching(tmp_path) as watch:
        await fleet(watch, 1, scale=1)
        worker = watch.worker("web-1")
        grounds = (m.StopCause.SURPLUS, m.StopCause.DRAINING, m.StopCause.REMOVED)
        stops = [m.Unassign(worker.oid, "an older plan", ground) for ground in grounds]
        outcome = await watch.store.write(lambda tx: apply_all(tx, stops, "m1", _unheard))
        assert not outcome.changed and not outcome.failures
        assert watch.states() == {"web-1": "RUNNING n1"}
        node = watch.node("n1")
        await watch.store.write(lambda tx: tx.update_node(node.oid, draining="why"))
        outcome = await watch.store.write(lambda tx: apply_all(tx, stops, "m1", _unheard))
        assert outcome.changed and watch.worker("web-1").state == "STOPPING"


async def test_a_replacement_is_skipped_where_another_worker_has_failed_meanwhile(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        agents = await fleet(watch, 2, scale=2)
        agents[1].obey(web_2={"state": "BACKOFF"})
        await watch.rest()
        group, worker = watch.group(), watch.worker("web-1")

        def late(tx: Tx) -> Any:
            tx.update_group(group.oid, revision=2)
            tx.add_revision(group.oid)
            outcome = apply_all(tx, [m.Replace(worker.oid, "an older plan")], "m1", _unheard)
            tx.update_group(group.oid, revision=1)
            return outcome, tx.worker(worker.oid)

        outcome, after = await watch.store.write(late)
        assert not outcome.failures and (after.state, after.generation) == ("RUNNING", 1)


# --- an older database


def old_store(folder: Path) -> None:
    """A database as the first version left it: a running worker, and a transport of group or cluster."""
    folder.mkdir(mode=0o700)
    db = Database(folder / "busbar.db")
    migrations.apply(db, stop_before="group_revisions")
    node, cluster = node_row("n1"), cluster_row("edge", "c")
    db["nodes"].insert(columns(db, "nodes", node))
    db["clusters"].insert(columns(db, "clusters", cluster))
    for name, own in (("own", WEB), ("shared", None)):
        group = msgspec.structs.replace(group_row("c", name), oid=name, transport=own)
        db["workergroups"].insert(columns(db, "workergroups", group))
        db["workers"].insert(
            {
                "oid": f"{name}-1", "group_oid": name, "cluster_oid": "c", "name": f"{name}-1", "ordinal": 1,
                "state": "RUNNING", "node_oid": node.oid, "generation": 4, "changed": 1, "version": 3,
            }
        )  # fmt: skip
    db.close()


def columns(db: Database, table: str, row: msgspec.Struct) -> dict[str, Any]:
    from busbar.manager.store import sql

    of = {"nodes": sql.NODES, "clusters": sql.CLUSTERS, "workergroups": sql.GROUPS}[table]
    cells = dict(zip(of.columns, of.cells(row), strict=True))
    return {name: value for name, value in cells.items() if name in db[table].columns_dict}


def test_an_older_database_gets_its_revisions_and_no_worker_is_told_anything_new(tmp_path: Path) -> None:
    old_store(tmp_path / "manager")
    store: Store = open_store(tmp_path / "manager")
    try:
        (node,) = store.reads.nodes()
        rows = store.reads.assigned(node.oid)
        assert [(row.worker, row.generation, row.transport) for row in rows] == [
            ("own-1", 4, WEB),
            ("shared-1", 4, {"type": "web"}),
        ]
        assert digest(rows[0].runtime, rows[0].transport) == digest("amqtt", WEB)
        for group in store.reads.groups():
            assert (group.revision, group.settled, updating(group)) == (1, 1, False)
            assert [each.revision for each in store.reads.revisions(group.oid)] == [1]
        assert {worker.revision for worker in store.reads.workers()} == {1}
    finally:
        store.close()


@pytest.mark.fault(97, "K")
@pytest.mark.parametrize(
    ("wish", "pointer"),
    [
        ({"runtime": "nonesuch"}, "/params/workergroup/runtime"),
        ({"transport": WEB | {"options": {"nonsense": 1}}}, "/params/workergroup/transport/options/nonsense"),
        ({"transport": WEB | {"options": {"password_file": 1}}}, "/transport/options/password_file"),
        ({"transport": {"type": "mqtt", "endpoint": {"interface": "eth0"}}}, "/transport/endpoint/interface"),
        ({"transport": {"type": "mqtt", "endpoint": {"port": 1, "shared": True}}}, "/endpoint/shared"),
    ],
)
async def test_an_update_that_no_node_would_run_touches_no_worker(
    tmp_path: Path, wish: dict[str, Any], pointer: str
) -> None:
    async with watching(tmp_path) as watch:
        agents = await fleet(watch, 2, scale=2)
        before = [agent.assigned() for agent in agents], watch.group()
        with pytest.raises(BusError) as caught:
            await update(watch, **wish)
        assert caught.value.code == "invalid_configuration"
        assert caught.value.pointers[0].endswith(pointer)
        await watch.rest()
        assert ([agent.assigned() for agent in agents], watch.group()) == before
