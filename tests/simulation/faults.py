"""From a seed to a timeline: what is asked for, and what goes wrong, when."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.simulation.machines import REFUSED_PORT

LAST_FAULT_S = 5.0
WARM = 0.85
"""Share of the schedules that begin with a running fleet: setting it up takes most of a schedule's time."""
NODES = ("n1", "n2", "n3")


@dataclass(frozen=True, slots=True)
class Entry:
    """One happening, `at` seconds after the start. `kind` is a method of `world.World` (`do_…`)."""

    at: float
    kind: str
    args: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"{self.at:7.3f}  {self.kind} {' '.join(map(str, self.args))}".rstrip()


@dataclass(frozen=True, slots=True)
class Schedule:
    """A seed (for latencies and habits) with its nodes and its timeline."""

    seed: int
    nodes: int
    setup: tuple[tuple[Any, ...], ...]
    timeline: tuple[Entry, ...]
    warm: bool = True
    """Begins with everything set up and running; else the setup itself is under fire."""

    def to_json(self) -> str:
        entries = [[entry.at, entry.kind, list(entry.args)] for entry in self.timeline]
        whole = {"seed": self.seed, "nodes": self.nodes, "warm": self.warm, "setup": self.setup}
        whole["timeline"] = entries
        return json.dumps(whole, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Schedule:
        data = json.loads(text)
        entries = tuple(Entry(at, kind, tuple(args)) for at, kind, args in data["timeline"])
        setup = tuple(tuple(step) for step in data["setup"])
        return cls(data["seed"], data["nodes"], setup, entries, data["warm"])


def schedule(seed: int) -> Schedule:
    """The schedule of a seed."""
    random = Random(f"{seed} timeline")
    nodes = random.choice((2, 2, 3))
    clusters = random.choice((1, 1, 2))
    setup: list[tuple[Any, ...]] = [("pair_node", name) for name in NODES[:nodes]]
    lost_after = random.choice((1.0, 3.0, 5.0))
    for number in range(1, clusters + 1):
        cluster = f"c{number}"
        setup.append(("create_routercluster", cluster))
        setup += [("add_routercluster_node", cluster, name) for name in NODES[:nodes]]
        scale = random.choice((1, 2, 3, 4) if number == 1 else (1, 3))
        setup.append(("add_routercluster_workergroup", cluster, "g1", scale, lost_after))
        setup.append(("start_routercluster", cluster))
    entries = [_op(random, nodes, clusters) for _ in range(random.choice((0, 1, 2, 4)))]
    entries += _later_ops(Random(f"{seed} later"), nodes, clusters)
    entries += _last_ops(Random(f"{seed} last"), clusters)
    entries += _group_orders(Random(f"{seed} orders"), clusters)
    entries += _worker_orders(Random(f"{seed} worker orders"), clusters)
    entries += _placing(Random(f"{seed} placing"), nodes, clusters)
    entries += _rebalance(Random(f"{seed} rebalance"), nodes, clusters)
    entries += _bad_update(Random(f"{seed} bad update"), nodes, clusters)
    kinds = random.sample(sorted(FAULTS), random.choice((1, 2, 3, 4, 6)))
    for _ in range(random.choice((1, 2, 3, 5, 8))):
        entries += FAULTS[random.choice(kinds)](random, nodes)
    entries.sort(key=lambda entry: entry.at)
    return Schedule(seed, nodes, tuple(setup), tuple(entries), random.random() < WARM)


def _at(random: Random) -> float:
    return round(random.uniform(0.3, LAST_FAULT_S), 3)


def _node(random: Random, nodes: int) -> str:
    return random.choice(NODES[:nodes])


def _lasts(random: Random, longest: float = 6.0) -> float:
    """Often short, sometimes longer than the lost threshold."""
    return round(random.choice((0.05, 0.5, 0.5, 2.0, 4.0, longest)) * random.uniform(0.5, 1.0), 3)


def _op(random: Random, nodes: int, clusters: int) -> Entry:
    who = random.choice(("alice", "bob"))
    cluster, node = f"c{random.randint(1, clusters)}", _node(random, nodes)
    group = random.choice(("g1", "g1", "g2"))
    op = random.choice(
        (
            ("scale_routercluster_workergroup", cluster, "g1", random.randint(0, 5)),
            ("scale_routercluster_workergroup", cluster, "g1", random.randint(1, 4)),
            ("stop_routercluster", cluster),
            ("start_routercluster", cluster),
            ("delete_routercluster", cluster),
            ("create_routercluster", cluster),
            ("remove_routercluster_node", cluster, node),
            ("add_routercluster_node", cluster, node),
            ("add_routercluster_workergroup", cluster, group, random.randint(1, 2), 3.0),
            ("remove_routercluster_workergroup", cluster, group),
            ("unpair_node", node),
            ("pair_node", node),
        )
    )
    return Entry(_at(random), "op", (who, *op))


def _later_ops(random: Random, nodes: int, clusters: int) -> list[Entry]:
    """Updates and drains, from a source of their own: what else a seed does stays what it was."""
    return [_later_op(random, nodes, clusters) for _ in range(random.choice((0, 0, 1, 2, 3)))]


def _later_op(random: Random, nodes: int, clusters: int) -> Entry:
    who = random.choice(("alice", "bob"))
    cluster, node = f"c{random.randint(1, clusters)}", _node(random, nodes)
    limits = random.choice(((1, 0), (1, 0), (0, 1), (2, 1)))
    update = ("update_routercluster_workergroup", cluster, "g1", random.randint(1, 4), *limits)
    op = random.choice((update, update, ("drain_node", node), ("drain_node", node), ("undrain_node", node)))
    return Entry(_at(random), "op", (who, *op))


def _last_ops(random: Random, clusters: int) -> list[Entry]:
    """Now and then a cluster is stopped and, when that may be through, it or its group is deleted."""
    if random.random() < 0.9:
        return []
    at, cluster = round(random.uniform(0.3, 2.0), 3), f"c{random.randint(1, clusters)}"
    end = random.choice(
        (("delete_routercluster", cluster), ("remove_routercluster_workergroup", cluster, "g1"))
    )
    later = round(at + random.uniform(1.0, 3.0), 3)
    return [
        Entry(at, "op", ("alice", "stop_routercluster", cluster)),
        Entry(later, "op", (random.choice(("alice", "bob")), *end)),
    ]


def _group_orders(random: Random, clusters: int) -> list[Entry]:
    """A group is restarted, or stopped by itself and then started, removed, or left so."""
    entries = []
    for _ in range(random.choice((0, 0, 0, 1, 2))):
        at, cluster = round(random.uniform(0.3, 6.0), 3), f"c{random.randint(1, clusters)}"
        limits = random.choice(((1, 0), (0, 1), (2, 1)))
        restart = ("restart_routercluster_workergroup", cluster, "g1", *limits)
        stop = ("stop_routercluster_workergroup", cluster, "g1")
        start = ("start_routercluster_workergroup", cluster, "g1")
        remove = ("remove_routercluster_workergroup", cluster, "g1")
        ops = random.choice(
            ((restart,), (restart, restart), (stop,), (stop, start), (stop, start), (stop, remove))
        )
        for op in ops:
            entries.append(Entry(at, "op", (random.choice(("alice", "bob")), *op)))
            at = round(at + random.choice((0.01, 0.5, 2.0, 4.0)) * random.uniform(0.5, 1.0), 3)
    return entries


def _worker_orders(random: Random, clusters: int) -> list[Entry]:
    """One worker is restarted, now and then again at once, or another one of its group."""
    entries = []
    for _ in range(random.choice((0, 0, 0, 1, 2))):
        at, cluster = round(random.uniform(0.3, 6.0), 3), f"c{random.randint(1, clusters)}"
        for ordinal in random.choice(((1,), (2,), (1, 1), (1, 2))):
            restart = ("restart_routercluster_worker", cluster, "g1", ordinal)
            entries.append(Entry(at, "op", (random.choice(("alice", "bob")), *restart)))
            at = round(at + random.choice((0.01, 0.5, 2.0)) * random.uniform(0.5, 1.0), 3)
    return entries


PLACEMENTS: tuple[dict[str, Any] | None, ...] = (
    {"require": {"zone": "a"}},
    {"require": {"zone": ["a", "b"]}, "spread": "zone"},
    {"spread": "zone"},
    None,
)


def _placing(random: Random, nodes: int, clusters: int) -> list[Entry]:
    """Cordons, labels, placements and rebalances; now and then one after the other."""
    entries = []
    for _ in range(random.choice((0, 0, 0, 0, 1, 2))):
        at, cluster = round(random.uniform(0.3, 6.0), 3), f"c{random.randint(1, clusters)}"
        node, placement = _node(random, nodes), random.choice(PLACEMENTS)
        place = ("update_routercluster_workergroup", cluster, "g1", placement)
        label = ("label_node", node, {"zone": random.choice(("a", "b", None))})
        cordon, uncordon, rebalance = ("cordon_node", node), ("uncordon_node", node), ("apply_rebalance",)
        scale = ("scale_routercluster_workergroup", cluster, "g1", random.randint(2, 5))
        ops = random.choice(
            (
                (cordon,), (cordon, uncordon), (cordon, scale), (label,), (label, place), (place, label),
                (place, rebalance), (label, place, rebalance), (scale, rebalance), (rebalance, rebalance),
                (cordon, scale, uncordon, rebalance), (rebalance, cordon),
            )
        )  # fmt: skip
        for op in ops:
            entries.append(Entry(at, "op", (random.choice(("alice", "bob")), *op)))
            at = round(at + random.choice((0.01, 0.5, 2.0, 4.0)) * random.uniform(0.5, 1.0), 3)
    return entries


def _rebalance(random: Random, nodes: int, clusters: int) -> list[Entry]:
    """Now and then a node gets no workers for a while, and is to have its share then."""
    if random.random() < 0.88:
        return []
    at, node, start = (
        round(random.uniform(0.3, 3.0), 3),
        _node(random, nodes),
        "scale_routercluster_workergroup",
    )
    scale = (start, f"c{random.randint(1, clusters)}", "g1", random.choice((4, 5)))
    empty, back = random.choice((("drain_node", "undrain_node"), ("cordon_node", "uncordon_node")))
    later, after = round(at + random.uniform(4.0, 7.0), 3), random.choice(((0.5,), (0.5, 0.6), (1.0, 3.0)))
    steps = [(at, (*scale[:-1], 1)), (round(at + 1.0, 3), (empty, node)), (round(at + 1.1, 3), scale)]
    steps += [(later, (back, node)), *((round(later + each, 3), ("apply_rebalance",)) for each in after)]
    if random.random() < 0.3:
        steps.append(
            (round(later + random.uniform(0.5, 2.0), 3), random.choice((("cordon_node", node), scale)))
        )
    return [Entry(when, "op", (random.choice(("alice", "bob")), *op)) for when, op in steps]


def _bad_update(random: Random, nodes: int, clusters: int) -> list[Entry]:
    """Now and then an update that some nodes refuse, and then workers or agents that end."""
    if random.random() < 0.85:
        return []
    at, cluster = round(random.uniform(0.3, 3.0), 3), f"c{random.randint(1, clusters)}"
    limits = random.choice(((1, 0), (1, 0), (0, 1), (2, 1)))
    update = ("update_routercluster_workergroup", cluster, "g1", REFUSED_PORT, *limits)
    entries = [Entry(at, "op", (random.choice(("alice", "bob")), *update))]
    for _ in range(random.choice((1, 2, 3))):
        at = round(at + random.uniform(0.1, 2.0), 3)
        ends: tuple[str, str, float] = random.choice(
            (
                ("worker_crash", _node(random, nodes), random.random()),
                ("agent_kill", _node(random, nodes), 1.0),
            )
        )
        entries.append(Entry(at, ends[0], ends[1:]))
    return entries


Maker = Callable[[Random, int], list[Entry]]


def _timed(kind: str, longest: float = 6.0) -> Maker:
    def make(random: Random, nodes: int) -> list[Entry]:
        return [Entry(_at(random), kind, (_lasts(random, longest),))]

    return make


def _on_node(kind: str, longest: float = 6.0) -> Maker:
    def make(random: Random, nodes: int) -> list[Entry]:
        return [Entry(_at(random), kind, (_node(random, nodes), _lasts(random, longest)))]

    return make


def _at_step(kind: str, steps: int) -> Maker:
    """Killed after a random number of its own steps: between any two awaits."""

    def make(random: Random, nodes: int) -> list[Entry]:
        count = int(2 ** random.uniform(0, steps))
        where = () if kind.startswith("manager") else (_node(random, nodes),)
        return [Entry(_at(random), kind, (*where, count, _lasts(random)))]

    return make


def _at_commit(random: Random, nodes: int) -> list[Entry]:
    point = random.choice(("before_commit", "after_commit"))
    return [Entry(_at(random), "manager_kill_at_commit", (point, random.randint(1, 12), _lasts(random)))]


def _early_commit(random: Random, nodes: int) -> list[Entry]:
    point = random.choice(("before_commit", "after_commit"))
    return [Entry(0.0, "manager_kill_at_commit", (point, random.randint(1, 60), _lasts(random, 2.0)))]


def _at_fork(random: Random, nodes: int) -> list[Entry]:
    point = random.choice(("before_fork", "after_fork"))
    return [Entry(_at(random) / 2, "agent_kill_at_fork", (_node(random, nodes), point, _lasts(random)))]


def _broker(random: Random, nodes: int) -> list[Entry]:
    keeps = random.choice(("empty", "empty", "old", "all"))
    return [Entry(_at(random), "broker_kill", (keeps, random.choice((True, False)), _lasts(random)))]


def _storm(random: Random, nodes: int) -> list[Entry]:
    values = {
        "lose": random.choice((0.0, 0.2, 0.9)),
        "duplicate": random.choice((0.0, 0.2, 0.5)),
        "reorder": random.choice((0.0, 0.2, 0.5)),
        "delay": random.choice((0.0, 0.0, 0.3, 2.0)),
    }
    return [Entry(_at(random), "storm", (*values.values(), _lasts(random)))]


def _retained(random: Random, nodes: int) -> list[Entry]:
    how = random.choice(("delete", "delete", "garbage", "older", "stranger"))
    return [Entry(_at(random), "retained", (how, random.random()))]


def _worker(kind: str) -> Maker:
    def make(random: Random, nodes: int) -> list[Entry]:
        return [Entry(_at(random), kind, (_node(random, nodes), random.random()))]

    return make


def _habits(random: Random, nodes: int) -> list[Entry]:
    habit = random.choice(("fail_early", "never_ready", "stubborn", "grandchild", "refuse_spawn"))
    until = _lasts(random)
    return [Entry(_at(random) / 2, "habit", (_node(random, nodes), habit, random.choice((0.5, 1.0)), until))]


FAULTS: dict[str, Maker] = {
    "manager_kill": _timed("manager_kill"),
    "manager_kill_at_step": _at_step("manager_kill_at_step", 11),
    "manager_kill_at_commit": _at_commit,
    "manager_kill_at_early_commit": _early_commit,
    "manager_stop": _timed("manager_stop"),
    "manager_freeze": _timed("manager_freeze"),
    "manager_cut": _timed("manager_cut"),
    "database_locked": _timed("database_locked", 10.0),
    "disk_full": _timed("disk_full"),
    "clock_jump": lambda random, nodes: [Entry(_at(random), "clock_jump", (random.choice((-3600, 3600)),))],
    "agent_kill": _on_node("agent_kill"),
    "agent_kill_at_step": _at_step("agent_kill_at_step", 9),
    "agent_kill_at_fork": _at_fork,
    "agent_stop": _on_node("agent_stop"),
    "agent_freeze": _on_node("agent_freeze"),
    "agent_loses_folder": _on_node("agent_loses_folder"),
    "agent_tears_file": _on_node("agent_tears_file"),
    "reboot": _on_node("reboot"),
    "cut": _on_node("cut"),
    "stall": _on_node("stall"),
    "deaf": _worker("deaf"),
    "reset": _worker("reset"),
    "all_cut": _timed("all_cut"),
    "broker_kill": _broker,
    "storm": _storm,
    "late_wills": _timed("late_wills"),
    "retained": _retained,
    "worker_crash": _worker("worker_crash"),
    "worker_hang": _worker("worker_hang"),
    "habits": _habits,
}
"""Every kind of fault, by name."""
