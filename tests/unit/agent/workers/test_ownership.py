"""Which processes an agent adopts, kills as orphans or leaves alone when it starts."""

from __future__ import annotations

from typing import Any

import pytest
from busbar.agent.processes.procfs import ProcessRecord, TokenGroup
from busbar.agent.state import WorkerRecord
from busbar.agent.workers import identity, ownership
from msgspec.structs import replace

from tests.unit.agent.test_state import FOLDER_ID, record


def group(token: str, pid: int = 7, **marks: str) -> TokenGroup:
    leader = ProcessRecord("web-1", pid, "boot", 5, token)
    base = {identity.OID: "o1", identity.GENERATION: "3", identity.PORT: "80", identity.STORE: "s"}
    return TokenGroup(token, "web-1", leader, (pid,), {**base, **marks})


OURS = f"busbar:lab/n1:{FOLDER_ID}:o1:3:a"
OTHERS = "busbar:lab/n1:ffffffffffffffff:o1:3:b"


def classify(
    records: list[WorkerRecord], found: list[TokenGroup], store: str | None = "s", held: tuple[str, ...] = ()
) -> ownership.Ownership:
    living = {each.token for each in records if each.pid}
    return ownership.classify(records, living, found, FOLDER_ID, store, held)


def test_a_record_whose_process_lives_is_adopted() -> None:
    kept = record(token=OURS, pid=7, boot_id="boot", start_ticks=5)
    assert classify([kept], [group(OURS)]).workers == ((kept, identity.process_of(kept)),)


def test_a_fork_whose_pid_was_never_stored_is_found_by_its_token() -> None:
    kept = record(token=OURS)
    ((_, process),) = classify([kept], [group(OURS)]).workers
    assert process is not None
    assert process.pid == 7


def test_a_record_without_a_process_has_exited() -> None:
    assert classify([record()], []).workers == ((record(), None),)


@pytest.mark.parametrize("more", [{}, {"pid": 7, "boot_id": "boot", "stopped": True}], ids=str)
def test_descendants_of_a_recorded_worker_that_is_gone_are_killed(more: dict[str, Any]) -> None:
    """The agent may have died between the fork and storing the pid."""
    kept = record(token=OURS, **more)
    left = replace(group(OURS), leader=None)
    result = ownership.classify([kept], (), [left], FOLDER_ID, "s", ())
    assert (result.workers, result.orphans) == (((kept, None),), (OURS,))


def test_a_lost_record_is_rebuilt_from_the_environment() -> None:
    ((made, process),) = classify([], [group(OURS)]).workers
    assert (made.oid, made.generation, made.port, made.pid) == ("o1", 3, 80, 7)
    assert process is not None


def test_of_two_instances_the_recorded_one_is_kept_and_the_other_is_an_orphan() -> None:
    kept = record(token=OURS, pid=7)
    other = group(OURS[:-1] + "z", pid=8)
    result = classify([kept], [group(OURS), other])
    assert [each.token for each, _ in result.workers] == [OURS]
    assert result.orphans == (other.token,)


def test_descendants_without_their_leader_are_orphans() -> None:
    orphan = TokenGroup(OURS, "web-1", None, (9,), {identity.OID: "o1"})
    assert classify([], [orphan]).orphans == (OURS,)


@pytest.mark.parametrize(
    ("store", "held", "ours"),
    [("s", (), True), ("t", (), False), (None, (), False), ("s", (OTHERS,), False)],
)
def test_a_worker_of_another_folder_is_adopted_only_if_its_store_is_ours_and_its_agent_is_gone(
    store: str | None, held: tuple[str, ...], ours: bool
) -> None:
    result = classify([], [group(OTHERS)], store, held)
    assert bool(result.workers) == ours
    assert bool(result.foreign) != ours
    assert not result.orphans


def test_what_a_living_agent_holds_is_never_ours_even_with_our_folder_id_and_record() -> None:
    """Our folder is a copy of the other's."""
    kept = record(token=OURS, pid=7, boot_id="boot", start_ticks=5)
    for records in ([kept], []):
        result = classify(records, [group(OURS)], held=(OURS,))
        assert (result.workers, result.orphans) == ((), ())
        assert [each.token for each in result.foreign] == [OURS]
