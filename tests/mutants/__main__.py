"""Makes small faults in the files that decide, a sample of them, and counts how many the unit tests notice.

A fault that none notices is printed with its file. It gets a test, or a line in `equivalent.txt` with the
reason why it changes nothing that matters. Fails when fewer than `--least` percent of the others are noticed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from random import Random

from tests.mutants.areas import AREAS, ROOT, equivalents
from tests.mutants.mutate import Mutant, mutants, with_fault
from tests.mutants.trial import noticed, source_of


def main() -> int:
    options = _options()
    began, known = time.monotonic(), equivalents()
    tried, found = Counter[str](), Counter[str]()
    stale = known - {(file, each.name) for file in AREAS for each in mutants(source_of(file))}
    for file, name in sorted(stale):
        print(f"no longer made, though it is in equivalent.txt: {file}: {name}")
    for file in options.file or AREAS:
        if noticed(file, source_of(file), AREAS[file]):
            print(f"{file}: its tests fail without any fault")
            return 2
    for file, mutant in _sample(options.file, options.count, options.seed):
        if (file, mutant.name) in known:
            continue
        tried[file] += 1
        if noticed(file, with_fault(source_of(file), mutant.number), AREAS[file]):
            found[file] += 1
        else:
            print(f"{file}: {mutant.name}\n    (line {mutant.line})", flush=True)
    for file in tried:
        print(f"{file}: {found[file]} of {tried[file]} noticed")
    share = 100 * found.total() / max(1, tried.total())
    took = time.monotonic() - began
    print(f"mutants: {found.total()} of {tried.total()} noticed ({share:.1f} %), {took:.0f} s")
    return 0 if share >= options.least else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("file", nargs="*", choices=[*AREAS, []], help="files, all without any")
    parser.add_argument("--count", type=int, default=20, help="faults in each file, 0 for all")
    parser.add_argument("--seed", type=int, default=1, help="which ones")
    parser.add_argument("--least", type=float, default=90.0, help="percent that must be noticed")
    return parser.parse_args()


def _sample(files: list[str], count: int, seed: int) -> list[tuple[str, Mutant]]:
    chosen: list[tuple[str, Mutant]] = []
    for file in files or AREAS:
        every = mutants(source_of(file))
        random = Random(f"{seed} {file}")
        picked = random.sample(every, min(count or len(every), len(every)))
        chosen += [(file, mutant) for mutant in sorted(picked, key=lambda each: each.line)]
    return chosen


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
