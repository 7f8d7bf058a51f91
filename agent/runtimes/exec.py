"""Operator-defined runtimes: any program, defined in the agent's configuration. Pure except `unavailable`.

No text from the bus becomes a program, an option or a variable's name: templates come from the node's
configuration, have a fixed set of fields, and are filled in without a shell.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from busbar.bus.addresses import is_loopback
from busbar.bus.json_schema import UndecidedError, violation

from ..processes.ports import PortRequest
from ..processes.process_limits import NO_LIMITS, ProcessLimits
from ..processes.users import RunAs
from .base import LaunchSpec, Probe, RuntimeConfigError, Transport, WorkerSpec, address, check_worker
from .programs import find_program, why_not_runnable
from .transport import ROOT, checked_transport, port_request

FIELDS: Final = ("port", "host", "folder", "worker", "cluster", "workergroup", "oid")
"""Fields of argv, env and the configuration template; `{host}` is the interface to bind."""
TEMPLATE_FIELDS: Final = (*FIELDS, "transport")
"""The configuration template may also use the transport, as one line of JSON."""
_FIELD: Final = re.compile(r"\{\{([A-Za-z_]+)\}\}|\{([A-Za-z_]+)\}")


_UNBUFFERED: Final = {"PYTHONUNBUFFERED": "1"}
"""A Python program's output goes into its log line by line; other programs are not affected."""


@dataclass(frozen=True, slots=True)
class ExecRuntime:
    """One `[runtimes.NAME]` of the agent's configuration; see `agent.runtimes.config` for the keys."""

    name: str
    argv: tuple[str, ...]
    ready: Probe
    live: Probe | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    config_file: str | None = None
    config_template: str = ""
    listens: bool = True
    own_listener: bool = True
    anonymous: bool = False
    """Whether it lets everybody in: on other interfaces than loopback the transport has to say so."""
    scheme: str = "tcp"
    path: str = ""
    types: tuple[str, ...] = ()
    stop_signal: int = 15
    grace_s: float = 5.0
    start_deadline_s: float = 30.0
    run_as: RunAs | None = None
    limits: ProcessLimits = NO_LIMITS
    check: tuple[str, ...] = ()
    """Its checker, with the fields of `argv`; none: it has none."""
    version: tuple[str, ...] = ()
    """What prints its version; none: it is not known."""
    transport_schema: Mapping[str, Any] | None = None
    """The JSON Schema of the transports that it accepts; None: of any that the contract has."""

    def unavailable(self) -> str | None:
        """See `Runtime`."""
        return why_not_runnable(self.argv[0])

    def port_needed(self, transport: Transport | None) -> PortRequest | None:
        """See `Runtime`."""
        plain = self._checked(transport)
        return port_request(plain, may_share=True, tls=True) if self.listens else None

    def _checked(self, transport: Transport | None) -> Transport:
        plain = checked_transport(transport, self.types)
        try:
            found = violation(plain, self.transport_schema or {}, trusted=True) if transport else None
        except UndecidedError as error:
            detail = f"this node's transport_schema can't be followed: {error}"
            raise RuntimeConfigError(ROOT, detail) from error
        if found is not None:
            raise RuntimeConfigError(f"{ROOT}{found.pointer}", found.detail)
        return plain

    def render(self, worker: WorkerSpec, host: str, port: int, folder: Path) -> LaunchSpec:
        """See `Runtime`."""
        check_worker(worker)
        plain = self._checked(worker.transport)
        request = port_request(plain, may_share=True, tls=True)
        interface = request.interface
        if self.anonymous and not is_loopback(interface) and plain.get("anonymous") is not True:
            detail = (
                f"'{self.name}' on {interface} would let everybody in: set it to true if that is intended"
            )
            raise RuntimeConfigError(f"{ROOT}/anonymous", detail)
        values = {
            "port": str(port),
            "host": interface,
            "folder": str(folder),
            "worker": worker.name,
            "cluster": worker.cluster,
            "workergroup": worker.workergroup,
            "oid": worker.oid,
        }
        # ASCII JSON is one line, whatever text the transport has.
        template_values = {**values, "transport": json.dumps(plain, sort_keys=True)}
        files = {self.config_file: fill(self.config_template, template_values)} if self.config_file else {}
        program = find_program(self.argv[0]) or self.argv[0]
        return LaunchSpec(
            argv=(program, *(fill(piece, values) for piece in self.argv[1:])),
            env=_UNBUFFERED | {name: fill(value, values) for name, value in self.env.items()},
            files=files,
            ready=self.ready,
            live=self.live,
            address=address(self.scheme, interface, host, port, self.path) if self.listens else "",
            run_as=self.run_as,
            interface=interface,
            port=port,
            shared=request.shared and self.listens,
            stop_signal=self.stop_signal,
            grace_s=self.grace_s,
            start_deadline_s=self.start_deadline_s,
            own_listener=self.own_listener,
            check=tuple(fill(piece, values) for piece in self.check),
        )


def fill(template: str, values: Mapping[str, str]) -> str:
    """Replace each `{field}` once (braces in values stay); `{{word}}` yields the text `{word}`."""
    return _FIELD.sub(lambda found: f"{{{found[1]}}}" if found[1] else values[found[2]], template)


def unknown_fields(template: str, known: tuple[str, ...]) -> list[str]:
    """Fields of a template that are not in `known`."""
    return [found[2] for found in _FIELD.finditer(template) if found[2] and found[2] not in known]
