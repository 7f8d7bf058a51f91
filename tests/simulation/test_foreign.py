"""A node that belongs to another store's manager for a while, and is given back."""

from __future__ import annotations

import gc
from pathlib import Path
from random import Random

import pytest

from tests.simulation.faults import NODES, Entry, Schedule
from tests.simulation.runner import simulate

LASTS_S = 14.0
"""Within this its workers are given up: the lost threshold, doubled at first, and 5 s of `lost_after`."""


def schedule(seed: int) -> Schedule:
    """Changes of scale before, while and after the node is another's."""
    random = Random(f"{seed} foreign")
    nodes, scale = random.choice((2, 3)), random.randint(1, 4)
    setup: list[tuple[object, ...]] = [("pair_node", name) for name in NODES[:nodes]]
    setup.append(("create_routercluster", "c1"))
    setup += [("add_routercluster_node", "c1", name) for name in NODES[:nodes]]
    setup.append(("add_routercluster_workergroup", "c1", "g1", scale, random.choice((1.0, 5.0))))
    setup.append(("start_routercluster", "c1"))
    entries = [Entry(round(random.uniform(0.3, 2.0), 3), "agent_follows_other", ("n2", LASTS_S))]
    for _ in range(random.randint(0, 3)):
        op = random.choice(
            (
                ("scale_routercluster_workergroup", "c1", "g1", random.randint(0, 5)),
                ("stop_routercluster", "c1"),
                ("remove_routercluster_node", "c1", "n2"),
                ("drain_node", "n2"),
            )
        )
        entries.append(Entry(round(random.uniform(0.1, 6.0), 3), "op", ("alice", *op)))
    entries.sort(key=lambda entry: entry.at)
    return Schedule(seed, nodes, tuple(setup), tuple(entries))


@pytest.mark.parametrize("part", range(4))
@pytest.mark.fault(108, "B C")
def test_a_node_of_another_store_holds_no_worker_for_long(folder: Path, part: int) -> None:
    for seed in range(part * 15, part * 15 + 15):
        result = simulate(schedule(seed), folder)
        gc.collect()  # what a killed program leaves is not to be finalised within the next schedule
        assert result.violations == (), (seed, result.violations)
