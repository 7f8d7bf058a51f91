"""Makes the rows as a document says, by the single operations: their checks, their rights, their events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from busbar.bus.contract import OPERATIONS
from busbar.bus.decode import convert
from busbar.bus.errors import BusError
from busbar.bus.plans import Action, Left, MemberChange, ObjectChange, Refused, member_changes
from busbar.bus.routers.definitions import (
    MESHED,
    ClusterSpec,
    Definitions,
    GroupSpec,
    MemberSpec,
    NodeSpec,
    Strategy,
)
from busbar.bus.states import STARTED, ClusterState, NodeStatus
from msgspec import Struct, field, to_builtins
from msgspec.structs import replace

from ...slices import Slices, whole
from ...store.rows import ClusterRow, GroupRow, PrincipalRow
from .. import authorize
from . import clusters, group_orders, members, nodes, principals, workergroups
from .base import ChangeContext, ChangeHandler
from .documents import cluster_spec, group_spec

_HANDLERS: Final[Mapping[str, ChangeHandler]] = {
    name: handler
    for noun in (clusters, members, workergroups, group_orders, nodes, principals)
    for name, handler in noun.CHANGES.items()
}
_NESTED: Final = ("workergroup", "routercluster", "config", "principal", "node")
"""Parameters whose members are those of the object in the document."""
_PLAIN: Final = (
    *("label", "description", "tags", "lost_after", "start_deadline"),
    *("runtime", "transport", "placement"),
)


class Wish(Struct, frozen=True):
    """What is asked for. `exact`: what the document does not name in its clusters goes, whoever made it."""

    desired: Definitions
    prune: bool = False
    stop: bool = False
    exact: bool = False

    @property
    def owner(self) -> str | None:
        return self.desired.owner


class Carrier(Struct):
    """Carries out one wish in a transaction. `root` is the document's own pointer.

    With `keep_going` what is refused is collected; otherwise the first refusal is raised.
    """

    ctx: ChangeContext
    caller: PrincipalRow
    wish: Wish
    root: str
    keep_going: bool = False
    changes: list[ObjectChange] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)

    def carry_out(self) -> None:
        """Raises BusError: a change was refused, where that does not go on."""
        whole(self.in_slices())

    def in_slices(self) -> Slices[None]:
        """As `carry_out`, one cluster in each."""
        wanted = self.wish.desired
        for name, node in wanted.nodes.items():
            self._node(name, node)
        for name, principal in wanted.principals.items():
            self._principal(name, principal.role)
        for name, cluster in wanted.clusters.items():
            self._cluster(name, cluster)
            yield
        if not self.wish.exact:
            self._surplus_clusters()
            self._surplus_principals()

    # --- one operation

    def _do(self, op: str, at: str, **params: Any) -> bool:
        """Run an operation in the caller's name; False when it was refused."""
        row = OPERATIONS[op]
        asked = convert(params, row.params, "/params")

        def run() -> None:
            authorize.check_role(row, self.caller)
            authorize.check_owner(row, self.caller, asked, self.ctx.tx)
            _HANDLERS[op](self.ctx, asked)

        try:
            if self.keep_going:
                self.ctx.tx.attempt(run)
            else:
                run()
        except BusError as error:
            self._refuse(error.code, error.detail, _inside(at, error))
            return False
        return True

    def _refuse(self, code: str, detail: str, at: str) -> None:
        if not self.keep_going:
            raise BusError(code, detail, [self.root + at])
        self.refused.append(Refused(at, code, detail))

    def _note(
        self, action: Action, at: str, owner: str | None, changed: list[MemberChange] | None = None
    ) -> None:
        self.changes.append(ObjectChange(at, action, owner, changed or []))

    def _goes(self, at: str, owner: str | None) -> bool:
        """Whether what the document does not name is to go; what stays is listed."""
        mine = owner is not None and owner == self.wish.owner
        if self.wish.exact or (self.wish.prune and mine):
            return True
        if mine or self.wish.prune:
            self.left.append(Left(at, owner))
        return False

    # --- nodes and principals

    def _node(self, name: str, want: NodeSpec) -> None:
        at, row = f"/nodes/{name}", self.ctx.tx.node_by_name(name)
        if row is None or row.status is NodeStatus.UNPAIRED:
            if self._do("pair_node", at, node={"name": name, "labels": want.labels or {}}):
                self._note("create", at, None)
        elif (before := row.labels or {}) != (after := want.labels or {}):
            labels = {**dict.fromkeys(before), **after}
            if self._do("label_node", at, node_oid=row.oid, labels=labels):
                self._note("update", at, None, member_changes({"labels": before}, {"labels": after}))

    def _principal(self, name: str, role: str) -> None:
        at, row = f"/principals/{name}", self.ctx.tx.principal(name)
        if row is None:
            if self._do("add_principal", at, principal={"name": name, "role": role}):
                self._tag("principals", self.ctx.tx.principal(name))
                self._note("create", at, self.wish.owner)
        elif row.role != role and self._do("set_principal_role", at, principal_name=name, role=role):
            self._note("update", at, row.managed_by, [MemberChange("/role", row.role, role)])

    def _surplus_principals(self) -> None:
        for row in self.ctx.tx.principals():
            at = f"/principals/{row.name}"
            if row.name in self.wish.desired.principals or row.managed_by is None:
                continue
            if self._goes(at, row.managed_by) and self._do("remove_principal", at, principal_name=row.name):
                self._note("delete", at, row.managed_by)

    def _tag(
        self, table: Literal["clusters", "workergroups", "principals"], row: Any, owner: str | None = None
    ) -> None:
        owner = owner or self.wish.owner
        if owner is not None and row is not None:
            self.ctx.tx.set_managed_by(table, row.oid, owner)

    # --- clusters

    def _cluster(self, name: str, want: ClusterSpec) -> None:
        at, tx = f"/clusters/{name}", self.ctx.tx
        found, have = tx.cluster_by_name(name), ClusterSpec()
        if found is None:
            if not self._do("create_routercluster", at, routercluster={"name": name} | _own(want)):
                return
            self._tag("clusters", tx.cluster_by_name(name))
            self._note("create", at, self.wish.owner)
        else:
            have = cluster_spec(tx, found)
        row = tx.cluster_by_name(name)
        assert row is not None
        self._surplus_groups(row, at, want)
        if found is not None:
            self._update_cluster(row, at, have, want)
        for node, limits in want.nodes.items():
            self._member(row, f"{at}/nodes/{node}", node, have.nodes.get(node), limits)
        for group, spec in want.groups.items():
            self._group(row, f"{at}/groups/{group}", group, have.groups.get(group), spec)
        self._surplus_members(row, at, have, want)
        self._turn(row, at, want)

    def _update_cluster(self, row: ClusterRow, at: str, have: ClusterSpec, want: ClusterSpec) -> None:
        before, after = _own(have), _own(want)
        if before == after:
            return
        if before.get("transport") != after.get("transport"):
            self._pin_groups(row, at, have, want)
        names = {name: after.get(name) for name in (*before, *after) if before.get(name) != after.get(name)}
        if self._do("update_routercluster", at, routercluster_oid=row.oid, routercluster=names):
            self._note("update", at, row.managed_by, member_changes(before, after))

    def _pin_groups(self, row: ClusterRow, at: str, have: ClusterSpec, want: ClusterSpec) -> None:
        """Groups that will not follow the cluster's new transport as they are: they keep the old one until
        they are updated themselves. Where there was none, they are updated first."""
        for name, group in have.groups.items():
            new = want.groups.get(name)
            found = self.ctx.tx.group_by_name(row.oid, name)
            if found is None or group.transport is not None:
                continue
            if new is None and not found.stop_ordered:
                continue
            if new is not None and new.runtime == group.runtime and new.transport is None:
                continue
            update: dict[str, Any] = {"transport": have.transport}
            if have.transport is None and new is not None:
                update = {"runtime": new.runtime, "transport": new.transport or want.transport}
            limits = (new.strategy if new else None) or Strategy()
            self._update_group(found, f"{at}/groups/{name}", update, limits)

    def _turn(self, row: ClusterRow, at: str, want: ClusterSpec) -> None:
        if want.running is None or want.running == (row.status in STARTED):
            return
        op: Action = "start" if want.running else "stop"
        if self._do(f"{op}_routercluster", at, routercluster_oid=row.oid):
            self._note(op, at, row.managed_by)

    def _surplus_clusters(self) -> None:
        for row in self.ctx.tx.clusters():
            at = f"/clusters/{row.name}"
            if row.name in self.wish.desired.clusters or not self._goes(at, row.managed_by):
                continue
            ref = {"routercluster_oid": row.oid}
            if self.wish.stop and row.status is not ClusterState.STOPPED:
                if row.status not in STARTED or self._do("stop_routercluster", at, **ref):
                    self._note("stop", at, row.managed_by)
            elif self._do("delete_routercluster", at, **ref):
                self._note("delete", at, row.managed_by)

    # --- members

    def _member(self, row: ClusterRow, at: str, name: str, have: MemberSpec | None, want: MemberSpec) -> None:
        if have == want:
            return
        tx, node = self.ctx.tx, self.ctx.tx.node_by_name(name)
        if node is None or node.status is NodeStatus.UNPAIRED:
            self._refuse("no_such_object", f"no node named '{name}' is paired", at)
            return
        ref = {"routercluster_oid": row.oid, "node_oid": node.oid}
        known = tx.member(row.oid, node.oid)
        if have is not None and not self._do("remove_routercluster_node", at, **ref):
            return
        if not self._do("add_routercluster_node", at, **ref, config=to_builtins(want)):
            return
        owner = known.managed_by if known else self.wish.owner
        if owner is not None:
            tx.set_member_managed_by(row.oid, node.oid, owner)
        changed = member_changes(to_builtins(have), to_builtins(want)) if have else None
        self._note("update" if have else "create", at, owner, changed)

    def _surplus_members(self, row: ClusterRow, at: str, have: ClusterSpec, want: ClusterSpec) -> None:
        for name in have.nodes:
            node = self.ctx.tx.node_by_name(name)
            known = self.ctx.tx.member(row.oid, node.oid) if node else None
            if name in want.nodes or node is None or known is None:
                continue
            if not self._goes(f"{at}/nodes/{name}", known.managed_by):
                continue
            ref = {"routercluster_oid": row.oid, "node_oid": node.oid}
            if self._do("remove_routercluster_node", f"{at}/nodes/{name}", **ref):
                self._note("delete", f"{at}/nodes/{name}", known.managed_by)

    # --- worker groups

    def _group(
        self, cluster: ClusterRow, at: str, name: str, have: GroupSpec | None, want: GroupSpec
    ) -> None:
        tx, ref = self.ctx.tx, {"routercluster_oid": cluster.oid}
        if have is None:
            definition = {**_own(want), "name": name}
            definition.pop("strategy", None)
            if not self._do("add_routercluster_workergroup", at, **ref, workergroup=definition):
                return
            self._tag("workergroups", tx.group_by_name(cluster.oid, name))
            self._note("create", at, self.wish.owner)
        row = tx.group_by_name(cluster.oid, name)
        assert row is not None
        if have is not None and _own(have) != _own(want):
            self._note("update", at, row.managed_by, member_changes(_own(have), _own(want)))
        self._scale(row, at, want, down=True)
        self._define(row, at, want)
        self._scale(row, at, want, down=False)
        if want.stopped is not None and want.stopped != row.stop_ordered:
            op: Action = "stop" if want.stopped else "start"
            if self._do(f"{op}_routercluster_workergroup", at, **ref, workergroup_oid=row.oid):
                self._note(op, at, row.managed_by or self.wish.owner)

    def _scale(self, row: GroupRow, at: str, want: GroupSpec, *, down: bool) -> None:
        if (want.scale < row.scale) if down else (want.scale > row.scale):
            ref = {"routercluster_oid": row.cluster_oid, "workergroup_oid": row.oid}
            self._do("scale_routercluster_workergroup", at, **ref, scale=want.scale)

    def _define(self, row: GroupRow, at: str, want: GroupSpec) -> None:
        """What its workers run, and everything else but its scale."""
        present = group_spec(row)
        update = {name: value for name in _PLAIN if (value := getattr(want, name)) != getattr(present, name)}
        mesh = want.mesh if want.mesh is not None else want.runtime in MESHED
        if mesh != row.mesh:
            update["mesh"] = mesh
        limits = want.strategy or Strategy()
        if update or limits != Strategy(row.max_unavailable, row.max_surge):
            self._update_group(row, at, update, limits)

    def _update_group(self, row: GroupRow, at: str, update: dict[str, Any], limits: Strategy) -> None:
        ref = {"routercluster_oid": row.cluster_oid, "workergroup_oid": row.oid}
        more = {"max_unavailable": limits.max_unavailable, "max_surge": limits.max_surge}
        self._do("update_routercluster_workergroup", at, **ref, workergroup=update, **more)

    def _surplus_groups(self, cluster: ClusterRow, at: str, want: ClusterSpec) -> None:
        for row in self.ctx.tx.groups_of(cluster.oid):
            own = f"{at}/groups/{row.name}"
            if row.name in want.groups or not self._goes(own, row.managed_by):
                continue
            ref = {"routercluster_oid": cluster.oid, "workergroup_oid": row.oid}
            if self.wish.stop and row.status is not ClusterState.STOPPED:
                if row.stop_ordered or self._do("stop_routercluster_workergroup", own, **ref):
                    self._note("stop", own, row.managed_by)
            elif self._do("remove_routercluster_workergroup", own, **ref):
                self._note("delete", own, row.managed_by)


def _own(spec: ClusterSpec | GroupSpec) -> dict[str, Any]:
    """The definition itself as plain values: without what is ordered, and without members and groups."""
    if isinstance(spec, ClusterSpec):
        found: dict[str, Any] = to_builtins(replace(spec, running=None, nodes={}, groups={}))
    else:
        found = to_builtins(replace(spec, stopped=None))
    return found


def _inside(at: str, error: BusError) -> str:
    """Where in the document an operation's error is: its pointer is one into the operation's parameters."""
    steps = (error.pointers[0] if error.pointers else "").split("/")[2:]
    if steps and steps[0] in _NESTED:
        steps = steps[1:]
    elif steps != ["scale"]:
        steps = []
    return "/".join([at, *steps])
