"""Ends what a run of the tests has started, however the run itself ends.

A process of its own waits for the end of the run (even by SIGKILL), then ends every process that bears the
run's mark. The mark is a last folder in PATH: the one variable that agents hand on to their workers, which
outlive them. Each process of pytest has its own mark: when one is killed, what it started is ended, and
nothing else.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

MARK = "/run-of-the-tests-"
PATIENCE_S = 3.0
"""Between SIGTERM, which lets a program remove its files, and SIGKILL."""
BOUND_S = 30.0


def guard() -> Callable[[], None]:
    """Have everything that this process starts from now on ended after it; returns how to do that at once."""
    token = secrets.token_hex(8)
    clean = {**os.environ, "PATH": unmarked(os.environ.get("PATH", os.defpath))}
    # It bears no mark, not even that of a run around this one, and no Ctrl-C of a terminal reaches it.
    reaper = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(os.getpid()), token],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=clean,
        start_new_session=True,
    )
    reaper.wait()
    os.environ["PATH"] = f"{clean['PATH']}:{MARK}{token}"

    def finish() -> None:
        os.environ["PATH"] = clean["PATH"]
        assert reaper.stdin is not None and reaper.stdout is not None
        reaper.stdin.close()
        reaper.stdout.read()  # until it has ended
        reaper.stdout.close()

    return finish


def unmarked(path: str) -> str:
    return ":".join(each for each in path.split(":") if not each.startswith(MARK))


def token_of_this_run() -> str:
    """What `marked` finds the processes by that this one has started."""
    return os.environ["PATH"].rpartition(MARK)[2]


def marked(token: str) -> dict[int, str]:
    """Living processes that bear the mark, with their start times; their sessions and descendants too."""
    mark = f"{MARK}{token}".encode()
    parents, sessions, starts, found = {}, {}, {}, set()
    for pid in _pids():
        with contextlib.suppress(OSError):
            fields = _stat(pid)
            if fields[0] not in "ZX":
                parents[pid], sessions[pid], starts[pid] = int(fields[1]), int(fields[3]), fields[19]
                environment = Path(f"/proc/{pid}/environ").read_bytes()
                if any(mark in each for each in environment.split(b"\0") if each.startswith(b"PATH=")):
                    found.add(pid)
    more = found
    while more:  # a program may start another with an environment of its own
        more = {pid for pid in starts if parents[pid] in found or sessions[pid] in found} - found
        found |= more
    return {pid: starts[pid] for pid in found if pid in starts}


def _pids() -> Iterator[int]:
    return (int(entry) for entry in os.listdir("/proc") if entry.isdigit())


def _stat(pid: int) -> list[str]:
    """Fields of its stat from the state on: state, parent, group, session …, start time as the 20th."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _signal(processes: Iterable[tuple[int, str]], number: int) -> None:
    for pid, start in processes:
        with contextlib.suppress(OSError):
            handle = os.pidfd_open(pid)
            try:
                # Held by now, the pid can't change hands any more.
                if _stat(pid)[19] == start:
                    signal.pidfd_send_signal(handle, number)
            finally:
                os.close(handle)


def sweep(token: str) -> None:
    """End all that bears the mark: politely, then not."""
    began, asked, empty = time.monotonic(), set(), 0
    # Two looks that find nothing: for a moment after its exec a program shows no environment.
    while empty < 2 and (passed := time.monotonic() - began) < BOUND_S:
        left = marked(token).items()
        empty = 0 if left else empty + 1
        if passed < PATIENCE_S:
            _signal(left - asked, signal.SIGTERM)
            _signal(left - asked, signal.SIGCONT)
            asked |= left
        else:
            _signal(left, signal.SIGKILL)
        time.sleep(0.05)
    remove_cgroups()


def remove_cgroups() -> None:
    """Those of workers that have ended without their agent; one that is this young may just be filled."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        own = next((line[3:] for line in lines if line.startswith("0::")), "/")
        for mount in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
            for folder in Path(f"{mount}{own}").glob("busbar-????????-*"):
                with contextlib.suppress(OSError):
                    if time.time() - folder.stat().st_mtime > 60:
                        folder.rmdir()


def main() -> None:
    runner, token = int(sys.argv[1]), sys.argv[2]
    if os.fork():
        return  # no descendant of the runner: where a run is inside another, it outlives both
    with contextlib.suppress(ProcessLookupError):
        # The runner's end by its process, not by the pipe alone: something that it forked may hold the pipe.
        handle = os.pidfd_open(runner)
        select.select([sys.stdin, handle], [], [])
    sweep(token)


if __name__ == "__main__":
    main()
