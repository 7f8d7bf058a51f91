"""Write docs/reference and docs/man from the code's own tables; without an argument, tell what is stale.

python docs/generate.py            exits 1 when a page differs
python docs/generate.py --write    writes the pages
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import client_page
import commands
import man
import msgspec
from asyncapi import document
from busbar.agent.reporting.metrics import families as agent_families
from busbar.agent.reporting.reporter import NodeSnapshot
from busbar.bus.clock import SystemClock
from busbar.bus.contract import CHANGE_ERRORS, COMMON_ERRORS, OPERATIONS, Operation
from busbar.bus.errors import ERRORS
from busbar.bus.events import EVENTS
from busbar.bus.states import TRANSITIONS
from busbar.bus.system.metrics import Family, connection
from busbar.manager.metrics.families import families
from busbar.manager.metrics.recorder import COUNTED, own
from busbar.manager.planner.model import LivenessTiming, Snapshot
from busbar.manager.state.node_memory import NodeMemory

HERE = Path(__file__).parent / "reference"
MAN = HERE.with_name("man")
Row = tuple[str, tuple[str, ...], str]
NOTE = "<!-- Written by docs/generate.py from the code; change that instead. -->"


def operations() -> Iterator[str]:
    """The page of all operations."""
    yield from ("# Operations", "", NOTE, "")
    yield "A request goes to `busbar/v1/{realm}/request/{caller}/{operation}`, its reply to"
    yield "`busbar/v1/{realm}/response/{caller}/{inbox}`. A member followed by `?` may be left out."
    yield "Every operation may also return " + _codes(COMMON_ERRORS) + ";"
    yield "every change also " + _codes(CHANGE_ERRORS) + "."
    yield from ("", "| operation | what it does |", "|---|---|")
    for row in OPERATIONS.values():
        yield f"| [`{row.name}`](#{row.name}) | {row.help} |"
    for row in OPERATIONS.values():
        yield from _operation(row)


def _operation(row: Operation) -> Iterator[str]:
    yield from ("", f"## {row.name}", "", row.help, "")
    who = ", ".join(sorted(row.roles)) + (f" (an operator: own {row.owned}s only)" if row.owned else "")
    yield f"- Kind: {'change' if row.change else 'read'}; roles: {who}."
    yield f"- Errors: {_codes(row.errors) if row.errors else 'none specific'}."
    if row.planned_by:
        yield f"- Planned beforehand by [`{row.planned_by}`](#{row.planned_by})."
    schema = msgspec.json.schema(row.params)
    defs = schema["$defs"]
    members = list(_members(schema, defs, ""))
    if members:
        yield from ("", "| parameter | type |", "|---|---|", *members)
    result = msgspec.json.schema(row.result)
    yield from ("", f"Result: {_type(result, result.get('$defs', {}))}.")
    target = result.get("items", result)
    if "$ref" in target:
        body = _resolve(target, result["$defs"])
        yield from ("", "| member | type |", "|---|---|")
        for name, value in body["properties"].items():
            yield f"| `{name}` | {_type(value, result['$defs'])} |"


def _members(schema: dict[str, Any], defs: dict[str, Any], prefix: str) -> Iterator[str]:
    body = _resolve(schema, defs)
    required = set(body.get("required", ()))
    for name, value in body.get("properties", {}).items():
        mark = "" if name in required else "?"
        yield f"| `{prefix}{name}{mark}` | {_type(value, defs)} |"
        options = value.get("anyOf", [value])
        for option in options:
            if "$ref" in option:
                yield from _members(option, defs, f"{prefix}{name}.")


def _resolve(schema: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        found: dict[str, Any] = defs[schema["$ref"].rsplit("/", 1)[1]]
        return found
    return schema


def _type(schema: dict[str, Any], defs: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_type(option, defs) for option in schema["anyOf"])
    if "$ref" in schema:
        return str(schema["$ref"].rsplit("/", 1)[1])
    if "enum" in schema:
        return "one of " + ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type", "any value")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}), defs)}"
    bounds = [
        f"{word} {schema[key]}"
        for key, word in (
            ("minimum", "at least"),
            ("exclusiveMinimum", "above"),
            ("maximum", "at most"),
            ("maxLength", "at most"),
        )
        if key in schema
    ]
    text = str(schema.get("description") or kind)
    if kind == "string" and "maxLength" in schema:
        bounds[-1] += " characters"
    return text + (f" ({', '.join(bounds)})" if bounds else "")


def errors() -> Iterator[str]:
    """The page of error codes."""
    yield from ("# Errors", "", NOTE, "")
    yield "The `error` member of a reply has RFC 9457's `title`, `detail` and `status`, a stable `code`, the"
    yield "`uri` that Crossbar.io uses where it has one, and `errors`: JSON pointers to the members at fault."
    yield from ("", "| code | uri | status | retryable |", "|---|---|---|---|")
    for code, row in ERRORS.items():
        yield f"| `{code}` | `{row.uri}` | {row.status} | {'yes' if row.retryable else 'no'} |"


def events() -> Iterator[str]:
    """The page of event types."""
    yield from ("# Events", "", NOTE, "")
    yield "An event is a CloudEvents 1.0 object on `busbar/v1/{realm}/event/{cluster}/{kind}/{name}/{verb}`."
    yield from ("", "| type |", "|---|")
    for subject, verbs in EVENTS.items():
        for verb in verbs:
            yield f"| `busbar.on_{subject}_{verb}` |"


def states() -> Iterator[str]:
    """The page of states and transitions."""
    yield from ("# States", "", NOTE, "")
    yield "`busbar.bus.states.advance` refuses every transition that is not in these tables."
    for kind, table in TRANSITIONS.items():
        yield from ("", f"## {kind.__name__}", "", (kind.__doc__ or "").strip(), "")
        yield from ("| from | to |", "|---|---|")
        for state, following in table.items():
            yield f"| `{state}` | {', '.join(f'`{after}`' for after in kind if after in following)} |"


def _codes(codes: tuple[str, ...]) -> str:
    return ", ".join(f"`{code}`" for code in codes)


def metrics() -> Iterator[str]:
    """The page of all metrics."""
    yield from ("# Metrics", "", NOTE, "")
    yield "What `--metrics` of `busbar manager`, `busbar agent` and `busbar up` serves on `/metrics`;"
    yield "[how to use it](../howto/monitoring.md). Names that end in `_total` are counters; without another"
    yield "word, it is a gauge. A metric has 2,000 series at most."
    for service, rows in (("manager", _of_manager()), ("agent", _of_agent())):
        yield from ("", f"## Of the {service}", "", "| metric | labels | what it is |", "|---|---|---|")
        for name, labels, text in rows:
            yield f"| `{name}` | {', '.join(f'`{label}`' for label in labels)} | {text} |"


def _of_manager() -> Iterator[Row]:
    snapshot, clock = Snapshot(LivenessTiming()), SystemClock()
    yield from _of(families(snapshot, NodeMemory(clock), clock.monotonic()))
    yield from _of(own(MagicMock(), MagicMock(), MagicMock()))
    for row in COUNTED:
        yield row.name, row.labels, f"{row.help}{' Histogram.' if row.buckets else ''}"
    yield from _of_both()


def _of_agent() -> Iterator[Row]:
    yield from _of(agent_families(NodeSnapshot()))
    yield from _of(connection(connected=True, attempts=1))
    yield from _of_both()


def _of_both() -> Iterator[Row]:
    yield "busbar_info", ("service", "realm", "version"), "Always 1; also `manager` or `node`."
    yield "busbar_metrics_dropped_series", (), "Series left out: each metric has 2,000 at most."


def _of(found: Iterable[Family]) -> Iterator[Row]:
    for family in found:
        yield family.name, family.labels, family.help


def client() -> Iterator[str]:
    """The page of the client for programs."""
    yield from ("# The Python client", "", NOTE, "", *client_page.page())


def command_line() -> Iterator[str]:
    """The page of all commands."""
    yield from ("# The command line", "", NOTE, "", *commands.page())


PAGES = {
    "operations.md": operations,
    "errors.md": errors,
    "events.md": events,
    "states.md": states,
    "metrics.md": metrics,
    "client.md": client,
    "cli.md": command_line,
}


def render() -> dict[Path, str]:
    """Every page's text by its file."""
    pages = {HERE / name: "\n".join(page()) + "\n" for name, page in PAGES.items()}
    pages[HERE / "asyncapi.json"] = json.dumps(document(), indent=1) + "\n"
    return pages | {MAN / name: text for name, text in man.pages().items()}


def main() -> int:
    """Compare or write."""
    pages = render()
    stale = [path for path, text in pages.items() if not path.exists() or path.read_text() != text]
    gone = set(MAN.glob("*")) - set(pages)
    if "--write" in sys.argv:
        for path, text in pages.items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        for path in gone:
            path.unlink()
        print(f"wrote {len(stale)} of {len(pages)} pages")
        return 0
    for path in (*stale, *gone):
        print(f"{path.relative_to(HERE.parent.parent)} is stale: run make reference")
    return 1 if stale or gone else 0


if __name__ == "__main__":
    sys.exit(main())
