"""What an import of a router's own configuration finds, and how it is made a valid definition. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from busbar.bus.errors import BusError, pointer_step
from busbar.bus.listeners import PARTS, served
from busbar.bus.routers.exposure import not_written_out, place
from busbar.bus.routers.runtimes import check_for_runtime
from busbar.bus.routers.transport import check_transport


class NotImportedError(Exception):
    """Without what can't be taken over, the definition would let in more clients than the file."""


@dataclass(slots=True)
class Imported:
    """A definition, what could not be taken over (where, why), and the files that it needs on the nodes."""

    runtime: str
    transport: dict[str, Any] = field(default_factory=dict)
    left: list[tuple[str, str]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    sources: dict[int, str] = field(default_factory=dict)
    """Where an object of the transport stood in the file, by its identity."""
    places: dict[str, str] = field(default_factory=dict)
    """Where an option of the transport stood in the file, by its name."""
    named: dict[str, str] = field(default_factory=dict)
    """The source of each name below the secrets_root."""
    needed_as: dict[str, str] = field(default_factory=dict)
    """The name below the secrets_root, by the text in `files` that asks for it."""

    def leave(self, where: str, why: str) -> None:
        """Note what is not taken over."""
        self.left.append((where, why))

    def need(self, name: str, source: str, *, several: bool = False) -> str:
        """Note a file that is to be made below the secrets_root, and return its name.

        `several`: others of that name may come from other sources, and get a number before it.
        """
        folder, _, base = name.rpartition("/")
        number = 1
        while several and self.named.setdefault(name, source) != source:
            number += 1
            name = f"{folder}/{number}-{base}".lstrip("/")
        text = f"{name} below the secrets_root of the nodes: {source}"
        if text not in self.needed_as:
            self.files.append(text)
            self.needed_as[text] = name
        return name


def finish(found: Imported) -> Imported:
    """Take away what the contract refuses, each with its reason, until the definition is valid."""
    for _ in range(10_000):
        try:
            plain = check_transport(found.transport, "")
            check_for_runtime(plain, found.runtime, "")
            break
        except BusError as error:
            _take_away(found, error.pointers[0], error.detail)
    used = set(_texts(found.transport))
    found.files = [each for each in found.files if found.needed_as.get(each) in {None, *used}]
    for each in not_written_out(found.transport, found.runtime):
        holder = found.transport["listeners"][each.name] if each.is_named else found.transport
        holder["anonymous"] = True
        found.files.append(f"it lets everybody in on {place(each)}, as the file did: 'anonymous' says so")
    return found


def _texts(part: object) -> Iterator[str]:
    """The strings of a definition, but for the names of its members."""
    if isinstance(part, str):
        yield part
    elif isinstance(part, (dict, list)):
        for each in part.values() if isinstance(part, dict) else part:
            yield from _texts(each)


def _take_away(found: Imported, pointer: str, detail: str) -> None:
    steps = [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]
    unit = _unit(steps)
    if unit in _KEPT:
        raise NotImportedError(
            f"{_source(found, steps)}: {detail}; without it the routers would be more open"
        )
    found.leave(_source(found, steps), detail)
    _delete(found.transport, unit)
    if not any(each.kind == "web" for each in served(found.transport)):
        found.transport.pop("paths", None)
    for name in ("realms", "paths", "listeners"):
        if found.transport.get(name) in ([], {}):
            told = "; ".join(f"{where}: {why}" for where, why in found.left)
            raise NotImportedError(f"none of its {name} can be taken over: {told}"[:2000])


def _delete(transport: dict[str, Any], steps: list[str]) -> None:
    """Delete what stands there; what holds it where it is missing, which nobody can make up."""
    holder: Any = transport
    for step in steps[:-1]:
        holder = holder[int(step)] if isinstance(holder, list) else holder[step]
    if isinstance(holder, list):
        del holder[int(steps[-1])]
    elif steps[-1] in holder:
        del holder[steps[-1]]
    else:
        _delete(transport, steps[:-1])


_KEPT: Final = (
    ["realms"],
    ["paths"],
    ["listeners"],
    ["options"],
    *(["options", name] for name in ("password_file", "acl_file", "use_identity_as_username")),
)
"""What can't be taken away: the default in its place would let in more clients."""


def _unit(steps: list[str]) -> list[str]:
    """What goes as a whole: nothing that is left may let in or permit more than before."""
    if steps[0] == "realms":
        return _unit_of_realm(steps)
    if steps[0] == "paths":
        return _unit_of_path(steps)
    if steps[0] == "listeners":
        if steps[2:3] and steps[2] in PARTS:
            return steps[:5] if steps[3:4] == ["auth"] and len(steps) > 4 else steps[:3]
        if steps[2:3] == ["auth"] and len(steps) > 3:
            return steps[:4]
        lesser = (["backlog"], ["options", "max_connections"])
        return steps if steps[2:] in lesser else steps[:3] if steps[2:3] == ["serializers"] else steps[:2]
    if steps[0] == "endpoint":
        return steps[:2] if steps[1:2] == ["backlog"] else steps[:1]
    return steps[:2]


def _unit_of_realm(steps: list[str]) -> list[str]:
    if steps[2:3] == ["roles"]:
        return (
            steps[:6]
            if steps[4:5] == ["permissions"] and len(steps) > 5
            else steps[: min(len(steps), 4) & ~1]
        )
    return steps[:4] if steps[2:3] == ["options"] and len(steps) > 3 else steps[:2]


def _unit_of_path(steps: list[str]) -> list[str]:
    end = 2
    while steps[end : end + 1] == ["paths"] and len(steps) > end + 1:
        end += 2
    rest = steps[end:]
    if rest[:1] in (["options"], ["auth"]) and len(rest) > 1:
        return steps[: end + 2]
    return steps[: end + 1] if rest[:1] in (["cookie"], ["serializers"]) else steps[:end]


def _source(found: Imported, steps: list[str]) -> str:
    """The place in the file of what stands at these steps of the transport."""
    if steps[:1] == ["options"] and steps[-1] in found.places:
        return found.places[steps[-1]]
    value: Any = found.transport
    best, rest = "", steps
    for index, step in enumerate(steps):
        if isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        elif isinstance(value, Mapping) and step in value:
            value = value[step]
        else:
            break
        if id(value) in found.sources:
            best, rest = found.sources[id(value)], steps[index + 1 :]
    return best + "".join(f"/{pointer_step(step)}" for step in rest)
