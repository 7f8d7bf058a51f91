"""A worker that puts something else in the place of a file keeps no agent waiting: a FIFO has no writer."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from busbar.agent.processes import logs
from busbar.agent.processes.log_history import LogHistory
from busbar.agent.runtimes.base import LaunchSpec, TcpProbe
from busbar.agent.runtimes.nats import SYSTEM
from busbar.agent.runtimes.programs import prepare
from busbar.agent.state import RecordedListener, State, StateError, may_run
from busbar.agent.workers.membership import membership_of
from busbar.bus.routers.router_options import NATS_MONITORING, NATS_SYSTEM

from tests.unit.agent.test_state import FOLDER_ID, record

pytestmark = [pytest.mark.timeout(20), pytest.mark.fault(39, "L")]


def _fifo(path: Path) -> None:
    os.mkfifo(path, 0o600)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def _link(path: Path) -> None:
    path.symlink_to("/dev/zero")


Put = Callable[[Path], None]
each_kind = pytest.mark.parametrize("put", [_fifo, _socket, _link, Path.mkdir])


@each_kind
def test_a_log_that_is_no_file_is_told_and_not_waited_for(tmp_path: Path, put: Put) -> None:
    path = tmp_path / "worker.log"
    put(path)
    with pytest.raises(OSError):
        logs.open_append(path)
    assert logs.tail(path) == []
    assert logs.read_since(path, 0) == ""
    assert logs.rotate_if_needed(path, max_bytes=0) is None
    assert LogHistory().read(path, 0, 100).data == b""


def test_the_reason_names_what_is_in_the_way(tmp_path: Path) -> None:
    path = tmp_path / "worker.log"
    _fifo(path)
    with pytest.raises(OSError, match="no regular file"):
        logs.open_append(path)


@each_kind
def test_a_copy_of_a_log_that_is_no_file_hinders_no_rotation(tmp_path: Path, put: Put) -> None:
    path = tmp_path / "worker.log"
    put(logs.newest_copy(path))
    path.write_bytes(b"x" * 100)
    assert logs.rotate_if_needed(path, max_bytes=50, keep=1) is not None
    assert path.stat().st_size == 0
    assert logs.tail(logs.newest_copy(path)) in ([], ["x" * 37])


def test_a_rotation_truncates_nothing_behind_a_link(tmp_path: Path) -> None:
    path, other = tmp_path / "worker.log", tmp_path / "other"
    other.write_bytes(b"x" * 100)
    path.symlink_to(other)
    assert logs.rotate_if_needed(path, max_bytes=50) is None
    assert other.stat().st_size == 100


@pytest.mark.parametrize("put", [_fifo, _socket, _link])
def test_a_file_of_the_configuration_is_replaced(tmp_path: Path, put: Put) -> None:
    put(tmp_path / "router.conf")
    probe = TcpProbe()
    prepare(LaunchSpec((), {}, {"router.conf": "listen 1\n"}, probe, None, "", "127.0.0.1", 0), tmp_path)
    assert (tmp_path / "router.conf").read_text() == "listen 1\n"


def test_a_file_of_the_configuration_that_grew_without_end_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "router.conf").open("wb") as grown:
        grown.truncate(1 << 40)
    (tmp_path / "router.conf").chmod(0o600)
    probe = TcpProbe()
    launch = LaunchSpec((), {}, {"router.conf": "listen 1\n"}, probe, None, "", "127.0.0.1", 0)
    prepare(launch, tmp_path)
    assert (tmp_path / "router.conf").read_text() == "listen 1\n"


@each_kind
def test_records_and_the_folder_of_another_agent(tmp_path: Path, put: Put) -> None:
    state = State.open(tmp_path / "agent", FOLDER_ID)
    put(tmp_path / "agent" / "records" / "o1.json")
    put(tmp_path / "agent" / "assignment.json")
    assert state.records() == []
    assert state.assignment() is None
    state.close()
    (tmp_path / "agent" / "folder_id").unlink()
    put(tmp_path / "agent" / "folder_id")
    may_run(tmp_path / "agent", "o1", "busbar:x")
    try:
        State.open(tmp_path / "agent", FOLDER_ID).close()
    except StateError as error:
        assert "folder_id" in str(error)


@each_kind
def test_the_password_of_a_cluster(tmp_path: Path, put: Put) -> None:

    put(tmp_path / SYSTEM)
    at = RecordedListener(1, "nats://127.0.0.1:1")
    member = record(listeners={NATS_SYSTEM: at, NATS_MONITORING: at})
    assert membership_of(member, tmp_path) is None
