"""The net: what must hold after every event. It has a memory of its own, and trusts no word of the code."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final
from zlib import crc32

import msgspec
from busbar.agent.planner import plan as agent_plan
from busbar.bus.connection.link import Message
from busbar.bus.states import STARTED, ClusterState, Leaves, NodeStatus, WorkerState
from busbar.manager.store.changes import Changes
from busbar.manager.store.rows import GroupRow, NodeRow, WorkerRow

from tests.simulation import placing
from tests.simulation.conditions import Conditions
from tests.simulation.lasting import DOUBTED_S, LOST_S, NOTICED_S, Lasting
from tests.simulation.link import SimLink
from tests.simulation.machines import REFUSED_PORT, START_DEADLINE_S, Machine, SimProcess
from tests.simulation.mirror import Mirror
from tests.simulation.parts import OFFLINE_S, TOPICS, AgentHost, ManagerHost

_decode, _encode = msgspec.json.decode, msgspec.json.encode

if TYPE_CHECKING:
    from busbar.agent.service import Agent
    from busbar.bus.messages import AssignedWorker

    from tests.simulation.clients import Asked
    from tests.simulation.world import World

_NOT_READY: Final = (WorkerState.STARTING, WorkerState.BACKOFF)


def _is_good_order(asked: Asked) -> bool:
    """Whether it lets a group's workers be replaced, and no node refuses what is to replace them."""
    if asked.op != "update_routercluster_workergroup":
        return asked.op == "restart_routercluster_workergroup"
    transport = asked.params["workergroup"].get("transport")
    return transport is not None and transport["endpoint"]["port"] != REFUSED_PORT


