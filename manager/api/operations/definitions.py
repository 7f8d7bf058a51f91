"""Whether the nodes can run a definition: a runtime with a transport. Asked before any worker is touched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from busbar.bus.errors import BusError
from busbar.bus.exposure import check_exposure
from busbar.bus.runtimes import check_for_runtime
from busbar.bus.states import NodeStatus

from ...planner.admission import unoffered
from ...store import Tx

Transport = Mapping[str, Any] | None
_WEB: Final = frozenset({"web"})
_MQTT: Final = frozenset({"mqtt", None})
_NATS: Final = frozenset({"mqtt", "websocket", "nats", None})
_SUPPORTED: Final = {"crossbar": _WEB, "amqtt": _MQTT, "mosquitto": _MQTT, "nats": _NATS}
"""Transport types that the built-in runtimes can serve; operator-defined runtimes take any."""


class Pointers(NamedTuple):
    """Where a request names the parts of a definition; `mismatch`: what to blame when they don't fit."""

    transport: str
    runtime: str
    mismatch: str


def default_runtime(transport: Transport) -> str:
    """The runtime of a group that names none."""
    return {"web": "crossbar", "nats": "nats"}.get(transport["type"] if transport else "", "amqtt")


def check_definition(tx: Tx, runtime: str, transport: Transport, at: Pointers) -> None:
    """Check a checked transport against its runtime, and against what the nodes offer.

    Raises:
        BusError: `invalid_configuration`: no node would run it, or it would let everybody in unasked.
    """
    kind = transport["type"] if transport else None
    supported = _SUPPORTED.get(runtime)
    if supported is not None and kind not in supported:
        given = f"a transport of type '{kind}'" if kind else "no transport"
        need = " or ".join(sorted(f"type '{word}'" if word else "none" for word in supported))
        detail = f"runtime '{runtime}' can't serve {given}: it needs {need}"
        raise BusError("invalid_configuration", detail, [at.mismatch])
    offered = {
        name for node in tx.nodes() if node.status is not NodeStatus.UNPAIRED for name in node.runtimes
    }
    why = unoffered(runtime, offered)
    if why is not None:
        raise BusError("invalid_configuration", why, [at.runtime])
    check_for_runtime(transport, runtime, at.transport)
    check_exposure(transport, at.transport, runtime)
