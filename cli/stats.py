"""The answer of the stat operations, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import output

WORKER_COLUMNS: list[output.Column] = [
    ("worker", lambda w: f"{w.get('cluster')}/{w.get('name')}"),
    ("status", "status"),
    ("node", "node"),
    ("address", "address"),
    ("pid", "pid"),
    ("restarts", "restarts"),
    ("uptime", lambda w: output.duration(w.get("uptime_ms"))),
    ("cpu", lambda w: "" if w.get("cpu_s") is None else f"{w['cpu_s']:.1f} s"),
    ("memory", lambda w: output.size(w.get("rss"))),
    ("reason", "reason"),
]
GOOD = frozenset({"RUNNING", "STOPPED", "online", "offline"})
"""States that need nobody's attention."""
COUNTS = ("ready", "starting", "backoff", "pending", "unknown", "stopping")


def summary(stat: Mapping[str, Any]) -> str:
    """The counts in one line: only those that are not zero."""
    counts = ", ".join(f"{stat[name]} {name}" for name in COUNTS if stat.get(name))
    return f"{stat['scale']} desired" + (f": {counts}" if counts else "")


def print_stat(stat: Mapping[str, Any]) -> None:
    """Status, counts, conditions, endpoints and workers."""
    if output.output_format() != "table":
        return output.dump(stat)
    since = output.duration(stat.get("since_ms"))
    usage = f"{stat['restarts']} restarts, CPU {stat['cpu_s']:.1f} s, memory {output.size(stat['rss'])}"
    print(f"{stat['name']}  {output.paint(stat['status'])}  for {since}  {summary(stat)}")
    print(f"  {usage}")
    mark = " " if stat["status"] in GOOD else "!"
    for condition in stat["conditions"]:
        print(f"  {mark} {output.as_text(condition)}")
    for endpoint in stat["endpoints"]:
        print(f"  {endpoint['worker']} on {endpoint['node']}: {endpoint['url']}")
    if stat["workers"]:
        output.show_list(sorted(stat["workers"], key=lambda w: w["name"]), WORKER_COLUMNS)
    return None
