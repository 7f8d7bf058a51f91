"""The agent's state folder: locked, private, and usable with torn files."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from busbar.agent.state import State, StateError, WorkerRecord, is_locked
from busbar.bus.messages import AssignedWorker, Assignment

FOLDER_ID = "0123456789abcdef"


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened = State.open(tmp_path / "agent", FOLDER_ID)
    yield opened
    opened.close()


def record(oid: str = "o1", **more: object) -> WorkerRecord:
    values: dict[str, object] = {"worker": "web-1", "cluster": "edge", "generation": 3, "digest": "d"}
    token = f"busbar:lab/n1:{FOLDER_ID}:{oid}:3:x"
    return WorkerRecord(**{"oid": oid, "token": token, **values, **more})  # type: ignore[arg-type]


def assignment(version: int = 1) -> Assignment:
    worker = AssignedWorker("web-1", "o1", "edge", "web", 3, "amqtt", "d", transport={"type": "mqtt"})
    return Assignment(store="s", epoch=1, version=version, workers=[worker])


def test_the_folder_is_private(state: State) -> None:
    assert stat.S_IMODE(state.folder.stat().st_mode) == 0o700
    state.store_assignment(assignment())
    assert stat.S_IMODE((state.folder / "assignment.json").stat().st_mode) == 0o600


def test_a_second_agent_on_the_folder_is_refused_and_told_who_holds_it(state: State) -> None:
    with pytest.raises(StateError, match=r"in use by another agent \(pid \d+\)"):
        State.open(state.folder, "ffffffffffffffff")
    assert is_locked(state.folder)
    state.close()
    assert not is_locked(state.folder)
    State.open(state.folder, "ffffffffffffffff").close()


def test_the_folder_keeps_its_id(state: State) -> None:
    state.close()
    again = State.open(state.folder, "ffffffffffffffff")
    assert again.folder_id == FOLDER_ID
    again.close()


def test_a_folder_that_cannot_be_made_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="can't be used"):
        State.open(tmp_path / "file" / "agent", FOLDER_ID)


@pytest.mark.fault(28, "L")
def test_a_folder_that_was_removed_or_replaced_is_told(state: State, tmp_path: Path) -> None:
    assert state.why_misplaced() is None
    state.folder.rename(tmp_path / "moved")
    assert "was removed or replaced" in str(state.why_misplaced())
    with pytest.raises(OSError, match=r"'[^']*/records/o1\.json'"):  # and not the file that becomes it
        state.write_record(record())
    shutil.copytree(tmp_path / "moved", state.folder)
    assert "was removed or replaced" in str(state.why_misplaced())
    shutil.rmtree(state.folder)
    (tmp_path / "moved").rename(state.folder)
    assert state.why_misplaced() is None


def test_a_folder_of_another_user_is_told_with_both_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    (tmp_path / "agent").mkdir(mode=0o755)
    monkeypatch.setattr(Path, "chmod", refuse)  # as the kernel does for who is not the owner
    owner = os.geteuid()
    with pytest.raises(StateError, match=r"can't be used: Operation not permitted$"):
        State.open(tmp_path / "agent", FOLDER_ID)
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    told = f"Operation not permitted; it belongs to user id {owner}, and this agent runs as {owner + 1}$"
    with pytest.raises(StateError, match=told):
        State.open(tmp_path / "agent", FOLDER_ID)


def test_assignment_and_records_come_back(state: State) -> None:
    assert state.assignment() is None
    state.store_assignment(assignment(1))
    state.store_assignment(assignment(2))
    assert state.assignment() == assignment(2)
    state.write_record(record())
    state.write_record(record("o2", pid=7, ready=True))
    assert state.records() == [record(), record("o2", pid=7, ready=True)]
    state.forget("o1")
    assert [each.oid for each in state.records()] == ["o2"]


@pytest.mark.parametrize(
    "torn", [b"", b"{", b'{"store": "s", "epoch"', b"\xff\xfe", b"[" * 5000, b"[]", b"null"]
)
def test_torn_files_are_renamed(state: State, torn: bytes) -> None:
    (state.folder / "assignment.json").write_bytes(torn)
    assert state.assignment() is None
    assert (state.folder / "assignment.json.bad").read_bytes() == torn
    state.write_record(record())
    (state.folder / "records" / "o2.json").write_bytes(torn)
    assert state.records() == [record()]
    assert (state.folder / "records" / "o2.json.bad").exists()


def test_the_leftover_of_an_interrupted_write_is_not_read(state: State) -> None:
    state.write_record(record())
    left = state.folder / "records" / ".o1.json.0a1b.new"
    left.write_bytes(b"{")
    assert state.records() == [record()]
    state.close()
    State.open(state.folder, "ffffffffffffffff").close()
    assert not left.exists()


@pytest.mark.parametrize("oid", ["", "..", "../x", "a/b", "a\0b", "x" * 65, "a\n"])
def test_an_invalid_object_id_never_becomes_a_path(state: State, oid: str) -> None:
    for use in (state.worker_folder, state.log_path, lambda each: state.write_record(record(each))):
        with pytest.raises(ValueError, match="not an object id"):
            use(oid)
    state.forget(oid)
