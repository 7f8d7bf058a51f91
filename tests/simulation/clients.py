"""Callers, and what they were told: the history that the final store is held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from busbar.bus.connection.rpc import Caller
from busbar.bus.errors import BusError, BusOfflineError, CallTimeoutError

from tests.simulation.link import SimLink
from tests.simulation.loop import Program, SimClock
from tests.simulation.parts import TOPICS
from tests.simulation.peers import MESHED

if TYPE_CHECKING:
    from tests.simulation.world import World

NOT_STORED = frozenset({"busy", "expired", "internal", "malformed_request", "request_id_reused"})


@dataclass(slots=True)
class Asked:
    """One change that was asked for. `outcome`: `ok`, an error's code, or None when no answer came."""

    caller: str
    id: str
    op: str
    params: dict[str, Any]
    sent: float
    outcome: str | None = None
    answered: float = 0.0
    result: Any = None


class Client:
    """A person with a request: looks names up, asks, asks again with the same id while nothing comes."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.program = Program(f"client {name}")
        self.link = SimLink(world.broker, name, self.program, world.random(f"link {name}"))
        clock = SimClock(world.loop)
        self.caller = Caller(
            self.link, TOPICS, name, "cli", clock, self.new_id, world.random(f"caller {name}")
        )
        self._ids = 0
        self.busy = 0
        self.program.context.copy().run(world.loop.create_task, self.link.run())

    def new_id(self) -> str:
        self._ids += 1
        return f"{self.name}-{self.world.schedule.seed}-{self._ids}"

    def begin(self, op: str, *names: Any) -> None:
        """Do one operation, named by words, as a task."""
        self.busy += 1
        self.program.context.copy().run(self.world.loop.create_task, self._do(op, *names))

    async def _do(self, op: str, *names: Any) -> None:
        try:
            if op == "setup":
                for step in names[0]:
                    await self._one(step[0], *step[1:], timeout=60.0)
            else:
                await self._one(op, *names, timeout=12.0)
        finally:
            self.busy -= 1

    async def _one(self, op: str, *names: Any, timeout: float) -> None:
        try:
            params = await self._params(op, names, timeout)
        except (BusError, CallTimeoutError, BusOfflineError):
            return  # it does not exist, or nobody says where it is
        asked = Asked(self.name, self.new_id(), op, params, self.world.loop.now)
        self.world.history.append(asked)
        try:
            asked.result = await self.caller.call(op, params, timeout=timeout, request_id=asked.id)
            asked.outcome = "ok"
        except BusError as error:
            asked.outcome = error.code
        except (CallTimeoutError, BusOfflineError):
            return
        asked.answered = self.world.loop.now
        self.world.trace(f"{self.name} {op} {names} -> {asked.outcome}")

    async def _params(self, op: str, names: tuple[Any, ...], timeout: float) -> dict[str, Any]:
        """Words to parameters; oids are looked up."""
        match op, names:
            case "create_routercluster", (name,):
                return {"routercluster": {"name": name}}
            case "pair_node", (name,):
                return {"node": {"name": name}}
            case (("unpair_node" | "drain_node" | "undrain_node" | "cordon_node" | "uncordon_node"), (name,)):
                return {"node_oid": await self._node(name, timeout)}
            case "label_node", (name, labels):
                return {"node_oid": await self._node(name, timeout), "labels": labels}
            case "apply_rebalance", ():
                return await self._moves(timeout)
            case "update_routercluster_workergroup", (cluster, group, placement):
                asked = await self._group(cluster, group, timeout)
                return {**asked, "workergroup": {"placement": placement}}
            case "update_routercluster_workergroup", (cluster, group, port, unavailable, surge):
                wish = {"transport": {"type": "tcp", "endpoint": {"type": "tcp", "port": port}}}
                limits = {"max_unavailable": unavailable, "max_surge": surge}
                return {**await self._group(cluster, group, timeout), "workergroup": wish, **limits}
            case (("add_routercluster_node" | "remove_routercluster_node"), (cluster, node)):
                oid = await self._node(node, timeout)
                return {"routercluster_oid": await self._cluster(cluster, timeout), "node_oid": oid}
            case "add_routercluster_workergroup", (cluster, name, scale, lost_after):
                group = {"name": name, "scale": scale, "runtime": "sim", "lost_after": lost_after}
                group["mesh"] = (cluster, name) == MESHED
                return {"routercluster_oid": await self._cluster(cluster, timeout), "workergroup": group}
            case "restart_routercluster_workergroup", (cluster, group, unavailable, surge):
                limits = {"max_unavailable": unavailable, "max_surge": surge}
                return {**await self._group(cluster, group, timeout), **limits}
            case "restart_routercluster_worker", (cluster, group, ordinal):
                asked = await self._group(cluster, group, timeout)
                return {**asked, "worker_oid": await self._worker(asked, f"{group}-{ordinal}", timeout)}
            case (
                (
                    "remove_routercluster_workergroup"
                    | "start_routercluster_workergroup"
                    | "stop_routercluster_workergroup"
                ),
                (cluster, group),
            ):
                return await self._group(cluster, group, timeout)
            case "scale_routercluster_workergroup", (cluster, group, scale):
                return {**await self._group(cluster, group, timeout), "scale": scale}
            case _, (cluster,):
                return {"routercluster_oid": await self._cluster(cluster, timeout)}
        raise AssertionError(op)

    async def _moves(self, timeout: float) -> dict[str, Any]:
        """What a rebalance would move. Raises BusError `no_such_object` where nothing would."""
        plan = await self.caller.call("plan_rebalance", {}, timeout=timeout)
        moves = {move["worker_oid"]: move["node_oid"] for move in plan["moves"]}
        if not moves:
            raise BusError("no_such_object", "balanced")
        return {"moves": moves, "fence": plan["fence"]}

    async def _cluster(self, name: str, timeout: float) -> str:
        asked = {"routercluster_name": name}
        found = await self.caller.call("get_routercluster_by_name", asked, timeout=timeout)
        return str(found["oid"])

    async def _node(self, name: str, timeout: float) -> str:
        return str((await self.caller.call("get_node_by_name", {"node_name": name}, timeout=timeout))["oid"])

    async def _group(self, cluster: str, group: str, timeout: float) -> dict[str, Any]:
        asked = {"routercluster_name": cluster, "workergroup_name": group}
        found = await self.caller.call("get_routercluster_workergroup_by_name", asked, timeout=timeout)
        return {"routercluster_oid": found["cluster_oid"], "workergroup_oid": found["oid"]}

    async def _worker(self, group: dict[str, Any], name: str, timeout: float) -> str:
        oids = await self.caller.call("list_workers", group, timeout=timeout)
        names = await self.caller.call("list_workers", {**group, "return_names": True}, timeout=timeout)
        return str(dict(zip(names, oids, strict=False)).get(name, group["workergroup_oid"]))
