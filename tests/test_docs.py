"""What the documentation shows, run: generated pages, links, the console blocks of README and quickstart."""

from __future__ import annotations

import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.brokers import lacking, need_mosquitto

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_reference_is_up_to_date() -> None:
    result = subprocess.run([sys.executable, ROOT / "docs" / "generate.py"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


def plain(line: str) -> str:
    """A line without what differs from run to run: numbers and the width of columns."""
    return " ".join(re.sub(r"\d+(?:\.\d+)?", "#", line).split())


def missing_line(shown: list[str], said: list[str]) -> str | None:
    """The first shown line that was not said, in order; a shown line may be the beginning of a longer one."""
    rest = iter(said)
    for line in shown:
        if not any(plain(other).startswith(plain(line)) for other in rest):
            return line
    return None


def steps(page: Path) -> list[tuple[str, list[str]]]:
    """Commands of a page with the lines shown below each."""
    found: list[tuple[str, list[str]]] = []
    for block in BLOCK.findall(page.read_text()):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


@contextmanager
def shell(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A shell of a new user: an empty home, and our commands on the path."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("BUSBAR_", "XDG_"))}
    env |= {"HOME": str(folder), "PATH": f"{Path(sys.executable).parent}:{env['PATH']}", "COLUMNS": "160"}
    with subprocess.Popen(
        ["bash"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        cwd=folder, env=env, bufsize=1,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


class Terminal:
    """Types commands and reads what they print."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin and process.stdout
        self.stdin = process.stdin
        self.lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, args=(process.stdout,), daemon=True).start()

    def _read(self, stdout: Iterator[str]) -> None:
        for line in stdout:
            self.lines.put(line.rstrip("\n"))

    def type(self, command: str, until: str, timeout: float) -> list[str]:
        """Run a command; the lines up to one that begins with `until`."""
        self.stdin.write(command + "\n")
        self.stdin.flush()
        said: list[str] = []
        end = time.monotonic() + timeout
        while not (said and said[-1].startswith(until)):
            try:
                said.append(self.lines.get(timeout=max(0.01, end - time.monotonic())))
            except queue.Empty:
                pytest.fail(f"$ {command}\ndid not end within {timeout} s; it said:\n" + "\n".join(said))
        return said


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", ["README.md", "docs/quickstart.md", "docs/howto/rolling-updates.md"])
def test_a_page_runs_as_shown(name: str, tmp_path: Path) -> None:
    if name == "README.md":
        need_mosquitto()
        if shutil.which("mosquitto_pub") is None:
            lacking("the programs mosquitto_pub and mosquitto_sub are not installed")
    with shell(tmp_path) as first, shell(tmp_path) as second:
        stage, terminal = Terminal(first), Terminal(second)
        try:
            for command, shown in steps(ROOT / name):
                if command.startswith("busbar up"):
                    said = stage.type(f"exec {command}", plain(shown[-1]), 30)
                else:
                    said = terminal.type(command + "\necho done:$?", "done:", 60)
                    assert said.pop() == "done:0", f"$ {command}\n" + "\n".join(said)
                line = missing_line(shown, said)
                assert line is None, f"$ {command}\ndid not print: {line}\nbut:\n" + "\n".join(said)
        finally:
            first.send_signal(signal.SIGINT)
            first.wait(40)
