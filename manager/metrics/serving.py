"""Puts the manager's metrics together, and serves them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from busbar.bus.clock import Clock
from busbar.bus.connection.link import Link
from busbar.bus.system.metrics import Family, MetricsServer, Source
from prometheus_client import CollectorRegistry

from ..api.requests import Dispatch
from ..planner.model import Snapshot
from ..publish.publisher import Publisher
from ..state.node_memory import NodeMemory
from ..store import Store
from .families import families
from .recorder import Recorder, own


def serve(
    host: str,
    port: int,
    *,
    store: Store,
    dispatch: Dispatch,
    publisher: Publisher,
    link: Link,
    memory: NodeMemory,
    clock: Clock,
    snapshot: Callable[[], Snapshot],
    **facts: str,
) -> MetricsServer:
    """Count from now on, and serve on this address. Called on the event loop.

    Raises:
        OSError: the address can't be had.
    """

    def now() -> Iterator[Family]:
        yield from families(snapshot(), memory, clock.monotonic())
        yield from own(store, publisher, link)

    def unready() -> str | None:
        if store.write_error is not None:
            return store.write_error
        return None if publisher.active else "not connected to the broker, or not yet the realm's manager"

    registry = CollectorRegistry()
    server = MetricsServer(host, port, Source(now, unready, service="manager", **facts), registry)
    Recorder(registry, store, dispatch, clock)
    return server
