"""Files replaced whole, whatever fails on the way, and locks between processes."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from busbar.bus.system import files
from busbar.bus.system.files import (
    FileLock,
    discard_leftovers,
    is_locked,
    rename,
    replacing,
    write_atomically,
)

STEPS = ("open", "fdopen", "fsync", "replace")


class Cancelled(BaseException):
    """What no `except Exception` stops."""


class Trace:
    """The system calls that `bus.system.files` makes, in order; it fails at the one whose turn it is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fail_at: int | None, error: BaseException) -> None:
        self.calls: list[str] = []
        for name in STEPS:
            real = getattr(os, name)

            def call(*given: object, _name: str = name, _real: object = real, **more: object) -> object:
                self.calls.append(_name)
                if len(self.calls) - 1 == fail_at:
                    raise error
                return _real(*given, **more)  # type: ignore[operator]

            monkeypatch.setattr(files.os, name, call)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("data", [b"new\xff", "new é"])
@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_replaced_and_private(tmp_path: Path, data: bytes | str, durable: bool) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o644)
    write_atomically(path, data, durable=durable)
    assert path.read_bytes() == (data if isinstance(data, bytes) else data.encode())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names(tmp_path) == ["file"]


def test_the_mode_is_private_before_the_content_is_there(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        with replacing(tmp_path / "file") as new:
            assert (stat.S_IMODE(new.stat().st_mode), new.read_bytes()) == (0o600, b"")
    finally:
        os.umask(old)


def test_a_link_is_replaced_and_what_it_points_to_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("precious")
    (tmp_path / "file").symlink_to(tmp_path / "elsewhere")
    write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "elsewhere").read_text() == "precious"
    assert not (tmp_path / "file").is_symlink()


def test_content_reaches_the_disk_before_its_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = Trace(monkeypatch, None, Cancelled())
    write_atomically(tmp_path / "file", b"new")
    assert trace.calls == ["open", "open", "fdopen", "open", "fsync", "replace", "open", "fsync"]
    trace.calls.clear()
    write_atomically(tmp_path / "file", b"new", durable=False)
    assert trace.calls == ["open", "open", "fdopen", "replace"]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "no space"), Cancelled()], ids=["error", "cancelled"]
)
@pytest.mark.parametrize("step", range(8))
def test_whatever_step_fails_the_old_or_the_new_content_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, error: BaseException
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with monkeypatch.context() as patch:
        Trace(patch, step, error)
        with pytest.raises(type(error)):
            write_atomically(path, b"new")
    renamed = step > 5
    assert path.read_bytes() == (b"new" if renamed else b"old")
    assert names(tmp_path) == ["file"]


def test_a_writer_killed_half_way_leaves_the_old_file_and_its_leftover_can_be_discarded(
    tmp_path: Path,
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    code = (
        "import os, sys, pathlib\n"
        "from busbar.bus.system import files\n"
        "files._fsync = lambda *_: os._exit(9)\n"
        "files.write_atomically(pathlib.Path(sys.argv[1]), b'new')\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 9
    assert path.read_text() == "old"
    assert len(names(tmp_path)) == 2
    discard_leftovers(tmp_path)
    assert names(tmp_path) == ["file"]


def test_a_failing_block_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), replacing(tmp_path / "file") as new:
        new.write_text("half")
        raise RuntimeError
    assert names(tmp_path) == []


def test_a_file_that_vanished_is_no_success(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "file") as new:
        new.unlink()


def test_a_durable_rename_flushes_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("a")
    trace = Trace(monkeypatch, None, Cancelled())
    rename(tmp_path / "a", tmp_path / "b", durable=True)
    assert trace.calls == ["replace", "open", "fsync"]
    assert names(tmp_path) == ["b"]


# --- locks -------------------------------------------------------------------------------------------------

HOLD = (
    "import sys, pathlib\n"
    "from busbar.bus.system.files import FileLock\n"
    "lock = FileLock(pathlib.Path(sys.argv[1]))\n"
    "assert lock.take(); lock.write_pid(); print('held', flush=True); sys.stdin.read()\n"
)


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=pipe, stdout=pipe, text=True
    ) as held:
        assert held.stdout is not None and held.stdout.readline() == "held\n"
        try:
            yield held
        finally:
            held.kill()


def test_another_process_is_kept_out_until_the_holder_ends_however_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = FileLock(path, within_s=0.05)
    with holder(path) as other:
        assert not lock.take()
        assert is_locked(path)
        assert lock.holder() == str(other.pid)
        with pytest.raises(TimeoutError, match="locked by another process"), lock:
            pass
        other.kill()
        other.wait()
        assert not is_locked(path)
        assert lock.take()
    lock.release()


def test_a_lock_is_taken_once_and_released(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    one, two = FileLock(path), FileLock(path, within_s=0)
    with one:
        assert one.take() and not two.take()
        with pytest.raises(TimeoutError), two:
            pass
    assert not is_locked(path)
    with two:
        assert is_locked(path)
    one.release()
    assert path.exists()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_waiting_ends_when_the_lock_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lock"
    first = FileLock(path)
    assert first.take()
    monkeypatch.setattr(files.threading.Event, "wait", lambda *_: first.release())
    with FileLock(path):
        assert is_locked(path)


def test_no_lock_file_is_no_lock(tmp_path: Path) -> None:
    assert not is_locked(tmp_path / "lock")
    assert FileLock(tmp_path / "lock").holder() == "unknown"
    assert names(tmp_path) == []


def test_a_linked_lock_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="symbolic"):
        FileLock(tmp_path / "lock").take()
    assert names(tmp_path) == ["lock"]


def test_only_the_holder_writes_its_id(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="not locked"):
        FileLock(tmp_path / "lock").write_pid()
