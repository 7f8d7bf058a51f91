"""Every payload of the contract except parameters and results of operations (see `bus.params`). Pure.

Requests and reports are decoded strictly: wrong types are refused. Payloads between Busbar's own parts ignore
unknown members, so that an agent and a manager of different versions interoperate.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from .listeners import DEFAULT, LISTENER_NAME, MAX_LISTENERS
from .topics import NAME_PATTERN

Name = Annotated[str, Meta(pattern=NAME_PATTERN, description="[a-z0-9][a-z0-9_-]{0,63}")]
RequestId = Annotated[str, Meta(min_length=1, max_length=64)]
MAX_COUNT = 2**53
Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
Text = Annotated[str, Meta(max_length=4096)]
Url = Annotated[str, Meta(max_length=1024)]
ListenerName = Annotated[str, Meta(pattern=LISTENER_NAME, description="[a-z][a-z0-9-]{0,31}")]

WORKER_NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,75}(?![\s\S])"
WorkerName = Annotated[str, Meta(pattern=WORKER_NAME_PATTERN, description="{worker group}-{ordinal}")]
"""A worker is named after its group and its ordinal, so its name may be longer than other names."""


class Expect(Struct, frozen=True, forbid_unknown_fields=True):
    """The precondition of a change: the object must have this version."""

    version: Count


class Request(Struct, frozen=True):
    """A request; unknown members of this envelope are ignored."""

    id: RequestId | UnsetType = UNSET
    reply: Name = "default"
    ttl_ms: Annotated[int, Meta(ge=1, le=86_400_000)] | UnsetType = UNSET
    params: dict[str, Any] = msgspec.field(default_factory=dict)
    expect: Expect | None = None
    principal: Annotated[str, Meta(max_length=64)] | UnsetType = UNSET
    """The oid of the principal that asks. Required of changes where its name had another holder before."""


class Who(Struct, frozen=True):
    """Who caused a change. `session` is the inbox the reply went to."""

    authid: str
    authrole: str
    session: str


class Response(Struct, frozen=True):
    """A reply; `result` when ok, `error` otherwise."""

    id: str
    op: str
    ok: bool
    manager: str
    epoch: int
    result: Any | UnsetType = UNSET
    error: dict[str, Any] | UnsetType = UNSET


class Event(Struct, frozen=True):
    """A lifecycle event: CloudEvents 1.0, structured mode, JSON."""

    id: str
    source: str
    sequence: str
    type: str
    subject: str
    time: str
    data: dict[str, Any]
    specversion: str = "1.0"
    datacontenttype: str = "application/json"


class Endpoint(Struct, frozen=True):
    """Where a ready worker can be reached: one of its listeners, by name."""

    worker: str
    node: str
    url: str
    name: str = DEFAULT


class Status(Struct, frozen=True):
    """The retained status of one object. Members that do not apply to its kind are omitted.

    `listeners` (their URLs by name) is present where a worker has named ones.
    `updated` is present during a rolling update: how many workers are assigned the group's `revision`.
    `surplus` is present while workers beyond the group's scale are still to stop: how many.
    `mesh` is present where a group is meshed; a group's figures are the sums over its workers.
    `draining` (the reason) and `drained` are present while a node is drained, `cordoned` (the reason) while
    it takes no new workers.
    `moving_to` is present while a worker is to move to that node.
    """

    version: int
    epoch: int
    sequence: str
    status: str
    name: str
    time: str
    conditions: list[str] = msgspec.field(default_factory=list)
    oid: str | UnsetType = UNSET
    cluster: str | UnsetType = UNSET
    scale: int | UnsetType = UNSET
    ready: int | UnsetType = UNSET
    endpoints: list[Endpoint] | UnsetType = UNSET
    workergroup: str | UnsetType = UNSET
    node: str | None | UnsetType = UNSET
    address: str | None | UnsetType = UNSET
    listeners: dict[str, str] | UnsetType = UNSET
    pid: int | None | UnsetType = UNSET
    restarts: int | UnsetType = UNSET
    generation: int | UnsetType = UNSET
    reason: str | None | UnsetType = UNSET
    revision: int | UnsetType = UNSET
    updated: int | UnsetType = UNSET
    surplus: int | UnsetType = UNSET
    mesh: MeshSeen | UnsetType = UNSET
    draining: str | UnsetType = UNSET
    drained: bool | UnsetType = UNSET
    cordoned: str | UnsetType = UNSET
    moving_to: str | UnsetType = UNSET


class ManagerState(Struct, frozen=True):
    """A manager's retained state; its will is the same with `offline`."""

    state: str
    manager: str
    store: str
    epoch: int
    limits: dict[str, int] = msgspec.field(default_factory=dict)
    version: str | UnsetType = UNSET
    started: str | UnsetType = UNSET


