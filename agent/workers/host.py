"""What an agent stands on: the processes, ports and programs of its machine, and how they are asked.

One object that is handed in, so that a simulated machine can be put in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..processes import procfs
from ..processes.process import Processes
from ..processes.procfs import ProcessRecord
from ..processes.sockets import is_free
from ..runtimes import Probe, Runtime, load_runtimes
from .probes import probe


class Ground:
    """This machine. Each method raises what it calls raises."""

    def processes(self, scope: str) -> Processes:
        """The processes of one node (`scope`)."""
        return Processes(scope)

    def runtimes(self, table: Mapping[str, Any]) -> Mapping[str, Runtime]:
        """The runtimes of the configuration's table."""
        return load_runtimes(table)

    async def probe(
        self, wanted: Probe, host: str, port: int, log_path: Path, timeout_s: float, *, log_from: int
    ) -> str | None:
        """Ask a worker once; None when it is well, else why not."""
        return await probe(wanted, host, port, log_path, timeout_s, log_from=log_from)

    def is_free(self, interface: str, port: int, *, shared: bool) -> bool:
        """Whether a worker can listen there."""
        return is_free(interface, port, shared=shared)

    def boot_id(self) -> str:
        """Differs after every start of the machine."""
        return procfs.boot_id()

    def is_ours(self, record: ProcessRecord) -> bool:
        """Whether the very process of this record lives."""
        return procfs.is_ours(record)

    def listens(self, record: ProcessRecord, port: int) -> bool | None:
        """Whether that worker listens on a port; None when no one does, or it can't be told."""
        try:
            return procfs.listens(record, port)
        except OSError:
            return None

    def age_s(self, record: ProcessRecord) -> float:
        """How long a process has been there, seconds; 0 when it can't be told."""
        try:
            stat = procfs.read(record.pid)
            return procfs.age_s(stat) if stat is not None else 0.0
        except OSError:
            return 0.0
