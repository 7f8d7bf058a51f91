"""Measure, print, and after a full run write docs/explanation/performance.md with its plots."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import signal
import sys
import time
import traceback

from tests.bench import report
from tests.bench.setting import ROOT, Bench, SkipError

THEMES = {
    "yardsticks": "raw SQLite",
    "requests": "reads and changes against the bare echo",
    "lists": "lists of up to 10,000 objects",
    "heartbeats": "heartbeats of up to 10,000 nodes",
    "monitor": "the monitor's full pass",
    "placement": "10,000 workers over 1,000 nodes",
    "connecting": "1,000 agents at once",
    "startups": "busbar up, and a cluster's start",
    "routers": "four routers: their start, and their renewal under load",
    "footprint": "memory and idle CPU",
    "commands": "the command line",
}


def arguments() -> argparse.Namespace:
    names = "\n".join(f"  {name:<12} {what}" for name, what in THEMES.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=__doc__,
        epilog=f"names:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these parts; default: all")
    parser.add_argument("--runs", type=int, default=5, help="runs of each measurement (default 5)")
    parser.add_argument("--quick", action="store_true", help="smaller and fewer, for developing")
    parser.add_argument(
        "--write",
        action="store_true",
        help="write the page even after a partial run; of `routers` alone: its own page",
    )
    found = parser.parse_args()
    unknown = set(found.names) - set(THEMES)
    if unknown:
        parser.error(f"no part named {', '.join(sorted(unknown))}; there are {', '.join(THEMES)}")
    return found


async def measure(bench: Bench, names: list[str]) -> list[str]:
    """Run the parts; returns the names of those that failed."""
    failed = []
    for name in names:
        began = time.monotonic()
        print(f"{name}: {THEMES[name]} ...", flush=True)
        shown = (len(bench.results.yardsticks), len(bench.results.rows), len(bench.results.curves))
        try:
            await importlib.import_module(f"tests.bench.{name}").measure(bench)
        except SkipError as reason:
            print(f"  skipped: {reason}")
            bench.results.notes.append(f"`{name}` was skipped: {reason}.")
        except Exception:
            traceback.print_exc()
            failed.append(name)
            bench.results.notes.append(f"`{name}` failed; its rows are missing.")
        rows = bench.results.yardsticks[shown[0] :] + bench.results.rows[shown[1] :]
        print(report.table(rows) if rows else "  no rows")
        for curve in bench.results.curves[shown[2] :]:
            print(report.curve_text(curve))
        print(f"  ({time.monotonic() - began:.0f} s)\n", flush=True)
    return failed


async def interruptible(bench: Bench, names: list[str]) -> list[str]:
    """As `measure`; SIGTERM ends it cleanly, with its processes and folders."""
    task = asyncio.ensure_future(measure(bench, names))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


def main() -> int:
    options = arguments()
    bench = Bench(max(1, min(options.runs, 2) if options.quick else options.runs), options.quick)
    began, load = time.monotonic(), os.getloadavg()[0]
    print(report.machine() + "\n")
    failed = asyncio.run(interruptible(bench, options.names or list(THEMES)))
    seconds = time.monotonic() - began
    print(bench.results.verdict().replace("**", ""))
    for note in bench.results.notes:
        print(f"- {note}")
    folder, page = ROOT / "docs" / "explanation", None
    if options.names == ["routers"]:
        if options.write and not failed:
            loads = (load, os.getloadavg()[0])
            page = report.write_part(bench.results, folder, "routers", seconds, loads)
    elif options.write or (not options.names and not options.quick and not failed):
        page = report.write(bench.results, folder, list(THEMES), seconds)
    if page is not None:
        print(f"written: {page.relative_to(ROOT)}")
    print(f"{seconds / 60:.1f} minutes")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