class Peer(Struct, frozen=True):
    """Another worker of a meshed group: its node, and its listeners' URLs by name."""

    worker: WorkerName
    node: Name
    listeners: Annotated[dict[str, Annotated[str, Meta(max_length=1024)]], Meta(max_length=16)]


Peers = dict[str, list[Peer]]
"""By `cluster/group`: all known workers of each meshed group that has one on a node."""

Members = dict[str, list[str]]
"""By `cluster/group`: the oids of all workers that a meshed group is to have, on whatever nodes they are."""


class AssignedWorker(Struct, frozen=True):
    """One worker assigned to a node."""

    worker: WorkerName
    oid: str
    cluster: Name
    workergroup: Name
    generation: Count
    runtime: Name
    digest: str
    desired: str = "running"
    transport: dict[str, Any] | None = None
    definition: str | UnsetType = UNSET
    """The key in the assignment's `definitions` that holds its transport (see `bus.assignments`)."""


class Assignment(Struct, frozen=True):
    """A node's complete desired state. Only an explicit `"workers": []` means: run none."""

    store: Annotated[str, Meta(min_length=1, max_length=64)]
    epoch: Count
    version: Count
    workers: Annotated[list[AssignedWorker], Meta(max_length=10_000)]
    heartbeat_ms: Annotated[int, Meta(ge=50, le=3_600_000)] = 5000
    definitions: dict[str, dict[str, Any]] | UnsetType = UNSET
    peers: Peers | UnsetType = UNSET
    """Left out where no group of its workers is meshed. No part of a digest: a change restarts nothing."""
    members: Members | UnsetType = UNSET
    """Left out likewise. A worker of a group named here that is not one of its members is gone for good."""


class Applied(Struct, frozen=True):
    """The assignment that an agent has applied."""

    epoch: Count = 0
    version: Count = 0


QUEUED = "queued: "
NOT_READY = "not ready yet: "
NOT_REPLACED = "not replaced: "
"""How the reason of a running worker begins whose next definition its node has found bad."""
PASSING_REASONS = (QUEUED, NOT_READY, NOT_REPLACED)
"""How the reasons of a starting worker begin that hold only for as long as its agent repeats them."""


def serves(state: str, reason: str | None) -> bool:
    """Whether clients may use a worker: it is ready, or its node keeps its former process, which was."""
    return state == "RUNNING" or (state == "STARTING" and (reason or "").startswith(NOT_REPLACED))


NOT_RELOADED = "not reloaded: "
"""Part of a running worker's reason when files of its node have changed and can't be used."""
OUTDATED = "outdated start: "
"""Part of a running worker's reason when its node would start it otherwise now."""


MAX_MISSING = 8


class MeshSeen(Struct, frozen=True):
    """Of `of` peers that a worker was told of it is connected to `connected` (null: its runtime does not
    say); `missing` names the first of the others."""

    of: Count
    connected: Count | None = None
    missing: Annotated[list[Annotated[str, Meta(max_length=128)]], Meta(max_length=MAX_MISSING)] = (
        msgspec.field(default_factory=list)
    )


class Traffic(Struct, frozen=True):
    """What a router says of its clients: how many are connected, and, since its start, the messages and bytes
    that they have sent (in) and got (out), and those cut off because they did not read (`slow_consumers`)."""

    connections: Count
    messages_in: Count
    messages_out: Count
    bytes_in: Count
    bytes_out: Count
    slow_consumers: Count


