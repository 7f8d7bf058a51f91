"""Backups are consistent, private and verified; a restored store does not compete with a newer one."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from busbar.manager.leader.fencing import Lock
from busbar.manager.leader.state_folder import backup, database, restore, take_over
from busbar.manager.store import Store, StoreRefusedError, Tx, check
from busbar.manager.store.backup import backup_time
from busbar.manager.store.rows import PrincipalRow

from tests import forked
from tests.integration.manager.fixtures import open_store
from tests.pace import bound
from tests.plain import Plain
from tests.stack import Stack, stack

WHEN = "2026-11-23T01:02:03Z"


def add(tx: Tx, name: str) -> None:
    tx.insert_principal(PrincipalRow(tx.context.new_oid(), name, "viewer", tx.now_ns))


def add_pair(tx: Tx, number: int) -> None:
    """Two rows that only an inconsistent copy could have one of."""
    add(tx, f"left-{number}")
    add(tx, f"right-{number}")


def names(path: Path) -> set[str]:
    with sqlite3.connect(path) as conn:
        return {row[0] for row in conn.execute("SELECT name FROM principals")}


async def keep(state: Path, *words: str) -> None:
    """A store with these principals, closed again."""
    store = open_store(state)
    for word in words:
        await store.write(partial(add, name=word))
    store.close()


# --- the copy ----------------------------------------------------------------------------------------------


async def test_a_copy_is_consistent_while_the_store_is_written_to(tmp_path: Path) -> None:
    state, stop = tmp_path / "manager", asyncio.Event()
    store = open_store(state)

    async def write() -> int:
        number = 0
        while not stop.is_set():
            await store.write(partial(add_pair, number=number))
            number += 1
        return number

    writing = asyncio.create_task(write())
    sizes = []
    for number in range(5):
        while len(names(database(state))) < 20 * (number + 1):
            await store.write(lambda tx: None)
        target = tmp_path / f"copy-{number}"
        await asyncio.to_thread(backup, state, target, WHEN)
        assert check(target) == []
        found = names(target)
        lefts = {name.removeprefix("left-") for name in found if name.startswith("left-")}
        assert lefts == {name.removeprefix("right-") for name in found if name.startswith("right-")}
        assert lefts == {str(n) for n in range(len(lefts))}, "all before one instant, none after"
        sizes.append(len(lefts))
    stop.set()
    assert sizes == sorted(sizes) and sizes[-1] <= await writing
    store.close()


async def test_a_backup_is_one_private_and_marked_file(tmp_path: Path) -> None:
    await keep(tmp_path / "manager", "alice")
    old_mask = os.umask(0)
    try:
        backup(tmp_path / "manager", tmp_path / "copy", WHEN)
    finally:
        os.umask(old_mask)
    assert sorted(os.listdir(tmp_path)) == ["copy", "manager"]
    assert stat.S_IMODE((tmp_path / "copy").stat().st_mode) == 0o600
    assert backup_time(tmp_path / "copy") == WHEN
    assert backup_time(database(tmp_path / "manager")) == "", "the original is unaffected"
    open_store(tmp_path / "manager").close()


@pytest.mark.parametrize("what", ["missing", "damaged", "nothing"])
def test_a_file_that_is_no_store_is_not_copied(tmp_path: Path, what: str) -> None:
    state = tmp_path / "manager"
    state.mkdir()
    if what != "missing":
        database(state).write_bytes(b"" if what == "nothing" else b"no database" * 1000)
    with pytest.raises(StoreRefusedError):
        backup(state, tmp_path / "copy", WHEN)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manager"]


async def test_an_unwritable_target_is_reported(tmp_path: Path) -> None:
    await keep(tmp_path / "manager")
    with pytest.raises(StoreRefusedError, match="No such file"):
        backup(tmp_path / "manager", tmp_path / "nowhere" / "copy", WHEN)


# --- restore -----------------------------------------------------------------------------------------------


async def test_a_restored_store_does_not_publish_until_it_takes_over(tmp_path: Path) -> None:
    state, copy = tmp_path / "manager", tmp_path / "copy"
    await keep(state, "alice")
    backup(state, copy, WHEN)
    await keep(state, "bob")
    aside = restore(state, copy, WHEN)
    assert names(database(state)) == {"alice"}
    assert aside is not None and names(aside) == {"alice", "bob"}, "the previous file is kept"
    assert stat.S_IMODE(database(state).stat().st_mode) == 0o600
    with pytest.raises(StoreRefusedError, match=f"is a backup .{WHEN}.*take-over"):
        open_store(state)
    epoch = take_over(state, 1000)
    store = open_store(state)
    assert (store.epoch, epoch) == (1001, 1001)
    store.close()


async def test_epoch_and_sequence_never_decrease(tmp_path: Path) -> None:
    """Also if the same old backup is restored twice."""
    state, copy = tmp_path / "manager", tmp_path / "copy"
    store = open_store(state)
    event = partial(Tx.event, subject="manager", verb="braked", cluster=None, name="m1", data={})
    first = await store.write(event)
    store.close()
    backup(state, copy, WHEN)
    seen: list[tuple[int, int]] = [(1, first)]
    for clock in (5_000, 6_000):
        restore(state, copy, WHEN)
        take_over(state, clock, clock)
        store = open_store(state)
        seen.append((store.epoch, await store.write(event)))
        assert json.loads(store.reads.events(0, 1)[0])["sequence"] == f"{first:010d}"
        store.close()
    assert [epoch for epoch, _ in seen] == [1, 5_001, 6_001]
    assert seen[1][1] > 1_000_000 and seen[2][1] > 1_000_000


async def test_the_old_log_is_not_applied_to_the_restored_file(tmp_path: Path) -> None:
    """A killed manager leaves a write-ahead log, which must not be applied to the restored file."""
    state, copy = tmp_path / "manager", tmp_path / "copy"
    await keep(state, "alice")
    backup(state, copy, WHEN)
    program = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "row = ('o', 'killed', 'viewer', 1);"
        "c.execute('INSERT INTO principals (oid, name, role, changed) VALUES (?, ?, ?, ?)', row); os._exit(9)"
    )
    await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program, str(database(state))], check=False
    )
    assert "busbar.db-wal" in os.listdir(state)
    aside = restore(state, copy, WHEN)
    assert aside is not None and "killed" in names(aside)
    assert names(database(state)) == {"alice"}
    assert check(database(state)) == []


@pytest.mark.parametrize("damage", ["missing", "text", "truncated", "other"])
async def test_a_bad_backup_changes_nothing(tmp_path: Path, damage: str) -> None:
    state, copy = tmp_path / "manager", tmp_path / "copy"
    await keep(state, "alice")
    if damage == "text":
        copy.write_bytes(b"this is no database" * 500)
    elif damage == "truncated":
        backup(state, copy, WHEN)
        copy.write_bytes(copy.read_bytes()[: copy.stat().st_size // 2])
    elif damage == "other":
        with sqlite3.connect(copy) as conn:
            conn.execute("CREATE TABLE somebody_elses (a)")
    with pytest.raises(StoreRefusedError):
        restore(state, copy, WHEN)
    assert sorted(path.name for path in state.iterdir() if path.name != "lock") == ["busbar.db"]
    open_store(state).close()
    assert names(database(state)) == {"alice"}


async def test_a_damaged_store_is_renamed(tmp_path: Path) -> None:
    state, copy = tmp_path / "manager", tmp_path / "copy"
    await keep(state, "alice")
    backup(state, copy, WHEN)
    database(state).write_bytes(b"ruined" * 1000)
    log = database(state).with_name("busbar.db-wal")
    log.write_bytes(b"and its log")
    aside = restore(state, copy, WHEN)
    assert aside is not None and aside.read_bytes().startswith(b"ruined")
    assert not log.exists()
    assert names(database(state)) == {"alice"}


async def test_the_manager_must_be_stopped(tmp_path: Path) -> None:
    state, copy = tmp_path / "manager", tmp_path / "copy"
    await keep(state)
    backup(state, copy, WHEN)
    lock = Lock(state / "lock")
    assert lock.take()
    for act in (lambda: restore(state, copy, WHEN), lambda: take_over(state, 9)):
        with pytest.raises(StoreRefusedError, match="stop it first"):
            act()
    lock.release()


def test_there_is_nothing_to_take_over(tmp_path: Path) -> None:
    with pytest.raises(StoreRefusedError, match="no database"):
        take_over(tmp_path / "manager", 9)
    assert not (tmp_path / "manager").exists()


# --- with real processes ----------------------------------------------------------------------------------


def busbar(made: Stack, *arguments: str, code: int = 0) -> str:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("BUSBAR_", "XDG_"))}
    result = forked.run(*arguments, env={**clean, "HOME": str(made.folder)}, timeout=bound(30))
    assert result.returncode == code, (arguments, result.returncode, result.stdout, result.stderr)
    return result.stdout + result.stderr


def start(made: Stack, alice: Plain) -> None:
    """Start the manager and wait until it is ready."""
    alice.retained.pop(alice.topic("manager", "m1", "state"), None)
    made.start_manager()
    made.wait_manager(alice)


def pid_of(alice: Plain, worker: str) -> int:
    topic = alice.topic("status", "edge", "worker", worker)
    found = alice.wait_retained(topic, lambda value: value.get("status") == "RUNNING" and value.get("pid"))
    return int(found["pid"])


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.timeout(120)
def test_an_older_backup_waits_until_take_over_makes_it_effective(tmp_path: Path) -> None:
    with stack(tmp_path, heartbeat=0.5) as made:
        alice = made.client("alice")
        alice.subscribe("status", "#")
        alice.subscribe("event", "#")
        start(made, alice)
        state = made.folder / "manager-state"
        node = alice.ok("pair_node", {"node": {"name": "n1"}})["oid"]
        made.start_agent("n1")
        alice.status("_", "node", "n1", "online")
        transport = {"type": "mqtt", "endpoint": {"type": "tcp", "port": [25200, 25299]}}
        cluster = alice.ok(
            "create_routercluster", {"routercluster": {"name": "edge", "transport": transport}}
        )
        oid = {"routercluster_oid": cluster["oid"]}
        alice.ok("add_routercluster_node", {**oid, "node_oid": node})
        group = alice.ok("add_routercluster_workergroup", {**oid, "workergroup": {"name": "web", "scale": 1}})
        alice.ok("start_routercluster", oid)
        first = pid_of(alice, "web-1")

        # A backup while the manager runs; then changes, and a restart of the manager.
        copy = made.folder / "copy"
        assert "verified copy" in busbar(made, "backup", str(copy), "--state", str(state))
        assert "use --replace" in busbar(made, "backup", str(copy), "--state", str(state), code=4)
        alice.ok("scale_routercluster_workergroup", {**oid, "workergroup_oid": group["oid"], "scale": 2})
        second = pid_of(alice, "web-2")
        made.kill("manager", signal.SIGTERM)
        start(made, alice)
        pid_of(alice, "web-2")
        assert "stop it first" in busbar(made, "restore", str(copy), "--state", str(state), code=1)
        made.kill("manager", signal.SIGTERM)

        # A plain copy of the old file: the broker has newer state, so this manager exits with the reason.
        unmarked = made.folder / "unmarked"
        shutil.copytree(state, unmarked)
        busbar(made, "restore", str(copy), "--state", str(unmarked))
        with sqlite3.connect(unmarked / "busbar.db") as conn:
            conn.execute("DELETE FROM meta WHERE key = 'backup'")
        mark = len(alice.messages)
        fenced = made.spawn("fenced", "manager", "--state", str(unmarked), *made.connection("manager"))
        assert fenced.wait(bound(20)) != 0
        assert "restored from an older backup" in (made.folder / "fenced.log").read_text()

        # Restored properly, it refuses to start.
        said = busbar(made, "restore", str(copy), "--state", str(state))
        assert "publishes nothing before" in said and "is kept as" in said
        refused = made.spawn("refused", "manager", "--state", str(state), *made.connection("manager"))
        assert refused.wait(bound(20)) == 4
        assert "busbar manager take-over" in (made.folder / "refused.log").read_text()
        assert [m[0] for m in alice.messages[mark:] if "/status/" in m[0] or "/event/" in m[0]] == []
        assert alive(first) and alive(second), "meanwhile no worker was touched"

        # After take-over the agents follow it: workers that it does not know are stopped, the rest go on.
        busbar(made, "manager", "take-over", "--state", str(state))
        start(made, alice)
        event = alice.wait_event("on_manager_restored", since=mark)
        assert "take over" in event["data"]["reason"]
        alice.status("edge", "routercluster", "edge", "RUNNING")
        until_gone(second)
        assert pid_of(alice, "web-1") == first and alive(first)
        stored: list[Any] = alice.ok("get_events", {"since": 0, "limit": 1000})
        sequences = [int(row["sequence"]) for row in stored]
        assert sequences == sorted(set(sequences)) and sequences[-1] > 1_000_000


def until_gone(pid: int) -> None:
    import time

    end = time.monotonic() + bound(20)
    while alive(pid):
        assert time.monotonic() < end, "a worker that is not desired goes on"
        time.sleep(0.05)


@pytest.mark.timeout(60)
async def test_without_retained_messages_the_agents_themselves_refuse(tmp_path: Path) -> None:
    """By (epoch, version) an agent refuses a store that went back, even if the broker lost its state."""
    from busbar.agent.planner.plan import refusal
    from busbar.bus.messages import Assignment

    state, copy = tmp_path / "manager", tmp_path / "copy"
    store = open_store(state)
    name, old = store.id, store.epoch
    store.close()
    shutil.copy(database(state), copy)
    held = old
    for _ in range(3):
        newer = open_store(state)
        held = newer.epoch
        newer.close()
    later = Assignment(name, held, 7, [])
    shutil.copy(copy, database(state))
    back: Store = open_store(state)
    assert back.epoch == old + 1 < held
    assert "refused" in str(refusal(later, Assignment(back.id, back.epoch, 9, []), adopt_store=False))
    back.close()
    take_over(state, 1_000)
    back = open_store(state)
    assert refusal(later, Assignment(back.id, back.epoch, 1, []), adopt_store=False) is None
    back.close()
