"""The corpus of schedules that the suite runs: of many, those that cover the most pairs of events.

`python -m tests.simulation.corpus` chooses them again (corpus minimisation, as fuzzers do it): 650 of 3000
cover as many pairs of successive events as the first 1500. Do so after a change of how schedules are
generated. New schedules are run by `python -m tests.simulation` and `make soak`.
"""

from __future__ import annotations

import argparse
import gc
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Final

from tests.simulation.faults import schedule
from tests.simulation.runner import dedicated, simulate

SEEDS: Final = Path(__file__).with_name("corpus.txt")
_NAME = re.compile(r"'[^' ]*\d'|'(?:alice|bob)'|\b(?:[cgn]\d|g\d-\d+|\d[\d.]*)\b")
"""Names and numbers: who it was does not make a schedule another one."""
_ASKED = re.compile(r"\S+ (\w+) \(.*\) -> (\w+)")
_FAULT = re.compile(r"fault (\w+) \((.*)\)")
_EVENT = re.compile(r"\S+ \S+/event/[^/]+/(\w+)/[^/]+/(\w+) ")
_PROGRESS = re.compile(r"[\w ]+ (?:starts|killed|stops|thaws|freezes|loses its folder|process \d+ ended: .*)")
Feature = tuple[str, ...]


def corpus_seeds() -> list[int]:
    """The seeds of the corpus."""
    return [int(seed) for seed in SEEDS.read_text().split()]


def features(trace: Iterable[str]) -> set[Feature]:
    """Each kind of event in a trace, and each pair of kinds that follow each other."""
    kinds = [kind for line in trace if (kind := _kind(line.partition(" ")[2])) is not None]
    return {(kind,) for kind in kinds} | set(pairwise(kinds))


def _kind(line: str) -> str | None:
    """What a line of a trace tells, without times, names and numbers; None for what always happens."""
    if found := _FAULT.fullmatch(line):
        words = [found[1], *re.findall(r"'(\w+)'", _NAME.sub("", found[2]))]
        return " ".join(words)
    if found := _ASKED.fullmatch(line):
        return f"{found[1]}: {found[2]}"
    if found := _EVENT.match(line):
        return f"{found[1]} {found[2]}"
    return " ".join(_NAME.sub("", line).split()) if _PROGRESS.fullmatch(line) else None


def choose(shown: Mapping[int, set[Feature]], take: int) -> list[int]:
    """The seeds of `take` schedules that together cover the most features, the largest share first.

    Once all features are covered, the rest of the schedules are to cover them again.
    """
    left = dict(shown)
    chosen: list[int] = []
    while left and len(chosen) < take:
        for seed in _cover(left, take - len(chosen)):
            chosen.append(seed)
            del left[seed]
    return chosen


def _cover(shown: Mapping[int, set[Feature]], most: int) -> Iterator[int]:
    """Seeds, each of which adds the most to those before it, until nothing is added."""
    new = {seed: set(each) for seed, each in shown.items()}
    for _ in range(min(most, len(new))):
        best = max(new, key=lambda seed: (len(new[seed]), -seed))
        added = new.pop(best)
        if not added and len(new) + 1 < len(shown):  # one is yielded in any case, so that `choose` ends
            return
        for each in new.values():
            each -= added
        yield best


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.corpus", description=__doc__)
    parser.add_argument("--of", type=int, default=3000, help="schedules to choose from")
    parser.add_argument("--take", type=int, default=650, help="how many to choose")
    options = parser.parse_args()
    shown = dict(_run(range(1, options.of + 1)))
    chosen = choose(shown, options.take)
    first = set[Feature]().union(*(each for seed, each in shown.items() if seed <= options.of // 2))
    print(
        f"{options.take} cover {len(set[Feature]().union(*map(shown.__getitem__, chosen)))} kinds and pairs, "
        f"the first {options.of // 2} cover {len(first)}, all {len(set[Feature]().union(*shown.values()))}"
    )
    SEEDS.write_text("\n".join(map(str, sorted(chosen))) + "\n")


def _run(seeds: Iterable[int]) -> Iterator[tuple[int, set[Feature]]]:
    with dedicated() as folder:
        for seed in seeds:
            yield seed, features(simulate(schedule(seed), folder, keep_trace=True).trace)
            gc.collect()


if __name__ == "__main__":
    main()
