"""Writes the measurements of the soak into the page on reliability, between its two marks.

Rows that a run did not measure keep their values and their date.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "reliability.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
HEAD = ("| what | goal | figure | runs | date | command |", "|---|---|---|---|---|---|")
TIMES = "python -m tests.faults.soak --kills 0 --measure"
TIMED = {
    "crash_light": ("a light worker is killed → ready again", "p99 < 2", "s"),
    "start_light": ("that worker's own start, alone", "", "s"),
    "crash_amqtt": ("an amqtt router is killed → ready again", "", "s"),
    "start_amqtt": ("that router's own start, alone", "", "s"),
    "change": ("a change of scale → converged", "", "s"),
    "healed": ("a partition with a change in it heals → converged", "p99 < 10", "s"),
    "late_beats": ("a node is cut off → `late`", "≤ 3", "heartbeats"),
    "silent_beats": ("a node's last word → `late`", "3", "heartbeats"),
}


class Figure(NamedTuple):
    """A line of the table."""

    what: str
    goal: str
    figure: str
    runs: str
    command: str


def rows(found: dict[str, Any]) -> Iterator[Figure]:
    """The results of a run."""
    if "kills" in found:
        yield from _kills(found)
    rounds = found.get("asked", {}).get("rounds")
    command = f"`{TIMES} --rounds {rounds}`" if rounds else f"`{TIMES}`"
    for name, (text, goal, unit) in TIMED.items():
        if name in found:
            of = found[name]
            word = "p99" if of["n"] >= 100 else "worst"
            yield Figure(text, goal, f"p50 {of['p50']}, {word} {of['p99']} {unit}", str(of["n"]), command)


def _kills(found: dict[str, Any]) -> Iterator[Figure]:
    asked = found["asked"]
    command = f"`python -m tests.faults.soak --minutes {asked['minutes']:g} --kills {asked['kills']}`"
    killed = ", ".join(f"{kind} {count}" for kind, count in found["killed"].items())
    runs = f"{found['kills']} kills"
    counted = {
        f"SIGKILLs ({', '.join(found['killed'])})": ("", f"{killed} in {found['minutes']} minutes"),
        "links to the broker gone dead meanwhile, for up to 2 s": ("", found["cuts"]),
        "operations acknowledged meanwhile": ("", found["acknowledged"]),
        "acknowledged operations lost, or undone": ("0", found["lost"] + found["undone"]),
        "events missing in the sequence": ("0", found["gaps"]),
        "workers restarted by the absence of anything above them": ("0", found["restarted"]),
        "workers seen twice": ("0", found["doubles"]),
        "processes left after the stop": ("0", found["orphans"]),
    }
    for what, (goal, figure) in counted.items():
        yield Figure(what, goal, str(figure), runs, command)


def table(old: str, found: dict[str, Any], date: str) -> list[str]:
    """The table's lines: new figures, and old ones that were not measured this time. Pure."""
    lines = {line.split("|")[1].strip(): line for line in old.splitlines() if line.startswith("|")}
    kept = {what: line for what, line in lines.items() if what != "what" and set(what) != {"-"}}
    new = {
        each.what: f"| {each.what} | {each.goal} | {each.figure} | {each.runs} | {date} | {each.command} |"
        for each in rows(found)
    }
    return [*HEAD, *(kept | new).values()]


def write(found: dict[str, Any]) -> None:
    """Update the table."""
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    old, _, after = rest.partition(END)
    lines = table(old, found, datetime.datetime.now(datetime.UTC).date().isoformat())
    PAGE.write_text(before + BEGIN + "\n\n" + "\n".join(lines) + "\n\n" + END + after)
