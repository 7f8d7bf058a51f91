"""Faults of storage: locks, a full disk, failing writes, a torn log, an old backup, power loss."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.census import until
from tests.faults.conftest import needs_root
from tests.faults.yard import Yard, yard
from tests.pace import bound

pytestmark = pytest.mark.timeout(120)


def _create(here: Yard, name: str) -> dict[str, Any]:
    return here.alice.ask("create_routercluster", {"routercluster": {"name": name}}, id=name)


def _database(here: Yard) -> Path:
    return here.stack.folder / "manager-state" / "busbar.db"


@pytest.mark.fault(11, "L")
def test_a_database_locked_by_another_program(here: Yard) -> None:
    cluster = here.cluster(2)
    before = cluster.running(2)
    other = sqlite3.connect(_database(here), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        time.sleep(8 * here.stack.heartbeat)
        here.alice.push("create_routercluster", {"routercluster": {"name": "locked"}}, "locked")
        reply = here.alice.reply("locked", 10)
        assert reply is not None and reply["error"]["code"] == "busy" and reply["error"]["retryable"]
        assert cluster.stat()["ready"] == 2, "reads are served"
    finally:
        other.execute("ROLLBACK")
        other.close()
    assert _create(here, "locked")["ok"], "the same id, once the lock is gone"
    cluster.scale(3)
    after = cluster.running(3)
    assert before.items() <= after.items()
    cluster.stop()


@pytest.mark.fault(13, "M")
def test_a_truncated_write_ahead_log(here: Yard) -> None:
    cluster = here.cluster(2)
    before = cluster.running(2)
    here.kill("manager")
    here.start_manager()  # this start checkpoints the log into the file
    here.manager_is_up()
    epoch = here.alice.sure("get_manager")["epoch"]
    for size in (0.5, 0.0):
        here.kill("manager")
        log = Path(f"{_database(here)}-wal")
        with log.open("r+b") as file:
            file.truncate(int(log.stat().st_size * size))
        here.start_manager()
        here.manager_is_up()
        now = here.alice.sure("get_manager")["epoch"]
        assert now > epoch, "the epoch decreased: agents would refuse new assignments, or accept old ones"
        epoch = now
    time.sleep(4 * here.stack.heartbeat)
    cluster.kept(before)


@pytest.mark.fault(17, "M")
def test_a_store_from_an_older_backup_does_not_take_over(here: Yard) -> None:
    cluster = here.cluster(1)
    before = cluster.running(1)
    backup = here.stack.folder / "backup.db"
    with sqlite3.connect(_database(here)) as source, sqlite3.connect(backup) as target:
        source.backup(target)
    here.kill("manager")
    here.start_manager()
    here.manager_is_up()
    here.kill("manager")
    here.start_manager()
    here.manager_is_up()
    here.kill("manager")
    own = _database(here)
    kept = here.stack.folder / "kept"
    shutil.copytree(own.parent, kept)
    for side in ("-wal", "-shm"):
        Path(f"{own}{side}").unlink(missing_ok=True)
    shutil.copy(backup, own)
    here.start_manager()
    process = here.stack.processes.pop("manager")
    assert process.wait(bound(20)) not in (0, -9)
    assert "restored from an older backup" in here.log("manager")
    cluster.kept(before)
    shutil.rmtree(own.parent)
    shutil.move(kept, own.parent)
    here.start_manager()
    cluster.running(1)
    cluster.kept(before)
    cluster.stop()


@pytest.mark.fault(13, "D")
def test_a_corrupt_database_is_refused_with_instructions_to_restore(here: Yard) -> None:
    cluster = here.cluster(1)
    before = cluster.running(1)
    here.kill("manager")
    own = _database(here)
    kept = here.stack.folder / "sound"
    shutil.copytree(own.parent, kept)
    with own.open("r+b") as file:
        file.write(b"\xff" * 8192)
    for side in ("-wal", "-shm"):
        Path(f"{own}{side}").unlink(missing_ok=True)
    here.start_manager()
    process = here.stack.processes.pop("manager")
    assert process.wait(bound(20)) not in (0, -9)
    assert "To restore" in here.log("manager")
    cluster.kept(before)
    shutil.rmtree(own.parent)
    shutil.move(kept, own.parent)
    here.start_manager()
    cluster.running(1)
    cluster.kept(before)
    cluster.stop()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m,mode=700", "tmpfs", disk], check=False)
    if mounted.returncode:
        pytest.skip("a tmpfs can't be mounted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=False)


@needs_root
@pytest.mark.fault(12, "D L")
def test_a_full_disk(here: Yard, small_disk: Path) -> None:
    cluster = here.cluster(2)
    before = cluster.running(2)
    here.kill("manager")
    own = here.stack.folder / "manager-state"
    kept = here.stack.folder / "manager-kept"
    shutil.move(own, kept)
    shutil.copytree(kept, small_disk / "state")
    own.symlink_to(small_disk / "state")
    try:
        here.start_manager()
        here.manager_is_up()
        made = [f"full{n}" for n in range(400)]
        _fill(small_disk / "ballast")
        replies = {}
        for name in made:
            replies[name] = _once(here, name)
            if replies[name] is not None and not replies[name]["ok"]:
                break
        failed = [r for r in replies.values() if r is not None and not r["ok"]]
        assert failed and failed[0]["error"]["code"] == "busy", failed
        assert "the disk of the manager's state is full" in failed[0]["error"]["detail"], failed

        def told() -> bool:
            """A small write that still fits takes the condition back until the next one fails."""
            _once(here, name)
            return "can't be written" in " ".join(here.alice.sure("get_manager")["conditions"])

        until(told, 10, "it says so")
        assert cluster.stat()["ready"] == 2, "reads are served"
        cluster.kept(before)
        (small_disk / "ballast").unlink()
        for name in replies:
            assert _create(here, name)["ok"], "the same id, once there is room"
        names = here.alice.sure("list_routerclusters", {"return_names": True})
        assert all(names.count(name) == 1 for name in replies)
        cluster.kept(before)
    finally:
        here.kill("manager")
        own.unlink()
        shutil.copytree(small_disk / "state", own)
    here.start_manager()
    cluster.running(2)
    cluster.stop()


def _fill(path: Path) -> None:
    """Fill all blocks."""
    file = os.open(path, os.O_CREAT | os.O_WRONLY)
    try:
        for size in (65536, 4096):
            with contextlib.suppress(OSError):
                while True:
                    os.write(file, b"0" * size)
    finally:
        os.close(file)


def _once(here: Yard, name: str) -> dict[str, Any] | None:
    here.alice.push("create_routercluster", {"routercluster": {"name": name}}, name)
    return here.alice.reply(name, 5)


@needs_root
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.fault(16, "D")
def test_no_reply_is_sent_before_its_commit_is_on_disk(tmp_path: Path) -> None:
    """A power loss may lose what was not synced; none of that has been acknowledged."""
    trace = tmp_path / "trace"
    with yard(tmp_path, nodes=()) as here:
        here.kill("manager")
        watch = ["strace", "-f", "-y", "-x", "-s", "6000", "-o", str(trace), "-e"]
        here.start_manager(*watch, "trace=pwrite64,fdatasync,fsync,sendto,write", *here.stack_command())
        here.manager_is_up()
        ids = [f"power-{n:04}" for n in range(20)]
        for name in ids:
            assert _create(here, name)["ok"]
        process = here.stack.processes.pop("manager")
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
        process.wait(bound(10))
    order = list(_calls(trace.read_text()))
    for name in ids:
        written = next(at for at, (what, data) in enumerate(order) if what == "log" and name in data)
        sent = next(at for at, (what, data) in enumerate(order) if what == "sent" and name in data)
        assert any(what == "sync" for what, _ in order[written:sent]), f"{name}: sent before it was synced"


def _calls(text: str) -> Iterator[tuple[str, str]]:
    """Writes to the log, completed syncs, and sends on a socket, in order."""
    waiting: dict[str, bool] = {}
    for line in text.splitlines():
        thread = line.split()[0]
        ended = "resumed>" in line
        if re.search(r"f(data)?sync", line):
            if "unfinished" in line:
                waiting[thread] = "-wal" in line
            elif (ended and waiting.pop(thread, False)) or "-wal" in line:
                yield "sync", ""
        elif "pwrite64(" in line and "-wal" in line:
            yield "log", _bytes(line)
        elif "sendto(" in line or "write(" in line:
            data = _bytes(line)
            if "/response/" in data:
                yield "sent", data


def _bytes(line: str) -> str:
    found = "".join(re.findall(r'"((?:\\x[0-9a-f]{2})*)"', line))
    return bytes.fromhex(found.replace("\\x", "")).decode("latin-1")


def test_events_have_no_gap_after_all_these_faults(here: Yard) -> None:
    here.alice.sure("create_routercluster", {"routercluster": {"name": "last"}})
    events = here.alice.sure("get_events", {"since": 0, "limit": 1000})
    rows = events["events"] if isinstance(events, dict) else events
    sequences = [int((json.loads(r) if isinstance(r, str) else r)["sequence"]) for r in rows]
    assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))
