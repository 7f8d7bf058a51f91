"""Operator-defined runtimes: any program, as the agent's own configuration has it. Pure but for `missing`.

No text from the bus becomes a program, an option or a variable's name: templates stand in the node's
configuration, the fields they may hold are few, and values are put in as they are, with no shell in sight.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ..processes.ports import PortWish
from .base import Launch, Probe, Transport, WorkerSpec, address, check_worker
from .programs import find_program, missing_program
from .transport import checked, wish

FIELDS: Final = ("port", "host", "folder", "worker", "cluster", "workergroup", "oid")
"""What argv, env and the configuration's template may hold in braces; `{host}`: the interface to bind."""
TEMPLATE_FIELDS: Final = (*FIELDS, "transport")
"""The configuration's template alone may also hold the transport, as one line of JSON."""
_FIELD: Final = re.compile(r"\{\{([A-Za-z_]+)\}\}|\{([A-Za-z_]+)\}")


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
    scheme: str = "tcp"
    path: str = ""
    types: tuple[str, ...] = ()
    stop_signal: int = 15
    grace_s: float = 5.0
    start_deadline_s: float = 30.0

    def missing(self) -> str | None:
        """See `Runtime`."""
        return missing_program(self.argv[0])

    def port_needed(self, transport: Transport | None) -> PortWish | None:
        """See `Runtime`."""
        plain = checked(transport, self.types)
        return wish(plain, may_share=True) if self.listens else None

    def render(self, worker: WorkerSpec, host: str, port: int, folder: Path) -> Launch:
        """See `Runtime`."""
        check_worker(worker)
        plain = checked(worker.transport, self.types)
        interface = wish(plain, may_share=True).interface
        values = {
            "port": str(port),
            "host": interface,
            "folder": str(folder),
            "worker": worker.name,
            "cluster": worker.cluster,
            "workergroup": worker.workergroup,
            "oid": worker.oid,
        }
        # The transport in ASCII JSON is one line, whatever text it holds.
        template_values = {**values, "transport": json.dumps(plain, sort_keys=True)}
        files = {self.config_file: fill(self.config_template, template_values)} if self.config_file else {}
        program = find_program(self.argv[0]) or self.argv[0]
        return Launch(
            argv=(program, *(fill(piece, values) for piece in self.argv[1:])),
            env={name: fill(value, values) for name, value in self.env.items()},
            files=files,
            ready=self.ready,
            live=self.live,
            address=address(self.scheme, interface, host, port, self.path) if self.listens else "",
            interface=interface,
            port=port,
            stop_signal=self.stop_signal,
            grace_s=self.grace_s,
            start_deadline_s=self.start_deadline_s,
            own_listener=self.own_listener,
        )


def fill(template: str, values: Mapping[str, str]) -> str:
    """Replace each `{field}` once (a value's own braces stay); `{{word}}` stands for the text `{word}`."""
    return _FIELD.sub(lambda found: f"{{{found[1]}}}" if found[1] else values[found[2]], template)


def unknown_fields(template: str, known: tuple[str, ...]) -> list[str]:
    """Fields of a template that are none of `known`."""
    return [found[2] for found in _FIELD.finditer(template) if found[2] and found[2] not in known]
