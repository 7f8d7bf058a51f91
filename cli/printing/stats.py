"""The answer of the stat operations, for people."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from busbar.bus.listeners import DEFAULT
from busbar.bus.messages import MeshSeen, Traffic
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
TRAFFIC_COLUMNS: list[output.Column[Worker]] = [
    ("clients", lambda w: w.traffic and numbers.count(w.traffic.connections)),
    ("in", lambda w: w.traffic and numbers.count(w.traffic.messages_in)),
    ("out", lambda w: w.traffic and numbers.count(w.traffic.messages_out)),
]
"""Clients, and the messages that they have sent and got; of workers whose runtime tells it."""
WIDE_COLUMNS: list[output.Column[Worker]] = [
    ("group", lambda w: w.workergroup),
    ("in state", lambda w: numbers.duration(w.since_ms)),
    ("listeners", lambda w: ", ".join(f"{name} {url}" for name, url in w.listeners.items())),
    ("revision", lambda w: w.revision),
    ("generation", lambda w: w.generation),
    ("peers", lambda w: mesh_text(w.mesh)),
    ("oid", lambda w: w.oid),
]
GOOD = frozenset({"RUNNING", "STOPPED", "online", "offline"})
"""States that are no problem."""


def worker_columns(workers: Iterable[Worker]) -> list[output.Column[Worker]]:
    """The columns of a table of these workers."""
    told = TRAFFIC_COLUMNS if any(worker.traffic for worker in workers) else []
    return [*WORKER_COLUMNS[:-1], *told, WORKER_COLUMNS[-1]]


def mesh_text(mesh: MeshSeen | None) -> str:
    """To how many of its peers a worker is connected, `1/2`; the second number alone where it can't say."""
    if mesh is None:
        return ""
    text = str(mesh.of) if mesh.connected is None else f"{mesh.connected}/{mesh.of}"
    return text + (f" (not {', '.join(mesh.missing)})" if mesh.missing else "")


def traffic_text(traffic: Traffic) -> str:
    """What routers say of their clients, in one line."""
    sent = f"messages in {numbers.count(traffic.messages_in)} ({numbers.size(traffic.bytes_in)})"
    got = f"out {numbers.count(traffic.messages_out)} ({numbers.size(traffic.bytes_out)})"
    slow = f"slow consumers {numbers.count(traffic.slow_consumers)}"
    return f"clients {numbers.count(traffic.connections)}, {sent}, {got}, {slow}"


def wide_columns(stats: Mapping[str, Stat]) -> list[output.Column[Any]]:
    """Columns about clusters or groups from their statistics, which are by oid."""

    def of(get: Callable[[Stat], object]) -> Callable[[Any], object]:
        return lambda row: get(stats[row.oid]) if row.oid in stats else None

    return [
        ("ready", of(lambda s: f"{s.ready}/{s.scale}")),
        ("in state", of(lambda s: numbers.duration(s.since_ms))),
        ("restarts", of(lambda s: s.restarts)),
        ("memory", of(lambda s: numbers.size(s.rss))),
        ("endpoints", of(lambda s: ", ".join(each.url for each in s.endpoints))),
        ("oid", lambda row: row.oid),
        ("reason", of(lambda s: "; ".join(s.conditions))),
    ]


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
    if stat.traffic is not None:
        output.say(f"  {traffic_text(stat.traffic)}")
    mark = " " if stat.status in GOOD else "!"
    for condition in stat.conditions:
        output.say(f"  {mark} {condition}")
    for endpoint in stat.endpoints:
        name = "" if endpoint.name == DEFAULT else f" {endpoint.name}"
        output.say(f"  {endpoint.worker}{name} on {endpoint.node}: {endpoint.url}")
    if stat.workers:
        rows = sorted(stat.workers, key=lambda w: w.name)
        output.show_list(rows, worker_columns(rows), wide=WIDE_COLUMNS)
    return None