class ReportedWorker(Struct, frozen=True):
    """One worker as its agent sees it. `state` is one of STARTING, RUNNING, BACKOFF, STOPPING, STOPPED.

    `oid` and `cluster` distinguish workers of the same name; without them, workers are matched by name.
    `listeners` has the URL of each named listener, the primary's (`address`) included.
    `traffic` is present where its runtime tells it.
    """

    worker: WorkerName
    state: Annotated[str, Meta(max_length=16)]
    generation: Count = 0
    pid: int | None = None
    address: Url | None = None
    restarts: Count = 0
    reason: Text | None = None
    oid: str | None = None
    cluster: str | None = None
    uptime_ms: Count | None = None
    cpu_s: float | None = None
    rss: Count | None = None
    listeners: Annotated[dict[ListenerName, Url], Meta(max_length=MAX_LISTENERS)] | UnsetType = UNSET
    mesh: MeshSeen | UnsetType = UNSET
    traffic: Traffic | UnsetType = UNSET


MAX_SCHEMAS = 16
"""Schemas in one report."""


class RuntimeDetail(Struct, frozen=True, omit_defaults=True):
    """A runtime of a node: its program's version, why it can't run there, and its schema's digest.

    `schema` is `bus.decode.digest` of the JSON Schema of what its transport may say; None: anything.
    """

    version: Annotated[str, Meta(max_length=128)] | None = None
    unavailable: Text | None = None
    schema: Annotated[str, Meta(max_length=128)] | None = None


class Reported(Struct, frozen=True):
    """A node's complete observed state.

    `details` has every runtime by name; absent: the agent knows none, null: they are as last reported.
    `schemas` are those that a command has asked for, by digest.
    """

    boot: Annotated[str, Meta(min_length=1, max_length=64)]
    conn: Count
    workers: Annotated[list[ReportedWorker], Meta(max_length=10_000)]
    store: str | None = None
    applied: Applied = Applied()
    refused: Text | None = None
    capacity: dict[str, Any] | None = None
    runtimes: Annotated[list[Name], Meta(max_length=256)] = msgspec.field(default_factory=list)
    digest: Annotated[str, Meta(max_length=128)] = ""
    labels: dict[str, str] | None = None
    conditions: Annotated[list[Text], Meta(max_length=64)] = msgspec.field(default_factory=list)
    details: Annotated[dict[Name, RuntimeDetail], Meta(max_length=256)] | None | UnsetType = UNSET
    schemas: Annotated[dict[str, dict[str, Any]], Meta(max_length=MAX_SCHEMAS)] | UnsetType = UNSET


class Heartbeat(Struct, frozen=True):
    """Liveness, and the applied assignment. `digest` is that of the last report."""

    boot: Annotated[str, Meta(min_length=1, max_length=64)]
    conn: Count
    seq: Count = 0
    uptime_ms: Count = 0
    applied: Applied = Applied()
    digest: Annotated[str, Meta(max_length=128)] = ""


class NodeState(Struct, frozen=True):
    """A node's birth (`ready`), will (`lost`) or clean disconnect (`disconnected`).

    `leaves` goes with `disconnected`: one of `Leaves`, or a word of a later version.
    """

    state: str
    boot: Annotated[str, Meta(min_length=1, max_length=64)]
    conn: Count
    leaves: Annotated[str, Meta(max_length=64)] | UnsetType = UNSET


class Command(Struct, frozen=True, omit_defaults=True):
    """A hint to an agent, never a change of desired state: losing one is harmless."""

    resync: bool = False
    follow: WorkerName | None = None
    follow_cluster: str | None = None
    lines: Annotated[int, Meta(ge=0, le=10_000)] = 100
    since_ms: Annotated[int, Meta(ge=0)] | None = None
    """Of past lines, only those written within so many milliseconds."""
    reader: Name | None = None
    """Who asks, marked in the chunk that answers."""
    lease_ms: Annotated[int, Meta(ge=0, le=600_000)] = 30_000
    schemas: Annotated[list[Annotated[str, Meta(max_length=128)]], Meta(max_length=MAX_SCHEMAS)] = []
    """Digests of schemas that the next report is to have."""


class LogChunk(Struct, frozen=True, omit_defaults=True):
    """Lines of a worker's output, published while it is followed.

    `dropped` lines are missing before these. `number` counts the chunks of one `stream`, so that a reader
    sees what was lost on the way; a new stream begins when the agent has been restarted, or when nobody
    followed the log for a while. A chunk with a `reader` answers that one's request: past lines, and the
    number of the last chunk before it.
    """

    lines: list[str]
    worker: str
    cluster: str | None = None
    dropped: int = 0
    stream: str | None = None
    number: int = 0
    reader: str | None = None
