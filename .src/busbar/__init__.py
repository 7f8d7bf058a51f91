"""Busbar: clusters of routers, run over MQTT. `from busbar import connect` is the client for programs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bus.client.blocking import SyncBusClient, connect_sync
    from .bus.client.client import BusClient
    from .bus.client.connect import connect
    from .bus.client.errors import (
        EventsLostError,
        GoalLostError,
        LoginRefusedError,
        ResultError,
        WaitError,
        WaitTimeoutError,
    )
    from .bus.client.logs import LogLine, LogNote
    from .bus.client.statuses import StatusUpdate
    from .bus.errors import BusError, BusOfflineError, CallTimeoutError
    from .bus.messages import Endpoint, Event, LogChunk, Status
    from .bus.params import (
        Accepted,
        AuditEntry,
        Cluster,
        Following,
        Group,
        GroupStat,
        ManagerInfo,
        Membership,
        Node,
        Principal,
        RemovedPrincipal,
        Stat,
        Transferred,
        Worker,
    )

_HOMES = {
    "bus.client.blocking": ("SyncBusClient", "connect_sync"),
    "bus.client.client": ("BusClient",),
    "bus.client.connect": ("connect",),
    "bus.client.errors": (
        "EventsLostError",
        "GoalLostError",
        "LoginRefusedError",
        "ResultError",
        "WaitError",
        "WaitTimeoutError",
    ),
    "bus.client.logs": ("LogLine", "LogNote"),
    "bus.client.statuses": ("StatusUpdate",),
    "bus.errors": ("BusError", "BusOfflineError", "CallTimeoutError"),
    "bus.messages": ("Endpoint", "Event", "LogChunk", "Status"),
    "bus.params": (
        "Accepted",
        "AuditEntry",
        "Cluster",
        "Following",
        "Group",
        "GroupStat",
        "ManagerInfo",
        "Membership",
        "Node",
        "Principal",
        "RemovedPrincipal",
        "Stat",
        "Transferred",
        "Worker",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Accepted",
    "AuditEntry",
    "BusClient",
    "BusError",
    "BusOfflineError",
    "CallTimeoutError",
    "Cluster",
    "Endpoint",
    "Event",
    "EventsLostError",
    "Following",
    "GoalLostError",
    "Group",
    "GroupStat",
    "LogChunk",
    "LogLine",
    "LogNote",
    "LoginRefusedError",
    "ManagerInfo",
    "Membership",
    "Node",
    "Principal",
    "RemovedPrincipal",
    "ResultError",
    "Stat",
    "Status",
    "StatusUpdate",
    "SyncBusClient",
    "Transferred",
    "WaitError",
    "WaitTimeoutError",
    "Worker",
    "connect",
    "connect_sync",
]


def __getattr__(name: str) -> Any:
    """Imported when it is asked for: `import busbar` alone stays light."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'busbar' has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
