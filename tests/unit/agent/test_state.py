"""The agent's folder: locked, private, and survivable when torn."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from busbar.agent.processes.procfs import Found, ProcessRecord
from busbar.agent.state import State, StateError, WorkerRecord, is_locked
from busbar.agent.workers import recover
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
def test_torn_files_are_set_aside(state: State, torn: bytes) -> None:
    (state.folder / "assignment.json").write_bytes(torn)
    assert state.assignment() is None
    assert (state.folder / "assignment.json.bad").read_bytes() == torn
    state.write_record(record())
    (state.folder / "records" / "o2.json").write_bytes(torn)
    assert state.records() == [record()]
    assert (state.folder / "records" / "o2.json.bad").exists()


def test_what_a_write_cut_short_has_left_is_not_read(state: State) -> None:
    state.write_record(record())
    left = state.folder / "records" / ".o1.json.0a1b.new"
    left.write_bytes(b"{")
    assert state.records() == [record()]
    state.close()
    State.open(state.folder, "ffffffffffffffff").close()
    assert not left.exists()


@pytest.mark.parametrize("oid", ["", "..", "../x", "a/b", "a\0b", "x" * 65, "a\n"])
def test_what_is_no_object_id_never_becomes_a_path(state: State, oid: str) -> None:
    for use in (state.worker_folder, state.log_path, lambda each: state.write_record(record(each))):
        with pytest.raises(ValueError, match="not an object id"):
            use(oid)
    state.forget(oid)


def found(token: str, pid: int = 7, **marks: str) -> Found:
    leader = ProcessRecord("web-1", pid, "boot", 5, token)
    base = {recover.OID: "o1", recover.GENERATION: "3", recover.PORT: "80", recover.STORE: "s"}
    return Found(token, "web-1", leader, (pid,), {**base, **marks})


OURS = f"busbar:lab/n1:{FOLDER_ID}:o1:3:a"
OTHERS = "busbar:lab/n1:ffffffffffffffff:o1:3:b"


def put(
    records: list[WorkerRecord], found_: list[Found], store: str | None = "s", held: tuple[str, ...] = ()
) -> recover.Recovered:
    living = {each.token for each in records if each.pid}
    return recover.recover(records, living, found_, FOLDER_ID, store, held)


def test_a_record_whose_process_lives_is_adopted() -> None:
    kept = record(token=OURS, pid=7, boot_id="boot", start_ticks=5)
    assert put([kept], [found(OURS)]).known == ((kept, recover.process_of(kept)),)


def test_a_fork_whose_pid_was_never_written_down_is_found_by_its_token() -> None:
    kept = record(token=OURS)
    ((_, process),) = put([kept], [found(OURS)]).known
    assert process is not None
    assert process.pid == 7


def test_a_dead_worker_is_known_as_dead() -> None:
    assert put([record()], []).known == ((record(), None),)


def test_without_a_record_the_process_says_who_it_is() -> None:
    ((made, process),) = put([], [found(OURS)]).known
    assert (made.oid, made.generation, made.port, made.pid) == ("o1", 3, 80, 7)
    assert process is not None


def test_of_two_instances_the_recorded_one_is_kept() -> None:
    kept = record(token=OURS, pid=7)
    other = found(OURS[:-1] + "z", pid=8)
    result = put([kept], [found(OURS), other])
    assert [each.token for each, _ in result.known] == [OURS]
    assert result.swept == (other.token,)


def test_descendants_without_their_leader_are_swept() -> None:
    orphan = Found(OURS, "web-1", None, (9,), {recover.OID: "o1"})
    assert put([], [orphan]).swept == (OURS,)


@pytest.mark.parametrize(
    ("store", "held", "ours"),
    [("s", (), True), ("t", (), False), (None, (), False), ("s", (OTHERS,), False)],
)
def test_another_folders_worker_is_ours_only_if_its_store_is_and_its_agent_is_gone(
    store: str | None, held: tuple[str, ...], ours: bool
) -> None:
    result = put([], [found(OTHERS)], store, held)
    assert bool(result.known) == ours
    assert bool(result.strangers) != ours
    assert not result.swept
