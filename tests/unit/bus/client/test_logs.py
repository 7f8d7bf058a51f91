"""The output of many workers: each line once, in order; moves and gaps are told; memory is bounded."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from busbar import LogLine, LogNote
from busbar.bus.client import logs
from busbar.bus.client.client import BusClient
from busbar.bus.decode import encode
from busbar.bus.errors import BusError
from busbar.bus.messages import LogChunk
from busbar.bus.testing import settle

from tests.unit.bus.client.harness import CLUSTER, GROUP, OID, TOPICS, World, play

WORKER = {
    "oid": OID, "name": "web-1", "cluster_oid": OID, "cluster": "edge", "workergroup_oid": OID,
    "workergroup": "web", "node_oid": OID, "node": "n1", "state": "RUNNING", "status": "RUNNING",
    "generation": 1, "address": None, "pid": 1, "restarts": 0, "reason": None, "since_ms": 0,
}  # fmt: skip


def oid_of(number: int) -> str:
    return f"{number:08d}-{OID[9:]}"


class Node:
    """A realm with workers on nodes that send their output."""

    def __init__(self, workers: dict[str, str | None]) -> None:
        self.workers = workers
        self.world: World | None = None
        self.past: dict[str, list[str]] = {}
        self.stream, self.number = "s1", dict.fromkeys(workers, 0)
        self.deaf = False

    def answer(self, op: str, params: dict[str, Any]) -> Any:
        oids = {oid_of(number): name for number, name in enumerate(sorted(self.workers))}
        if op == "get_routercluster_workergroup_by_name" and params["workergroup_name"] != "web":
            raise BusError("no_such_object", "none")
        plain = {
            "get_routercluster": CLUSTER, "get_routercluster_by_name": CLUSTER,
            "get_routercluster_workergroup_by_name": GROUP, "list_workers": list(oids),
            "stat_routercluster": None,
        }  # fmt: skip
        if op in plain:
            return plain[op]
        name = oids[params["worker_oid"]]
        node = self.workers[name]
        if op == "get_worker":
            return {**WORKER, "oid": params["worker_oid"], "name": name, "node": node}
        if node is None:
            raise BusError("no_such_object", "it runs on no node")
        if not self.deaf:
            past = self.past.get(name, []) if params.get("lines", 100) else []
            self.send(name, *past, reader=params["reader"])
        return {"worker_oid": OID, "node": node, "topic": "t", "lease_ms": 1}

    def send(self, name: str, *lines: str, reader: str | None = None, dropped: int = 0) -> None:
        assert self.world is not None
        self.number[name] += reader is None
        chunk = LogChunk(list(lines), name, "edge", dropped, self.stream, self.number[name], reader)
        topic = TOPICS.node_log(self.workers[name] or "n1", name)
        self.world.manager.post(topic, encode(chunk), qos=0)


def run(node: Node, work: Any) -> Any:
    async def whole(world: World) -> Any:
        node.world = world
        return await work(world, world.bus)

    return play(whole, node.answer)


def texts(items: list[Any]) -> list[tuple[str, str]]:
    return [(each.worker.partition("/")[2], each.text) for each in items]


async def take(watch: Any, count: int) -> list[Any]:
    return [await anext(watch) for _ in range(count)]


def test_past_lines_of_every_worker_come_and_the_iteration_ends() -> None:
    node = Node({"web-1": "n1", "web-2": "n2", "web-3": None})
    node.past = {"web-1": ["a", "b"], "web-2": ["c"]}

    async def work(_: World, bus: BusClient) -> Any:
        async with await bus.watch_logs("edge/web", follow=False) as watch:
            return [item async for item in watch]

    assert sorted(texts(run(node, work))) == [("web-1", "a"), ("web-1", "b"), ("web-2", "c")]


def test_new_lines_follow_the_past_ones_and_what_others_ask_for_is_not_shown() -> None:
    node = Node({"web-1": "n1"})
    node.past = {"web-1": ["old"]}

    async def work(world: World, bus: BusClient) -> Any:
        async with await bus.watch_logs("edge/web") as watch:
            found = await take(watch, 1)
            node.send("web-1", "for another", reader="other")
            node.send("web-1", "new")
            return found + await take(watch, 1)

    assert run(node, work) == [LogLine("edge/web-1", "n1", "old"), LogLine("edge/web-1", "n1", "new")]


def test_lines_go_on_when_a_worker_moves_and_the_move_is_told() -> None:
    node = Node({"web-1": "n1"})

    async def work(world: World, bus: BusClient) -> Any:
        async with await bus.watch_logs("edge/web") as watch:
            node.past = {"web-1": ["one"]}
            found = await take(watch, 1)
            node.workers["web-1"], node.past["web-1"], node.stream = "n2", ["two"], "s2"
            more = {"oid": oid_of(0), "workergroup": "web"}
            world.status("worker", "web-1", "PENDING", 2, node=None, reason="n1 is lost", **more)
            world.status("worker", "web-1", "STARTING", 3, node="n2", **more)
            return found + await take(watch, 3)

    assert texts(run(node, work)) == [
        ("web-1", "one"), ("web-1", "PENDING: n1 is lost"), ("web-1", "it is on n2 now, before on n1"),
        ("web-1", "two"),
    ]  # fmt: skip


def test_a_worker_that_comes_later_is_followed_and_one_of_another_group_is_not() -> None:
    node = Node({"web-1": "n1", "web-2": "n1"})

    async def work(world: World, bus: BusClient) -> Any:
        answer = world.answer
        world.answer = lambda op, params: [oid_of(0)] if op == "list_workers" else answer(op, params)
        async with await bus.watch_logs("edge/web") as watch:
            node.past = {"web-1": ["one"], "web-2": ["two"]}
            found = await take(watch, 1)
            world.status("worker", "api-1", "STARTING", node="n1", oid=oid_of(1), workergroup="api")
            world.status("worker", "web-2", "STARTING", node="n1", oid=oid_of(1), workergroup="web")
            return found + await take(watch, 1)

    assert texts(run(node, work)) == [("web-1", "one"), ("web-2", "two")]


@pytest.mark.parametrize("fault", ["lost chunk", "lost last chunk", "agent restarted", "dropped there"])
def test_every_gap_is_told_before_the_next_line(fault: str) -> None:
    node = Node({"web-1": "n1"})

    async def work(world: World, bus: BusClient) -> Any:
        async with await bus.watch_logs("edge/web") as watch:
            node.past = {"web-1": ["first"]}
            found = await take(watch, 1)
            if fault == "agent restarted":
                node.stream, node.number["web-1"] = "s2", 0
            elif fault != "dropped there":
                node.number["web-1"] += 1
            if fault != "lost last chunk":
                node.send("web-1", "next", dropped=7 if fault == "dropped there" else 0)
            return found + await take(watch, 1 if fault == "lost last chunk" else 2)

    found = run(node, work)
    assert found[0] == LogLine("edge/web-1", "n1", "first") and found[1].missing
    assert fault == "lost last chunk" or found[2].text == "next"


def test_a_node_that_does_not_answer_is_told_in_both_modes() -> None:
    node = Node({"web-1": "n1"})
    node.deaf = True

    async def work(world: World, bus: BusClient) -> Any:
        async with await bus.watch_logs("edge/web", follow=False) as watch:
            past = [item async for item in watch]
        async with await bus.watch_logs("edge/web") as watch:
            told = await take(watch, 1)
            node.deaf, node.past = False, {"web-1": ["late"]}
            return past + told + await take(watch, 1)

    past, told, late = run(node, work)
    assert past.missing and told.missing and "n1 does not send its output" in told.text
    assert late == LogLine("edge/web-1", "n1", "late")


@pytest.mark.parametrize("code", ["expired", "internal"])
def test_a_manager_that_can_not_serve_now_is_asked_again_and_that_is_told_once(code: str) -> None:
    node = Node({"web-1": "n1"})
    node.past = {"web-1": ["late"]}
    answer, refused = node.answer, []

    def busy(op: str, params: dict[str, Any]) -> Any:
        if op == "follow_worker" and len(refused) < 3:
            refused.append(op)
            raise BusError(code, "not now")
        return answer(op, params)

    node.answer = busy  # type: ignore[method-assign]

    async def work(world: World, bus: BusClient) -> Any:
        async with await bus.watch_logs("edge/web") as watch:
            return await take(watch, 2)

    told, late = run(node, work)
    assert isinstance(told, LogNote) and not told.missing and "can't be asked for now" in told.text
    assert late == LogLine("edge/web-1", "n1", "late")


def test_a_manager_that_can_not_serve_ends_what_does_not_follow() -> None:
    node = Node({"web-1": "n1"})
    answer = node.answer

    def busy(op: str, params: dict[str, Any]) -> Any:
        if op == "follow_worker":
            raise BusError("internal", "not now")
        return answer(op, params)

    node.answer = busy  # type: ignore[method-assign]

    async def work(world: World, bus: BusClient) -> Any:
        async with await bus.watch_logs("edge/web", follow=False) as watch:
            return [item async for item in watch]

    first, last = run(node, work)
    assert not first.missing and last.missing and "could not be asked for" in last.text


def test_a_gap_that_is_dropped_is_part_of_the_gap_that_is_told(monkeypatch: Any) -> None:
    monkeypatch.setattr(logs, "ITEMS", 5)
    node = Node({"web-1": "n1"})

    async def work(world: World, bus: BusClient) -> Any:
        async with await bus.watch_logs("edge/web") as watch:
            node.past = {"web-1": ["first"]}
            await take(watch, 1)
            await settle()
            node.send("web-1", dropped=500)
            node.send("web-1", *(f"line {number}" for number in range(5)))
            await settle()
            return await take(watch, 1)

    (gap,) = run(node, work)
    assert (gap.missing, gap.lines) == (True, 500)


def test_a_slow_reader_gets_the_latest_lines_and_a_gap_and_memory_is_bounded(monkeypatch: Any) -> None:
    monkeypatch.setattr(logs, "ITEMS", 10)
    node = Node({"web-1": "n1", "web-2": "n1"})

    async def work(world: World, bus: BusClient) -> Any:
        async with await bus.watch_logs("edge/web") as watch:
            node.past = {"web-1": ["first"]}
            await take(watch, 1)
            await settle()
            for number in range(50):
                node.send("web-1", f"line {number}")
                node.send("web-2", f"line {number}")
            await settle()
            held = len(watch._items)
            return held, await take(watch, 12)

    held, found = run(node, work)
    gaps = [item for item in found if isinstance(item, LogNote)]
    assert held == 10 and {(gap.worker, gap.lines) for gap in gaps} == {
        ("edge/web-1", 45),
        ("edge/web-2", 45),
    }
    for name in ("edge/web-1", "edge/web-2"):
        lines = [item.text for item in found if item.worker == name and isinstance(item, LogLine)]
        assert lines == [f"line {number}" for number in range(45, 50)]


def test_what_is_refused_ends_the_iteration_with_the_reason() -> None:
    node = Node({"web-1": "n1"})

    async def work(world: World, bus: BusClient) -> Any:
        async with await bus.watch_logs("edge/web") as watch:
            answer = world.answer

            def refuse(op: str, params: dict[str, Any]) -> Any:
                if op == "follow_worker":
                    raise BusError("not_authorized", "a viewer may not")
                return answer(op, params)

            world.answer = refuse
            await anext(watch)

    with pytest.raises(BusError, match="a viewer may not"):
        run(node, work)


def test_a_chunk_keeps_its_form_for_readers_of_an_earlier_version() -> None:
    plain = msgspec.json.decode(encode(LogChunk(["x"], "web-1", "edge")))
    assert plain == {"lines": ["x"], "worker": "web-1", "cluster": "edge"}
