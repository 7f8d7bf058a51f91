"""Which state folder an agent may use: its own, moved or not, and never a copy of another's."""

from __future__ import annotations

import shutil
from pathlib import Path
from unittest import mock

import msgspec
import pytest
from busbar.agent import owner
from busbar.agent.owner import FolderOwner, owner_here, why_foreign
from busbar.agent.state import State, StateError, reset

MADE = FolderOwner(realm="lab", node="n1", path="/srv/agent", host="alpha", machine_id="m1")


@pytest.mark.fault(64, "B O")
@pytest.mark.parametrize(
    ("changes", "original", "refused"),
    [
        ({}, False, ""),
        ({"path": "/mnt/agent"}, False, ""),
        ({"path": "/mnt/agent"}, True, "made for node n1 of realm lab on host alpha at /srv/agent"),
        ({"node": "n2"}, False, "made for node n1"),
        ({"realm": "other"}, False, "made for node n1"),
        ({"machine_id": "m2"}, False, "another machine id"),
        ({"host": "beta"}, False, "another host name"),
        ({"host": "beta", "machine_id": "m2"}, False, "another machine id and host name"),
        ({"host": "", "machine_id": ""}, False, ""),
        ({"host": "", "machine_id": "m2"}, False, "another machine id"),
        ({"host": "beta", "machine_id": ""}, False, "another host name"),
    ],
)
def test_a_folder_is_used_only_where_it_was_made_for(
    changes: dict[str, str], original: bool, refused: str
) -> None:
    here = msgspec.structs.replace(MADE, **changes)
    reason = why_foreign(MADE, here, original)
    assert (reason is not None) == bool(refused)
    if reason is not None:
        assert refused in reason
        assert "busbar agent reset" in reason


def test_in_a_container_host_and_machine_id_mean_nothing(tmp_path: Path) -> None:
    with mock.patch.object(owner, "_in_container", return_value=True):
        inside = owner_here("lab", "n1", tmp_path)
    assert (inside.host, inside.machine_id) == ("", "")


def opened(folder: Path, node: str = "n1") -> State:
    return State.open(folder, "0123456789abcdef", owner_here("lab", node, folder))


@pytest.mark.fault(64, "B")
def test_a_copy_is_refused_a_moved_folder_is_not_and_a_reset_makes_it_new(tmp_path: Path) -> None:
    first, copy, moved = tmp_path / "first", tmp_path / "copy", tmp_path / "moved"
    opened(first).close()
    (first / "www" / "page").write_text("kept")
    shutil.copytree(first, copy)
    for node in ("n1", "n2"):
        with pytest.raises(StateError, match="made for node n1 of realm lab"):
            opened(copy, node)
    reset(copy, keep=False)
    fresh = State.open(copy, "f" * 16, owner_here("lab", "n2", copy))
    assert fresh.folder_id == "f" * 16
    assert (copy / "www" / "page").read_text() == "kept"
    fresh.close()
    first.rename(moved)
    opened(moved).close()
    with pytest.raises(StateError, match="made for node n1"):
        opened(moved, "n2")
    reset(moved, keep=True)
    taken = opened(moved, "n2")
    assert taken.folder_id == "0123456789abcdef"
    with pytest.raises(StateError, match="in use by another agent"):
        reset(moved, keep=True)
    taken.close()
    with pytest.raises(StateError, match="no agent's state folder"):
        reset(tmp_path / "first", keep=False)
