"""The store on a real file: durable group commits, nothing half done, a damaged file refused."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from busbar.bus.clock import Clock, SystemClock
from busbar.bus.errors import BusError
from busbar.bus.states import ClusterState, NodeStatus, WorkerState
from busbar.bus.testing import FakeClock
from busbar.bus.topics import Topics
from busbar.manager.store import Changes, Store, StoreRefusedError, Tx, check, engine
from busbar.manager.store.rows import ClusterRow, GroupRow, MemberRow, NodeRow
from sqlite_utils import Database

from tests.brokers import until
from tests.integration.manager.fixtures import new_id
from tests.pace import bound

TOPICS = Topics("lab")


def open_store(folder: Path, clock: Clock | None = None) -> Store:
    return Store.open(folder / "busbar.db", clock or SystemClock(), new_id, TOPICS)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(tmp_path / "manager")
    yield store
    store.close()


def cluster_row(name: str, oid: str | None = None) -> ClusterRow:
    return ClusterRow(
        oid=oid or new_id(),
        name=name,
        label=None,
        description=None,
        tags=["t"],
        transport={"type": "web"},
        owner_oid="o",
        status=ClusterState.STOPPED,
        reason=None,
        was_running=False,
        who=None,
        request_id=None,
        changed=1,
        version=1,
    )


def group_row(cluster_oid: str, name: str) -> GroupRow:
    return GroupRow(
        oid=new_id(),
        cluster_oid=cluster_oid,
        name=name,
        label=None,
        description=None,
        tags=None,
        transport=None,
        scale=2,
        runtime="amqtt",
        lost_after=30.0,
        start_deadline=60.0,
        status=ClusterState.STOPPED,
        reason=None,
        was_running=False,
        changed=1,
        version=1,
    )


def node_row(name: str) -> NodeRow:
    return NodeRow(
        oid=new_id(),
        name=name,
        labels={"a": "b"},
        status=NodeStatus.ONLINE,
        reason=None,
        boot=None,
        conn=None,
        goodbye=False,
        runtimes=["amqtt"],
        capacity=None,
        conditions=[],
        assignment_version=0,
        applied_epoch=0,
        applied_version=0,
        changed=1,
        version=1,
    )


def add(name: str) -> Any:
    def fn(tx: Tx) -> str:
        row = cluster_row(name)
        tx.insert_cluster(row)
        tx.event("routercluster", "created", cluster=name, name=name, data={"oid": row.oid})
        return row.oid

    return fn


def names(store: Store) -> list[str]:
    return [name for _, name in store.reads.cluster_keys()]


@pytest.mark.fault(16, "D")
async def test_the_file_is_private_durable_and_strict(store: Store) -> None:
    await store.write(add("a"))
    for path in (store.path, Path(f"{store.path}-wal"), Path(f"{store.path}-shm")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700
    facts = await store.write(
        lambda tx: [
            tx.db.execute(f"PRAGMA {name}").fetchall()[0][0]
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    )
    assert facts == ["wal", 2, 1, 0]
    tables = store.reads.db.execute("PRAGMA table_list").fetchall()
    lax = [
        row[1]
        for row in tables
        if row[0] == "main" and not row[5] and not row[1].startswith(("sqlite_", "_sqlite"))
    ]
    assert lax == []


async def test_reading_can_not_write(store: Store) -> None:
    with pytest.raises(sqlite3.OperationalError):
        store.reads.db.execute("DELETE FROM clusters")


async def test_a_folder_that_others_can_read_and_that_holds_other_things_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir(mode=0o755)
    (folder / "letters").touch()
    with pytest.raises(StoreRefusedError, match="folder of its own"):
        open_store(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


async def _commits(store: Store, count: int) -> list[Changes]:
    """What is committed of so many writes that wait together."""
    commits: list[Changes] = []
    store.on_commit(commits.append)
    entered, leave = threading.Event(), threading.Event()

    def hold(point: str) -> None:
        entered.set()
        leave.wait(bound(10))

    store.fault = hold
    store.submit(lambda tx: None, lambda outcome: None)
    assert await asyncio.to_thread(entered.wait, bound(10))
    writes = asyncio.gather(*(store.write(add(f"c{i:02}")) for i in range(count)))
    await until(lambda: store.waiting == count + 1)
    leave.set()
    oids = await writes
    assert set().union(*(each.clusters for each in commits)) == set(oids)
    assert len(names(store)) == count
    return commits


async def test_writes_that_wait_together_share_one_commit(tmp_path: Path) -> None:
    store = open_store(tmp_path / "manager", FakeClock())
    (commit,) = await _commits(store, 40)
    assert [row.topic for row in commit.outbox] == [
        f"busbar/v1/lab/event/c{i:02}/routercluster/c{i:02}/created" for i in range(40)
    ]
    store.close()


class Ticking(FakeClock):
    """Each look at it takes four milliseconds."""

    def monotonic(self) -> float:
        self._move(self._now + 0.004)
        return self._now


async def test_a_group_takes_no_more_writes_along_once_its_time_is_over(tmp_path: Path) -> None:
    store = open_store(tmp_path / "manager", Ticking())
    commits = await _commits(store, 12)
    assert [len(each.clusters) for each in commits] == [3, 3, 3, 3]
    store.close()


async def test_a_failing_write_undoes_only_itself(store: Store) -> None:
    def fails(tx: Tx) -> None:
        add("bad")(tx)
        raise ValueError("no")

    results = await asyncio.gather(
        store.write(add("a")), store.write(fails), store.write(add("b")), return_exceptions=True
    )
    assert isinstance(results[1], ValueError)
    assert names(store) == ["a", "b"]
    assert [_sequence(payload) for payload in store.reads.events(0, 10)] == [1, 2]
    assert len(store.reads.outbox(0, 10)) == 2


def _sequence(payload: bytes) -> int:
    import json

    return int(json.loads(payload)["sequence"])


async def test_an_attempt_undoes_what_it_did_and_no_more(store: Store) -> None:
    changes: list[Changes] = []
    store.on_commit(changes.append)

    def fn(tx: Tx) -> str:
        add("kept")(tx)
        with pytest.raises(ValueError, match="inner"):
            tx.attempt(lambda: _add_and_fail(tx))
        add("also")(tx)
        return "done"

    assert await store.write(fn) == "done"
    assert names(store) == ["also", "kept"]
    assert len(changes[0].clusters) == 2 and len(changes[0].outbox) == 2
    assert [_sequence(payload) for payload in store.reads.events(0, 10)] == [1, 2]


async def test_an_attempt_that_comes_first_undoes_itself_and_the_rest_goes_on(store: Store) -> None:
    def fn(tx: Tx) -> None:
        with pytest.raises(ValueError, match="inner"):
            tx.attempt(lambda: _add_and_fail(tx))
        with pytest.raises(ValueError, match="inner"):
            tx.attempt(lambda: _add_and_fail(tx))
        tx.attempt(lambda: add("kept")(tx))

    await asyncio.gather(store.write(add("before")), store.write(fn), store.write(add("after")))
    assert names(store) == ["after", "before", "kept"]
    assert [_sequence(payload) for payload in store.reads.events(0, 10)] == [1, 2, 3]
    assert len(store.reads.outbox(0, 10)) == 3


async def test_a_reply_is_found_again_within_the_same_group_and_after_it(store: Store) -> None:
    def remember(tx: Tx) -> None:
        tx.store_reply("alice", "r1", "sha256:1", b"reply")

    def lost(tx: Tx) -> None:
        tx.store_reply("alice", "r2", "sha256:2", b"lost")
        raise ValueError("no")

    def seen(tx: Tx) -> list[bytes | None]:
        found = (tx.stored_reply("alice", request_id) for request_id in ("r1", "r2"))
        return [row.reply if row else None for row in found]

    group = (store.write(remember), store.write(lost), store.write(seen))
    found = await asyncio.gather(*group, return_exceptions=True)
    assert found[2] == [b"reply", None]
    assert await store.write(seen) == [b"reply", None]


async def test_no_outbox_id_is_given_twice(store: Store) -> None:
    await store.write(add("a"))
    (first,) = store.reads.outbox(0, 10)
    store.acknowledge([first.id])
    await store.write(lambda tx: None)
    assert store.reads.outbox(0, 10) == []
    store.close()
    again = Store.open(store.path, SystemClock(), lambda: "x")
    try:
        await again.write(add("b"))
        assert [row.id for row in again.reads.outbox(0, 10)] == [first.id + 1]
    finally:
        again.close()


def _add_and_fail(tx: Tx) -> None:
    add("lost")(tx)
    raise ValueError("inner")


async def test_nothing_is_told_before_it_is_committed(store: Store) -> None:
    told: list[str] = []
    points: list[tuple[str, int]] = []
    other = Database(sqlite3.connect(store.path, check_same_thread=False))

    def fault(point: str) -> None:
        points.append((point, other.execute("SELECT count(*) FROM clusters").fetchone()[0]))
        assert told == []

    store.fault = fault
    store.on_commit(lambda changes: told.append("changes"))
    await store.write(add("a"))
    other.close()
    assert points == [("before_commit", 0), ("after_commit", 1)] and told == ["changes"]


@pytest.mark.fault((2, 3), "D A")
async def test_a_crash_before_the_commit_leaves_nothing_and_after_it_everything(tmp_path: Path) -> None:
    for point, survivors in (("before_commit", []), ("after_commit", ["a"])):
        folder = tmp_path / point
        child = multiprocessing.get_context("spawn").Process(target=_die_at, args=(folder, point))
        child.start()
        await asyncio.to_thread(child.join, 30)
        assert child.exitcode == 77
        store = open_store(folder)
        try:
            assert (names(store), store.reads.outbox_count(), store.epoch) == (survivors, len(survivors), 2)
        finally:
            store.close()


def _die_at(folder: Path, point: str) -> None:
    async def main() -> None:
        store = open_store(folder)
        store.fault = lambda reached: os._exit(77) if reached == point else None
        await store.write(add("a"))

    asyncio.run(main())


async def test_the_store_keeps_its_name_and_raises_its_epoch(tmp_path: Path) -> None:
    seen = []
    for _ in range(3):
        store = open_store(tmp_path / "manager")
        await store.write(add(f"c{len(seen)}"))
        seen.append((store.id, store.epoch, store.reads.sequence()))
        store.close()
    assert [row[1:] for row in seen] == [(1, 1), (2, 2), (3, 3)]
    assert len({row[0] for row in seen}) == 1


async def test_several_processes_may_open_a_new_file_at_once(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    epochs = spawn.Queue()
    children = [spawn.Process(target=_open_once, args=(tmp_path / "manager", epochs)) for _ in range(3)]
    for child in children:
        child.start()
    found = sorted([await asyncio.to_thread(epochs.get, True, 30) for _ in children])
    for child in children:
        await asyncio.to_thread(child.join, 10)
    assert found == [1, 2, 3]


def _open_once(folder: Path, epochs: Any) -> None:
    store = open_store(folder)
    epochs.put(store.epoch)
    store.close()


@pytest.mark.fault(11, "L")
async def test_a_locked_database_is_busy_and_then_works_again(store: Store) -> None:
    await store.write(lambda tx: tx.db.execute("PRAGMA busy_timeout = 50"))
    with sqlite3.connect(store.path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BusError) as caught:
            await store.write(add("a"))
        assert (caught.value.code, caught.value.retry_after_ms) == ("busy", engine.RETRY_MS)
        assert store.write_error is not None and "locked" in store.write_error
        other.execute("ROLLBACK")
    other.close()
    await store.write(add("a"))
    assert (store.write_error, names(store)) == (None, ["a"])


@pytest.mark.fault(12, "D L")
async def test_a_full_disk_fails_the_group_and_the_writer_lives_on(store: Store) -> None:
    pages = await store.write(lambda tx: tx.db.execute("PRAGMA page_count").fetchall()[0][0])
    await store.write(lambda tx: tx.db.execute(f"PRAGMA max_page_count = {pages}").fetchall())

    def fill(tx: Tx) -> None:
        tx.send("t", b"x" * 100_000)

    with pytest.raises(sqlite3.OperationalError, match="full"):
        await store.write(fill)
    assert store.write_error is None or "full" in store.write_error
    await store.write(lambda tx: tx.db.execute("PRAGMA max_page_count = 1000000").fetchall())
    await store.write(fill)
    assert (store.write_error, store.reads.outbox_count()) == (None, 1)


async def test_who_measures_commits_can_not_undo_one(store: Store) -> None:
    """It is told after the commit is settled, and what it raises is its own."""
    told: list[float] = []

    def measured(seconds: float) -> None:
        told.append(seconds)
        raise ValueError("no such label")

    store.committed = measured
    before = store.commits
    await store.write(lambda tx: tx.set_meta("x", "1"))
    await store.write(lambda tx: tx.set_meta("x", "2"))
    assert store.reads.meta("x") == "2" and store.write_error is None
    assert store.commits == before + 2 and len(told) == 2 and min(told) >= 0


@pytest.mark.fault(12, "D L")
async def test_a_failing_commit_fails_everybody_in_it_and_loses_no_acknowledgement(store: Store) -> None:
    await store.write(add("first"))
    store.acknowledge(row.id for row in store.reads.outbox(0, 10))

    def fault(point: str) -> None:
        if point == "before_commit":
            raise sqlite3.OperationalError("disk I/O error")

    store.fault = fault
    outcomes = await asyncio.gather(*(store.write(add(n)) for n in "ab"), return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["disk I/O error"] * 2
    assert store.write_error == "the database can't be written: disk I/O error"
    assert (names(store), store.reads.outbox_count()) == (["first"], 1)
    store.fault = lambda point: None
    await store.write(add("later"))
    assert (names(store), store.write_error) == (["first", "later"], None)
    assert [_sequence(payload) for payload in store.reads.events(0, 10)] == [1, 2]
    assert store.reads.outbox_count() == 1, "only the acknowledged row went"


async def test_the_queue_is_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "QUEUE_LIMIT", 3)
    done: list[Any] = []
    for _ in range(3):
        store.submit(lambda tx: None, done.append)
    with pytest.raises(BusError, match="busy"):
        store.submit(lambda tx: None, done.append)
    await until(lambda: len(done) == 3)
    assert await store.write(lambda tx: 5) == 5


async def test_closing_finishes_what_waits(tmp_path: Path) -> None:
    store = open_store(tmp_path / "manager")
    for i in range(300):
        store.submit(add(f"c{i}"), lambda outcome: None)
    store.close()
    with pytest.raises(BusError):
        store.submit(add("late"), lambda outcome: None)
    store = open_store(tmp_path / "manager")
    assert len(names(store)) == 300
    store.close()


async def test_rows_come_back_as_they_went_in(store: Store) -> None:
    cluster, node = cluster_row("a"), node_row("n1")
    group = group_row(cluster.oid, "web")
    member = MemberRow(cluster.oid, node.oid, 4, None, 1)

    def fn(tx: Tx) -> str:
        tx.insert_cluster(cluster)
        tx.insert_node(node)
        tx.insert_group(group)
        tx.insert_member(member)
        return tx.insert_worker(group, 1, "why").oid

    oid = await store.write(fn)
    reads = store.reads
    assert (reads.cluster(cluster.oid), reads.node_by_name("n1")) == (cluster, node)
    assert (reads.group_by_name(cluster.oid, "web"), reads.members(cluster.oid)) == (group, [member])
    worker = reads.worker(oid)
    assert worker is not None and (worker.name, worker.state, worker.version) == (
        "web-1",
        WorkerState.PENDING,
        1,
    )
    assert reads.memberships(node.oid) == [member] and reads.workers_in(cluster.oid) == [worker]


async def test_updates_bump_versions_and_mark_what_must_be_published(store: Store) -> None:
    cluster, node = cluster_row("a"), node_row("n1")
    group = group_row(cluster.oid, "web")
    changes: list[Changes] = []

    def make(tx: Tx) -> str:
        tx.insert_cluster(cluster)
        tx.insert_node(node)
        tx.insert_group(group)
        return tx.insert_worker(group, 1, None).oid

    worker_oid = await store.write(make)
    store.on_commit(changes.append)

    def place(tx: Tx) -> int:
        tx.update_worker(worker_oid, state=WorkerState.STARTING, node_oid=node.oid, generation=1)
        return tx.bump_assignment(node.oid)

    assert await store.write(place) == 1
    assert changes[0].workers == {worker_oid} and changes[0].groups == {group.oid}
    assert changes[0].clusters == {cluster.oid} and changes[0].assignments == {node.oid}
    assert [row.worker for row in store.reads.assigned(node.oid)] == ["web-1"]
    assert store.reads.assigned(node.oid)[0].transport == {"type": "web"}
    row = store.reads.worker(worker_oid)
    assert row is not None and row.version == 2
    assert await store.write(lambda tx: tx.update_worker("gone", pid=1)) is False
    with pytest.raises(KeyError):
        await store.write(lambda tx: tx.update_worker(worker_oid, colour="red"))
    with pytest.raises(LookupError):
        await store.write(lambda tx: tx.bump_assignment("gone"))


async def test_deleting_a_cluster_clears_every_status_below_it(store: Store) -> None:
    cluster = cluster_row("a")
    group = group_row(cluster.oid, "web")

    def make(tx: Tx) -> None:
        tx.insert_cluster(cluster)
        tx.insert_group(group)
        tx.insert_worker(group, 1, None)

    await store.write(make)
    await store.write(lambda tx: tx.delete_cluster(cluster))
    cleared = [(row.topic, row.payload, row.retain) for row in store.reads.outbox(0, 10)]
    below = ("worker/web-1", "workergroup/web", "routercluster/a")
    assert cleared == [(f"busbar/v1/lab/status/a/{tail}", b"", True) for tail in below]
    assert store.reads.workers() == [] and store.reads.groups() == []


async def test_retention_prunes_in_steps(store: Store) -> None:
    from busbar.manager.store.retention import Bounds, Retention

    def make(tx: Tx) -> None:
        for number in range(50):
            add(f"c{number}")(tx)
            tx.store_reply("alice", str(number), "d", b"reply")
            tx.audit("owner", "op", None, None, "ok", "{}")

    await store.write(make)
    kept = Bounds(requests_s=3600, requests_rows=20, events=10, audit=5, outbox=7)
    gone = await Retention(store, SystemClock(), kept).prune()
    assert gone == 30 + 40 + 45 + 43
    assert [_sequence(payload) for payload in store.reads.events(0, 100)] == list(range(41, 51))
    assert store.reads.outbox_count() == 7
    old = Bounds(requests_s=-1)
    await Retention(store, SystemClock(), old).prune()
    assert store.reads.db.execute("SELECT count(*) FROM requests").fetchone()[0] == 0


@pytest.mark.fault(87, "S")
async def test_kept_replies_are_bounded_by_bytes_and_the_newest_stay(store: Store) -> None:
    from busbar.manager.store.retention import Bounds, Retention

    retention = Retention(store, SystemClock(), Bounds(requests_bytes=10_000))
    for number in range(60):
        await store.write(
            lambda tx, number=number: tx.store_reply("alice", f"r{number}", "d", b"x" * (number * 50))
        )
        await retention.prune()
        total, count = store.reads.db.execute(
            "SELECT coalesce(sum(length(reply)), 0), count(*) FROM requests"
        ).fetchone()
        assert total <= 10_000 and count >= 1
    ids = [row[0] for row in store.reads.db.execute("SELECT id FROM requests ORDER BY created").fetchall()]
    assert ids == [f"r{number}" for number in range(60 - len(ids), 60)]


def test_a_good_file_passes_the_check_and_a_missing_one_does_not(tmp_path: Path) -> None:
    assert check(tmp_path / "busbar.db") == [f"{tmp_path / 'busbar.db'} does not exist"]
    open_store(tmp_path / "manager").close()
    assert check(tmp_path / "manager" / "busbar.db") == []


@pytest.mark.parametrize("damage", ["noise", "header", "torn"])
@pytest.mark.fault(13, "D")
def test_a_damaged_file_is_refused_with_the_way_to_restore(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "manager" / "busbar.db"
    open_store(path.parent).close()
    whole = path.read_bytes()
    broken = {
        "noise": whole[:4096] + os.urandom(len(whole) - 4096),
        "header": b"not a database, but long enough to look like one" * 100,
        "torn": whole[: len(whole) // 2],
    }
    path.write_bytes(broken[damage])
    with pytest.raises(StoreRefusedError, match=r"busbar restore FILE .*busbar manager take-over"):
        open_store(path.parent)
    assert check(path) != []
    path.write_bytes(whole)
    assert check(path) == []
    open_store(path.parent).close()


def test_a_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "manager" / "busbar.db"
    open_store(path.parent).close()
    with sqlite3.connect(path) as db:
        db.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at)"
            " VALUES ('busbar', 'warp_drive', '')"
        )
    db.close()
    with pytest.raises(StoreRefusedError, match=r"newer Busbar.*warp_drive"):
        open_store(path.parent)
    assert any("warp_drive" in fault for fault in check(path))
