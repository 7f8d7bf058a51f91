"""Kills services and workers at random under load; counts lost, restarted, duplicated and left-over ones.

python -m tests.faults.soak --minutes 3 --kills 300        stops when either is reached
python -m tests.faults.soak --measure                      how long recoveries take
python -m tests.faults.soak --measure --rounds 10          a rough run in a tenth of the time
python -m tests.faults.soak --measure --write              also updates docs/explanation/reliability.md
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from tests.ending import end_on_sigterm
from tests.faults import figures
from tests.faults.measure import ROUNDS, measure
from tests.faults.yard import Cluster, Watcher, Yard, yard

SCALE = 6
WEIGHTS = {"manager": 4, "n1": 2, "n2": 2, "broker": 1, "worker": 3}
CUT = 0.15
"""How often a connection to the broker becomes a black hole as well, as a share of the kills."""


class Caller(threading.Thread):
    """Creates and deletes clusters, retries without limit, and records what was acknowledged."""

    def __init__(self, client: Watcher, name: str, stop: threading.Event, seed: int) -> None:
        super().__init__(daemon=True)
        self.client, self.prefix, self.stop_ = client, name, stop
        self.random = random.Random(seed)
        self.alive: dict[str, str] = {}
        self.acknowledged = 0
        self.problems: list[str] = []

    def run(self) -> None:
        try:
            for number in itertools.count():
                if self.stop_.is_set():
                    return
                self._step(number)
        except BaseException as error:
            self.problems.append(f"{self.prefix}: {error}")

    def _step(self, number: int) -> None:
        if self.alive and self.random.random() < 0.4:
            name = self.random.choice(sorted(self.alive))
            params = {"routercluster_oid": self.alive.pop(name)}
            self._take(self.client.ask("delete_routercluster", params, id=f"d-{name}", timeout=120))
            return
        name = f"{self.prefix}-{number}"
        params = {"routercluster": {"name": name}}
        reply = self.client.ask("create_routercluster", params, id=name, timeout=120)
        self._take(reply)
        if reply["ok"]:
            self.alive[name] = reply["result"]["oid"]

    def _take(self, reply: dict[str, Any]) -> None:
        self.acknowledged += 1
        if not reply["ok"]:
            self.problems.append(f"{self.prefix}: {reply['error']['code']} {reply['error']['detail']}")


class Chaos:
    """Kills, and restarts what nothing else restarts."""

    def __init__(self, here: Yard, cluster: Cluster, seed: int) -> None:
        self.here, self.cluster = here, cluster
        self.random = random.Random(seed)
        self.killed = dict.fromkeys(WEIGHTS, 0)
        self.cuts = 0
        self._ended: set[tuple[int, int]] = set()
        """The workers killed: on a busy machine one may be listed still."""
        self._timers: list[threading.Timer] = []

    @property
    def total(self) -> int:
        return sum(self.killed.values())

    def cut(self) -> None:
        """A black hole at one service for up to two seconds, then a reset."""
        proxy = self.here.proxies[self.random.choice(["manager", "n1", "n2"])]
        proxy.blackhole()
        timer = threading.Timer(self.random.uniform(0.2, 2.0), proxy.heal)
        timer.start()
        self._timers.append(timer)
        self.cuts += 1

    def close(self) -> None:
        """Wait until all faults of the proxies have ended."""
        for timer in self._timers:
            timer.join(5)

    def one(self) -> None:
        if self.random.random() < CUT:
            self.cut()
        kind = self.random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        if kind == "worker":
            found = self.here.census.leaders(self.cluster.name)
            living = {name: life for name, life in found.items() if life.key not in self._ended}
            if not living:
                return
            victim = living[self.random.choice(sorted(living))]
            self._ended.add(victim.key)
            self.here.census.kill(victim)
        else:
            self.here.kill(kind)
            self._start(kind)
        self.killed[kind] += 1

    def _start(self, kind: str) -> None:
        if kind == "broker":
            self.here.start_broker()
        elif kind == "manager":
            self.here.start_manager()
        else:
            self.here.start_agent(kind)


def kills(folder: Path, minutes: float, wanted: int, seed: int) -> dict[str, Any]:
    """One run; the counts."""
    with yard(folder) as here:
        cluster = here.cluster(SCALE, lost_after=60)
        cluster.running(SCALE)
        stop = threading.Event()
        callers = [Caller(here.watcher("alice"), f"s{n}", stop, seed + n) for n in range(3)]
        for caller in callers:
            caller.start()
        chaos, began = Chaos(here, cluster, seed), time.monotonic()
        while chaos.total < wanted and time.monotonic() - began < minutes * 60:
            chaos.one()
            time.sleep(chaos.random.uniform(0.05, 0.9))
        seconds = time.monotonic() - began
        stop.set()
        chaos.close()
        healed = time.monotonic()
        for caller in callers:
            caller.join(150)
        here.all_online()
        cluster.running(SCALE, timeout=60)
        return {
            "kills": chaos.total,
            "killed": chaos.killed,
            "cuts": chaos.cuts,
            "minutes": round(seconds / 60, 1),
            "acknowledged": sum(caller.acknowledged for caller in callers),
            **_verdict(here, cluster, callers, chaos),
            "converged_s": round(time.monotonic() - healed, 1),
        }


def _verdict(here: Yard, cluster: Cluster, callers: list[Caller], chaos: Chaos) -> dict[str, Any]:
    names = here.alice.sure("list_routerclusters", {"return_names": True})
    expected = {name for caller in callers for name in caller.alive}
    there = {name for name in names if name.startswith("s") and "-" in name}
    restarted = len(here.census.ever(cluster.name)) - SCALE - chaos.killed["worker"]
    problems = [text for caller in callers for text in caller.problems]
    problems += [f"{caller.prefix} hangs" for caller in callers if caller.is_alive()]
    cluster.stop(30)
    time.sleep(1)
    left = [life for life in here.census.look() if life.cluster == cluster.name]
    return {
        "lost": len(expected - there),
        "undone": len(there - expected),
        "gaps": _gaps(here),
        "restarted": restarted,
        "doubles": len(here.census.doubles),
        "orphans": len(left),
        "problems": problems[:5],
    }


def _gaps(here: Yard) -> int:
    """Gaps in the sequence numbers of events."""
    seen: list[int] = []
    while True:
        page = here.alice.sure("get_events", {"since": seen[-1] if seen else 0, "limit": 500})
        rows = page["events"] if isinstance(page, dict) else page
        fresh = [int(row["sequence"]) for row in rows if not seen or int(row["sequence"]) > seen[-1]]
        if not fresh:
            return (seen[-1] - seen[0] + 1 - len(seen)) if seen else 0
        seen += fresh


BAD = ("lost", "undone", "gaps", "restarted", "doubles", "orphans")


def _counted(found: dict[str, Any]) -> str:
    if "kills" not in found:
        return ""
    return (
        f"{found['kills']} SIGKILLs and {found['cuts']} dead links in {found['minutes']} minutes, "
        f"{found['acknowledged']} operations acknowledged (seed {found['seed']})"
    )


def _measured(found: dict[str, Any]) -> str:
    beats = found.get("late_beats")
    return f"late {beats['p50']} heartbeats after a cut, at most {beats['p99']}" if beats else ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--measure", action="store_true", help="measure recoveries, after the kills")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often each recovery is measured")
    parser.add_argument("--write", action="store_true", help="write the figures into the documentation")
    options = parser.parse_args()
    found: dict[str, Any] = {
        "seed": options.seed,
        "asked": vars(options),
    }
    end_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="busbar-soak-") as folder:
        for name in ("kills", "measure"):
            (Path(folder) / name).mkdir(mode=0o700)
        if options.kills:
            found |= kills(Path(folder) / "kills", options.minutes, options.kills, options.seed)
            print(json.dumps(found, indent=2), flush=True)
        if options.measure:
            found |= measure(Path(folder) / "measure", options.rounds)
            print(json.dumps(found, indent=2), flush=True)
    if options.write:
        figures.write(found)
    failed = [name for name in BAD if found.get(name)] + found.get("problems", [])
    told = "; ".join(text for text in (_counted(found), _measured(found)) if text)
    print(f"faults: {told}: " + ("FOUND " + "; ".join(failed) if failed else "nothing found"), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
