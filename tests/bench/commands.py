"""The command line's wall time, against a typer hello world in turns."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

from tests.bench.report import Row
from tests.bench.setting import ROOT, Bench, clean_env, folder, median, spread
from tests.bench.startups import busbar, up
from tests.brokers import free_port

HELP_GOAL, LIST_GOAL_S = 1.2, 0.15
HELLO = """import typer

app = typer.Typer()

@app.command()
def hello(name: str) -> None:
    print(f"Hello {name}")

if __name__ == "__main__":
    app()
"""


async def measure(bench: Bench) -> None:
    """Each in turn, twice as often as other measurements: they are short."""
    rounds = 2 * bench.runs
    times: dict[str, list[float]] = {"hello": [], "hello --help": [], "help": [], "list": []}
    with folder() as at:
        script = at / "hello.py"
        script.write_text(HELLO)
        env = clean_env(BUSBAR_STATE=str(at / "state"))
        commands = {
            "hello": [sys.executable, str(script), "world"],
            "hello --help": [sys.executable, str(script), "--help"],
            "help": [*busbar(), "--help"],
            "list": [*busbar(), "cluster", "list"],
        }
        async with up(at / "state", "--port", str(free_port())):
            for number in range(rounds + 1):
                for name, command in commands.items():
                    seconds = await _wall(command, env, at)
                    if number:
                        times[name].append(seconds)
    _tell(bench, times, rounds)


async def _wall(command: list[str], env: dict[str, str], at: Path) -> float:
    """Seconds of one command.

    Raises:
        RuntimeError: it failed.
    """
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *command, env=env, cwd=ROOT, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate()
    seconds = time.monotonic() - began
    if process.returncode:
        raise RuntimeError(f"{os.path.basename(command[0])} failed: {out.decode(errors='replace')[-500:]}")
    return seconds


def _tell(bench: Bench, times: dict[str, list[float]], rounds: int) -> None:
    hello, listed = median(times["hello"]), median(times["list"])
    bench.results.yardsticks += [
        Row("commands", "a typer hello world", spread(_ms(times["hello"]), unit=" ms"), runs=rounds),
        Row("commands", "the same with --help", spread(_ms(times["hello --help"]), unit=" ms"), runs=rounds),
    ]
    ratio = median(times["help"]) / hello
    bench.results.rows += [
        Row(
            "commands",
            "`busbar --help`",
            spread(_ms(times["help"]), unit=" ms"),
            f"hello world {hello * 1000:.0f} ms",
            f"{ratio:.2f}",
            f"at most {HELP_GOAL}",
            ratio <= HELP_GOAL,
            rounds,
        ),
        Row(
            "commands",
            "`busbar cluster list`",
            spread(_ms(times["list"]), unit=" ms"),
            f"hello world {hello * 1000:.0f} ms",
            f"{(listed - hello) * 1000:+.0f} ms",
            f"at most 1.2 × hello world + {LIST_GOAL_S * 1000:.0f} ms",
            listed <= HELP_GOAL * hello + LIST_GOAL_S,
            rounds,
        ),
    ]


def _ms(seconds: list[float]) -> list[float]:
    return [second * 1000 for second in seconds]
