"""The client for programs without an event loop: the same methods, each returning when it is done."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import threading
from collections.abc import Callable, Collection, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from typing import Any, Concatenate, Final, Generic, ParamSpec, Self, TypeVar

from ..messages import Event, LogChunk
from ..topics import StatusKind
from .client import BusClient
from .connect import connect
from .logs import LogItem
from .managers import ManagerUpdate
from .reports import NodeReport
from .statuses import StatusUpdate
from .subscriptions import Watch

P = ParamSpec("P")
T = TypeVar("T")

SLICE_S: Final = 0.5
"""A blocked thread looks this often whether the loop still runs; in between, Ctrl-C is heard."""
STOP_S: Final = 10.0


class LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="busbar-client", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._until_stopped())

    async def _until_stopped(self) -> None:
        self._stopping = asyncio.Event()
        await self._stopping.wait()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop, and return what it returns; Ctrl-C cancels it.

        Raises:
            RuntimeError: from within a callback on the loop's own thread, or after the end.
        """
        if threading.current_thread() is self._thread or not self._thread.is_alive():
            work.close()
            raise RuntimeError("the client is closed, or called from one of its own callbacks")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            while not future.done():
                concurrent.futures.wait([future], timeout=SLICE_S)
                if not future.done() and not self._thread.is_alive():
                    raise RuntimeError("the client's event loop has ended")
        except BaseException:
            future.cancel()
            raise
        return future.result()

    def stop(self) -> None:
        """End the loop and the thread."""
        self._loop.call_soon_threadsafe(lambda: self._stopping.set())
        self._thread.join(STOP_S)


