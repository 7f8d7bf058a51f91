"""The contexts that handlers are called with, and the look-ups they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

from busbar.bus.errors import BusError, no_such
from busbar.bus.messages import Who
from busbar.bus.plans import WorkerStep
from busbar.bus.roles import OWNER
from busbar.bus.states import NodeStatus
from busbar.bus.topics import Topics
from msgspec import Struct

from ...planner.model import Snapshot
from ...quotas import Quotas
from ...slices import Slices
from ...state.node_memory import WorkerStat
from ...store import Reads, Tx
from ...store.reads import Queries
from ...store.rows import ClusterRow, GroupRow, MemberRow, NodeRow, PrincipalRow, WorkerRow

T = TypeVar("T")
R = TypeVar("R")


class Observations(Protocol):
    """What the manager holds in memory about nodes and workers; times are monotonic seconds."""

    def stat(self, worker_oid: str) -> WorkerStat:
        """A worker's last measurements; empty when there are none."""
        ...

    def since(self, oid: str) -> float | None:
        """When an object entered its present status; None when this process did not see it."""
        ...

    def heard_at(self, node_oid: str) -> float | None:
        """A node's last sign of life; None when it was not heard since this process began."""
        ...

    @property
    def hold(self) -> str | None:
        """The reason of the mass failure hold (the brake); None when there is none."""
        ...


class ManagerIdentity(Struct, frozen=True):
    """The manager's own facts, for `get_manager`. `started` is monotonic seconds."""

    manager: str
    store: str
    epoch: int
    realm: str
    version: str
    started: float
    limits: Mapping[str, int]
    conditions: Callable[[], list[str]]
    commit: str | None = None


class Rehearse(Protocol):
    """Tries a change on a copy of the state; nothing of it is stored or sent."""

    def __call__(
        self,
        change: Callable[[Tx], Slices[tuple[T, bool]]],
        conclude: Callable[[T, list[WorkerStep], bool, Queries], R],
    ) -> Slices[R]:
        """What `conclude` makes of it. The copy is of the moment of the first slice.

        Args:
            change: what is tried. It returns a value, and whether the monitor's passes are to follow.
            conclude: is given that value, what would happen to workers, whether that is all, and the copy as
                it was before the change.
        """
        ...


class Asker(NamedTuple):
    """Who asks, for reads that depend on it."""

    principal: PrincipalRow
    who: Who
    quotas: Quotas


class ReadContext(Struct, frozen=True):
    """What a read may use. `now` is monotonic seconds, `now_ns` the wall clock. `asker` is set for heavy
    operations alone."""

    reads: Reads
    observed: Observations
    identity: ManagerIdentity
    now: float
    now_ns: int
    topics: Topics
    snapshot: Callable[[], Snapshot]
    """What the monitor decides upon, as of the last commit; not to be called within `reads.consistent`."""
    rehearse: Rehearse | None = None
    asker: Asker | None = None

    def since_ms(self, oid: str, changed_ns: int) -> int:
        """Milliseconds in the present status; since the last change if its begin was not observed."""
        since = self.observed.since(oid)
        if since is not None:
            return max(0, int((self.now - since) * 1000))
        return max(0, (self.now_ns - changed_ns) // 1_000_000)


class ChangeContext(Struct, frozen=True):
    """What a change may use: its transaction and who requested it."""

    tx: Tx
    who: Who
    principal_oid: str
    request_id: str
    quotas: Quotas

    def new_oid(self) -> str:
        return self.tx.context.new_oid()

    def check_quota(self, kind: str) -> None:
        """Raises BusError `quota_exceeded` when the caller may not own one more of a kind (see `Quotas`)."""
        if self.who.authrole != OWNER:
            self.quotas.check(self.who.authid, kind, self.tx.owned(self.principal_oid, kind))


ReadHandler = Callable[[ReadContext, Any], object]
PlanHandler = Callable[[ReadContext, Any], Slices[object]]
"""A read that takes long. Its context is for the first slice alone: later the store is another."""
ChangeHandler = Callable[[ChangeContext, Any], object]
"""Each takes the parameters of its row in the contract and returns that row's result."""


def need_cluster(store: Queries, oid: str) -> ClusterRow:
    """Raises BusError `no_such_object` when there is no such cluster."""
    row = store.cluster(oid)
    if row is None:
        raise no_such("router cluster", oid, "routercluster_oid")
    return row


def need_group(store: Queries, cluster_oid: str, oid: str) -> GroupRow:
    """Raises BusError `no_such_object` when the cluster or the group in it does not exist."""
    need_cluster(store, cluster_oid)
    row = store.group(oid)
    if row is None or row.cluster_oid != cluster_oid:
        raise no_such("worker group in this cluster", oid, "workergroup_oid")
    return row


def need_node(store: Queries, oid: str, *, paired: bool = False, member: str = "node_oid") -> NodeRow:
    """Raises BusError `no_such_object` when there is no such node (or, with `paired`, it was unpaired)."""
    row = store.node(oid)
    if row is None or (paired and row.status is NodeStatus.UNPAIRED):
        raise no_such("node", oid, member)
    return row


def need_member(store: Queries, cluster_oid: str, node_oid: str) -> MemberRow:
    """Raises BusError `no_such_object` when cluster, node or membership does not exist."""
    need_cluster(store, cluster_oid)
    need_node(store, node_oid)
    row = store.member(cluster_oid, node_oid)
    if row is None:
        raise no_such("member node of this cluster", node_oid, "node_oid")
    return row


def need_worker(store: Queries, oid: str) -> WorkerRow:
    """Raises BusError `no_such_object` when there is no such worker."""
    row = store.worker(oid)
    if row is None:
        raise no_such("worker", oid, "worker_oid")
    return row


def already_exists(what: str, pointer: str) -> BusError:
    """BusError `already_exists`; `pointer` is the parameter that names the object."""
    return BusError("already_exists", f"{what} exists", [pointer])
