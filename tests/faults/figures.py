"""Writes what the soak has measured into the page on reliability, between its two marks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "reliability.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def rows(found: dict[str, Any]) -> Iterator[str]:
    """The table's lines."""
    kills = "`python -m tests.faults.soak --minutes 3 --kills 300`"
    times = "`python -m tests.faults.soak --kills 0 --measure`"
    yield "| what | figure | command |"
    yield "|---|---|---|"
    if "kills" in found:
        killed = ", ".join(f"{kind} {count}" for kind, count in found["killed"].items())
        yield f"| SIGKILLs in {found['minutes']} minutes ({killed}) | {found['kills']} | {kills} |"
        yield f"| links to the broker gone dead meanwhile, for up to 2 s | {found['cuts']} | same |"
        yield f"| operations acknowledged meanwhile | {found['acknowledged']} | same |"
        yield f"| acknowledged operations lost, or undone | {found['lost'] + found['undone']} | same |"
        yield f"| events missing in the sequence | {found['gaps']} | same |"
        yield f"| workers restarted that were not themselves killed | {found['restarted']} | same |"
        yield f"| workers seen twice | {found['doubles']} | same |"
        yield f"| processes left after the stop | {found['orphans']} | same |"
    names = {
        "crash_light": ("a light worker is killed → ready again", "s"),
        "start_light": ("that worker's own start, alone", "s"),
        "crash_amqtt": ("an amqtt router is killed → ready again", "s"),
        "start_amqtt": ("that router's own start, alone", "s"),
        "change": ("a change of scale → converged", "s"),
        "healed": ("a partition with a change in it heals → converged", "s"),
        "late_beats": ("a node is cut off → `late`", "heartbeats"),
    }
    for name, (text, unit) in names.items():
        if name in found:
            of = found[name]
            word = "p99" if of["n"] >= 100 else "worst"
            yield f"| {text} (n = {of['n']}) | p50 {of['p50']}, {word} {of['p99']} {unit} | {times} |"


def write(found: dict[str, Any]) -> None:
    """Replace the table."""
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(before + BEGIN + "\n\n" + "\n".join(rows(found)) + "\n\n" + END + after)