def _blocking(
    method: Callable[Concatenate[BusClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[SyncBusClient, P], T]:
    """The same method, which returns when it is done."""

    @functools.wraps(method)
    def call(self: SyncBusClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._thread.run(method(self._client, *args, **kwargs))

    return call


class SyncWatch(Iterator[T], Generic[T]):
    """A watch for a `for` loop; `with` ends its subscription at a certain point."""

    def __init__(self, thread: LoopThread, watch: Watch[T], idle: float | None) -> None:
        self._thread, self._watch, self._idle = thread, watch, idle

    def __next__(self) -> T:
        try:
            return self._thread.run(self._next())
        except StopAsyncIteration:
            raise StopIteration from None

    async def _next(self) -> T:
        try:
            async with asyncio.timeout(self._idle):
                return await self._watch.__anext__()
        except TimeoutError:
            raise StopAsyncIteration from None

    def close(self) -> None:
        """End the subscription and the iteration."""

        async def end() -> None:
            self._watch.close()

        self._thread.run(end())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SyncBusClient:
    """`BusClient`, whose methods return when they are done. Threads may share it.

    Watches end, besides, when nothing came for `idle` seconds; without it they wait on.
    """

    def __init__(self, client: BusClient, thread: LoopThread) -> None:
        self._client, self._thread = client, thread

    @property
    def connected(self) -> bool:
        """Whether there is a connection to a broker now; one that is lost is made again."""
        return self._client.connected

    def _watch(self, make: Callable[[], Watch[T]], idle: float | None) -> SyncWatch[T]:
        async def begin() -> Watch[T]:
            return make()

        return SyncWatch(self._thread, self._thread.run(begin()), idle)

    def watch_statuses(
        self,
        *,
        kind: StatusKind | None = None,
        cluster: str | None = None,
        name: str | None = None,
        idle: float | None = None,
    ) -> SyncWatch[StatusUpdate]:
        """As `BusClient.watch_statuses`; ends when nothing came for `idle` seconds."""
        return self._watch(lambda: self._client.watch_statuses(kind=kind, cluster=cluster, name=name), idle)

    def watch_events(
        self,
        *,
        types: Collection[str] | None = None,
        object: str | None = None,
        cluster: str | None = None,
        since: int | None = None,
        idle: float | None = None,
    ) -> SyncWatch[Event]:
        """As `BusClient.watch_events`; ends when nothing came for `idle` seconds."""
        return self._watch(
            lambda: self._client.watch_events(types=types, object=object, cluster=cluster, since=since), idle
        )

    def watch_reports(self, *, idle: float | None = None) -> SyncWatch[NodeReport]:
        """As `BusClient.watch_reports`; ends when nothing came for `idle` seconds."""
        return self._watch(self._client.watch_reports, idle)

    def watch_managers(self, *, idle: float | None = None) -> SyncWatch[ManagerUpdate]:
        """As `BusClient.watch_managers`; ends when nothing came for `idle` seconds."""
        return self._watch(self._client.watch_managers, idle)

    def watch_output(
        self,
        worker: str,
        cluster: str | None = None,
        *,
        lines: int = 100,
        follow: bool = True,
        idle: float | None = None,
    ) -> SyncWatch[LogChunk]:
        """As `BusClient.watch_output`; ends when nothing came for `idle` seconds."""
        watch = self._thread.run(self._client.watch_output(worker, cluster, lines=lines, follow=follow))
        return SyncWatch(self._thread, watch, idle)

    def watch_logs(
        self,
        target: str,
        cluster: str | None = None,
        *,
        lines: int = 100,
        since_ms: int | None = None,
        follow: bool = True,
        idle: float | None = None,
    ) -> SyncWatch[LogItem]:
        """As `BusClient.watch_logs`; ends when nothing came for `idle` seconds."""
        making = self._client.watch_logs(target, cluster, lines=lines, since_ms=since_ms, follow=follow)
        return SyncWatch(self._thread, self._thread.run(making), idle)

    call = _blocking(BusClient.call)
    list_routerclusters = _blocking(BusClient.list_routerclusters)
    get_routercluster = _blocking(BusClient.get_routercluster)
    get_routercluster_by_name = _blocking(BusClient.get_routercluster_by_name)
    create_routercluster = _blocking(BusClient.create_routercluster)
    update_routercluster = _blocking(BusClient.update_routercluster)
    delete_routercluster = _blocking(BusClient.delete_routercluster)
    start_routercluster = _blocking(BusClient.start_routercluster)
    stop_routercluster = _blocking(BusClient.stop_routercluster)
    stat_routercluster = _blocking(BusClient.stat_routercluster)
    add_routercluster_node = _blocking(BusClient.add_routercluster_node)
    remove_routercluster_node = _blocking(BusClient.remove_routercluster_node)
    get_routercluster_node = _blocking(BusClient.get_routercluster_node)
    list_routercluster_nodes = _blocking(BusClient.list_routercluster_nodes)
    add_routercluster_workergroup = _blocking(BusClient.add_routercluster_workergroup)
    remove_routercluster_workergroup = _blocking(BusClient.remove_routercluster_workergroup)
    get_routercluster_workergroup = _blocking(BusClient.get_routercluster_workergroup)
    get_routercluster_workergroup_by_name = _blocking(BusClient.get_routercluster_workergroup_by_name)
    list_routercluster_workergroups = _blocking(BusClient.list_routercluster_workergroups)
    stat_routercluster_workergroup = _blocking(BusClient.stat_routercluster_workergroup)
    scale_routercluster_workergroup = _blocking(BusClient.scale_routercluster_workergroup)
    update_routercluster_workergroup = _blocking(BusClient.update_routercluster_workergroup)
    start_routercluster_workergroup = _blocking(BusClient.start_routercluster_workergroup)
    stop_routercluster_workergroup = _blocking(BusClient.stop_routercluster_workergroup)
    restart_routercluster_workergroup = _blocking(BusClient.restart_routercluster_workergroup)
    restart_routercluster_worker = _blocking(BusClient.restart_routercluster_worker)
    list_nodes = _blocking(BusClient.list_nodes)
    get_node = _blocking(BusClient.get_node)
    get_node_by_name = _blocking(BusClient.get_node_by_name)
    pair_node = _blocking(BusClient.pair_node)
    forget_node = _blocking(BusClient.forget_node)
    drain_node = _blocking(BusClient.drain_node)
    undrain_node = _blocking(BusClient.undrain_node)
    cordon_node = _blocking(BusClient.cordon_node)
    uncordon_node = _blocking(BusClient.uncordon_node)
    label_node = _blocking(BusClient.label_node)
    unpair_node = _blocking(BusClient.unpair_node)
    list_workers = _blocking(BusClient.list_workers)
    get_worker = _blocking(BusClient.get_worker)
    follow_worker = _blocking(BusClient.follow_worker)
    get_events = _blocking(BusClient.get_events)
    explain = _blocking(BusClient.explain)
    get_definitions = _blocking(BusClient.get_definitions)
    list_routercluster_revisions = _blocking(BusClient.list_routercluster_revisions)
    get_routercluster_revision = _blocking(BusClient.get_routercluster_revision)
    plan_routercluster_rollback = _blocking(BusClient.plan_routercluster_rollback)
    rollback_routercluster = _blocking(BusClient.rollback_routercluster)
    plan_operation = _blocking(BusClient.plan_operation)
    plan_changes = _blocking(BusClient.plan_changes)
    apply_changes = _blocking(BusClient.apply_changes)
    plan_rebalance = _blocking(BusClient.plan_rebalance)
    apply_rebalance = _blocking(BusClient.apply_rebalance)
    list_audit = _blocking(BusClient.list_audit)
    get_manager = _blocking(BusClient.get_manager)
    list_principals = _blocking(BusClient.list_principals)
    add_principal = _blocking(BusClient.add_principal)
    set_principal_role = _blocking(BusClient.set_principal_role)
    remove_principal = _blocking(BusClient.remove_principal)
    transfer_principal = _blocking(BusClient.transfer_principal)
    fetch_clusters = _blocking(BusClient.fetch_clusters)
    fetch_groups = _blocking(BusClient.fetch_groups)
    fetch_nodes = _blocking(BusClient.fetch_nodes)
    fetch_workers = _blocking(BusClient.fetch_workers)
    find_cluster = _blocking(BusClient.find_cluster)
    cluster_oid = _blocking(BusClient.cluster_oid)
    find_node = _blocking(BusClient.find_node)
    node_oid = _blocking(BusClient.node_oid)
    find_group = _blocking(BusClient.find_group)
    find_worker = _blocking(BusClient.find_worker)
    worker_oid = _blocking(BusClient.worker_oid)
    wait_for_cluster = _blocking(BusClient.wait_for_cluster)
    wait_for_group = _blocking(BusClient.wait_for_group)
    wait_for_drain = _blocking(BusClient.wait_for_drain)
    wait_for_deletion = _blocking(BusClient.wait_for_deletion)


def _in_thread(
    make: Callable[P, AbstractAsyncContextManager[BusClient]],
) -> Callable[P, AbstractContextManager[SyncBusClient]]:
    """The same connection, for a `with` block."""

    @functools.wraps(make)
    @contextmanager
    def connect_in_thread(*args: P.args, **kwargs: P.kwargs) -> Iterator[SyncBusClient]:
        thread = LoopThread()
        try:
            connection = make(*args, **kwargs)
            client = thread.run(_enter(connection))
            try:
                yield SyncBusClient(client, thread)
            finally:
                thread.run(_leave(connection))
        finally:
            thread.stop()

    return connect_in_thread


async def _enter(connection: AbstractAsyncContextManager[BusClient]) -> BusClient:
    return await connection.__aenter__()


async def _leave(connection: AbstractAsyncContextManager[BusClient]) -> None:
    await connection.__aexit__(None, None, None)


connect_sync = _in_thread(connect)
"""As `connect`, for programs without an event loop: `with connect_sync("mqtt://127.0.0.1", …) as bus`."""
