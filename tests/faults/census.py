"""Counts worker processes in /proc many times a second: duplicates, restarts, orphans."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from busbar.agent.processes import proc_files

from tests.pace import bound

EVERY_S = 0.05
STARTED, ENVIRONMENT = 19, 47
"""Fields of /proc/PID/stat behind the name: when it was forked, and where its environment lies (proc(5))."""


@dataclass(frozen=True, slots=True)
class Life:
    """One process with a worker's token. `leads`: the agent started it."""

    pid: int
    start: int
    leads: bool
    oid: str
    worker: str
    cluster: str
    node: str
    token: str

    @property
    def key(self) -> tuple[int, int]:
        """Unique among the processes of this boot."""
        return self.pid, self.start


class Census:
    """Reads /proc in a thread. Only workers of agents with a state folder below `folder` count."""

    def __init__(self, folder: Path, every: float = EVERY_S) -> None:
        self._every = every
        self._folder = str(folder)
        self._known: dict[tuple[int, int, int], Life | None] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.history: dict[tuple[int, int], Life] = {}
        """Every leader seen so far."""
        self.doubles: list[str] = []
        self.most: dict[str, int] = {}
        """The most leaders of a cluster seen at once."""
        self.watch_doubles = True
        self._thread = threading.Thread(target=self._forever, name="census", daemon=True)
        self._thread.start()

    def _forever(self) -> None:
        while not self._stop.wait(self._every):
            with contextlib.suppress(OSError):
                self.look()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(bound(5))

    def look(self) -> list[Life]:
        """All living processes."""
        with self._lock:
            found = [life for pid in _pids() if (life := self._read(pid)) is not None]
            self._judge([life for life in found if life.leads])
            return found

    def leaders(self, cluster: str | None = None) -> dict[str, Life]:
        """The living workers by name (of a cluster, or cluster/name of all)."""
        found = {}
        for life in self.look():
            if life.leads and cluster in (None, life.cluster):
                found[life.worker if cluster else f"{life.cluster}/{life.worker}"] = life
        return found

    def keys(self, cluster: str) -> set[tuple[int, int]]:
        """Pid and start time of each living worker of a cluster."""
        return {life.key for life in self.look() if life.leads and life.cluster == cluster}

    def ever(self, cluster: str) -> set[tuple[int, int]]:
        """The same of all that ever lived."""
        with self._lock:
            return {key for key, life in self.history.items() if life.cluster == cluster}

    def processes(self, cluster: str) -> list[Life]:
        """All processes with a token of that cluster, descendants included."""
        return [life for life in self.look() if life.cluster == cluster]

    def kill(self, life: Life) -> None:
        os.kill(life.pid, signal.SIGKILL)

    def _judge(self, leaders: list[Life]) -> None:
        by_oid: dict[str, list[Life]] = {}
        counts: dict[str, int] = {}
        for life in leaders:
            self.history.setdefault(life.key, life)
            by_oid.setdefault(life.oid, []).append(life)
            counts[life.cluster] = counts.get(life.cluster, 0) + 1
        for cluster, count in counts.items():
            self.most[cluster] = max(count, self.most.get(cluster, 0))
        if self.watch_doubles:
            for lives in by_oid.values():
                if len(lives) > 1:
                    self.doubles.append(" and ".join(f"{x.worker} pid {x.pid} on {x.node}" for x in lives))

    def _read(self, pid: int) -> Life | None:
        try:
            fields = proc_files.read_text(pid, "stat").rpartition(")")[2].split()
        except OSError:
            return None
        if fields[0] in "ZX":
            return None
        # Between fork and exec it has its parent's environment; it lies elsewhere afterwards.
        key = pid, int(fields[STARTED]), int(fields[ENVIRONMENT])
        if key not in self._known:
            self._known[key] = self._environment(pid, key[1], int(fields[3]))
        return self._known[key]

    def _environment(self, pid: int, start: int, session: int) -> Life | None:
        try:
            raw = proc_files.read_bytes(pid, "environ")
        except OSError:
            return None
        if b"BUSBAR_WORKER_TOKEN=" not in raw:
            return None
        names = dict(item.partition("=")[::2] for item in raw.decode(errors="replace").split("\0"))
        if not names.get("BUSBAR_STATE", "").startswith(self._folder):
            return None
        return Life(
            pid=pid,
            start=start,
            leads=session == pid and not _has_ours(pid, names["BUSBAR_WORKER_TOKEN"]),
            oid=names.get("BUSBAR_OID", ""),
            worker=names.get("BUSBAR_WORKER", ""),
            cluster=names.get("BUSBAR_CLUSTER", ""),
            node=names.get("BUSBAR_NODE", "").rpartition("/")[2],
            token=names["BUSBAR_WORKER_TOKEN"],
        )


def _has_ours(pid: int, token: str) -> bool:
    """Whether an older process has the same token: then this one only leads a session of its own."""
    for other in _pids():
        if other != pid:
            with contextlib.suppress(OSError, ValueError):
                stat = proc_files.read_text(other, "stat").rpartition(")")[2].split()
                own = proc_files.read_text(pid, "stat").rpartition(")")[2].split()
                raw = proc_files.read_bytes(other, "environ")
                if token.encode() in raw and int(stat[19]) < int(own[19]) and stat[0] not in "ZX":
                    return True
    return False


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def until(condition: Callable[[], Any], timeout: float, what: str) -> Any:
    """Poll for what only the kernel or a query shows."""
    end = time.monotonic() + bound(timeout)
    while not (found := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {bound(timeout):g} s: {what}")
        time.sleep(0.03)
    return found
