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


@dataclass(frozen=True, slots=True)
class AmqttRuntime:
    """`secrets_root`: the operator's folder of password files that a transport may refer to."""

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
            reference = amqtt_options(plain, ROOT).password_file
        secrets = (
            path_below(self.secrets_root, reference, PASSWORD_POINTER, "secrets_root") if reference else None
        )
        config = {
            "type": "ws" if websocket else "tcp",
            "bind": netloc(request.interface, port),
            "password_file": str(secrets) if secrets else None,
        }
        probe = MqttProbe(websocket)
        return LaunchSpec(
            # -P: a file in the worker's folder must not be imported as a module.
            argv=(
                self.python,
                "-P",
                "-m",
                "busbar.agent.routers.amqtt_router",
                "--config",
                str(folder / CONFIG),
            ),
            env={"PYTHONUNBUFFERED": "1"},
            files={CONFIG: json.dumps(config, indent=1)},
            ready=probe,
            live=probe,
            address=address("ws" if websocket else "mqtt", request.interface, host, port),
            run_as=self.run_as,
            references={PASSWORD_POINTER: secrets} if secrets else {},
            interface=request.interface,
            port=port,
            start_deadline_s=20.0,
        )


PASSWORD_POINTER = f"{ROOT}/options/password_file"
