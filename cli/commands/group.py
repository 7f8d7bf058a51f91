"""busbar group: worker groups of a cluster."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .. import common_options as n
from .. import definition as d
from .. import output, wait
from ..connect import Session, run, split_reference
from ..errors import usage
from ..stats import print_stat

app = n.noun("Worker groups of a cluster.")

COLUMNS: list[output.Column] = [
    ("group", lambda g: f"{g['cluster']}/{g['name']}"),
    ("status", "status"),
    ("scale", "scale"),
    ("runtime", "runtime"),
    ("revision", "revision"),
    ("label", "label"),
    ("tags", lambda g: ", ".join(g.get("tags") or [])),
    ("version", "version"),
]
Scale = Annotated[int, typer.Option("--scale", "-n", min=0, help="How many workers.")]
Runtime = Annotated[str | None, typer.Option(help="amqtt, mosquitto, crossbar or one of the nodes' own.")]
LostAfter = Annotated[float | None, typer.Option(min=0, help="Seconds until workers of a lost node move.")]
StartDeadline = Annotated[float | None, typer.Option(help="Seconds until a start counts as failed.")]


@n.verb(app, "add", "add_routercluster_workergroup", more="Without GROUP (and with -c) it gets a name.")
def add(
    group: Annotated[str | None, typer.Argument(help="cluster/group, or its name with -c.")] = None,
    cluster: n.ClusterOption = None,
    scale: Scale = 1,
    runtime: Runtime = None,
    transport: n.Transport = None,
    type: n.TransportType = None,
    port: n.Port = None,
    label: n.LabelText = None,
    description: n.Description = None,
    tag: n.Tag = None,
    lost_after: LostAfter = None,
    start_deadline: StartDeadline = None,
    wait: n.Wait = False,
    timeout: n.Timeout = n.DEFAULT_WAIT,
    expect_version: n.Expect = None,
) -> None:
    where, name = _place(group, cluster)
    wanted = d.definition(
        name=name,
        scale=scale,
        runtime=runtime,
        transport=d.transport(transport, type, port),
        label=label,
        description=description,
        tags=tag,
        lost_after=lost_after,
        start_deadline=start_deadline,
    )
    run(lambda s: _add(s, where, wanted, wait, timeout, expect_version))


def _place(group: str | None, cluster: str | None) -> tuple[str, str | None]:
    if group is None:
        if cluster is None:
            raise usage("which cluster? Say CLUSTER/GROUP, or use --cluster")
        return cluster, None
    where, name = split_reference(group, cluster, "group")
    return where, name or None


async def _add(
    s: Session, where: str, wanted: dict[str, Any], waits: bool, timeout: float, expect_version: int | None
) -> None:
    found = await s.cluster(where)
    async with wait.Follow(s, s.topics.status(found["name"], "workergroup", "+")) as follow:
        made = await s.call(
            "add_routercluster_workergroup",
            routercluster_oid=found["oid"],
            workergroup=wanted,
            expect_version=expect_version,
        )
        title = f"group '{found['name']}/{made['name']}'"
        if waits:
            goal = _only(made["name"], wait.scaled(made["version"], made["scale"]))
            made = {**made, **(await follow.until(goal, title, timeout) or {})}
    output.done(made, f"{title} added, {made['status']}")


def _only(name: str, goal: wait.Goal) -> wait.Goal:
    """The goal for one of several groups whose statuses are followed; a tombstone may be another's."""
    return wait.Goal(
        goal.words,
        goal.version,
        lambda s: s is not None and s.get("name") == name and goal.reached(s),
        lambda s: goal.spoiled(s) if s is not None and s.get("name") == name else None,
    )


@n.verb(app, "list", "list_routercluster_workergroups", "get_routercluster_workergroup")
def list_(
    cluster: Annotated[
        str | None, typer.Argument(help="Only this cluster's.", autocompletion=n.complete_cluster)
    ] = None,
    cluster_option: n.ClusterOption = None,
    status: Annotated[str | None, typer.Option("--status", help="Only groups in this status.")] = None,
    quiet: n.Quiet = False,
) -> None:
    found = run(lambda s: _list(s, cluster or cluster_option, status))
    found.sort(key=lambda g: (g["cluster"], g["name"]))
    if quiet:
        return output.show_names([f"{g['cluster']}/{g['name']}" for g in found])
    return output.show_list(found, COLUMNS, "no groups")


async def _list(s: Session, cluster: str | None, status: str | None) -> list[dict[str, Any]]:
    if cluster is not None:
        clusters = [await s.cluster(cluster)]
    else:
        clusters = await s.every(
            "get_routercluster", "routercluster_oid", await s.call("list_routerclusters")
        )
    found = []
    for row in clusters:
        within = {"routercluster_oid": row["oid"]}
        oids = await s.call("list_routercluster_workergroups", **within, filter_by_status=status)
        groups = await s.every("get_routercluster_workergroup", "workergroup_oid", oids, **within)
        found += [{**group, "cluster": row["name"]} for group in groups]
    return found


