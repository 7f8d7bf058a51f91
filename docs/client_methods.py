"""Write bus/client/operations from the contract's table; with no argument, tell whether it is up to date.

python docs/client_methods.py            exits 1 when a file differs
python docs/client_methods.py --write    writes the files
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from busbar.bus import params
from busbar.bus.contract import OPERATIONS, Operation
from busbar.bus.roles import Role

HERE = Path(__file__).parent.parent / "bus" / "client" / "operations"
ALIASES = {
    Role: "Role",
    **{
        getattr(params, name): f"p.{name}"
        for name in ("ClusterStatus", "WorkerStatus", "NodeStatusName", "ExplainedKind", "Placement")
    },
}
FILES = {
    "groups": ("GroupOperations", "worker groups and their workers"),
    "clusters": ("ClusterOperations", "clusters and their nodes"),
    "plans": ("PlanOperations", "changes planned, and those of many objects"),
    "realm": ("RealmOperations", "nodes, principals, events and the manager"),
}


def file_of(row: Operation) -> str:
    """Which file an operation's method stands in."""
    if "workergroup" in row.name or "worker" in row.name:
        return "groups"
    if "routercluster" in row.name:
        return "clusters"
    return "plans" if row.name.startswith(("plan_", "apply_")) else "realm"


@dataclass(frozen=True, slots=True)
class Argument:
    """A keyword parameter of a method. `nested`: the definition that it is a member of."""

    name: str
    kind: str
    default: str | None
    nested: str | None = None


def annotation(kind: Any) -> str:
    """A type as it stands in a signature, without the contract's bounds."""
    if kind in ALIASES:
        return ALIASES[kind]
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return annotation(inner[0])
    if origin in (typing.Union, types.UnionType):
        return " | ".join(dict.fromkeys(annotation(each) for each in inner))
    if origin in (list, dict):
        return f"{origin.__name__}[{', '.join(annotation(each) for each in inner)}]"
    if kind is type(None):
        return "None"
    return "Any" if kind is Any else str(kind.__name__)


def nested_struct(kind: Any) -> type[params.Params] | None:
    """The definition that a parameter is, or may be."""
    options = typing.get_args(kind) or (kind,)
    return next(
        (each for each in options if isinstance(each, type) and issubclass(each, params.Params)), None
    )


def arguments(row: Operation) -> list[Argument]:
    """The keyword parameters: members of definitions stand among the others; those without default first."""
    found = []
    for field in fields(row.params):
        inner = nested_struct(field[1])
        if inner is None:
            found.append(Argument(field[0], annotation(field[1]), field[2]))
        else:
            found += [Argument(n, annotation(kind), default, field[0]) for n, kind, default in fields(inner)]
    return sorted(found, key=lambda argument: argument.default is not None)


def fields(struct: type[params.Params]) -> Iterator[tuple[str, Any, str | None]]:
    """Name, type and default (as code) of each member."""
    kinds = typing.get_type_hints(struct, include_extras=True)
    for field in msgspec.structs.fields(struct):
        default = (
            None if field.required else ("UNSET" if field.default is msgspec.UNSET else repr(field.default))
        )
        yield field.name, kinds[field.name], default


def result_of(row: Operation) -> str:
    """The result's type as code."""
    inner = typing.get_args(row.result)
    if typing.get_origin(row.result) is dict:
        return annotation(row.result)
    name = (inner[0] if inner else row.result).__name__
    name = name if name in ("str", "Event") else f"p.{name}"
    return f"list[{name}]" if inner else name


def docstring(row: Operation) -> Iterator[str]:
    """What it does, what its parameters mean, and its errors."""
    about = [doc for struct in structs(row) if (doc := struct.__dict__.get("__doc__"))]
    paragraphs = [" ".join(textwrap.dedent(text).split()) for text in about]
    last = ", ".join(f"`{code}`" for code in row.errors)
    errors = (
        f"BusError: {last}, or what any operation answers."
        if last
        else "BusError: what any operation answers."
    )
    yield f'        """{row.help}'
    for text in paragraphs:
        yield ""
        yield from textwrap.wrap(text, 106, initial_indent=" " * 8, subsequent_indent=" " * 8)
    yield ""
    yield "        Raises:"
    yield from textwrap.wrap(errors, 106, initial_indent=" " * 12, subsequent_indent=" " * 16)
    yield '        """'


def structs(row: Operation) -> list[type[params.Params]]:
    """The parameters' Struct and its definitions."""
    return [row.params, *filter(None, (nested_struct(kind) for _, kind, _ in fields(row.params)))]


def construction(row: Operation) -> str:
    """The code that makes the parameters' Struct."""
    parts = []
    for name, kind, _ in fields(row.params):
        inner = nested_struct(kind)
        if inner is None:
            parts.append(f"{name}={name}")
        else:
            members = ", ".join(f"{member}={member}" for member, *_ in fields(inner))
            parts.append(f"{name}=p.{inner.__name__}({members})")
    return f"p.{row.params.__name__}({', '.join(parts)})"


def method(row: Operation) -> Iterator[str]:
    """One method."""
    yield f"    async def {row.name}("
    yield "        self,"
    yield "        *,"
    for each in arguments(row):
        yield f"        {each.name}: {each.kind}" + (f" = {each.default}," if each.default else ",")
    if row.change:
        yield "        expect_version: int | None = None,"
    yield "        timeout: float | None = None,"
    if row.change:
        yield "        request_id: str | None = None,"
    yield f"    ) -> {result_of(row)}:"
    yield from docstring(row)
    more = ", expect_version, request_id" if row.change else ""
    made = "made" if "params" in row.params.__struct_fields__ else "params"
    yield f"        {made} = {construction(row)}"
    yield f'        return await self._operate("{row.name}", {made}, {result_of(row)}, timeout{more})'
    yield ""


def source(name: str) -> str:
    """One file's text."""
    class_name, about = FILES[name]
    rows = [row for row in OPERATIONS.values() if file_of(row) == name]
    body = [line for row in rows for line in method(row)]
    code = "\n".join(body)
    lines = [
        f'"""The operations on {about}."""',
        "# Written by docs/client_methods.py from the contract's table; change that instead.",
        "",
        "from __future__ import annotations",
        "",
        *(["from typing import Any", ""] if "Any]" in code else []),
        *(["from msgspec import UNSET, UnsetType", ""] if "UNSET" in code else []),
        "from ... import params as p",
        *(["from ...messages import Event"] if "[Event]" in code else []),
        *(["from ...roles import Role"] if ": Role" in code else []),
        "from .base import Operations",
        "",
        "",
        f"class {class_name}(Operations):",
        f'    """The operations on {about}."""',
        "",
    ]
    return formatted("\n".join(lines) + "\n" + code)


def formatted(code: str) -> str:
    """As `ruff format` has it."""
    command = [sys.executable, "-m", "ruff", "format", "--quiet", "--stdin-filename", str(HERE / "x.py"), "-"]
    done = subprocess.run(command, input=code, capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


def render() -> dict[str, str]:
    """Every file's text by its name."""
    return {f"{name}.py": source(name) for name in FILES}


def main() -> int:
    """Compare or write."""
    known = {name: (HERE / name).read_text() if (HERE / name).exists() else "" for name in render()}
    stale = {name: text for name, text in render().items() if known[name] != text}
    if "--write" in sys.argv:
        for name, text in stale.items():
            (HERE / name).write_text(text)
        print(f"wrote {len(stale)} of {len(known)} files of bus/client/operations")
        return 0
    for name in stale:
        print(f"bus/client/operations/{name} is stale: run make reference")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
