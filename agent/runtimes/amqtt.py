"""Runtime `amqtt`: an MQTT router from a Python package that Busbar requires. Pure except `unavailable`."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from busbar.bus.addresses import netloc
from busbar.bus.listeners import Listener, listeners_of
from busbar.bus.routers.router_options import amqtt_options
from msgspec import Struct

from ..processes.ports import PortRequest
from ..processes.process_limits import NO_LIMITS, ProcessLimits
from ..processes.users import RunAs
from .base import LaunchSpec, ListenerSpec, Ports, Transport, WorkerSpec, address, check_worker
from .transport import ROOT, checked_transport, path_below, port_requests, probe_of, refusals

TYPES = ("mqtt", "websocket")
"""Transport types of the MQTT routers: MQTT over TCP, or over WebSocket."""
CONFIG = "router.json"
FILES = ("password_file", "acl_file")
ACL_REFUSES = 2
"""Exit code of `agent.routers.amqtt_acl`."""


class AmqttRuntime(Struct, frozen=True):
    """`secrets_root`: the operator's folder of the files that a transport may refer to."""

    secrets_root: Path | None = None
    python: str = sys.executable
    name: str = "amqtt"
    run_as: RunAs | None = None
    limits: ProcessLimits = NO_LIMITS

    def unavailable(self) -> str | None:
        """See `Runtime`."""
        return None if importlib.util.find_spec("amqtt") else "the Python package amqtt is not installed"

    def ports_needed(self, transport: Transport | None) -> dict[str, PortRequest]:
        """See `Runtime`."""
        return port_requests(checked_transport(transport, TYPES), TYPES, may_share=False)

    def render(self, worker: WorkerSpec, host: str, ports: Ports, folder: Path) -> LaunchSpec:
        """See `Runtime`."""
        check_worker(worker)
        plain = checked_transport(worker.transport, TYPES)
        requests = port_requests(plain, TYPES, may_share=False)
        with refusals():
            options = amqtt_options(plain, ROOT)
        secrets = {
            name: path_below(self.secrets_root, reference, f"{ROOT}/options/{name}", "secrets_root")
            for name in FILES
            if (reference := getattr(options, name))
        }
        listeners = [
            _listener(each, requests[name], host, ports[name]) for name, each in listeners_of(plain).items()
        ]
        first, *more = listeners
        return LaunchSpec(
            argv=self._module("amqtt_router", "--config", str(folder / CONFIG)),
            env={"PYTHONUNBUFFERED": "1"},
            files={CONFIG: json.dumps(_config(plain, requests, ports, secrets), indent=1)},
            ready=first.probe,
            live=first.probe,
            address=first.address,
            run_as=self.run_as,
            references={f"{ROOT}/options/{name}": path for name, path in secrets.items()},
            check=self._module("amqtt_acl", str(secrets["acl_file"])) if "acl_file" in secrets else (),
            check_refuses_with=ACL_REFUSES,
            interface=first.interface,
            port=first.port,
            listener=first.name,
            more=tuple(more),
            start_deadline_s=20.0,
        )

    def _module(self, name: str, *arguments: str) -> tuple[str, ...]:
        # -P: a file in the worker's folder must not be imported as a module.
        return (self.python, "-P", "-m", f"busbar.agent.routers.{name}", *arguments)


def _listener(listener: Listener, request: PortRequest, host: str, port: int) -> ListenerSpec:
    scheme = "ws" if listener.kind == "websocket" else "mqtt"
    url = address(scheme, request.interface, host, port)
    return ListenerSpec(listener.name, url, request.interface, port, probe_of(listener))


def _config(
    plain: Transport, requests: Mapping[str, PortRequest], ports: Ports, secrets: Mapping[str, Path]
) -> dict[str, object]:
    """The router's file; without an ACL and of one listener it is as versions before these wrote it."""
    binds = [
        {
            "type": "ws" if each.kind == "websocket" else "tcp",
            "bind": netloc(requests[name].interface, ports[name]),
            **({"anonymous": True} if each.config.get("anonymous") is True else {}),
        }
        for name, each in listeners_of(plain).items()
    ]
    first, *more = binds
    files = {"password_file": None, **{name: str(path) for name, path in secrets.items()}}
    return {**first, **files, **({"more": more} if more else {})}
