"""Looks at the files that running workers were started with, and tells which certificates end soon."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Final

from busbar.bus.clock import Clock
from busbar.bus.system.regular_files import file_identity
from busbar.bus.system.x509 import first_end

from ..planner.certificates import ending
from ..planner.file_watch import Files, Identity, member_of
from ..runtimes.principals import read_secrets
from .process_runner import Instance

log = logging.getLogger("busbar.agent")

LOG_AGAIN_S: Final = 86_400.0
"""A certificate that ends soon is logged once in so many seconds."""
CONDITIONS: Final = 8
_End = tuple[Identity, float | None]
"""A certificate's file, and when it ends."""
_CERTIFICATES: Final = frozenset({"certificate", "chain", "client_ca"})


class WatchedFiles:
    """The files of all running workers. Looking is done in a thread: there may be many, on a slow disk."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ends: dict[str, _End] = {}
        self._used_by: dict[str, list[str]] = {}
        self._logged: dict[str, float] = {}

    async def look(self, instances: Iterable[Instance]) -> dict[str, Files]:
        """The present files of each running worker that has any, by its oid."""
        running = [each for each in instances if each.spec is not None and each.process is not None]
        watched = {each.worker.oid: dict(each.spec.watched) for each in running if each.spec}
        watched = {oid: files for oid, files in watched.items() if files}
        self._used_by = _users(running)
        if not watched:
            self._ends = {}
            return {}
        found, self._ends = await asyncio.to_thread(_look, watched, list(self._used_by), self._ends)
        self._log_ending()
        return found

    def conditions(self) -> list[str]:
        """One per file whose certificate ends soon."""
        return list(self._ending().values())[:CONDITIONS]

    def _ending(self) -> dict[str, str]:
        ends = {path: end for path, (_, end) in self._ends.items() if end is not None}
        return ending(ends, self._used_by, self._clock.time_ns() / 1e9)

    def _log_ending(self) -> None:
        now, found = self._clock.monotonic(), self._ending()
        self._logged = {path: at for path, at in self._logged.items() if path in found}
        for path, text in found.items():
            if path not in self._logged or now - self._logged[path] >= LOG_AGAIN_S:
                self._logged[path] = now
                log.warning("%s", text)


def _users(running: Collection[Instance]) -> dict[str, list[str]]:
    """The workers that use each certificate, by its path."""
    found: dict[str, list[str]] = {}
    for instance in running:
        assert instance.spec is not None
        for pointer, path in instance.spec.watched.items():
            if member_of(pointer) in _CERTIFICATES:
                found.setdefault(str(path), []).append(f"worker {instance.worker.name}")
    return found


def _look(
    watched: Mapping[str, Mapping[str, Path]], certificates: Collection[str], known: Mapping[str, _End]
) -> tuple[dict[str, Files], dict[str, _End]]:
    ends = {}
    for name in certificates:
        identity = file_identity(Path(name))
        before = known.get(name)
        ends[name] = before if before and before[0] == identity else (identity, _end_in(Path(name)))
    found: dict[str, Files] = {}
    for oid, files in watched.items():
        found[oid] = {pointer: file_identity(path) for pointer, path in files.items()}
    return found, ends


def _end_in(path: Path) -> float | None:
    """None where it is no certificate, or the agent may not read it."""
    try:
        return first_end(read_secrets(path))
    except OSError:
        return None
