"""Judges a definition before a worker is touched: its files on this node, then the router's checker."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from pathlib import Path
from typing import Final

from busbar.bus.messages import AssignedWorker
from busbar.bus.system.regular_files import open_regular
from msgspec import Struct

from ..processes.checking import CheckerError, check
from ..processes.process import describe_os_error
from ..processes.run_as import files_as
from ..runtimes import LaunchSpec, RuntimeConfigError, prepare
from ..runtimes.transport import ROOT
from .process_runner import Instance, ProcessRunner
from .spec_renderer import RefusedError

log = logging.getLogger("busbar.agent")

CHECKS_AT_ONCE: Final = 2
"""Checkers that run at the same time: each costs about as much as the start of a router."""


class Vetting(Struct, frozen=True):
    """What is to be found out about one definition: by `error` already, or by running a checker."""

    error: str | None = None
    spec: LaunchSpec | None = None


class Vetter:
    """Judges definitions for one node. What can't be rendered for other reasons is left to the start."""

    def __init__(self, runner: ProcessRunner) -> None:
        self._runner = runner
        self._turn = asyncio.Semaphore(CHECKS_AT_ONCE)

    def look(self, instance: Instance, worker: AssignedWorker, *, start: bool) -> Vetting:
        """What can be said at once. `spec` is there when the checker has to run.

        A `start` with what the worker was started with before needs none: it has ended, and is to be back
        soon. A replacement always does: a file that it names may have other contents now.
        """
        record = instance.record
        try:
            spec = self._runner.specs.for_check(worker, record.ports if record is not None else {})
        except (RefusedError, RuntimeConfigError) as error:
            return Vetting(error=str(error))
        except Exception:
            return Vetting()
        missing = unreadable(spec)
        if missing is not None:
            return Vetting(error=missing)
        known = start and record is not None and record.start == spec.digest
        return Vetting(spec=spec if spec.check and not known else None)

    async def run_check(self, worker: AssignedWorker, spec: LaunchSpec) -> str | None:
        """Run the checker in a scratch copy of the worker's files; None when it has nothing against them.

        Others of this node may have to end first.
        """
        async with self._turn:
            return await self._run_check(worker, spec)

    async def _run_check(self, worker: AssignedWorker, spec: LaunchSpec) -> str | None:
        try:
            with tempfile.TemporaryDirectory(prefix="busbar-check-", ignore_cleanup_errors=True) as name:
                scratch = Path(name)
                copy = self._runner.specs.for_check(worker, spec.ports, scratch)
                prepare(copy, scratch)
                error = await check(
                    copy.check, scratch, copy.env, copy.run_as, refuses_with=copy.check_refuses_with
                )
        except CheckerError as failure:
            name = f"{worker.cluster}/{worker.worker}"
            log.warning("worker %s: its files are not checked: %s", name, failure)
            return None
        except (OSError, ValueError) as failure:
            return f"its files can't be checked: {failure}"
        if error is None:
            return None
        return f"the check of its files failed: {_pointed(error, copy).replace(f'{scratch}/', '')}"


def _pointed(error: str, spec: LaunchSpec) -> str:
    """What a checker says, with the pointer to the member whose file it names."""
    if error.startswith(f"{ROOT}/"):
        return error
    found = (pointer for pointer, path in spec.watched.items() if str(path) in error)
    pointer = next(found, None)
    return error if pointer is None else f"{pointer}: {error}"


def unreadable(spec: LaunchSpec) -> str | None:
    """The first file that the definition names and this node has not, or may not read; with its pointer."""
    for pointer, path in spec.references.items():
        try:
            with files_as(spec.run_as):
                os.close(open_regular(path))
        except OSError as error:
            return f"{pointer}: can't read {path}: {describe_os_error(error)}"
    return None
