"""Runtime `mosquitto`: the Eclipse broker as a router worker. Pure except `unavailable`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from busbar.bus.listeners import Listener, listeners_of
from busbar.bus.routers.router_options import MosquittoOptions, mosquitto_options, options_of_listener
from busbar.bus.system.programs import find_program
from msgspec import UNSET, Struct

from ..processes.ports import PortRequest
from ..processes.process_limits import NO_LIMITS, ProcessLimits
from ..processes.users import RunAs
from .base import (
    LaunchSpec,
    ListenerSpec,
    Ports,
    RuntimeConfigError,
    Transport,
    WorkerSpec,
    address,
    check_worker,
)
from .programs import why_not_runnable
from .transport import (
    ROOT,
    TlsFiles,
    checked_transport,
    path_below,
    port_requests,
    probe_of,
    refusals,
    tls_files,
)

TYPES = ("mqtt",)
"""No `websocket`: Debian's mosquitto 2.0.11 does not start when that is its only listener."""
LISTENERS = ("mqtt", "websocket")
CONFIG = "mosquitto.conf"
RELOADED = ("certificate", "key", "password_file", "acl_file")
"""What mosquitto 2.0 reads again on SIGHUP, as the user that it has become; not a client CA."""
CHECK_REFUSES = 3
"""Exit code of `agent.routers.mosquitto_check`."""
MAX_QUEUED = 100_000
"""Messages queued per client. The default of 1,000 silently drops the rest; 0 (no limit) would let one
offline client with a persistent session fill the memory."""


class MosquittoRuntime(Struct, frozen=True):
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

    def ports_needed(self, transport: Transport | None) -> dict[str, PortRequest]:
        """See `Runtime`."""
        return port_requests(
            checked_transport(transport, TYPES), LISTENERS, may_share=False, tls=True, options=True
        )

    def render(self, worker: WorkerSpec, host: str, ports: Ports, folder: Path) -> LaunchSpec:
        """See `Runtime`."""
        check_worker(worker)
        plain = checked_transport(worker.transport, TYPES)
        requests = port_requests(plain, LISTENERS, may_share=False, tls=True, options=True)
        with refusals():
            options = mosquitto_options(plain, ROOT)
        listeners = [
            self._listener(each, options, requests[name], host, ports[name])
            for name, each in listeners_of(plain).items()
        ]
        first, *more = (each.spec for each in listeners)
        lines = _of_listeners(listeners)
        lines += self._persistence(folder) if options.persistence else ["persistence false"]
        return LaunchSpec(
            argv=(find_program(self.program) or self.program, "-c", str(folder / CONFIG)),
            env={},
            files={CONFIG: "\n".join([*lines, _NO_DELAY, *_limits(options), *_COMMON, ""])},
            ready=first.probe,
            live=first.probe,
            address=first.address,
            run_as=self.run_as,
            interface=first.interface,
            port=first.port,
            listener=first.name,
            more=tuple(more),
            start_deadline_s=20.0,
            check=(
                sys.executable,
                *("-P", "-m", "busbar.agent.routers.mosquitto_check"),
                *("--program", find_program(self.program) or self.program),
                *("--config", str(folder / CONFIG)),
                *_first_websocket(plain),
            ),
            # The worker's user may not be able to run the agent's Python.
            check_refuses_with=CHECK_REFUSES,
            references={at: path for each in listeners for at, path in each.references.items()},
            reload_signal=signal.SIGHUP,
            reloads=self._reloaded(options, listeners),
        )

    def _listener(
        self, listener: Listener, options: MosquittoOptions, request: PortRequest, host: str, port: int
    ) -> _Listener:
        with refusals():
            own = options_of_listener(options, listener, ROOT)
        tls = tls_files(listener, self.secrets_root)
        at = {name: f"{ROOT}{listener.at}" if name in listener.config.get("options", {}) else ROOT
              for name in _FILES}  # fmt: skip
        secrets = {
            name: path_below(self.secrets_root, reference, f"{at[name]}/options/{name}", "secrets_root")
            for name in _FILES
            if (reference := getattr(own, name))
        }
        scheme = ("ws" if listener.kind == "websocket" else "mqtt") + ("s" if tls else "")
        probe = probe_of(listener, limited=own.max_connections is not UNSET)
        url = address(scheme, request.interface, host, port)
        return _Listener(
            (f"listener {port} {request.interface}", *_lines(listener, own, tls)),
            tuple(_access(listener, own, tls, secrets)),
            {
                **(tls.references if tls else {}),
                **{f"{at[name]}/options/{name}": path for name, path in secrets.items()},
            },
            ListenerSpec(listener.name, url, request.interface, port, probe),
        )

    def _reloaded(self, options: MosquittoOptions, listeners: Sequence[_Listener]) -> tuple[str, ...]:
        """What a SIGHUP may be used for.

        Where it has given up root it could read the new certificate and not its key: nobody could connect.
        """
        if self.user is None or options.persistence:  # it stays the user that it is started as
            return RELOADED
        tls = any("/tls/" in at for each in listeners for at in each.references)
        return () if tls else ("password_file", "acl_file")

    def _persistence(self, folder: Path) -> list[str]:
        if any(ord(char) < 32 for char in str(folder)):
            raise RuntimeConfigError(
                f"{ROOT}/options/persistence", "the worker's folder has a control character"
            )
        # Survives SIGKILL only if every change is saved.
        lines = ["persistence true", f"persistence_location {folder}/"]
        lines += ["autosave_interval 1", "autosave_on_changes true"]
        return lines + ([f"user {self.user}"] if self.user else [])


class _Listener(Struct, frozen=True):
    """A listener in mosquitto's file: its own lines, and whom it lets in, which may be said for all."""

    lines: tuple[str, ...]
    access: tuple[str, ...]
    references: Mapping[str, Path]
    spec: ListenerSpec


def _of_listeners(listeners: Sequence[_Listener]) -> list[str]:
    """The lines of all. Where they differ in whom they let in, each says so itself."""
    if len({each.access for each in listeners}) == 1:
        return [line for each in listeners for line in each.lines] + list(listeners[0].access)
    lines = [line for each in listeners for line in (*each.lines, *each.access)]
    return ["per_listener_settings true", *lines]


def _lines(listener: Listener, options: MosquittoOptions, tls: TlsFiles | None) -> list[str]:
    """What belongs to the listener, and so follows its line."""
    lines = ["protocol websockets"] if listener.kind == "websocket" else []
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


def _access(
    listener: Listener, options: MosquittoOptions, tls: TlsFiles | None, secrets: Mapping[str, Path]
) -> Iterator[str]:
    certain = tls is not None and tls.client_certificates == "require"
    named = "password_file" in secrets or (options.use_identity_as_username and certain)
    anonymous = not named or listener.config.get("anonymous") is True
    yield f"allow_anonymous {'true' if anonymous else 'false'}"
    for name, path in secrets.items():
        yield f"{name} {path}"


def _first_websocket(plain: Transport) -> tuple[str, ...]:
    """For the check, which may have to say that the program can't have such a listener."""
    found = (each.at for each in listeners_of(plain).values() if each.kind == "websocket")
    at = next(found, None)
    return () if at is None else ("--websocket", f"{ROOT}{at}/type")


def _limits(options: MosquittoOptions) -> list[str]:
    given = {name: getattr(options, name) for name in _LIMITS}
    if options.max_queued_messages is UNSET:
        given["max_queued_messages"] = MAX_QUEUED
    return [f"{name} {value}" for name, value in given.items() if value is not UNSET]


_FILES = ("password_file", "acl_file")
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
