"""The client: every operation as a typed method, names, watching and waiting."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import zlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from random import Random
from typing import Any, Final, Literal, TypeVar

from ..clock import Clock
from ..connection.link import Link, Message
from ..connection.rpc import Caller
from ..decode import parse
from ..errors import BusError, CallTimeoutError, MissingRightError
from ..messages import Event, Status
from ..results import Cluster, Group, Node, Worker
from ..topics import NO_CLUSTER, StatusKind, Topics
from . import goals
from .dynamic_security import DynamicSecurity
from .errors import WaitTimeoutError
from .events import EventFilter, EventWatch
from .logs import LEASE_MS, LogWatch, Wanted
from .managers import ManagerWatch
from .names import checked, is_oid
from .output import OutputWatch
from .probing import BrokerProbe
from .references import References, or_brief
from .reports import ReportWatch
from .statuses import Progress, StatusUpdate, StatusWatch
from .subscriptions import Subscriptions

T = TypeVar("T")

CALL_S: Final = 10.0
"""Seconds that a call may take unless it says otherwise."""
WAIT_S: Final = 60.0
"""Seconds that a wait may take unless it says otherwise: a Crossbar.io worker takes 6 to 8 to start."""
LOOK_AGAIN_S: Final = 5.0
"""While a deletion is waited for, the manager is asked this often: a lost connection may have missed it."""
ABREAST: Final = 32
"""Calls under way at once when many objects are fetched; the manager allows far more per caller."""
LOOK_S: Final = 0.3
"""Seconds in which retained states of managers come in, when none has answered."""


class BusClient(References):
    """Calls operations and watches, as one principal over one link, which its maker runs.

    Args:
        inbox: the last level of the topic that replies come to; one client uses it at a time.
        new_id: makes request ids, unique for this principal.
        timeout: seconds that a call may take unless it says otherwise.
    """

    def __init__(
        self,
        link: Link,
        topics: Topics,
        username: str,
        inbox: str,
        *,
        clock: Clock,
        random: Random,
        new_id: Callable[[], str],
        timeout: float = CALL_S,
    ) -> None:
        self.topics, self.username = topics, username
        self.clock, self.timeout = clock, timeout
        who = f"r{zlib.crc32(f'{username}/{inbox}'.encode()):08x}"
        self._readers = (f"{who}-{number}" for number in itertools.count())
        """Names for what reads workers' output, which no other reader has."""
        self._link = link
        self._caller = Caller(link, topics, checked(username), inbox, clock, new_id, random)
        self._subscriptions = Subscriptions(link)

    @property
    def connected(self) -> bool:
        """Whether there is a connection to a broker now; one that is lost is made again."""
        return self._link.connected

    def probe(self) -> BrokerProbe:
        """What can be tried of the broker with the rights of this user."""
        return BrokerProbe(self._link, self._subscriptions, self.topics, self.username)

    def dynamic_security(self) -> DynamicSecurity:
        """The accounts of mosquitto's dynamic security plugin, where this user may change them."""
        return DynamicSecurity(self._link, next(self._readers))

    def close(self) -> None:
        """End every watch. The link is its maker's to end."""
        self._subscriptions.close()

    async def call(
        self,
        operation: str,
        params: dict[str, Any] | None = None,
        *,
        expect_version: int | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> Any:
        """Call any operation with plain parameters; the result is plain too. Prefer the typed methods.

        Args:
            expect_version: refuse the change unless the object is at this version.
            timeout: seconds; the client's own when left out.
            request_id: 1 to 64 characters. Calling again with the same one has no second effect.

        Raises:
            BusError: the manager refused; `code` and `pointers` say what.
            CallTimeoutError: no manager answered; its `request_id` serves to ask again.
            BusOfflineError: the broker was out of reach all the time.
        """
        seconds = self.timeout if timeout is None else timeout
        try:
            return await self._caller.call(
                operation, params, timeout=seconds, expect_version=expect_version, request_id=request_id
            )
        except CallTimeoutError as error:
            managers = await self._managers()
            known = ", ".join(f"manager {name} is {state}" for name, state in sorted(managers.items()))
            where = f"in realm '{self.topics.realm}' ({known or 'none was ever seen there'})"
            text = f"no manager answered {operation} in {seconds:g} s {where}{self._likely_cause(managers)}"
            raise CallTimeoutError(text, request_id=error.request_id, managers=managers) from None

    def _likely_cause(self, managers: Mapping[str, str]) -> str:
        """Rights that may be missing, where MQTT 3.1.1 does not tell."""
        if not managers:
            return ": is this the manager's realm? Its log tells which rights the broker does not give it"
        if "online" not in managers.values():
            return ""
        request, response = (make(self.username, "+") for make in (self.topics.request, self.topics.response))
        missing = MissingRightError(self.username, f"write {request}, or to read", response, certain=False)
        return f": if it answers others, {missing}"

    async def _managers(self) -> dict[str, str]:
        """The managers whose retained state the broker holds."""
        seen: dict[str, str] = {}

        def note(message: Message) -> None:
            with contextlib.suppress(BusError):
                state = parse(message.payload).get("state")
                seen[self.topics.parse_manager(message.topic) or "?"] = str(state)

        cancel = self._subscriptions.add(self.topics.all_managers(), note)
        try:
            await self.clock.sleep(LOOK_S)
        finally:
            cancel()
        return seen

    async def fetch_each(self, oids: Sequence[str], fetch: Callable[[str], Awaitable[T]]) -> list[T]:
        """Fetch many objects, some at a time, in order; those deleted meanwhile are left out."""
        gate = asyncio.Semaphore(ABREAST)

        async def one(oid: str) -> T | None:
            async with gate:
                try:
                    return await fetch(oid)
                except BusError as error:
                    if error.code != "no_such_object":
                        raise
                    return None

        return [found for found in await asyncio.gather(*map(one, oids)) if found is not None]

    async def fetch_clusters(self, oids: Sequence[str]) -> list[Cluster]:
        """As `fetch_each`; each brief where the broker does not take the whole one."""
        return await self.fetch_each(
            oids, lambda oid: or_brief(self.get_routercluster, routercluster_oid=oid)
        )

    async def fetch_groups(self, cluster_oid: str, oids: Sequence[str]) -> list[Group]:
        """The same of a cluster's worker groups."""
        get = partial(self.get_routercluster_workergroup, routercluster_oid=cluster_oid)
        return await self.fetch_each(oids, lambda oid: or_brief(get, workergroup_oid=oid))

    async def fetch_nodes(self, oids: Sequence[str]) -> list[Node]:
        """The same of nodes."""
        return await self.fetch_each(oids, lambda oid: or_brief(self.get_node, node_oid=oid))

    async def fetch_workers(self, oids: Sequence[str]) -> list[Worker]:
        """The same of workers."""
        return await self.fetch_each(oids, lambda oid: or_brief(self.get_worker, worker_oid=oid))

    # --- watching

    def watch_statuses(
        self, *, kind: StatusKind | None = None, cluster: str | None = None, name: str | None = None
    ) -> StatusWatch:
        """The present status of each object, then every change: `async for update in bus.watch_statuses()`.

        `async with` ends the subscription at a certain point. The whole realm is read at QoS 0, since brokers
        bound what they queue at QoS 1; parts of it at QoS 1.

        Args:
            kind: `routercluster`, `workergroup`, `worker` or `node` alone.
            cluster: what belongs to the cluster of this name alone.
            name: objects of this name alone.

        Raises:
            ValueError: a name is none.
        """
        where = checked(cluster) if cluster is not None else NO_CLUSTER if kind == "node" else "+"
        if name is not None and set(name) & set("/+#"):
            raise ValueError(f"{name!r} is not a name")
        pattern = self.topics.status(where, kind or "+", name or "+")
        qos = 0 if cluster is None and name is None else 1
        return StatusWatch(self._subscriptions, self._link, self.topics, pattern, qos, self.username)

    def watch_reports(self) -> ReportWatch:
        """What nodes report of their workers, usage of processor and memory included, as it comes."""
        return ReportWatch(self._subscriptions, self.topics)

    def watch_managers(self) -> ManagerWatch:
        """The state of each manager, then every change: whether there is one that answers."""
        return ManagerWatch(self._subscriptions, self.topics)

    def watch_events(
        self,
        *,
        types: Collection[str] | None = None,
        object: str | None = None,
        cluster: str | None = None,
        since: int | None = None,
    ) -> EventWatch:
        """Lifecycle events as they happen: `async for event in bus.watch_events()`. None is lost silently.

        Args:
            types: such as `worker_failed` or `busbar.on_worker_failed`.
            object: of this object alone: its oid, or its subject such as `worker/web-1`.
            cluster: of what belongs to the cluster of this name alone.
            since: begin after this sequence, with stored events; left out: from now on.

        Raises:
            ValueError: the contract has no such type.
        """
        wanted = EventFilter(types, object, cluster)

        async def fetch(after: int, limit: int) -> list[Event]:
            return await self.get_events(since=after, limit=limit)

        async def present() -> int:
            return (await self.get_manager()).sequence

        async def find(name: str) -> str | None:
            try:
                return (await self.get_routercluster_by_name(routercluster_name=name)).oid
            except BusError as error:
                if error.code != "no_such_object":
                    raise
                return None

        return EventWatch(
            self._subscriptions, self.topics, wanted, since, fetch, present, find, self.clock, self.username
        )

    async def watch_output(
        self, worker: str, cluster: str | None = None, *, lines: int = 100, follow: bool = True
    ) -> OutputWatch:
        """A worker's last output lines, then new ones: `async for chunk in await bus.watch_output(…)`.

        Args:
            worker: `cluster/worker`, its name within `cluster`, or its oid.
            follow: go on; else it ends when nothing came for a second.

        Raises:
            BusError: there is no such worker, or it is not placed.
        """
        found = await self.find_worker(worker, cluster)
        if found.node is None:
            why = found.reason or found.status
            raise BusError("no_such_object", f"worker '{found.name}' is not placed: {why}")

        reader = next(self._readers)

        async def ask(past: int, lease_ms: int) -> None:
            await self.follow_worker(worker_oid=found.oid, lines=past, reader=reader, lease_ms=lease_ms)

        topic = self.topics.node_log(found.node, found.name)
        missing = MissingRightError(self.username, "read", topic, certain=False)
        silence = (
            f"node '{found.node}' does not answer: either {missing}, or its user has none to write it, or to"
            f" read {self.topics.node(found.node, 'command')}"
        )
        return OutputWatch(
            self._subscriptions, topic, found.cluster, self.clock, ask, reader, lines, follow, silence
        )

    async def watch_logs(
        self,
        target: str,
        cluster: str | None = None,
        *,
        lines: int = 100,
        since_ms: int | None = None,
        follow: bool = True,
    ) -> LogWatch:
        """The output of all workers of a cluster or group, or of one worker: `async with await
        bus.watch_logs("edge/web") as items: async for item in items`.

        Lines of each worker come in order, from whatever node it is on; a `LogNote` tells a move or a gap.

        Args:
            target: a cluster; `cluster/group` or `cluster/worker`, or its name within `cluster`; an oid.
            lines: past lines of each worker.
            since_ms: of the past lines only those of so many milliseconds.
            follow: go on; else it ends after the past lines.

        Raises:
            BusError: there is no such object.
        """
        name, group, found = await self._log_target(target, cluster)
        known = [(f"{each.cluster}/{each.name}", each.oid, each.node) for each in found]
        statuses = None
        if follow:
            only = found[0].name if group is None and name is None else None
            statuses = self.watch_statuses(kind="worker", cluster=name or found[0].cluster, name=only)

        async def ask(wanted: Wanted) -> str:
            answer = await self.follow_worker(
                worker_oid=wanted.oid,
                lines=wanted.lines,
                since_ms=wanted.since_ms,
                reader=wanted.reader,
                lease_ms=LEASE_MS,
            )
            return answer.node

        def wants(update: StatusUpdate) -> bool:
            return group is None or (update.status is not None and update.status.workergroup == group)

        return LogWatch(
            self._subscriptions,
            self.topics,
            self.clock,
            ask,
            next(self._readers),
            known,
            statuses,
            wants,
            lines,
            since_ms,
        )

    async def _log_target(
        self, target: str, cluster: str | None
    ) -> tuple[str | None, str | None, list[Worker]]:
        """Cluster and group that are followed (None: it is one worker), and the workers there are now."""
        if is_oid(target):
            return None, None, [await self.find_worker(target)]
        if cluster is None and "/" not in target:
            row = await self.find_cluster(target)
            oids = await self.list_workers(routercluster_oid=row.oid)
            return row.name, None, await self.fetch_workers(oids)
        try:
            group = await self.find_group(target, cluster)
        except BusError as error:
            if error.code != "no_such_object":
                raise
            try:
                return None, None, [await self.find_worker(target, cluster)]
            except BusError:
                raise BusError("no_such_object", f"there is no group or worker '{target}'") from None
        where = (await self.find_cluster(group.cluster_oid)).name
        oids = await self.list_workers(routercluster_oid=group.cluster_oid, workergroup_oid=group.oid)
        found = await self.fetch_workers(oids)
        return where, group.name, found

    # --- waiting

    async def wait_for_cluster(
        self,
        cluster: str,
        status: Literal["RUNNING", "STOPPED"] = "RUNNING",
        *,
        version: int | None = None,
        timeout: float = WAIT_S,
        progress: Progress | None = None,
    ) -> Status:
        """Wait until every worker of a cluster is ready, or until it is stopped.

        Args:
            cluster: its name or oid.
            version: that of the accepted start or stop; left out: the cluster's present one.
            timeout: seconds.
            progress: called with each status on the way.

        Raises:
            WaitTimeoutError: not in time; with the last status and its conditions.
            GoalLostError: the cluster was deleted, or ordered otherwise meanwhile.
        """
        found = await self.find_cluster(cluster)
        make = goals.started if status == "RUNNING" else goals.stopped
        watch = self.watch_statuses(kind="routercluster", cluster=found.name, name=found.name)
        goal = make(found.version if version is None else version)
        return await self._wait(watch, goal, f"cluster '{found.name}'", timeout, progress)

    async def wait_for_group(
        self,
        group: str,
        cluster: str | None = None,
        *,
        revision: int | None = None,
        version: int | None = None,
        timeout: float = WAIT_S,
        progress: Progress | None = None,
    ) -> Status:
        """Wait until every worker that a group asks for is ready and no other is left, or it is stopped.

        Args:
            group: `cluster/group`, or its name or oid within `cluster`.
            revision: each of them with this revision: an update is complete.
            version: that of the accepted change; left out: the group's present one.
            timeout: seconds.
            progress: called with each status on the way.

        Raises:
            WaitTimeoutError: not in time; with the last status and its conditions.
            GoalLostError: the group was removed, or a newer update came.
        """
        found = await self.find_group(group, cluster)
        where = (await self.find_cluster(found.cluster_oid)).name
        version = found.version if version is None else version
        goal = goals.scaled(version, found.scale) if revision is None else goals.updated(version, revision)
        watch = self.watch_statuses(kind="workergroup", cluster=where, name=found.name)
        return await self._wait(watch, goal, f"group '{where}/{found.name}'", timeout, progress)

    async def wait_for_drain(
        self,
        node: str,
        *,
        version: int | None = None,
        timeout: float = WAIT_S,
        progress: Progress | None = None,
    ) -> Status:
        """Wait until a drained node has no workers left.

        Args:
            node: its name or oid.
            version: that of the accepted drain; left out: the node's present one.
            timeout: seconds.
            progress: called with each status on the way.

        Raises:
            WaitTimeoutError: not in time; with the last status and its conditions.
            GoalLostError: the node was unpaired, or takes workers again.
        """
        found = await self.find_node(node)
        goal = goals.drained(found.version if version is None else version)
        watch = self.watch_statuses(kind="node", name=found.name)
        return await self._wait(watch, goal, f"node '{found.name}'", timeout, progress)

    async def wait_for_deletion(self, cluster: str, *, timeout: float = WAIT_S) -> None:
        """Wait until there is no cluster of this name (or oid) any more.

        Raises:
            WaitTimeoutError: not in time; with the last status and its conditions.
        """
        deadline = self.clock.monotonic() + timeout
        while True:
            try:
                found = await self.find_cluster(cluster)
            except BusError as error:
                if error.code != "no_such_object":
                    raise
                return
            left = deadline - self.clock.monotonic()
            async with self.watch_statuses(
                kind="routercluster", cluster=found.name, name=found.name
            ) as watch:
                try:
                    await watch.until(
                        goals.deleted(), f"cluster '{found.name}'", max(0.0, min(left, LOOK_AGAIN_S))
                    )
                    return
                except WaitTimeoutError:
                    if left <= LOOK_AGAIN_S:
                        raise

    async def _wait(
        self, watch: StatusWatch, goal: goals.Goal, subject: str, timeout: float, progress: Progress | None
    ) -> Status:
        async with watch:
            status = await watch.until(goal, subject, timeout, progress=progress)
        assert status is not None  # only a deletion ends without one
        return status
