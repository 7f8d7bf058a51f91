"""Runtime `amqtt`: an MQTT router from a Python package that Busbar requires. Pure except `unavailable`."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from busbar.bus.addresses import netloc
from busbar.bus.router_options import amqtt_options

from ..processes.ports import PortRequest
from ..processes.process_limits import NO_LIMITS, ProcessLimits
from ..processes.users import RunAs
from .base import LaunchSpec, MqttProbe, Transport, WorkerSpec, address, check_worker
from .transport import ROOT, checked_transport, path_below, port_request, refusals

TYPES = ("mqtt", "websocket")
"""Transport types of the MQTT routers: MQTT over TCP, or over WebSocket."""
CONFIG = "router.json"
FILES = ("password_file", "acl_file")
ACL_REFUSES = 2
"""Exit code of `agent.routers.amqtt_acl`."""


@dataclass(frozen=True, slots=True)
class AmqttRuntime:
    """`secrets_root`: the operator's folder of the files that a transport may refer to."""

    secrets_root: Path | None = None
    python: str = sys.executable
    name: str = "amqtt"
    run_as: RunAs | None = None
    limits: ProcessLimits = NO_LIMITS

    def unavailable(self) -> str | None:
        """See `Runtime`."""
        return None if importlib.util.find_spec("amqtt") else "the Python package amqtt is not installed"

    def port_needed(self, transport: Transport | None) -> PortRequest:
        """See `Runtime`."""
        return port_request(checked_transport(transport, TYPES), may_share=False)

    def render(self, worker: WorkerSpec, host: str, port: int, folder: Path) -> LaunchSpec:
        """See `Runtime`."""
        check_worker(worker)
        plain = checked_transport(worker.transport, TYPES)
        request = port_request(plain, may_share=False)
        websocket = plain["type"] == "websocket"
        with refusals():
            options = amqtt_options(plain, ROOT)
        secrets = {
            name: path_below(self.secrets_root, reference, f"{ROOT}/options/{name}", "secrets_root")
            for name in FILES
            if (reference := getattr(options, name))
        }
        config = {
            "type": "ws" if websocket else "tcp",
            "bind": netloc(request.interface, port),
            **{name: str(secrets[name]) if name in secrets else None for name in FILES},
        }
        probe = MqttProbe(websocket)
        return LaunchSpec(
            argv=self._module("amqtt_router", "--config", str(folder / CONFIG)),
            env={"PYTHONUNBUFFERED": "1"},
            files={CONFIG: json.dumps(config, indent=1)},
            ready=probe,
            live=probe,
            address=address("ws" if websocket else "mqtt", request.interface, host, port),
            run_as=self.run_as,
            references={f"{ROOT}/options/{name}": path for name, path in secrets.items()},
            check=self._module("amqtt_acl", str(secrets["acl_file"])) if "acl_file" in secrets else (),
            check_refuses_with=ACL_REFUSES,
            interface=request.interface,
            port=port,
            start_deadline_s=20.0,
        )

    def _module(self, name: str, *arguments: str) -> tuple[str, ...]:
        # -P: a file in the worker's folder must not be imported as a module.
        return (self.python, "-P", "-m", f"busbar.agent.routers.{name}", *arguments)
