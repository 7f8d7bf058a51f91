"""A realm's definitions as one document: clusters with members and groups, labels, roles. Pure.

Names are keys, so a pointer such as `/clusters/edge/groups/web/scale` says where something stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from ..decode import convert
from ..errors import BusError, pointer_step
from ..messages import Name
from ..params import Deadline, Description, Label, Labels, Limit, Params, Scale, Seconds, Tags
from ..placement import Placement, normal_placement
from ..roles import Role
from .exposure import check_exposure
from .runtimes import check_for_runtime, check_served, default_runtime
from .transport import check_transport

LOST_AFTER: Final = 30.0
"""Default: seconds after which the workers of a lost node move."""
START_DEADLINE: Final = 60.0
"""Default: seconds after which a group with no ready worker is in ERROR."""
MAX_UNAVAILABLE: Final = 1
"""Default: workers below the scale that an update may leave not ready."""
MAX_SURGE: Final = 0
"""Default: workers above the scale that an update may use."""
MESHED: Final = frozenset({"nats"})
"""The runtimes whose groups are meshed unless their definition says otherwise."""
MAX_OBJECTS: Final = 1_000
"""Clusters, members, groups, nodes and principals of one document together."""
_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
SCHEMA_MEMBER: Final = "$schema"
"""What editors look for at the top of a JSON file; no part of the definitions."""

Transport = dict[str, Any]
Text = Annotated[Label, Meta(description="a name for people")]
Running = Annotated[bool, Meta(description="whether it is started; left out: as it is")]
Owner = Annotated[Name, Meta(description="the name of this file: pruning removes only what it has created")]


class MemberSpec(Params, omit_defaults=True):
    """A node of a cluster; limits are numbers of workers of that cluster on it."""

    hardlimit: Limit | None = None
    softlimit: Limit | None = None


class Strategy(Params):
    """How an update replaces workers: so many below the scale not ready, so many above it there."""

    max_unavailable: Limit = MAX_UNAVAILABLE
    max_surge: Limit = MAX_SURGE


class GroupSpec(Params, omit_defaults=True):
    """A worker group. `lost_after` and `start_deadline` are seconds; left out, its transport is the
    cluster's."""

    scale: Scale
    runtime: Name | None = None
    label: Text | None = None
    description: Description | None = None
    tags: Tags | None = None
    lost_after: Seconds = LOST_AFTER
    start_deadline: Deadline = START_DEADLINE
    mesh: bool | None = None
    """Left out: as its runtime is meant to be."""
    stopped: bool | None = None
    """Whether it is stopped by itself while its cluster runs; left out: as it is."""
    strategy: Strategy | None = None
    placement: Placement | None = None
    """Left out: on any node of the cluster."""
    transport: Transport | None = None


class ClusterSpec(Params, omit_defaults=True):
    """A router cluster with its members and groups. What is left out is not there, but for `running`."""

    running: Running | None = None
    label: Text | None = None
    description: Description | None = None
    tags: Tags | None = None
    transport: Transport | None = None
    nodes: dict[Name, MemberSpec] = msgspec.field(default_factory=dict)
    groups: dict[Name, GroupSpec] = msgspec.field(default_factory=dict)


class NodeSpec(Params, omit_defaults=True):
    """A paired node."""

    labels: Labels | None = None


class PrincipalSpec(Params):
    """A user of the bus."""

    role: Role


class Definitions(Params, omit_defaults=True):
    """The document."""

    busbar: Literal[1]
    owner: Owner | None = None
    clusters: dict[Name, ClusterSpec] = msgspec.field(default_factory=dict)
    nodes: dict[Name, NodeSpec] = msgspec.field(default_factory=dict)
    principals: dict[Name, PrincipalSpec] = msgspec.field(default_factory=dict)


class _Head(Params):
    """The document without its objects: each is read by itself, so that errors name it."""

    busbar: Literal[1]
    owner: Name | None = None


class _ClusterOutline(ClusterSpec):
    """A cluster with its members and groups still unread."""

    nodes: dict[Name, Any] = msgspec.field(default_factory=dict)
    groups: dict[Name, Any] = msgspec.field(default_factory=dict)


_SECTIONS: Final = ("clusters", "nodes", "principals")


def step(pointer: str, *names: str) -> str:
    """A pointer further down."""
    return pointer + "".join(f"/{pointer_step(name)}" for name in names)


