"""Runtime `mosquitto`: the Eclipse broker as a router worker. Pure but for `missing`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..processes.ports import PortWish
from .amqtt import PASSWORD_POINTER
from .base import Launch, MqttProbe, RuntimeConfigError, Transport, WorkerSpec, address, check_worker
from .programs import find_program, missing_program
from .transport import ROOT, below, checked, options, wish

TYPES = ("mqtt",)
"""No `websocket`: Debian's mosquitto 2.0.11 does not start when that is its only listener."""
CONFIG = "mosquitto.conf"
MAX_QUEUED = 100_000
"""Messages kept per client. The stock 1,000 drops the rest in silence; 0, no limit, lets one absent client
with a persistent session fill the memory."""


@dataclass(frozen=True, slots=True)
class MosquittoRuntime:
    """`user`: whom mosquitto becomes when root starts it and it must write (persistence) into its folder."""

    program: str = "mosquitto"
    secrets_root: Path | None = None
    user: str | None = None
    name: str = "mosquitto"

    def missing(self) -> str | None:
        """See `Runtime`."""
        return missing_program(self.program)

    def port_needed(self, transport: Transport | None) -> PortWish:
        """See `Runtime`."""
        return wish(checked(transport, TYPES), may_share=False)

    def render(self, worker: WorkerSpec, host: str, port: int, folder: Path) -> Launch:
        """See `Runtime`."""
        check_worker(worker)
        plain = checked(worker.transport, TYPES)
        wanted = wish(plain, may_share=False)
        given = options(plain, {"password_file": str, "persistence": bool})
        lines = [f"listener {port} {wanted.interface}"]
        lines += self._access(given.get("password_file"))
        lines += self._persistence(folder) if given.get("persistence") else ["persistence false"]
        probe = MqttProbe()
        return Launch(
            argv=(find_program(self.program) or self.program, "-c", str(folder / CONFIG)),
            env={},
            files={CONFIG: "\n".join([*lines, *_COMMON, ""])},
            ready=probe,
            live=probe,
            address=address("mqtt", wanted.interface, host, port),
            interface=wanted.interface,
            port=port,
            start_deadline_s=20.0,
        )

    def _access(self, reference: str | None) -> list[str]:
        if not reference:
            return ["allow_anonymous true"]
        secrets = below(self.secrets_root, reference, PASSWORD_POINTER, "secrets_root")
        return ["allow_anonymous false", f"password_file {secrets}"]

    def _persistence(self, folder: Path) -> list[str]:
        if any(ord(char) < 32 for char in str(folder)):
            raise RuntimeConfigError(
                f"{ROOT}/options/persistence", "the worker's folder has a control character"
            )
        # It survives kill -9 only when every change is saved.
        lines = ["persistence true", f"persistence_location {folder}/"]
        lines += ["autosave_interval 1", "autosave_on_changes true"]
        return lines + ([f"user {self.user}"] if self.user else [])


_COMMON = (
    # Without it a QoS 1 round trip takes 44 ms instead of under 1 ms.
    "set_tcp_nodelay true",
    f"max_queued_messages {MAX_QUEUED}",
    # A line per connection would be a line per readiness check.
    "connection_messages false",
    "log_dest stdout",
    "log_timestamp_format %Y-%m-%dT%H:%M:%S",
)
