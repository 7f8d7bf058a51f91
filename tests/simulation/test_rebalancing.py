"""A node has lost its workers and is to have its share again, while something goes wrong."""

from __future__ import annotations

import gc
from collections import Counter
from pathlib import Path
from random import Random

from tests.simulation.faults import FAULTS, NODES, PLACEMENTS, Entry, Schedule
from tests.simulation.runner import simulate

BACK_S = 7.0
"""By then a drain of so few workers is through."""
COUNT = 12


def schedule(seed: int) -> Schedule:
    """A drain and its end, a rebalance that is ordered twice, and what comes between: an order, a fault."""
    random = Random(f"{seed} rebalancing")
    nodes, scale = random.choice((2, 3)), random.randint(2, 5)
    node = NODES[random.randrange(nodes)]
    setup: list[tuple[object, ...]] = [("pair_node", name) for name in NODES[:nodes]]
    setup.append(("create_routercluster", "c1"))
    setup += [("add_routercluster_node", "c1", name) for name in NODES[:nodes]]
    setup.append(("add_routercluster_workergroup", "c1", "g1", scale, random.choice((1.0, 5.0))))
    setup.append(("start_routercluster", "c1"))
    ops: list[tuple[float, tuple[object, ...]]] = [
        (0.3, ("drain_node", node)),
        (BACK_S, ("undrain_node", node)),
    ]
    ops += [(BACK_S + later, ("apply_rebalance",)) for later in (0.5, random.uniform(0.6, 3.0))]
    for _ in range(random.choice((0, 1, 1, 2))):
        op: tuple[object, ...] = random.choice(
            (
                ("cordon_node", node),
                ("drain_node", NODES[random.randrange(nodes)]),
                ("label_node", node, {"zone": random.choice(("a", "b"))}),
                ("update_routercluster_workergroup", "c1", "g1", random.choice(PLACEMENTS)),
                ("update_routercluster_workergroup", "c1", "g1", random.randint(1, 4), 1, 0),
                ("scale_routercluster_workergroup", "c1", "g1", random.randint(1, 5)),
                ("restart_routercluster_worker", "c1", "g1", 1),
                ("stop_routercluster", "c1"),
            )
        )
        ops.append((BACK_S + random.uniform(0.4, 2.0), op))
    entries = [Entry(round(at, 3), "op", (random.choice(("alice", "bob")), *op)) for at, op in ops]
    for fault in random.choice((0, 0, 1, 2)) * (FAULTS[random.choice(sorted(FAULTS))],):
        entries += [Entry(round(BACK_S + e.at / 2, 3), e.kind, e.args) for e in fault(random, nodes)]
    entries.sort(key=lambda entry: entry.at)
    return Schedule(seed, nodes, tuple(setup), tuple(entries))


def test_a_rebalance_breaks_no_invariant_whatever_comes_between(folder: Path) -> None:
    done = Counter[str]()
    for seed in range(COUNT):
        result = simulate(schedule(seed), folder)
        gc.collect()  # what a killed program leaves is not to be finalised within the next schedule
        assert result.violations == (), (seed, result.violations)
        done.update(result.activity)
    assert done["apply_rebalance accepted"] > COUNT // 2