class _Reader:
    """Reads a document as far as it goes, and collects what is wrong with it."""

    def __init__(self, *, by_table: bool) -> None:
        self.errors: list[BusError] = []
        self.by_table = by_table

    def convert(self, value: Any, kind: type[Any], at: str) -> Any:
        """The value as that type; None, with the error noted, where it is none."""
        try:
            return convert(value, kind, at)
        except BusError as error:
            self.errors.append(_with_help(error, value, kind, at))
            return None

    def document(self, value: Mapping[str, Any], at: str) -> Definitions:
        plain = {key: each for key, each in value.items() if key != SCHEMA_MEMBER}
        objects = {name: self.section(plain.pop(name, None), f"{at}/{name}") for name in _SECTIONS}
        outline = self.convert(plain, _Head, at) or _Head(busbar=1)
        kinds = {"nodes": NodeSpec, "principals": PrincipalSpec}
        nodes, principals = (
            {name: self.named(each, kind, f"{at}/{section}", name) for name, each in objects[section].items()}
            for section, kind in kinds.items()
        )
        clusters = {
            name: self.cluster(each, f"{at}/clusters", name) for name, each in objects["clusters"].items()
        }
        return Definitions(1, outline.owner, _known(clusters), _known(nodes), _known(principals))

    def section(self, value: Any, at: str) -> dict[str, Any]:
        """Objects by name."""
        found: dict[str, Any] | None = self.convert({} if value is None else value, dict[Name, Any], at)
        return found or {}

    def named(self, value: Any, kind: type[Any], at: str, name: str) -> Any:
        """One object of a section; `name:` without a value is one with no members."""
        return self.convert({} if value is None else value, kind, step(at, name))

    def cluster(self, value: Any, at: str, name: str) -> ClusterSpec | None:
        at = step(at, name)
        found: _ClusterOutline | None = self.convert({} if value is None else value, _ClusterOutline, at)
        if found is None:
            return None
        nodes = {key: self.member(each, f"{at}/nodes", key) for key, each in found.nodes.items()}
        groups = {key: self.named(each, GroupSpec, f"{at}/groups", key) for key, each in found.groups.items()}
        cluster = ClusterSpec(
            found.running, found.label, found.description, found.tags, found.transport, _known(nodes),
            _known(groups),
        )  # fmt: skip
        self.errors.extend(_transports(cluster, at, by_table=self.by_table))
        for key, group in cluster.groups.items():
            self.errors.extend(_strategy(group, step(at, "groups", key)))
        return cluster

    def member(self, value: Any, at: str, name: str) -> MemberSpec | None:
        member: MemberSpec | None = self.named(value, MemberSpec, at, name)
        if member is not None and member.hardlimit is not None and (member.softlimit or 0) > member.hardlimit:
            detail = f"softlimit {member.softlimit} is above hardlimit {member.hardlimit}"
            self.errors.append(BusError("invalid_argument", detail, [step(at, name, "softlimit")]))
        return member


def _with_help(error: BusError, value: Any, kind: type[Any], at: str) -> BusError:
    """The error, with what may stand there where that is a frequent mistake."""
    more, pointers = "", tuple(error.pointers)
    if kind is _Head and isinstance(value, Mapping) and "busbar" not in value:
        more = ": a file of definitions begins with 'busbar: 1'"
    elif error.detail == "Expected 'object', got 'array'":
        more = ": names with a colon each, such as {a: {}, b: {}}, and no list"
    elif isinstance(value, Mapping) and issubclass(_struct(kind), msgspec.Struct):
        names = [field.encode_name for field in msgspec.structs.fields(kind)]
        names += _SECTIONS if kind is _Head else ()
        wrong = next((key for key in value if pointers == (step(at, str(key)),) and key not in names), None)
        if wrong is not None:
            from difflib import get_close_matches

            close = get_close_matches(str(wrong), names, 1)
            more = f": did you mean '{close[0]}'?" if close else f": there are {', '.join(sorted(names))}"
    return BusError(error.code, f"{error.detail}{more}", list(pointers)) if more else error


def _struct(kind: Any) -> type[Any]:
    return kind if isinstance(kind, type) else object


def read_all(
    value: Mapping[str, Any], at: str = "", *, by_table: bool = False
) -> tuple[Definitions, list[BusError]]:
    """The definitions of a plain document, and everything that is wrong with it. `at` is its own pointer.

    `by_table`: also what this version's runtimes would refuse; nodes may run others.
    """
    reader = _Reader(by_table=by_table)
    found = reader.document(value, at)
    count = len(list(pointers(found)))
    if count > MAX_OBJECTS:
        detail = f"{count} objects in one document; at most {MAX_OBJECTS}: split it"
        reader.errors.append(BusError("invalid_argument", detail, [at]))
    return found, reader.errors


