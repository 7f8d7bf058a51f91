"""Runs the demonstration's commands in a temporary folder, and checks their results."""

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
    """A check failed."""


def check(condition: object, otherwise: str) -> None:
    """Check one claim of the demonstration.

    Raises:
        DemoError: it is false; `otherwise` is the reason.
    """
    if not condition:
        raise DemoError(otherwise)


class Stage:
    """The temporary folder, the command line in it, and the summary so far."""

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
        """Print a line."""
        print(f"  {text}", flush=True)

    @asynccontextmanager
    async def chapter(self, title: str) -> AsyncIterator[list[str]]:
        """A part of the story; facts appended to the list are shown in the summary, with its duration."""
        print(f"\n\x1b[1m{title}\x1b[0m" if sys.stdout.isatty() else f"\n== {title}", flush=True)
        started, facts = self.clock.monotonic(), list[str]()
        async with asyncio.timeout(STEP_S):
            yield facts
        self.summary.append([title, "; ".join(facts), f"{self.clock.monotonic() - started:.1f} s"])

    async def start(self, *arguments: str, quiet: bool = False) -> Process:
        """Start a `busbar` command, and print it as typed."""
        if not quiet:
            print(f"$ busbar {shlex.join(arguments)}", flush=True)
        # In a session of its own, so that Ctrl-C reaches only us, and we stop it in order.
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "busbar.cli.app", *arguments),
            stdout=PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=self.env,
            start_new_session=True,
            limit=1 << 22,
        )

    async def busbar(self, *arguments: str, quiet: bool = False) -> str:
        """Run a `busbar` command to its end and print its output.

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

    async def query(self, *arguments: str) -> Any:
        """Run it with JSON output, without printing, for the checks."""
        return json.loads(await self.busbar(*arguments, "-o", "json", quiet=True))

    async def workers(self, cluster: str) -> dict[str, dict[str, Any]]:
        """A cluster's workers by name."""
        return {row["name"]: row for row in await self.query("worker", "list", "-c", cluster)}

    async def until(self, what: str, condition: Callable[[], Awaitable[bool]], timeout: float = 20.0) -> None:
        """Poll until the condition holds.

        Raises:
            DemoError: it does not within `timeout` seconds.
        """
        end_at = self.clock.monotonic() + timeout
        while not await condition():
            check(self.clock.monotonic() < end_at, f"{what}: not within {timeout:g} s")
            await self.clock.sleep(0.1)


async def end(process: Process, signum: int, timeout: float = 45.0) -> None:
    """Stop a process with this signal, and kill it after `timeout` seconds."""
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
    """The output of `busbar event watch`: prints events, and waits for one."""

    def __init__(self, stage: Stage, process: Process) -> None:
        self._stage, self._process = stage, process

    async def until(self, kind: str, worker: str, timeout: float = 30.0) -> Event:
        """Print events up to the first one of this kind and worker, and return it."""
        assert self._process.stdout is not None
        async with asyncio.timeout(timeout):
            while raw := await self._process.stdout.readline():
                event = read(raw, Event)
                if event.data.get("name") == worker:
                    self._stage.say(line(event))
                    if short_type(event) == kind:
                        return event
        raise DemoError("the event stream ended")
