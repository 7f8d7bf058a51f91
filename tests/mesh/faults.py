"""So many faults under load: which messages were acknowledged and lost?"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.mesh.clients import Publisher, Subscriber
from tests.mesh.lab import Lab, lab

KINDS = (
    "kill_worker", "kill_worker", "freeze_worker", "renew_worker", "kill_node",
    "kill_agent", "freeze_agent", "kill_manager", "freeze_manager",
)  # fmt: skip


@dataclass
class Outcome:
    """Of one run."""

    faults: dict[str, int] = field(default_factory=dict)
    acked: int = 0
    rate: float = 0.0
    lost: dict[str, int] = field(default_factory=dict)
    doubled: dict[str, int] = field(default_factory=dict)
    silence: float = 0.0
    healed: list[float] = field(default_factory=list)


def under_load(folder: Path, count: int, rate: float, seed: int) -> Outcome:
    """One fault at a time, each once the group is whole again."""
    draw, outcome = random.Random(seed), Outcome()
    with lab(folder, 3, 3) as made:
        subscribers = [Subscriber(f"s{i}", made.ports, first=i) for i in range(2)]
        for each in subscribers:
            each.start()
        publisher = Publisher("p", made.ports, rate, first=1)
        publisher.start()
        begun = time.monotonic()
        for number in range(1, count + 1):
            kind = _one(made, draw, outcome)
            lacking = len(publisher.acked - set(subscribers[0].received))
            took, acked = outcome.healed[-1], len(publisher.acked)
            state = f"acknowledged {acked}, not received yet {lacking}"
            print(f"{number:4} of {count}: {kind} {took:5.1f} s, {state}", flush=True)
        publisher.stop()
        outcome.acked = len(publisher.acked)
        outcome.rate = outcome.acked / (time.monotonic() - begun)
        outcome.silence = publisher.silence
        _settle(publisher, subscribers)
        for each in subscribers:
            outcome.lost[each.name] = len(publisher.acked - set(each.received))
            outcome.doubled[each.name] = sum(n - 1 for n in each.received.values())
            each.stop()
    return outcome


def _one(made: Lab, draw: random.Random, outcome: Outcome) -> str:
    kind, worker = draw.choice(KINDS), draw.randrange(1, 4)
    outcome.faults[kind] = outcome.faults.get(kind, 0) + 1
    begun = time.monotonic()
    getattr(made, kind)(worker)
    time.sleep(1.0)  # so that what is killed is seen to be gone
    made.whole(180)
    outcome.healed.append(time.monotonic() - begun)
    return kind


def _settle(publisher: Publisher, subscribers: list[Subscriber]) -> None:
    """Until all is received, or nothing has come for 20 s."""
    for each in subscribers:
        seen, since = -1, time.monotonic()
        while publisher.acked - set(each.received) and time.monotonic() - since < 20:
            if len(each.received) != seen:
                seen, since = len(each.received), time.monotonic()
            time.sleep(0.2)