class Watch(Lasting):
    """Called at every event of the world, and every `STEP_S` for what lasts."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.mirror = Mirror()
        self.conditions = Conditions(self)
        self.quiet = False
        self.old_retained: dict[str, bytes] = {}
        self.heard: dict[str, float] = {}
        self.births: dict[str, tuple[str, int]] = {}
        self.goodbyes: dict[str, tuple[str, int]] = {}
        self.contact: dict[str, float | None] = {}
        self.applied: dict[tuple[str, int], tuple[str, int, int]] = {}
        self.stop_orders: set[tuple[str, str]] = set()
        """Processes (tokens) that an agent (boot) has begun to stop, as it was told to."""
        self.published: dict[str, tuple[int, int]] = {}
        self.contents: dict[tuple[str, int, int], int] = {}
        self.replies: dict[tuple[str, str], set[bytes]] = {}
        self.events: set[str] = set()
        self.released: dict[tuple[str, str], tuple[float, float]] = {}
        self.wrong_since: dict[tuple[str, str], float] = {}
        self.defined: dict[tuple[str, str], dict[int, AssignedWorker]] = {}
        self.listening = self.excused = 0.0
        self.refusing: dict[str, float] = {}
        """Since when a node has said that it follows another manager."""
        self.groups: dict[str, GroupRow] = {}
        self.nodes: dict[str, NodeRow] = {}
        self.members: set[tuple[str, str]] = set()
        """These, the nodes and the worker groups as they were before the last commit."""

    # --- helpers

    def _silence(self, node_name: str) -> float:
        return self.now - max(self.heard.get(node_name, 0.0), self.listening)

    def _agent(self, name: str) -> AgentHost:
        return self.world.agents[name]

    # --- processes: B and K

    def started(self, machine: Machine, process: SimProcess) -> None:
        self.world.trace(
            f"{machine.name} process {process.pid} {process.record.worker} g{process.generation}"
        )
        for host in self.world.agents.values():
            for other in host.machine.living():
                if other is process or other.oid != process.oid:
                    continue
                if host.machine is machine:
                    self._violation("B", f"{process.record.worker}: a second instance on {machine.name}")
                elif not (self._let_go(process.oid, host.name) or self._let_go(process.oid, machine.name)):
                    text = f"{process.record.worker}: on {machine.name} while it lives on {host.name}"
                    self._violation("B", f"{text}, which had not been lost")
        if self.quiet:
            self._violation("C", f"{process.record.worker} was started after all had converged")

    def _let_go(self, oid: str, node_name: str) -> bool:
        """Whether the manager gave the node up for lost before it let the worker go elsewhere."""
        limit, silence = self.released.get((oid, node_name), (1.0, 0.0))
        return silence >= limit

    def ended(self, machine: Machine, process: SimProcess, why: str) -> None:
        self.world.trace(f"{machine.name} process {process.pid} ended: {why}")

    def killing(self, machine: Machine, process: SimProcess) -> None:
        """An agent stops a living worker: only because it was told to, or because it is not well."""
        agent = self._agent(machine.name).agent
        order = (process.token, agent.boot if agent is not None else "")
        if order in self.stop_orders:
            return  # that has begun, whatever is wanted now
        wanted = agent_plan.desired_workers(agent.supervisor.assignment) if agent is not None else None
        late = self.world.loop.now >= process.born + START_DEADLINE_S
        if process.hung or (late and not process.answers(self.world.loop.now)):
            return
        definition = None if wanted is None else wanted.get(process.oid)
        if wanted is not None and definition is None:
            self.stop_orders.add(order)
            return
        if definition is not None and definition.generation != process.generation:
            refused = machine.refused(definition.transport) and self._was_ready(agent, process)
            if refused and not self._ordered_between(process, definition.generation):
                self._violation("K", f"{machine.name} stops {process.record.worker} for what it refuses")
            self.stop_orders.add(order)
            return
        self._violation("K", f"{machine.name} stops {process.record.worker}, which is wanted and well")

    def _ordered_between(self, process: SimProcess, generation: int) -> bool:
        """Whether it may be stopped for a restart or an update, which another update has followed at once."""
        row = self.mirror.workers.get(process.oid)
        if row is None or generation < process.generation + 2:
            return False
        return self._restart_asked(row) or any(
            each.params["workergroup_oid"] == row.group_oid and _is_good_order(each)
            for each in self.world.history
            if "workergroup_oid" in each.params
        )

    def _was_ready(self, agent: Agent | None, process: SimProcess) -> bool:
        """Whether its agent has seen it ready."""
        instances = agent.supervisor.registry.all() if agent is not None else []
        records = (each.record for each in instances if each.record is not None)
        return any(record.token == process.token and record.ready for record in records)

    def has_followed(self, topic: str) -> bool:
        """Whether the node of an assignment's topic has said that it follows this realm's store."""
        row = self.mirror.by_name.get(topic.split("/")[-2])
        return row is not None and row.applied_epoch > 0

    # --- commits: K, H, and what follows from them

    def manager_opened(self, host: ManagerHost) -> None:
        assert host.store is not None
        if not self.mirror.by_name and self.world.warm:
            told = (_decode(payload)["id"] for payload in host.store.reads.events(0, 10_000))
            self.events.update(told)
        before = dict(self.mirror.workers)
        self.mirror.load(host.store.reads)
        self._compare(before)
        self.listening = self.now

    def manager_gone(self) -> None:
        self.old_retained = self.old_retained or dict(self.world.broker.retained)

    def thawed(self, host: ManagerHost | AgentHost) -> None:
        """A manager that was stopped for long must not take that time for silence of the nodes."""
        if not isinstance(host, ManagerHost):
            return
        if self.now - host.frozen_at >= NOTICED_S:
            self.listening = self.now
        if self.now - host.frozen_at >= DOUBTED_S:
            self.excused = self.now

    def committed(self, host: ManagerHost, changes: Changes) -> None:
        assert host.store is not None
        before = {oid: self.mirror.workers.get(oid) for oid in changes.workers}
        self.groups, workers = dict(self.mirror.groups), dict(self.mirror.workers)
        self.nodes, self.members = dict(self.mirror.nodes), set(self.mirror.members)
        self.mirror.update(host.store.reads, changes)
        saying = {row.name for row in self.mirror.nodes.values() if row.refuses is not None}
        self.refusing = {name: self.refusing.get(name, self.now) for name in saying}
        known = {oid: row for oid, row in before.items() if row is not None}
        self._compare(known)
        placing.judge(self, known, set(before))
        for oid in changes.groups & self.groups.keys() & self.mirror.groups.keys():
            self._judge_update(self.groups[oid], self.mirror.groups[oid], workers)

    def _compare(self, before: dict[str, WorkerRow]) -> None:
        for oid, old in before.items():
            new = self.mirror.workers.get(oid)
            if new is None:
                self._deleted(old)
            elif new is not old:
                self._changed(old, new)

    def _deleted(self, old: WorkerRow) -> None:
        group, before = self.mirror.groups.get(old.group_oid), self.groups.get(old.group_oid)
        # One commit may close a slot and then raise the scale: the slot is opened again by the next pass.
        if group is not None and old.ordinal <= min(group.scale, before.scale if before else group.scale):
            self._violation("K", f"{old.name}: its slot was closed though the group asks for it")
        if old.node_oid is not None and old.state is not WorkerState.STOPPED:
            self._note_release(old)

    def _changed(self, old: WorkerRow, new: WorkerRow) -> None:
        if new.node_oid == old.node_oid and new.generation > old.generation and self._renewed(old, new):
            return
        if old.node_oid is not None and (new.node_oid != old.node_oid or new.generation != old.generation):
            self._note_release(old)
            if old.unassigned_version is None:
                self._judge_displaced(old)
        if new.state is WorkerState.STOPPING and old.state is not WorkerState.STOPPING:
            self._judge_unassigned(old)
        group = self.mirror.groups.get(new.group_oid)
        placed = old.node_oid is None and new.node_oid is not None
        if placed and group and group.stop_ordered and self.groups.get(group.oid, group).stop_ordered:
            self._violation("K", f"{new.name} is placed, and its group is stopped by itself")

    def _renewed(self, old: WorkerRow, new: WorkerRow) -> bool:
        """Whether it was told to run its group's newer revision in its place, or, if not ready, anew."""
        group = self.mirror.groups.get(old.group_oid)
        in_place = old.node_oid is not None and old.unassigned_version is None
        # A commit may hold that it has failed and, after it, the order to restart.
        idle = old.state in _NOT_READY or self._has_ended(old)
        newer = old.revision < new.revision or (idle and self._restart_asked(old))
        return in_place and newer and group is not None

    def _has_ended(self, row: WorkerRow) -> bool:
        machines = (host.machine for host in self.world.agents.values())
        return not any(process.oid == row.oid for machine in machines for process in machine.living())

    def _restart_asked(self, row: WorkerRow) -> bool:
        asked = (each for each in self.world.history if each.op == "restart_routercluster_worker")
        return any(each.params["worker_oid"] == row.oid for each in asked)

    def _judge_update(self, old: GroupRow, new: GroupRow, before: dict[str, WorkerRow]) -> None:
        """An update leaves as many ready as it has to; what fails in the same moment is not its doing."""
        now = [row for row in self.mirror.workers.values() if row.group_oid == new.oid]
        was = {row.oid: row.state for row in before.values() if row.group_oid == new.oid}
        taken = sum(
            row.oid in before
            and was[row.oid] is WorkerState.RUNNING
            and row.generation > before[row.oid].generation
            and self._renewed(before[row.oid], row)
            for row in now
        )
        ready = sum(state is WorkerState.RUNNING for state in was.values()) - taken
        left = max(ready, sum(row.state is WorkerState.RUNNING for row in now))
        least = min(group.scale - group.max_unavailable for group in (old, new))
        if taken and left < least:
            self._violation("K", f"an update of {new.name} leaves {left} workers ready, not {least}")
        most = max(
            group.scale + (group.max_surge if group.revision != group.settled else 0) for group in (old, new)
        )
        added = sum(row.node_oid is not None and row.oid not in was for row in now)
        # One that is being stopped may overlap for a moment (B allows 5 s, which `lasting` holds).
        placed = sum(row.node_oid is not None and row.state is not WorkerState.STOPPING for row in now)
        if added and placed > most:
            self._violation("B", f"{new.name} has more than {most} workers placed")

    def _note_release(self, old: WorkerRow) -> None:
        node = self.mirror.nodes.get(old.node_oid or "")
        if node is not None:
            self.released[old.oid, node.name] = (self._patience(old, node) - 0.01, self._silence(node.name))

    def _patience(self, row: WorkerRow, node: NodeRow) -> float:
        """Seconds of silence after which a worker may be taken for gone; of a wanted slot that is a move."""
        group, cluster = self.mirror.groups.get(row.group_oid), self.mirror.clusters.get(row.cluster_oid)
        if group is None or cluster is None:
            return LOST_S
        moves = group.lost_after if node.goodbye else max(LOST_S, group.lost_after)
        member = node.status is not NodeStatus.UNPAIRED and (cluster.oid, node.oid) in self.mirror.members
        if member and self._left_running(node):
            return max(OFFLINE_S, group.lost_after)
        up = cluster.status in STARTED and not self._stop_ordered(group)
        wanted = up and row.ordinal <= group.scale and member
        return moves if wanted else min(LOST_S, moves)

    def _left_running(self, node: NodeRow) -> bool:
        """Whether its agent left workers running which nobody asked to move."""
        drains = node.draining is not None or self.nodes.get(node.oid, node).draining is not None
        return node.goodbye and node.leaves is Leaves.RUNNING and not drains

    def _may_stop(self, row: WorkerRow) -> bool:
        """Whether somebody asked for that: stopped, scaled down, or the node taken out."""
        cluster = self.mirror.clusters.get(row.cluster_oid)
        group = self.mirror.groups.get(row.group_oid)
        node = self.mirror.nodes.get(row.node_oid or "")
        if cluster is None or group is None or node is None or node.status is NodeStatus.UNPAIRED:
            return True
        # A commit may hold the stop and, after it, what takes the drain back.
        if node.draining is not None or self.nodes.get(node.oid, node).draining is not None:
            return True
        if cluster.status not in STARTED and cluster.status is not ClusterState.PAUSED:
            return True
        if self._stop_ordered(group):
            return True
        if placing.may_move(self, row):
            return True
        # A commit may hold the stop and, after it, what asks for more, or takes the node in, again.
        asked = min(group.scale, self.groups.get(group.oid, group).scale)
        members = self.mirror.members & self.members
        return row.ordinal > asked or (row.cluster_oid, row.node_oid) not in members

    def _stop_ordered(self, group: GroupRow) -> bool:
        """A commit may hold that order and, after it, the start."""
        return group.stop_ordered or self.groups.get(group.oid, group).stop_ordered

    def _judge_displaced(self, old: WorkerRow) -> None:
        if self._may_stop(old):
            return
        node, group = self.mirror.nodes[old.node_oid or ""], self.mirror.groups[old.group_oid]
        silence = self._silence(node.name)
        refused = self.now - self.refusing.get(node.name, self.now)
        if refused >= max(LOST_S, group.lost_after) - 0.01 and old.state is not WorkerState.RUNNING:
            return  # it follows another manager, and does not run it
        least = 0.0 if node.goodbye else LOST_S
        least = OFFLINE_S if self._left_running(node) else least
        if silence < max(least, group.lost_after) - 0.01:
            text = f"{old.name} was taken from {node.name}, heard {silence:.2f} s ago"
            self._violation("K", f"{text} (lost_after {group.lost_after:g} s)")

    def _judge_unassigned(self, old: WorkerRow) -> None:
        if old.state is not WorkerState.BACKOFF and not self._may_stop(old):
            self._violation("K", f"{old.name} is told to stop, and nobody asked for that")

    # --- messages: M, A

    def routed(self, client: str, topic: str, payload: bytes, retain: bool) -> None:
        self.world.trace(f"{client} {topic} {len(payload)} {crc32(payload):08x}")
        if client != "m1":
            return
        leaf = topic.removeprefix(TOPICS.prefix + "/")
        if leaf.startswith("event/"):
            self.events.add(_decode(payload)["id"])
        elif leaf.startswith("response/"):
            self._reply(leaf.split("/")[1], payload)
        elif leaf.startswith("status/"):
            self._level(topic, payload)
        elif leaf.endswith("/assignment"):
            self._level(topic, payload)
            self._same_content(topic, payload)

    def _reply(self, caller: str, payload: bytes) -> None:
        reply = _decode(payload)
        code = (reply.get("error") or {}).get("code")
        if code in ("busy", "expired", "internal", "malformed_request", "request_id_reused"):
            return
        if reply["op"].startswith(("get_", "list_", "stat_", "plan_")):
            return
        seen = self.replies.setdefault((caller, reply["id"]), set())
        seen.add(payload)
        if len(seen) > 1:
            self._violation("A", f"request {reply['id']} of {caller} got two different replies")

    def _level(self, topic: str, payload: bytes) -> None:
        if not payload:
            self.published.pop(topic, None)
            return
        told = _decode(payload)
        stamp, last = (told["epoch"], told["version"]), self.published.get(topic, (0, 0))
        # A node's assignments are ordered by both together; an object's version goes on from epoch to epoch.
        together = topic.endswith("/assignment")
        back = stamp < last if together else stamp[0] < last[0] or stamp[1] < last[1]
        if back:
            self._violation("M", f"{topic} goes back from {last} to {stamp}")
        self.published[topic] = stamp

    def _same_content(self, topic: str, payload: bytes) -> None:
        told = _decode(payload)
        key = (topic, told["epoch"], told["version"])
        content = crc32(_encode(told["workers"], order="sorted"))
        if self.contents.setdefault(key, content) != content:
            self._violation("M", f"{topic}: two contents with one version {key[1:]}")

    def delivering(self, link: SimLink, message: Message) -> None:
        if link.client_id != "m1":
            return
        found = TOPICS.parse_node(message.topic)
        if found is None or found.leaf not in ("heartbeat", "reported", "state"):
            return
        host = self.world.agents.get(found.node)
        if host is None or not message.payload:
            return
        told = _decode(message.payload)
        birth = (told.get("boot"), told.get("conn"))
        if told.get("state") == "disconnected":
            self.goodbyes[found.node] = birth
        if self.goodbyes.get(found.node) == birth:
            return  # what was on its way when it said goodbye comes too late
        # What was on its way when it was killed can't be told from a sign of life.
        if told.get("boot") != host.boot or told.get("state") in ("lost", "disconnected"):
            return
        if self._is_latest(found.node, told["boot"], told["conn"]) and not message.retain:
            self.heard[found.node] = self.now

    def _is_latest(self, node: str, boot: str, conn: int) -> bool:
        """Whether no later connection of that agent has spoken to the manager.

        The agent itself may be at its next connection already: what is on its way is a sign of life still.
        """
        last = self.births.get(node)
        if last is not None and last[0] == boot and last[1] > conn:
            return False
        self.births[node] = (boot, conn)
        return True

    def delivered(self, link: SimLink, message: Message) -> None:
        if message.topic.endswith("/assignment") and link.client_id in self.world.agents:
            self._check_applied(self._agent(link.client_id))

    # --- agents: M

    def agent_started(self, host: AgentHost) -> None:
        self._check_applied(host)

    def agent_gone(self, host: AgentHost) -> None: ...

    def _check_applied(self, host: AgentHost) -> None:
        assignment = host.agent.supervisor.assignment if host.agent is not None else None
        if assignment is None:
            return
        key = (host.name, host.forgotten)
        now = (assignment.store, assignment.epoch, assignment.version)
        before = self.applied.get(key)
        if before is not None and before[0] == now[0] and now < before:
            self._violation("M", f"{host.name} went back from {before[1:]} to {now[1:]}")
        self.applied[key] = now

    def logged(self, record: logging.LogRecord) -> None:
        """An exception that some loop had to catch: a defect, unless a broken disk explains it."""
        if self.world.manager.disk_error is not None or self.world.manager.program.dead:
            return
        error = record.exc_info[1] if record.exc_info else None
        if "disk" in str(error) or "locked" in str(error):
            return
        self._violation("L", f"{record.name}: {record.getMessage()}: {error!r}")

    # --- the end

    def unconverged(self) -> str | None:
        from tests.simulation.ending import unconverged

        return unconverged(self)

    def final(self) -> None:
        from tests.simulation.ending import final

        final(self)