@n.verb(app, "show", "get_routercluster_workergroup_by_name", "get_routercluster_workergroup")
def show(group: n.GroupArgument, cluster: n.ClusterOption = None) -> None:
    output.show_object(run(lambda s: s.group(group, cluster)))


@n.verb(app, "scale", "scale_routercluster_workergroup")
def scale(
    group: n.GroupArgument,
    scale: Annotated[int, typer.Argument(min=0, help="How many workers.")],
    cluster: n.ClusterOption = None,
    wait: n.Wait = False,
    timeout: n.Timeout = n.DEFAULT_WAIT,
    expect_version: n.Expect = None,
) -> None:
    run(lambda s: _scale(s, group, cluster, scale, wait, timeout, expect_version))


async def _scale(
    s: Session,
    group: str,
    cluster: str | None,
    scale: int,
    waits: bool,
    timeout: float,
    expect_version: int | None,
) -> None:
    found = await s.group(group, cluster)
    name = (await s.cluster(found["cluster_oid"]))["name"]
    title = f"group '{name}/{found['name']}'"
    async with wait.Follow(s, s.topics.status(name, "workergroup", found["name"])) as follow:
        changed = await s.call(
            "scale_routercluster_workergroup", **_ref(found), scale=scale, expect_version=expect_version
        )
        if waits:
            goal = wait.scaled(changed["version"], scale)
            changed = {**changed, **(await follow.until(goal, title, timeout) or {})}
    output.done(changed, f"{title} scaled to {scale}, {changed['status']}")


@n.verb(app, "update", "update_routercluster_workergroup")
def update(
    group: n.GroupArgument,
    cluster: n.ClusterOption = None,
    runtime: Runtime = None,
    transport: n.Transport = None,
    type: n.TransportType = None,
    port: n.Port = None,
    label: n.LabelText = None,
    description: n.Description = None,
    tag: n.Tag = None,
    lost_after: LostAfter = None,
    start_deadline: StartDeadline = None,
    max_unavailable: Annotated[
        int | None, typer.Option(min=0, help="Workers below the scale that may be not ready; default 1.")
    ] = None,
    max_surge: Annotated[
        int | None, typer.Option(min=0, help="Workers above the scale that may run; default 0.")
    ] = None,
    wait: n.Wait = False,
    timeout: n.Timeout = n.DEFAULT_WAIT,
    expect_version: n.Expect = None,
) -> None:
    wanted = d.definition(
        runtime=runtime,
        transport=d.transport(transport, type, port),
        label=label,
        description=description,
        tags=tag,
        lost_after=lost_after,
        start_deadline=start_deadline,
    )
    limits = d.definition(max_unavailable=max_unavailable, max_surge=max_surge)
    if not wanted and not limits:
        raise usage("what is to change? Say --transport, --runtime, --port or another option")
    whole = {"workergroup": wanted, **limits, "expect_version": expect_version}
    run(lambda s: _update(s, group, cluster, whole, wait, timeout))


async def _update(
    s: Session, group: str, cluster: str | None, whole: dict[str, Any], waits: bool, timeout: float
) -> None:
    found = await s.group(group, cluster)
    name = (await s.cluster(found["cluster_oid"]))["name"]
    title = f"group '{name}/{found['name']}'"
    async with wait.Follow(s, s.topics.status(name, "workergroup", found["name"])) as follow:
        changed = await s.call("update_routercluster_workergroup", **_ref(found), **whole)
        if waits:
            goal = wait.updated(changed["version"], changed["revision"])
            changed = {**changed, **(await follow.until(goal, title, timeout) or {})}
    output.done(changed, f"{title} has revision {changed['revision']}, {changed['status']}")


@n.verb(app, "remove", "remove_routercluster_workergroup")
def remove(group: n.GroupArgument, cluster: n.ClusterOption = None, expect_version: n.Expect = None) -> None:
    async def work(s: Session) -> Any:
        found = await s.group(group, cluster)
        return await s.call("remove_routercluster_workergroup", **_ref(found), expect_version=expect_version)

    gone = run(work)
    output.done(gone, f"group '{gone['name']}' removed")


@n.verb(app, "stat", "stat_routercluster_workergroup")
def stat(group: n.GroupArgument, cluster: n.ClusterOption = None) -> None:
    async def work(s: Session) -> Any:
        return await s.call("stat_routercluster_workergroup", **_ref(await s.group(group, cluster)))

    print_stat(run(work))


def _ref(group: dict[str, Any]) -> dict[str, Any]:
    return {"routercluster_oid": group["cluster_oid"], "workergroup_oid": group["oid"]}
