"""The answer of the stat operations, for people."""

from __future__ import annotations

from busbar.bus.listeners import DEFAULT
from busbar.bus.params import Stat, Worker

from . import numbers, output

WORKER_COLUMNS: list[output.Column[Worker]] = [
    ("worker", lambda w: f"{w.cluster}/{w.name}"),
    ("status", lambda w: w.status),
    ("node", lambda w: w.node),
    ("address", lambda w: w.address),
    ("pid", lambda w: w.pid),
    ("restarts", lambda w: w.restarts),
    ("uptime", lambda w: numbers.duration(w.uptime_ms)),
    ("cpu", lambda w: numbers.seconds(w.cpu_s)),
    ("memory", lambda w: numbers.size(w.rss)),
    ("reason", lambda w: w.reason),
]
GOOD = frozenset({"RUNNING", "STOPPED", "online", "offline"})
"""States that are no problem."""


def summary(stat: Stat) -> str:
    """The counts in one line: only those that are not zero."""
    counts = {
        "ready": stat.ready,
        "starting": stat.starting,
        "backoff": stat.backoff,
        "pending": stat.pending,
        "unknown": stat.unknown,
        "stopping": stat.stopping,
    }
    text = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    return f"{stat.scale} desired" + (f": {text}" if text else "")


def print_stat(stat: Stat) -> None:
    """Status, counts, conditions, endpoints and workers."""
    if output.output_format() != "table":
        return output.dump(stat)
    usage = f"{stat.restarts} restarts, CPU {numbers.seconds(stat.cpu_s)}, memory {numbers.size(stat.rss)}"
    since = f"for {numbers.duration(stat.since_ms)}"
    output.say(f"{stat.name}  ", output.State(stat.status), f"  {since}  {summary(stat)}")
    output.say(f"  {usage}")
    mark = " " if stat.status in GOOD else "!"
    for condition in stat.conditions:
        output.say(f"  {mark} {condition}")
    for endpoint in stat.endpoints:
        name = "" if endpoint.name == DEFAULT else f" {endpoint.name}"
        output.say(f"  {endpoint.worker}{name} on {endpoint.node}: {endpoint.url}")
    if stat.workers:
        output.show_list(sorted(stat.workers, key=lambda w: w.name), WORKER_COLUMNS)
    return None
