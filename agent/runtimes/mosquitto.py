"""Runtime `mosquitto`: the Eclipse broker as a router worker. Pure except `unavailable`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from busbar.bus.runtimes import OPTIONS

from ..processes.ports import PortRequest
from ..processes.process_limits import NO_LIMITS, ProcessLimits
from ..processes.users import RunAs
from .amqtt import PASSWORD_POINTER
from .base import LaunchSpec, MqttProbe, RuntimeConfigError, Transport, WorkerSpec, address, check_worker
from .programs import find_program, why_not_runnable
from .transport import ROOT, checked_options, checked_transport, path_below, port_request

TYPES = ("mqtt",)
"""No `websocket`: Debian's mosquitto 2.0.11 does not start when that is its only listener."""
CONFIG = "mosquitto.conf"
MAX_QUEUED = 100_000
"""Messages queued per client. The default of 1,000 silently drops the rest; 0 (no limit) would let one
offline client with a persistent session fill the memory."""


@dataclass(frozen=True, slots=True)
class MosquittoRuntime:
    """`user`: what mosquitto switches to if started by root, when it must write into its folder."""

    program: str = "mosquitto"
    secrets_root: Path | None = None
    user: str | None = None
    name: str = "mosquitto"
    run_as: RunAs | None = None
    limits: ProcessLimits = NO_LIMITS

    def unavailable(self) -> str | None:
        """See `Runtime`."""
        return why_not_runnable(self.program)

    def port_needed(self, transport: Transport | None) -> PortRequest:
        """See `Runtime`."""
        return port_request(checked_transport(transport, TYPES), may_share=False)

    def render(self, worker: WorkerSpec, host: str, port: int, folder: Path) -> LaunchSpec:
        """See `Runtime`."""
        check_worker(worker)
        plain = checked_transport(worker.transport, TYPES)
        request = port_request(plain, may_share=False)
        given = checked_options(plain, OPTIONS["mosquitto"])
        lines = [f"listener {port} {request.interface}"]
        lines += self._access(given.get("password_file"))
        lines += self._persistence(folder) if given.get("persistence") else ["persistence false"]
        probe = MqttProbe()
        return LaunchSpec(
            argv=(find_program(self.program) or self.program, "-c", str(folder / CONFIG)),
            env={},
            files={CONFIG: "\n".join([*lines, *_COMMON, ""])},
            ready=probe,
            live=probe,
            address=address("mqtt", request.interface, host, port),
            run_as=self.run_as,
            interface=request.interface,
            port=port,
            start_deadline_s=20.0,
        )

    def _access(self, reference: str | None) -> list[str]:
        if not reference:
            return ["allow_anonymous true"]
        secrets = path_below(self.secrets_root, reference, PASSWORD_POINTER, "secrets_root")
        return ["allow_anonymous false", f"password_file {secrets}"]

    def _persistence(self, folder: Path) -> list[str]:
        if any(ord(char) < 32 for char in str(folder)):
            raise RuntimeConfigError(
                f"{ROOT}/options/persistence", "the worker's folder has a control character"
            )
        # Survives SIGKILL only if every change is saved.
        lines = ["persistence true", f"persistence_location {folder}/"]
        lines += ["autosave_interval 1", "autosave_on_changes true"]
        return lines + ([f"user {self.user}"] if self.user else [])


_COMMON = (
    # Without it a QoS 1 round trip takes 44 ms instead of less than 1 ms.
    "set_tcp_nodelay true",
    f"max_queued_messages {MAX_QUEUED}",
    # Otherwise every probe would log a line.
    "connection_messages false",
    # stdout is block-buffered where it is no terminal: a worker's log would be empty for hours.
    "log_dest stderr",
    "log_timestamp_format %Y-%m-%dT%H:%M:%S",
)
