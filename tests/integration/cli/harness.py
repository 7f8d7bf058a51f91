"""A real `busbar up` for tests, with everything it started ended afterwards, whatever happened."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from busbar.cli.demo.clients import processes_with

from tests import forked
from tests.pace import bound

T = 30.0


class Stack:
    """`busbar up` on a folder of its own, in a realm of its own, and the command line beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.state = folder, folder / "state"
        self.prefix: tuple[str, ...] = ()
        """Words before every command, such as `ip netns exec NAME`."""
        self.realm = f"t-{os.urandom(4).hex()}"
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("BUSBAR_", "XDG_"))}
        self.env = {**kept, "HOME": str(folder), "BUSBAR_STATE": str(self.state), "PYTHONUNBUFFERED": "1"}
        self.env["BUSBAR_TIMEOUT"] = str(bound(10))
        if "XDG_RUNTIME_DIR" in os.environ:  # that of this run
            self.env["XDG_RUNTIME_DIR"] = os.environ["XDG_RUNTIME_DIR"]
        self.process: subprocess.Popen[str] | None = None
        self.reader: threading.Thread | None = None
        self.lines: queue.Queue[str | None] = queue.Queue()
        self.said: list[str] = []

    # --- up

    def up(self, *arguments: str) -> None:
        """Start `busbar up`, without waiting."""
        self._end_reader()
        common = ("--realm", self.realm, "--heartbeat", "0.5")
        self.process = subprocess.Popen(
            [*self.prefix, sys.executable, "-m", "busbar.cli.app", "up", *common, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.env,
            start_new_session=True,
        )
        self.lines = queue.Queue()
        self.reader = threading.Thread(target=self._read, args=(self.process, self.lines), daemon=True)
        self.reader.start()

    @staticmethod
    def _read(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line.rstrip())
        lines.put(None)

    def ready(self) -> None:
        """Wait for its word that all is up."""
        self.hear("Ctrl-C ends it")

    def hear(self, part: str, timeout: float = T) -> str:
        """Wait for a line with this part."""
        end = time.monotonic() + bound(timeout)
        while True:
            try:
                line = self.lines.get(timeout=max(0.01, end - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                pytest.fail(f"'{part}' was not said, but: {self.said[-10:]}")
            self.said.append(line)
            if part in line:
                return line

    def signal(self, signum: int) -> None:
        assert self.process is not None
        self.process.send_signal(signum)

    def wait(self, timeout: float = T) -> int:
        """Wait for its end; return the exit code."""
        assert self.process is not None
        return self.process.wait(bound(timeout))

    def written(self) -> dict[str, Any]:
        """up.json."""
        found: dict[str, Any] = json.loads((self.state / "up.json").read_text())
        return found

    def pid(self, service: str) -> int:
        return int(self.written()["pids"].get(service, 0))

    def left(self) -> list[str]:
        """Living processes of this stack, workers included."""
        return processes_with(f"BUSBAR_STATE={self.state}".encode(), f"={self.realm}/".encode())

    def _end_reader(self) -> None:
        if self.reader is not None and self.process is not None and self.process.stdout is not None:
            self.reader.join(T)
            self.process.stdout.close()

    def clean(self) -> None:
        """End everything by force."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(T)
        self._end_reader()
        for _ in range(50):
            left = self.left()
            if not left:
                return
            for line in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(line.split()[0]), signal.SIGKILL)
            time.sleep(0.05)
        pytest.fail(f"processes are left: {self.left()}")

    # --- the command line

    def run(self, *arguments: str, timeout: float = 60.0, **env: str) -> subprocess.CompletedProcess[str]:
        """One command."""
        if not self.prefix:
            return forked.run(*arguments, env={**self.env, **env}, timeout=bound(timeout))
        return subprocess.run(
            [*self.prefix, sys.executable, "-m", "busbar.cli.app", *arguments],
            capture_output=True,
            text=True,
            timeout=bound(timeout),
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
        )

    def ok(self, *arguments: str, **env: str) -> str:
        """One command that must succeed; its output."""
        result = self.run(*arguments, **env)
        assert result.returncode == 0, f"{arguments}: {result.returncode} {result.stderr}"
        assert "Traceback" not in result.stderr
        return result.stdout

    def ask(self, *arguments: str) -> Any:
        """One command with JSON output, read."""
        return json.loads(self.ok(*arguments, "-o", "json"))

    def fails(self, code: int, *arguments: str, **env: str) -> str:
        """One command that must end with this code; what it says."""
        result = self.run(*arguments, **env)
        assert result.returncode == code, f"{arguments}: {result.returncode} {result.stdout}{result.stderr}"
        assert "Traceback" not in result.stderr
        return result.stderr

    def pids(self, cluster: str) -> dict[str, int]:
        """The pids of a cluster's workers."""
        return {row["name"]: row["pid"] for row in self.ask("worker", "list", "-c", cluster)}

    def running(self, cluster: str, scale: int) -> bool:
        """Whether the cluster is RUNNING with that many ready workers."""
        result = self.run("cluster", "stat", cluster, "-o", "json")
        if result.returncode == 7:
            return False  # the broker is being started again
        assert result.returncode == 0, result.stderr
        stat = json.loads(result.stdout)
        return bool(stat["status"] == "RUNNING" and stat["ready"] == scale)


def until(condition: Callable[[], Any], what: str, timeout: float = T) -> Any:
    """Wait for what no event announces to this process."""
    end = time.monotonic() + bound(timeout)
    while not (value := condition()):
        if time.monotonic() > end:
            pytest.fail(f"{what}: not within {bound(timeout):g} s")
        time.sleep(0.1)
    return value


@contextmanager
def stack(folder: Path) -> Iterator[Stack]:
    """A stack, and its end."""
    found = Stack(folder)
    try:
        yield found
    finally:
        found.clean()


def alive(pid: int) -> bool:
    """Whether a process lives (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
