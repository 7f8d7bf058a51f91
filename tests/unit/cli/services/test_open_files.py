"""The limit of open files: raised as far as it can be used, or told before anything is started."""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from busbar.cli.services.open_files import on_loop_error, raised, too_few

from tests.pace import bound

NONE = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "expected"),
    [
        (64, 64, 1024, 64),
        (64, 512, 1024, 512),
        (64, 4096, 1024, 1024),
        (64, NONE, 1024, 1024),
        (2048, 4096, 1024, 2048),
        (NONE, NONE, 1024, NONE),
    ],
)
def test_the_soft_limit_is_raised_to_what_can_be_used(
    soft: int, hard: int, wanted: int, expected: int
) -> None:
    assert raised(soft, hard, wanted) == expected


def test_too_few_says_what_there_is_what_is_needed_and_what_to_do() -> None:
    text = too_few("the broker", 64, 256, 4224)
    assert text is not None and "\n" not in text
    for part in ("64", "the broker needs 256", "ulimit -Hn 4224", "LimitNOFILE=4224"):
        assert part in text
    assert too_few("the broker", 256, 256, 4224) is None and too_few("the broker", NONE, 256, 4224) is None


@pytest.mark.parametrize(
    "arguments",
    [
        ("up", "--agents", "2", "--port", "0"),
        ("up", "--agents", "0", "--broker", "mqtt://127.0.0.1:1"),
        ("broker", "--port", "0"),
        ("manager", "--broker", "mqtt://127.0.0.1:1"),
        ("agent", "--node", "n1", "--broker", "mqtt://127.0.0.1:1"),
        ("web", "--broker", "mqtt://127.0.0.1:1", "--port", "0"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("limit", [63])
def test_a_service_with_too_few_files_says_so_in_one_line(
    tmp_path: Path, arguments: tuple[str, ...], limit: int
) -> None:
    command = f'ulimit -n {limit}; exec "$@"'
    done = subprocess.run(
        ["sh", "-c", command, "sh", sys.executable, "-m", "busbar.cli.app", *arguments],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "BUSBAR_STATE": str(tmp_path / "state")},
        capture_output=True,
        text=True,
        timeout=bound(20),
        check=False,
    )
    assert done.returncode == 4, done.stderr
    assert f"the limit of open files is {limit}" in done.stderr and "LimitNOFILE=" in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


async def test_used_up_files_at_accept_are_told_in_one_line_and_seldom(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop, now = asyncio.get_running_loop(), [0.0]
    handle = on_loop_error(lambda: now[0])
    with socket.socket() as sock:
        full = OSError(errno.EMFILE, "Too many open files")
        context = {"message": "socket.accept() out of system resource", "exception": full, "socket": sock}
        for _ in range(5):
            handle(loop, context)
        now[0] = 301.0
        handle(loop, context)
    told = [record for record in caplog.records if "no connection can be accepted" in record.getMessage()]
    assert len(caplog.records) == len(told) == 2
    assert not any(record.exc_info for record in told) and told[0].levelno == logging.ERROR
    handle(loop, {"message": "another", "exception": ValueError("a defect")})
    assert caplog.records[-1].exc_info
