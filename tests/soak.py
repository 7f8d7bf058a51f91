"""Looks for faults by every way there is, and sums up: one line each.

python -m tests.soak --minutes 10    the simulation, fuzzing and real kills for so long, then a flood for 60 s

The three go side by side: the first two compute with what the third, which goes by real time, leaves them. A
part that finds something does not end the others; the exit code is 1 then.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.ending import end_on_sigterm

ROOT = Path(__file__).parents[1]
KILLS, INPUTS = 10_000, 10_000_000
FLOOD_S = 60.0
COMPUTE = ("tests.simulation", "tests.security.fuzz")
"""No clock matters to these."""
SEED = 5_001
"""The first schedule that the suite has not run."""


def parts(minutes: float, seed: int) -> Iterator[list[list[str]]]:
    """The modules with their arguments, by what may run at once; each says in its last line what it found."""
    bound = ["--minutes", f"{minutes:g}"]
    yield [
        ["tests.faults.soak", *bound, "--kills", str(KILLS)],
        ["tests.simulation", *bound, "--seed", str(seed), "--keep-going"],
        ["tests.security.fuzz", *bound, "--inputs", str(INPUTS)],
    ]
    yield [["tests.security.flood", "--seconds", f"{min(FLOOD_S, minutes * 60):g}", "--rate", "1000"]]


def run(part: list[str], running: list[subprocess.Popen[str]]) -> tuple[int, str]:
    """Run one, its output passed on; its exit code and last line."""
    last = ""
    before = ["nice", "-n", "10"] if part[0] in COMPUTE else []
    with subprocess.Popen(
        [*before, sys.executable, "-m", *part], cwd=ROOT, stdout=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        running.append(process)
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
    return process.returncode, last or f"{part[0]}: it said nothing"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="the bound of each part")
    parser.add_argument("--seed", type=int, default=SEED, help="of the first simulated schedule")
    options = parser.parse_args()
    ended: list[tuple[int, str]] = []
    running: list[subprocess.Popen[str]] = []
    end_on_sigterm()
    for together in parts(options.minutes, options.seed):
        with ThreadPoolExecutor(len(together)) as threads:
            try:
                ended += threads.map(lambda part: run(part, running), together)
            except BaseException:
                for process in running:
                    process.terminate()
                raise
    print("\nsummary", flush=True)
    for code, line in ended:
        print(f"  {'FAILED' if code else 'ok':<6} {line}", flush=True)
    return 1 if any(code for code, _ in ended) else 0


if __name__ == "__main__":
    sys.exit(main())
