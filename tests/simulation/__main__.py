"""Runs schedules: `python -m tests.simulation --count 5000`, or one again: `--seed N --count 1 --trace`.

Known failures of the past (`known.jsonl`) are run first. A failing schedule is printed with its shortened
timeline, and with the line to add to that file. What happens too rarely in all of them is a failure, too.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

from tests.ending import end_on_sigterm
from tests.simulation.activity import VACUOUS, lacking
from tests.simulation.corpus import corpus_seeds
from tests.simulation.faults import Schedule, schedule
from tests.simulation.plants import PLANTS, planted
from tests.simulation.runner import Result, dedicated, describe, simulate
from tests.simulation.shrink import shrink

KNOWN = Path(__file__).with_name("known.jsonl")

SETTLED = (60, 300)
"""After so many schedules most setups are made: they stay, and need not be walked each time."""
TOLD = "schedules done: "
"""Begins the line of `--tell`."""


def main() -> int:
    options = _options()
    end_on_sigterm()
    with planted(options.plant), dedicated() as folder:
        return _run(options, folder)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="schedules to run")
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--corpus", action="store_true", help="run those of corpus.txt in place of --count")
    parser.add_argument("--jobs", type=int, default=1, help="share them among so many processes")
    parser.add_argument("--job", type=int, default=0, help="which of these this one is, from 0")
    parser.add_argument("--minutes", type=float, default=0.0, help="run for so long instead of --count")
    parser.add_argument("--trace", action="store_true", help="print what happened")
    parser.add_argument("--digests", action="store_true", help="print the digest of each trace")
    parser.add_argument("--files", action="store_true", help="with the database in a file, not in memory")
    parser.add_argument("--tell", type=int, default=0, help="print a line after so many schedules")
    parser.add_argument("--known", action="store_true", help="run the known failures alone")
    parser.add_argument("--from", dest="source", type=Path, help="run the schedules of such a file alone")
    parser.add_argument("--shorten", action="store_true", help="shorten also what a planted bug breaks")
    parser.add_argument("--keep-going", action="store_true", help="do not end at the first failure")
    parser.add_argument("--plant", choices=sorted(PLANTS), help="plant a bug, and run until it is caught")
    return parser.parse_args()


def known(path: Path = KNOWN) -> list[Schedule]:
    """Schedules that failed once."""
    return [Schedule.from_json(line) for line in path.read_text().splitlines() if line.startswith("{")]


def _schedules(options: argparse.Namespace) -> Iterator[Schedule]:
    if options.source:
        yield from known(options.source)
        return
    if options.known or (not options.plant and options.seed == 1 and not options.job):
        yield from known()
    if options.known:
        return
    end, mine = time.monotonic() + options.minutes * 60, _share(options)
    for seed in count(options.seed) if options.minutes else _seeds(options):
        if options.minutes and time.monotonic() >= end:
            return
        found = schedule(seed)
        if mine is None or found.setup in mine:
            yield found


def _seeds(options: argparse.Namespace) -> Sequence[int]:
    return corpus_seeds() if options.corpus else range(options.seed, options.seed + options.count)


def _share(options: argparse.Namespace) -> set[object] | None:
    """The fleets of this process, None for all: each is set up by one alone, and all have as much to do."""
    if options.jobs == 1:
        return None
    fleets = Counter(schedule(seed).setup for seed in _seeds(options))
    counts, mine = [0] * options.jobs, set()
    for fleet, count_of in fleets.most_common():
        job = counts.index(min(counts))
        counts[job] += count_of
        if job == options.job:
            mine.add(fleet)
    return mine


def _run(options: argparse.Namespace, folder: Path) -> int:
    began, done, failed, steps = time.monotonic(), 0, 0, 0
    times: list[float] = []
    activity: Counter[str] = Counter()
    for each in _schedules(options):
        result = simulate(each, folder, files=options.files, keep_trace=options.trace)
        done, steps = done + 1, steps + result.steps
        times.append(result.converged)
        activity.update(result.activity)
        if options.trace:
            print("\n".join(result.trace))
        if options.digests:
            print(each.seed, result.digest)
        if result.violations:
            failed += 1
            if options.plant:
                if any(found.invariant == options.plant for found in result.violations):
                    if options.shorten:
                        _tell(result, folder, options.plant)
                    return _caught(options.plant, result, done)
            else:
                _tell(result, folder)
        if failed and not options.keep_going and not options.plant:
            break
        if options.tell and done % options.tell == 0:
            print(f"{TOLD}{done}", flush=True)
        gc.collect()  # each time: memory that is used again is quicker than new memory
        if done in SETTLED:
            gc.freeze()
    _sum_up(done, failed, steps, time.monotonic() - began, sorted(times))
    if not (failed or options.known or options.source):
        missing = lacking(activity, done)
        print("".join(f"  {VACUOUS}: too few {each}\n" for each in missing), end="")
        if options.plant:
            return 0 if options.plant == VACUOUS and missing else 1
        failed = len(missing)
    return 1 if failed or options.plant else 0


def _caught(plant: str, result: Result, done: int) -> int:
    first = next(found for found in result.violations if found.invariant == plant)
    print(f"caught by schedule {done} (seed {result.schedule.seed}): {first.invariant}: {first.text}")
    return 0


def _tell(result: Result, folder: Path, invariant: str | None = None) -> None:
    """The failure, its shortest timeline, and how to keep it."""
    print(describe(result), flush=True)
    invariant = invariant or result.violations[0].invariant

    def fails(shorter: Schedule) -> bool:
        return any(found.invariant == invariant for found in simulate(shorter, folder).violations)

    short = shrink(result.schedule, fails)
    print("  shortened:")
    print("\n".join(f"  {entry}" for entry in short.timeline))
    print(f"  again: python -m tests.simulation --seed {result.schedule.seed} --count 1 --trace")
    print(f"  for known.jsonl: {short.to_json()}", flush=True)


def _sum_up(done: int, failed: int, steps: int, took: float, times: list[float]) -> None:
    if not done:
        return
    print(
        f"simulation: {done} schedules, {failed} failed, {steps} steps, "
        f"{took:.1f} s ({1000 * took / done:.1f} ms each); "
        f"converged after healing: median {times[done // 2]:.2f} s, p99 {times[int(done * 0.99)]:.2f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
