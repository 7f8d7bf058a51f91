"""Runtime `mosquitto`: the Eclipse broker as a router worker. Pure except `unavailable`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from busbar.bus.router_options import MosquittoOptions, mosquitto_options
from msgspec import UNSET

from ..processes.ports import PortRequest
from ..processes.process_limits import NO_LIMITS, ProcessLimits
from ..processes.users import RunAs
from .base import (
    LaunchSpec,
    MqttProbe,
    Probe,
    RuntimeConfigError,
    TcpProbe,
    Transport,
    WorkerSpec,
    address,
    check_worker,
)
from .programs import find_program, why_not_runnable
from .transport import ROOT, TlsFiles, checked_transport, path_below, port_request, refusals, tls_files

TYPES = ("mqtt",)
"""No `websocket`: Debian's mosquitto 2.0.11 does not start when that is its only listener."""
CONFIG = "mosquitto.conf"
RELOADED = ("certificate", "key", "password_file", "acl_file")
"""What mosquitto 2.0 reads again on SIGHUP, as the user that it has become; not a client CA."""
CHECK_REFUSES = 3
"""Exit code of `agent.routers.mosquitto_check`."""
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
        return port_request(checked_transport(transport, TYPES), may_share=False, tls=True)

    def render(self, worker: WorkerSpec, host: str, port: int, folder: Path) -> LaunchSpec:
        """See `Runtime`."""
        check_worker(worker)
        plain = checked_transport(worker.transport, TYPES)
        request = port_request(plain, may_share=False, tls=True)
        with refusals():
            options = mosquitto_options(plain, ROOT)
        tls = tls_files(plain, self.secrets_root)
        secrets = self._secrets(options)
        lines = [f"listener {port} {request.interface}", *_listener(options, tls)]
        lines += _access(options, tls, secrets)
        lines += self._persistence(folder) if options.persistence else ["persistence false"]
        probe = _probe(options, tls)
        return LaunchSpec(
            argv=(find_program(self.program) or self.program, "-c", str(folder / CONFIG)),
            env={},
            files={CONFIG: "\n".join([*lines, _NO_DELAY, *_limits(options), *_COMMON, ""])},
            ready=probe,
            live=probe,
            address=address("mqtts" if tls else "mqtt", request.interface, host, port),
            run_as=self.run_as,
            interface=request.interface,
            port=port,
            start_deadline_s=20.0,
            check=(
                sys.executable,
                *("-P", "-m", "busbar.agent.routers.mosquitto_check"),
                *("--program", find_program(self.program) or self.program),
                *("--config", str(folder / CONFIG)),
            ),
            # The worker's user may not be able to run the agent's Python.
            check_refuses_with=CHECK_REFUSES,
            reload_signal=signal.SIGHUP,
            reloads=self._reloaded(options, tls),
            references={
                **(tls.references if tls else {}),
                **{f"{ROOT}/options/{name}": path for name, path in secrets.items()},
            },
        )

    def _secrets(self, options: MosquittoOptions) -> dict[str, Path]:
        given = {"password_file": options.password_file, "acl_file": options.acl_file}
        return {
            name: path_below(self.secrets_root, reference, f"{ROOT}/options/{name}", "secrets_root")
            for name, reference in given.items()
            if reference
        }

    def _reloaded(self, options: MosquittoOptions, tls: TlsFiles | None) -> tuple[str, ...]:
        """What a SIGHUP may be used for.

        Where it has given up root it could read the new certificate and not its key: nobody could connect.
        """
        if self.user is None or options.persistence:  # it stays the user that it is started as
            return RELOADED
        return () if tls is not None else ("password_file", "acl_file")

    def _persistence(self, folder: Path) -> list[str]:
        if any(ord(char) < 32 for char in str(folder)):
            raise RuntimeConfigError(
                f"{ROOT}/options/persistence", "the worker's folder has a control character"
            )
        # Survives SIGKILL only if every change is saved.
        lines = ["persistence true", f"persistence_location {folder}/"]
        lines += ["autosave_interval 1", "autosave_on_changes true"]
        return lines + ([f"user {self.user}"] if self.user else [])


def _listener(options: MosquittoOptions, tls: TlsFiles | None) -> list[str]:
    """What belongs to the listener, and so follows its line."""
    lines = []
    if options.max_connections is not UNSET:
        lines.append(f"max_connections {options.max_connections}")
    if tls is None:
        return lines
    # The oldest version that it accepts.
    lines += [f"certfile {tls.certificate}", f"keyfile {tls.key}", f"tls_version tlsv{tls.min_version}"]
    if tls.client_certificates == "require":
        lines += [f"cafile {tls.client_ca}", "require_certificate true"]
    if options.use_identity_as_username:
        lines.append("use_identity_as_username true")
    return lines


def _access(options: MosquittoOptions, tls: TlsFiles | None, secrets: Mapping[str, Path]) -> list[str]:
    named = "password_file" in secrets or options.use_identity_as_username
    lines = [f"allow_anonymous {'false' if named else 'true'}"]
    return lines + [f"{name} {path}" for name, path in secrets.items()]


def _limits(options: MosquittoOptions) -> list[str]:
    given = {name: getattr(options, name) for name in _LIMITS}
    if options.max_queued_messages is UNSET:
        given["max_queued_messages"] = MAX_QUEUED
    return [f"{name} {value}" for name, value in given.items() if value is not UNSET]


def _probe(options: MosquittoOptions, tls: TlsFiles | None) -> Probe:
    """Asks the port that clients use. One who has no certificate is served only the start of a handshake."""
    limited = options.max_connections is not UNSET
    if tls is not None and tls.client_certificates == "require":
        return TcpProbe(tls=True, limited=limited)
    return MqttProbe(tls=tls is not None, limited=limited)


_LIMITS = (
    "max_inflight_messages",
    "max_queued_messages",
    "max_queued_bytes",
    "max_packet_size",
    "persistent_client_expiration",
    "sys_interval",
)
_NO_DELAY = "set_tcp_nodelay true"
"""Without it a QoS 1 round trip takes 44 ms instead of less than 1 ms."""
_COMMON = (
    # Otherwise every probe would log a line.
    "connection_messages false",
    # stdout is block-buffered where it is no terminal: a worker's log would be empty for hours.
    "log_dest stderr",
    "log_timestamp_format %Y-%m-%dT%H:%M:%S",
)
