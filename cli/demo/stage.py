"""The stage of the demonstration: a temporary folder, the command line in it, and the checks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from busbar.bus.clock import SystemClock
from busbar.bus.decode import read
from busbar.bus.messages import Event

from ..commands.event import line, short_type

STEP_S: Final = 75.0
"""Bound of one chapter, seconds."""


class DemoError(Exception):
    """Something was not as it should be."""


def check(condition: object, otherwise: str) -> None:
    """Every claim of the demonstration goes through here.

    Raises:
        DemoError: it isn't so.
    """
    if not condition:
        raise DemoError(otherwise)


class Stage:
    """The temporary folder, the command line in it, and what has happened so far."""

    def __init__(self, folder: Path, clock: SystemClock) -> None:
        self.clock = clock
        self.state = folder / "state"
        self.realm = f"demo-{os.urandom(3).hex()}"
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("BUSBAR_")},
            "HOME": str(folder),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "BUSBAR_STATE": str(self.state),
            "PYTHONUNBUFFERED": "1",
        }
        if "BUSBAR_CROSSBAR" in os.environ:
            self.env["BUSBAR_CROSSBAR"] = os.environ["BUSBAR_CROSSBAR"]
        self.summary: list[list[str]] = []

    def say(self, text: str) -> None:
        """A line of the story."""
        print(f"  {text}", flush=True)

    @asynccontextmanager
    async def chapter(self, title: str) -> AsyncIterator[list[str]]:
        """A part of the story; what is put into the list stands in the last table, with its time."""
        print(f"\n\x1b[1m{title}\x1b[0m" if sys.stdout.isatty() else f"\n== {title}", flush=True)
        began, facts = self.clock.monotonic(), list[str]()
        async with asyncio.timeout(STEP_S):
            yield facts
        self.summary.append([title, "; ".join(facts), f"{self.clock.monotonic() - began:.1f} s"])

    async def start(self, *arguments: str, quiet: bool = False) -> Process:
        """Start a `busbar` command, and show it as one would type it."""
        if not quiet:
            print(f"$ busbar {shlex.join(arguments)}", flush=True)
        # A session of its own: Ctrl-C goes to us, and we end it in order.
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "busbar.cli.app", *arguments),
            stdout=PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=self.env,
            start_new_session=True,
            limit=1 << 22,
        )

    async def busbar(self, *arguments: str, quiet: bool = False) -> str:
        """Run a `busbar` command to its end and show what it prints.

        Raises:
            DemoError: it failed.
        """
        process = await self.start(*arguments, quiet=quiet)
        try:
            output = (await process.communicate())[0].decode()
        finally:
            await end(process, signal.SIGKILL)
        for text in output.splitlines() if not quiet else ():
            self.say(text)
        check(process.returncode == 0, f"busbar {shlex.join(arguments)}: {output.strip()}")
        return output

    async def ask(self, *arguments: str) -> Any:
        """The same with JSON and without showing it: for the checks."""
        return json.loads(await self.busbar(*arguments, "-o", "json", quiet=True))

    async def workers(self, cluster: str) -> dict[str, dict[str, Any]]:
        """A cluster's workers by name."""
        return {row["name"]: row for row in await self.ask("worker", "list", "-c", cluster)}

    async def until(self, what: str, question: Callable[[], Awaitable[Any]], timeout: float = 20.0) -> Any:
        """Ask again and again until the answer is yes.

        Raises:
            DemoError: it is not within `timeout` seconds.
        """
        end_at = self.clock.monotonic() + timeout
        while not (answer := await question()):
            check(self.clock.monotonic() < end_at, f"{what}: not within {timeout:g} s")
            await self.clock.sleep(0.1)
        return answer


async def end(process: Process, signum: int, timeout: float = 45.0) -> None:
    """End a process, and kill it when it does not."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signum)
    try:
        async with asyncio.timeout(timeout):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class Events:
    """`busbar event watch` beside us: shows what comes, and lets one wait for it."""

    def __init__(self, stage: Stage, process: Process) -> None:
        self._stage, self._process = stage, process

    async def until(self, kind: str, worker: str, timeout: float = 30.0) -> Event:
        """Show events until one of this kind and worker comes, and return it."""
        assert self._process.stdout is not None
        async with asyncio.timeout(timeout):
            while raw := await self._process.stdout.readline():
                event = read(raw, Event)
                if event.data.get("name") == worker:
                    self._stage.say(line(event))
                    if short_type(event) == kind:
                        return event
        raise DemoError("the event stream ended")
