"""The clients of docs/howto/load-balancing.md, which go on while a worker of their group is killed."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.pace import bound
from tests.stack import ROOT

PAGE: Final = ROOT / "docs" / "howto" / "load-balancing.md"
AFTER: Final = 8
"""So many numbers are heard that were sent after the kill."""


def program(name: str) -> str:
    """The page's program whose first line names the file."""
    for block in re.findall(r"^```(?:python|js)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        if name in block.split("\n", 1)[0]:
            return str(block)
    raise AssertionError(f"the page has no {name}")


class Endless:
    """A running program, which prints what it has sent and heard."""

    def __init__(self, folder: Path, name: str, command: list[str], urls: list[str], **env: str) -> None:
        (folder / name).write_text(program(name))
        self.name, self._output = name, folder / f"{name}.log"
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, str(folder / name), *urls],
                stdout=output, stderr=output, cwd=folder, env={**os.environ, **env},
            )  # fmt: skip

    def numbers(self, verb: str) -> set[int]:
        return {int(found) for found in re.findall(rf"^{verb} (\d+)$", self.text(), re.MULTILINE)}

    def text(self) -> str:
        return self._output.read_text()

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + bound(60)
        while not condition():
            lives = self.process.poll() is None and "Traceback" not in self.text()
            assert lives and time.monotonic() < end, f"{self.name}: {what}\n{self.text()[-2000:]}"
            time.sleep(0.05)

    def hears(self, count: int, since: int = -1) -> None:
        self.wait(lambda: len([n for n in self.numbers("heard") if n > since]) >= count, "hears")

    def last(self) -> int:
        """The last number that was sent."""
        return max(self.numbers("sent"))

    def lost_nothing(self) -> None:
        """What was acknowledged is heard, from the first one that is: some are sent before it subscribes."""

        def whole() -> bool:
            heard = self.numbers("heard")
            return {number for number in self.numbers("sent") if number >= min(heard)} <= heard

        self.wait(whole, "each number that was sent")


@contextmanager
def running(*programs: Endless) -> Iterator[tuple[Endless, ...]]:
    try:
        yield programs
    finally:
        for each in programs:
            each.process.kill()
            each.process.wait(bound(10))
