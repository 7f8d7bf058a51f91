"""T: no status tells of a condition whose cause has been gone for ten seconds.

What is so is read from the machines and their agents, and from the committed rows; what is told, from the
broker's retained statuses and from the manager.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec
from busbar.bus.states import WorkerState

from tests.simulation.link import connected
from tests.simulation.parts import TOPICS, AgentHost

if TYPE_CHECKING:
    from tests.simulation.invariants import Watch

GONE_S = 10.0
"""Seconds for which the cause may have been gone."""
_SILENT = re.compile(r"\b(n\d+) is (?:late|lost|offline)\b")
_WORKER = re.compile(r"worker (\S+): (pending|restarting|unknown)\b")
_WORST = re.compile(r"; (\S+) is (PENDING|BACKOFF|UNKNOWN|STARTING|STOPPING|STOPPED)\b")
_READY = re.compile(r"\b(none|\d+) of \d+ workers (?:is|are) ready")
_WORDS = {
    "pending": WorkerState.PENDING,
    "restarting": WorkerState.BACKOFF,
    "unknown": WorkerState.UNKNOWN,
}
_JUDGED = ("DEGRADED", "ERROR", "RUNNING")
"""Statuses whose reason tells how it is now; that of the others tells how they came about."""

Stale = tuple[tuple[str, str], str]


def _decoded(payload: bytes) -> Any:
    """None for a forged one, which the manager overwrites."""
    try:
        told = msgspec.json.decode(payload)
    except msgspec.DecodeError:
        return None
    return told if isinstance(told, dict) and isinstance(told.get("conditions"), list) else None


class Conditions:
    """`look` is called again and again, and reports what has been stale for too long."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.doubted = False
        """Whether something was stale at the last look."""
        self._told: dict[str, tuple[bytes, Any]] = {}

    def look(self) -> None:
        seen: set[tuple[str, str]] = set()
        for key, text in self._stale() if self._calm() else ():
            seen.add(key)
            if self._watch._lasts(key) > GONE_S:
                self._watch._violation("T", text)
        self._watch._forget("stale", seen)
        self.doubted = bool(seen)

    def _calm(self) -> bool:
        """Whether the manager can know and tell."""
        manager, broker = self._watch.world.manager, self._watch.world.broker
        link = manager.manager.link if manager.up and manager.manager else None
        return manager.disk_error is None and connected(link) and broker.weather.fair

    def _stale(self) -> Iterator[Stale]:
        prefix = f"{TOPICS.prefix}/status/"
        for topic, payload in self._watch.world.broker.retained.items():
            if not topic.startswith(prefix) or not payload:
                continue
            if self._told.get(topic, (b"", None))[0] != payload:
                self._told[topic] = (payload, _decoded(payload))
            cluster, kind, name = topic.removeprefix(prefix).split("/")
            told = self._told[topic][1]
            if told is None:
                continue
            for text in self._of(kind, cluster, name, told):
                yield ("stale", f"{topic} {text}"), f"{kind} {name} ({told['status']}) still says: {text}"
        manager = self._watch.world.manager.manager
        for text in manager.conditions() if manager is not None else ():
            if self._is_over(text):
                yield ("stale", f"manager {text}"), f"the manager still says: {text}"

    def _is_over(self, text: str) -> bool:
        """Whether a condition of the manager has no cause: the disk works, and no other manager is here."""
        heard = all(self._watch._touched(node.name) > 0.0 for node in self._watch.mirror.nodes.values())
        return heard or "nothing is moved" not in text

    def _of(self, kind: str, cluster: str, name: str, told: dict[str, Any]) -> Iterator[str]:
        """The texts of a status that are not so."""
        conditions, reason = told["conditions"], told.get("reason")
        if kind == "node":
            yield from (text for text in conditions if self._not_of_node(name, text))
            return
        now = [*conditions, *([reason] if reason and self._tells_now(kind, told["status"]) else [])]
        yield from (text for text in now if self._names_silent(text))
        if kind == "worker":
            if told["status"] in ("RUNNING", "STARTING") and reason and self._not_of_worker(told, reason):
                yield reason
            return
        states = self._states(cluster, name if kind == "workergroup" else None)
        yield from (text for text in now if self._not_of_workers(text, states, told["status"]))

    def _tells_now(self, kind: str, status: str) -> bool:
        return kind != "worker" and status in _JUDGED

    def _names_silent(self, text: str) -> bool:
        """Whether it says of a node that it is silent which is in contact."""
        return any(self._watch._touched(found) > 0.0 for found in _SILENT.findall(text))

    def _not_of_node(self, name: str, text: str) -> bool:
        host = self._watch.world.agents.get(name)
        if host is None or host.agent is None or self._watch._touched(name) == 0.0:
            return False
        if text.startswith(("late: ", "lost: ", "offline: ")):
            return True
        if text.startswith(("draining: ", "drained: ")):
            node = self._watch.mirror.by_name.get(name)
            return node is not None and node.draining is None
        if text.startswith("cordoned: "):
            node = self._watch.mirror.by_name.get(name)
            return node is not None and node.cordoned is None
        snapshot = host.agent.snapshot()
        if text.startswith("it refused the assignment: "):
            return snapshot.refused is None
        if text.startswith("it follows "):
            return self._follows_us(host)
        return text not in snapshot.conditions

    def _follows_us(self, host: AgentHost) -> bool:
        store = self._watch.world.manager.store
        assignment = host.agent.supervisor.assignment if host.agent is not None else None
        return store is None or assignment is None or assignment.store == store.id

    def _not_of_worker(self, told: dict[str, Any], reason: str) -> bool:
        """Whether a ready worker says what its agent does not, or a starting one that its node refuses it."""
        node = told.get("node")
        host = self._watch.world.agents.get(node or "")
        if host is None or host.agent is None or self._watch._touched(host.name) == 0.0:
            return False
        if told["status"] == "STARTING":
            return reason.endswith("it is not started there") and self._follows_us(host)
        said = {each.oid: each for each in host.agent.supervisor.registry.reported()}
        return told["oid"] in said and said[told["oid"]].reason is None

    def _states(self, cluster: str, group: str | None) -> dict[str, WorkerState]:
        mirror = self._watch.mirror
        names = {oid: row.name for oid, row in mirror.clusters.items()}
        groups = {oid: row.name for oid, row in mirror.groups.items()}
        return {
            row.name: row.state
            for row in mirror.workers.values()
            if names.get(row.cluster_oid) == cluster and group in (None, groups.get(row.group_oid))
        }

    def _not_of_workers(self, text: str, states: dict[str, WorkerState], status: str) -> bool:
        found = _WORKER.match(text)
        if found is not None:
            return states.get(found[1]) is not _WORDS[found[2]]
        worst, ready = _WORST.search(text), _READY.search(text)
        if worst is not None and states.get(worst[1]) is not WorkerState(worst[2]):
            return True
        if ready is None or status == "RUNNING":
            return False
        # Surplus workers are ready too, and do not count.
        return sum(state is WorkerState.RUNNING for state in states.values()) < int(
            ready[1].replace("none", "0")
        )
