"""The monitor's full pass on a real store, in this process: everything read, judged and placed; and what a
single change touches.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from busbar.bus.states import WorkerState
from busbar.manager.leader.state_folder import database
from busbar.manager.planner.model import Place, Snapshot
from busbar.manager.planner.plan import plan
from busbar.manager.state.mirror import StateCache
from busbar.manager.state.node_memory import NodeMemory
from busbar.manager.store import Changes, Store
from msgspec.structs import replace

from tests.bench import seed
from tests.bench.report import Curve, Row
from tests.bench.setting import CLOCK, TOPICS, Bench, folder, median, spread
from tests.bench.svg import Series

SIZES = (10, 100, 1_000, 10_000)
PER_NODE = 10
MAX_SCALE = 10_000
GOAL_MS = 100.0


@dataclass
class Figures:
    """Milliseconds of each run, of one fleet's size."""

    full: list[float]
    whole: list[float]
    place: list[float]
    one: list[float]
    touched: int


async def measure(bench: Bench) -> None:
    """Full passes by size; 1,000 nodes with 10,000 workers are judged."""
    found: dict[int, Figures] = {}
    for nodes in bench.sizes(*SIZES):
        with folder() as at:
            found[nodes] = await _one(bench, at, nodes)
    _tell(bench, found[1_000])
    series = [
        ("full pass", "full"),
        ("rows read anew", "whole"),
        ("placing all", "place"),
        ("one change", "one"),
    ]
    bench.results.curves.append(
        Curve(
            "monitor",
            "monitor",
            "The monitor's pass, 10 workers a node",
            "nodes",
            "ms",
            [
                Series(name, [(nodes, median(getattr(figures, member))) for nodes, figures in found.items()])
                for name, member in series
            ],
        )
    )


def _tell(bench: Bench, figures: Figures) -> None:
    full = median(figures.full)
    bench.results.rows += [
        Row(
            "monitor",
            "full monitor pass (snapshot, status, placement, plan), 1,000 nodes, 10,000 workers",
            spread(figures.full, ".1f", " ms"),
            f"all rows read anew {median(figures.whole):.0f} ms (once a minute)",
            goal=f"under {GOAL_MS:.0f} ms",
            met=full < GOAL_MS,
            runs=bench.runs,
        ),
        Row(
            "monitor",
            "planning 10,000 placements on 1,000 nodes",
            spread(figures.place, ".1f", " ms"),
            goal=f"under {GOAL_MS:.0f} ms",
            met=median(figures.place) < GOAL_MS,
            runs=bench.runs,
        ),
        Row(
            "monitor",
            "one worker changes: statuses and assignments touched; pass",
            f"{figures.touched} (worker, group, cluster); {spread(figures.one, '.1f', ' ms')}",
            goal="only what changed",
            met=figures.touched == 3,
            runs=bench.runs,
        ),
    ]


async def _one(bench: Bench, at: Path, nodes: int) -> Figures:
    clusters = max(1, nodes * PER_NODE // MAX_SCALE)
    fleet = await seed.fill(
        at / "manager", nodes=nodes, clusters=clusters, scale=nodes * PER_NODE // clusters, placed=True
    )
    store = Store.open(database(at / "manager"), CLOCK, seed.new_oid, TOPICS)
    try:
        memory = NodeMemory(CLOCK)
        cache = StateCache(store.reads, memory, CLOCK)
        _hear(memory, fleet)
        assert not _pass(cache), "a fleet at rest must ask for nothing"
        whole = [_ms(lambda: _pass(StateCache(store.reads, memory, CLOCK))) for _ in range(bench.runs)]
        full = [_ms(lambda: _pass(cache)) for _ in range(bench.runs)]
        one, touched = await _one_change(bench, store, cache)
        place = []
        for _ in range(bench.runs):
            _hear(memory, fleet)  # by now the largest fleet would be late
            place.append(_place(cache.snapshot(), nodes * PER_NODE))
        return Figures(full, whole, place, one, touched)
    finally:
        store.close()


def _hear(memory: NodeMemory, fleet: seed.Fleet) -> None:
    for oid in fleet.node_oids:
        memory.record_heard(oid)


def _pass(cache: StateCache) -> list[Any]:
    return plan(cache.snapshot(), CLOCK.monotonic())


def _ms(work: Any) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


async def _one_change(bench: Bench, store: Store, cache: StateCache) -> tuple[list[float], int]:
    """The pass after a commit that changed one worker; how many statuses and assignments it touched."""
    seen: list[Changes] = []
    store.on_commit(seen.append)
    store.on_commit(cache.invalidate)
    oid = store.reads.workers()[0].oid
    times = []
    for number in range(bench.runs):
        await store.write(lambda tx, number=number: tx.update_worker(oid, restarts=number + 1))
        times.append(_ms(lambda: _pass(cache)))
    last = seen[-1]
    kinds = (last.nodes, last.clusters, last.groups, last.workers, last.assignments)
    return times, sum(map(len, kinds))


def _place(snapshot: Snapshot, workers: int) -> float:
    """Milliseconds to place every worker from nothing."""

    def pending(group: Any) -> Any:
        return replace(
            group,
            workers=tuple(replace(w, state=WorkerState.PENDING, node_oid=None) for w in group.workers),
        )

    clusters = {
        oid: replace(cluster, groups=tuple(pending(group) for group in cluster.groups))
        for oid, cluster in snapshot.clusters.items()
    }
    began = time.perf_counter()
    actions = plan(replace(snapshot, clusters=clusters), CLOCK.monotonic())
    took = (time.perf_counter() - began) * 1000
    placed = sum(isinstance(action, Place) for action in actions)
    assert placed == workers, f"{placed} of {workers} were placed"
    return took