def read(value: Mapping[str, Any], at: str = "") -> Definitions:
    """As `read_all`. Raises BusError: the first thing that is wrong."""
    found, errors = read_all(value, at)
    if errors:
        raise errors[0]
    return found


def _known(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in found.items() if each is not None}


def _strategy(group: GroupSpec, at: str) -> Iterator[BusError]:
    if group.strategy == Strategy(0, 0):
        detail = "max_unavailable and max_surge are both 0: no worker could ever be replaced"
        yield BusError("invalid_argument", detail, [f"{at}/strategy"])


def _transports(cluster: ClusterSpec, at: str, *, by_table: bool) -> Iterator[BusError]:
    """What is wrong with the transports of a cluster and its groups."""
    followers = [group for group in cluster.groups.values() if group.transport is None]
    try:
        if cluster.transport is not None:
            check_transport(cluster.transport, f"{at}/transport")
            check_for_runtime(cluster.transport, "", f"{at}/transport")
            if not followers:
                check_exposure(cluster.transport, f"{at}/transport")
    except BusError as error:
        yield error
        return
    for name, group in cluster.groups.items():
        own = step(at, "groups", name)
        where = f"{own if group.transport is not None else at}/transport"
        try:
            transport = (
                cluster.transport if group.transport is None else check_transport(group.transport, where)
            )
            runtime = group.runtime or default_runtime(transport)
            if by_table:
                check_served(runtime, transport, where, f"{own}/runtime" if group.runtime else where)
            check_exposure(transport, where, runtime)
        except BusError as error:
            yield error


def pointers(found: Definitions) -> Iterator[str]:
    """The pointers of all objects."""
    for name, cluster in found.clusters.items():
        at = step("/clusters", name)
        yield at
        yield from (step(at, "nodes", each) for each in cluster.nodes)
        yield from (step(at, "groups", each) for each in cluster.groups)
    yield from (step("/nodes", name) for name in found.nodes)
    yield from (step("/principals", name) for name in found.principals)


def normal(found: Definitions) -> Definitions:
    """The same definitions in the one form that is written and compared: names sorted, runtimes named,
    defaults left out."""
    return replace(
        found,
        clusters={name: normal_cluster(each) for name, each in sorted(found.clusters.items())},
        nodes={
            name: replace(each, labels=_sorted(each.labels)) for name, each in sorted(found.nodes.items())
        },
        principals=dict(sorted(found.principals.items())),
    )


def normal_cluster(found: ClusterSpec) -> ClusterSpec:
    """As `normal`."""
    transport = found.transport or None
    return replace(
        found,
        transport=transport,
        tags=found.tags or None,
        nodes=dict(sorted(found.nodes.items())),
        groups={name: _normal_group(each, transport) for name, each in sorted(found.groups.items())},
    )


def _normal_group(found: GroupSpec, transport: Transport | None) -> GroupSpec:
    own = found.transport or None
    runtime = found.runtime or default_runtime(own or transport)
    return replace(
        found,
        runtime=runtime,
        transport=own,
        tags=found.tags or None,
        lost_after=_or_default(found.lost_after, LOST_AFTER),
        start_deadline=_or_default(found.start_deadline, START_DEADLINE),
        mesh=None if found.mesh == (runtime in MESHED) else found.mesh,
        strategy=None if found.strategy == Strategy() else found.strategy,
        placement=normal_placement(found.placement),
    )


def _or_default(value: float, default: float) -> float:
    """The same number; the default as the very object by which msgspec leaves it out."""
    return default if value == default else float(value)


def _sorted(labels: Mapping[str, str] | None) -> dict[str, str] | None:
    return dict(sorted(labels.items())) if labels else None


def plain(found: Definitions) -> dict[str, Any]:
    """The document as plain values, in its normal form: the same bytes for the same definitions."""
    document: dict[str, Any] = msgspec.to_builtins(normal(found))
    return document


def document_schema() -> dict[str, Any]:
    """The JSON Schema of the document."""
    schema = msgspec.json.schema(Definitions)
    parts = schema["$defs"]
    root = parts["Definitions"]
    root["properties"] = {SCHEMA_MEMBER: {"type": "string"}, **root["properties"]}
    for part, section in (("Definitions", "clusters"), ("Definitions", "nodes"), ("ClusterSpec", "nodes")):
        member = parts[part]["properties"][section]
        member["additionalProperties"] = {"anyOf": [member["additionalProperties"], {"type": "null"}]}
    return {"$schema": _DRAFT, "title": "Busbar definitions", **schema}
