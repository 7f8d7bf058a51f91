"""Files that a user names may be pipes, as in `<(command)`; nobody waits for one that nobody writes to."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from busbar.agent.config import ConfigError, load
from busbar.bus.system import regular_files
from busbar.bus.system.password import read_password
from busbar.bus.system.pem_files import check_readable
from busbar.bus.system.regular_files import read_given
from busbar.cli.errors import CliError
from busbar.cli.services.join import read_token

pytestmark = [pytest.mark.timeout(20), pytest.mark.fault(39, "L")]


@pytest.fixture
def fifo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(regular_files, "PIPE_S", 0.05)
    path = tmp_path / "fifo"
    os.mkfifo(path, 0o600)
    return path


def test_what_nobody_writes_to_is_told(fifo: Path) -> None:
    with pytest.raises(OSError, match=r"nothing was written to this pipe for 0.05 s") as caught:
        read_given(fifo, 100)
    assert caught.value.errno == errno.ETIMEDOUT


def test_who_writes_and_never_ends_is_told_too(fifo: Path) -> None:
    writer = os.open(fifo, os.O_RDWR)
    os.write(writer, b"half")
    with pytest.raises(OSError, match=r"for 0.05 s"):
        read_given(fifo, 100)
    os.write(writer, b"x" * 101)
    with pytest.raises(OSError, match=r"more than 100 bytes"):
        read_given(fifo, 100)
    os.close(writer)


def test_a_pipe_with_a_writer_is_read_to_its_end(fifo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regular_files, "PIPE_S", 15.0)
    content = os.urandom(300_000)  # more than a pipe holds
    writing = threading.Thread(target=fifo.write_bytes, args=(content,))
    writing.start()
    assert read_given(fifo, len(content)) == content
    writing.join()


@pytest.mark.parametrize("content", [b"", b"text"])
def test_a_pipe_whose_writer_has_ended_and_a_device_are_not_waited_for(content: bytes) -> None:
    reader, writer = os.pipe()
    os.write(writer, content)
    os.close(writer)
    assert read_given(Path(f"/dev/fd/{reader}"), 100) == content
    os.close(reader)
    assert read_given(Path("/dev/null"), 100) == b""
    with pytest.raises(OSError, match="more than 100 bytes"):
        read_given(Path("/dev/zero"), 100)


def test_a_regular_file_is_read_and_a_folder_is_not(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"text")
    assert read_given(tmp_path / "file", 4) == b"text"
    with pytest.raises(OSError, match="Is a directory"):
        read_given(tmp_path, 4)


def test_every_file_that_a_user_names_for_a_service(fifo: Path) -> None:
    with pytest.raises(ConfigError, match=r"fifo: nothing was written to this pipe"):
        load(fifo)
    with pytest.raises(ValueError, match=r"password file .*fifo: nothing was written to this pipe"):
        read_password(fifo)
    with pytest.raises(CliError, match=r"token file .*fifo: .*nothing was written to this pipe"):
        read_token(str(fifo))
    with pytest.raises(ValueError, match=r"certificate .*fifo: no regular file"):
        check_readable("certificate", fifo)
