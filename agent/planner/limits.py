"""Which assigned workers this node has no room for, by its own limit. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from busbar.bus.messages import AssignedWorker

from .lifecycle import Phase, Worker


def without_room(
    desired: Mapping[str, AssignedWorker], workers: Mapping[str, Worker], limit: int | None
) -> set[str]:
    """The oids of waiting workers that must not be started: with them more than `limit` would run.

    Each that has a process takes a place, also one that is no longer assigned, and so does one that waits for
    its restart: places do not pass to and fro between workers. The other places go by cluster and name.
    """
    if limit is None:
        return set()
    alive = sum(1 for worker in workers.values() if worker.alive)
    waiting = [worker for oid, worker in workers.items() if worker.phase is Phase.WAITING and oid in desired]
    waiting.sort(key=_rank)
    return {worker.oid for worker in waiting[max(0, limit - alive) :]}


def _rank(worker: Worker) -> tuple[bool, bool, str, str, str]:
    return worker.starts == 0, worker.failures > 0, worker.cluster, worker.name, worker.oid


def no_room(limit: int) -> str:
    """The reason of a worker that is not started because of the limit."""
    return f"no room: this node runs at most {limit} workers (max_workers)"
