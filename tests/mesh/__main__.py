"""`python -m tests.mesh faults --count 100 --seed 1`. Exit code 1: acknowledged messages were lost."""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.mesh import again, balanced, faults, latency, matrix, partition


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mesh", description=__doc__)
    kinds = parser.add_subparsers(dest="what", required=True)
    under = kinds.add_parser("faults", help="faults under load: what is acknowledged and lost")
    under.add_argument("--count", type=int, default=100)
    under.add_argument("--rate", type=float, default=500.0)
    under.add_argument("--seed", type=int, default=1)
    cross = kinds.add_parser("matrix", help="every worker to every other, in all events")
    sizes = ["2x1", "2x2", "3x1", "3x2", "3x3", "5x3"]
    cross.add_argument("sizes", nargs="*", default=sizes, metavar="WORKERSxNODES")
    late = kinds.add_parser("latency", help="same worker, another worker, and servers started by hand")
    late.add_argument("--count", type=int, default=2000)
    balance = kinds.add_parser("haproxy", help="how long a client behind HAProxy has no router")
    balance.add_argument("--count", type=int, default=15)
    apart = kinds.add_parser("partition", help="one of three nodes cut off (root, Linux, ip)")
    apart.add_argument("--seconds", type=float, default=15.0)
    twice = kinds.add_parser("again", help="what is sent again, and when")
    twice.add_argument("--count", type=int, default=9)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mesh-") as folder:
        if given.what == "faults":
            return _faults(Path(folder), given)
        if given.what == "matrix":
            return _matrix(Path(folder), given.sizes)
        if given.what == "latency":
            _latency(Path(folder), given.count)
        elif given.what in ("partition", "again"):
            for line in _lines(Path(folder), given):
                print(line, flush=True)
        else:
            _haproxy(Path(folder), given.count)
    return 0


def _lines(folder: Path, given: argparse.Namespace) -> Iterator[str]:
    if given.what == "partition":
        return partition.partitioned(folder, given.seconds)
    return again.sent_again(folder, given.count)


def _latency(folder: Path, count: int) -> None:
    """Both are measured twice, in turn."""
    for turn in range(2):
        for name, measure in (("group", latency.of_a_group), ("by hand", latency.by_hand)):
            own = folder / f"{name.replace(' ', '')}{turn}"
            own.mkdir()
            for qos, found in measure(own, count).items():
                same, across = found["same"], found["across"]
                both = f"same {same:.2f} ms, across {across:.2f} ms, more {across - same:.2f}"
                print(f"{name}, QoS {qos}: {both}", flush=True)


def _haproxy(folder: Path, count: int) -> None:
    for how, found in balanced.outages(folder, count).items():
        print(
            f"{how}: median {statistics.median(found):.1f} s, worst {max(found):.1f} s ({len(found)} times)"
        )


def _matrix(folder: Path, sizes: list[str]) -> int:
    lost = 0
    for size in sizes:
        workers, nodes = map(int, size.split("x"))
        (folder / size).mkdir()
        print(f"{workers} workers on {nodes} nodes")
        print("| event | seconds | acknowledged | to be received | lost | received twice |")
        print("|---|---|---|---|---|---|")
        for row in matrix.crossed(folder / size, workers, nodes):
            cells = (row.event, f"{row.seconds:.1f}", row.acked, row.expected, row.lost, row.doubled)
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)
            lost += row.lost
    return 1 if lost else 0


def _faults(folder: Path, given: argparse.Namespace) -> int:
    found = faults.under_load(folder, given.count, given.rate, given.seed)
    healed = sorted(found.healed)
    print(f"faults: {found.faults}")
    print(f"acknowledged {found.acked}, {found.rate:.0f} each second")
    print(f"acknowledged and lost {found.lost}, received more than once {found.doubled}")
    print(f"longest silence of the publisher {found.silence:.1f} s")
    print(f"whole again: median {statistics.median(healed):.1f} s, slowest {healed[-1]:.1f} s")
    return 1 if any(found.lost.values()) else 0


raise SystemExit(main())
