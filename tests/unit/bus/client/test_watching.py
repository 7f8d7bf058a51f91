"""Statuses and events as they change, and waiting: bounded, typed, and nothing is lost silently."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from busbar import EventsLostError, GoalLostError, StatusUpdate, WaitTimeoutError
from busbar.bus.client import events, statuses
from busbar.bus.decode import encode
from busbar.bus.errors import BusError
from busbar.bus.messages import Event, LogChunk
from busbar.bus.testing import settle

from tests.unit.bus.client.harness import CLUSTER, GROUP, OID, TOPICS, World, play


def told(updates: list[StatusUpdate]) -> list[tuple[str, str | None]]:
    return [(each.name, each.status.status if each.status else None) for each in updates]


async def next_of(watch: Any, count: int) -> list[Any]:
    return [await anext(watch) for _ in range(count)]


# --- statuses ----------------------------------------------------------------------------------------------


def test_present_statuses_come_first_then_changes_and_deletions() -> None:
    async def work(world: World) -> Any:
        world.status("workergroup", "web", "STARTING", scale=2, ready=0)
        watch = world.bus.watch_statuses(cluster="edge")
        first = await next_of(watch, 1)
        world.status("workergroup", "web", "RUNNING", scale=2, ready=2)
        world.status("worker", "web-1", "RUNNING")
        world.status("workergroup", "web", None)
        return first + await next_of(watch, 3)

    found = play(work)
    order = [("web", "STARTING"), ("web", "RUNNING"), ("web", None), ("web-1", "RUNNING")]
    assert sorted(told(found), key=str) == sorted(order, key=str)
    assert [each for each in told(found) if each[0] == "web"] == order[:3]
    assert (found[0].kind, found[0].cluster, found[0].status.ready) == ("workergroup", "edge", 0)
    assert [each.deleted for each in found].count(True) == 1


def test_a_status_that_comes_again_is_told_once_and_what_is_no_status_never() -> None:
    async def work(world: World) -> Any:
        watch = world.bus.watch_statuses(kind="node")
        world.status("node", "n1", "online")
        for junk in (b"[]", b"{", b'{"status": 7}'):
            world.manager.post(TOPICS.status("_", "node", "n1"), junk)
        await settle()
        world.broker.drop("alice")
        await settle()
        world.status("node", "n2", "lost")
        return await next_of(watch, 2)

    found = play(work)
    assert told(found) == [("n1", "online"), ("n2", "lost")] and found[0].cluster is None


def test_two_watches_of_the_same_objects_do_not_disturb_each_other() -> None:
    async def work(world: World) -> Any:
        one, other = world.bus.watch_statuses(kind="node"), world.bus.watch_statuses(kind="node")
        world.status("node", "n1", "online")
        await next_of(one, 1)
        one.close()
        assert [each async for each in one] == []
        world.status("node", "n2", "online")
        return await next_of(other, 2)

    assert told(play(work)) == [("n1", "online"), ("n2", "online")]


def test_a_slow_reader_gets_the_latest_status_and_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statuses, "OBJECTS", 3)

    async def work(world: World) -> Any:
        watch = world.bus.watch_statuses()
        for number in range(1, 101):
            world.status("node", "n1", "online", version=number)
        await settle(200)
        last = await next_of(watch, statuses.HISTORY)
        for name in ("a", "b", "c", "d"):
            world.status("node", name, "online")
        return last, await next_of(watch, 3), watch.dropped

    last, rest, dropped = play(work)
    assert [each.status.version for each in last] == list(range(85, 101))
    assert [each.name for each in rest] == ["b", "c", "d"] and dropped == 1


def test_a_watch_that_is_forgotten_leaves_no_subscription() -> None:
    async def work(world: World) -> Any:
        world.status("node", "n1", "online")
        async for _ in world.bus.watch_statuses(kind="node"):
            break
        gc.collect()
        await settle()
        return dict(world.link._subscriptions)

    assert TOPICS.status("_", "node", "+") not in play(work)


def test_names_that_would_widen_the_filter_are_refused() -> None:
    async def work(world: World) -> None:
        for wrong in ({"cluster": "#"}, {"name": "+"}, {"name": "a/b"}, {"cluster": ""}):
            with pytest.raises(ValueError):
                world.bus.watch_statuses(**wrong)
        with pytest.raises(ValueError, match="no event type"):
            world.bus.watch_events(types=["worker_exploded"])

    play(work)


def test_the_end_of_the_client_ends_whoever_watches_or_waits() -> None:
    async def work(world: World) -> Any:
        waiting = asyncio.create_task(world.bus.wait_for_cluster("edge", timeout=100))
        await settle()
        world.bus.close()
        with pytest.raises(GoalLostError, match="the client was closed"):
            await waiting

    play(work, lambda _op, _params: CLUSTER)


# --- waiting -----------------------------------------------------------------------------------------------


def test_waiting_for_a_cluster_heeds_no_status_of_before_the_change() -> None:
    async def work(world: World) -> Any:
        seen: list[str] = []
        world.status("routercluster", "edge", "RUNNING", version=2)
        waiting = asyncio.create_task(
            world.bus.wait_for_cluster("edge", progress=lambda status: seen.append(status.status))
        )
        await settle()
        assert not waiting.done()
        world.status("routercluster", "edge", "STARTING", version=3)
        world.status("routercluster", "edge", "RUNNING", version=4)
        return (await waiting).version, seen

    assert play(work, lambda _op, _params: CLUSTER) == (4, ["STARTING", "RUNNING"])


def test_a_wait_in_vain_carries_reason_conditions_and_the_last_status() -> None:
    async def work(world: World) -> Any:
        world.status(
            "routercluster", "edge", "STARTING", 3, conditions=["worker web-1: pending"], scale=1, ready=0
        )
        with pytest.raises(WaitTimeoutError) as caught:
            await world.bus.wait_for_cluster("edge", timeout=2.0)
        world.link.reachable.clear()
        world.broker.drop("alice")
        with pytest.raises(WaitTimeoutError, match="connection to the broker is lost"):
            await world.bus.watch_statuses(kind="node").until(
                statuses.Goal("x", 0, lambda _: False), "it", 1.0
            )
        return caught.value

    error = play(work, lambda _op, _params: CLUSTER)
    text = "cluster 'edge' is not RUNNING after 2 s: STARTING, 0 of 1 ready; worker web-1: pending"
    assert str(error) == text
    assert (error.subject, error.wanted, error.conditions) == (
        "cluster 'edge'",
        "RUNNING",
        ("worker web-1: pending",),
    )
    assert error.status is not None and error.status.status == "STARTING" and "pending" in error.reason


@pytest.mark.parametrize(
    ("status", "why"),
    [("STOPPING", "it is STOPPING again, by somebody else's order"), (None, "it was deleted")],
)
def test_a_wait_ends_at_once_when_it_can_no_longer_be_reached(status: str | None, why: str) -> None:
    async def work(world: World) -> float:
        waiting = asyncio.create_task(world.bus.wait_for_cluster("edge", timeout=50))
        await settle()
        world.status("routercluster", "edge", status, version=9)
        with pytest.raises(GoalLostError, match=why):
            await waiting
        return world.loop.now

    assert play(work, lambda _op, _params: CLUSTER) < 1001


def test_waiting_for_groups_and_nodes() -> None:
    node = {"oid": OID, "name": "n1", "labels": None, "status": "online", "changed": 1, "version": 2}

    def answer(op: str, _params: dict[str, Any]) -> Any:
        return node if "node" in op else GROUP if "workergroup" in op else CLUSTER

    async def work(world: World) -> Any:
        world.status("workergroup", "web", "RUNNING", version=5, scale=2, ready=2, revision=3)
        world.status("node", "n1", "online", version=2, draining="why", drained=True)
        scaled = await world.bus.wait_for_group("edge/web")
        updated = await world.bus.wait_for_group("web", "edge", revision=3)
        drained = await world.bus.wait_for_drain("n1")
        with pytest.raises(GoalLostError, match="revision 3 was asked for meanwhile"):
            await world.bus.wait_for_group("edge/web", revision=2)
        return scaled.ready, updated.revision, drained.drained

    assert play(work, answer) == (2, 3, True)


def test_a_deletion_that_nobody_told_of_is_found_out() -> None:
    """The connection may be down when the status is taken away."""
    there = {"edge"}

    def answer(_op: str, _params: dict[str, Any]) -> Any:
        if not there:
            raise BusError("no_such_object", "gone")
        return CLUSTER

    async def work(world: World) -> float:
        with pytest.raises(WaitTimeoutError, match="is not gone"):
            await world.bus.wait_for_deletion("edge", timeout=7.0)
        world.loop.call_later(1.0, there.clear)
        await world.bus.wait_for_deletion("edge", timeout=30.0)
        await world.bus.wait_for_deletion("edge", timeout=30.0)
        return world.loop.now

    assert 1000 < play(work, answer) < 1000 + 7 + 11


# --- events ------------------------------------------------------------------------------------------------


class Store:
    """The manager's events; those below `kept` are deleted."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.kept = 0
        self.fetches: list[dict[str, Any]] = []

    def answer(self, op: str, params: dict[str, Any]) -> Any:
        if op == "get_routercluster_by_name":
            if params["routercluster_name"] != "edge":
                raise BusError("no_such_object", "no")
            return CLUSTER
        if op == "get_manager":
            return {**MANAGER, "sequence": len(self.events)}
        self.fetches.append(params)
        since, limit = int(params.get("since", 0)), params.get("limit", 100)
        found = [event for event in self.events if int(event["sequence"]) > max(since, self.kept)]
        return found[:limit]

    def happen(
        self, world: World, count: int = 1, *, publish: bool = True, type: str = "worker_ready"
    ) -> None:
        for _ in range(count):
            event = world.event(len(self.events) + 1, type, cluster="edge", oid=OID)
            self.events.append(event)
            if publish:
                world.publish_event(event)


MANAGER: dict[str, Any] = {
    "manager": "m1", "state": "online", "store": "s", "epoch": 1, "realm": "lab", "version": "1",
    "uptime_ms": 1, "nodes": {}, "clusters": {}, "workers": {}, "outbox": 0,
    "brake": None, "limits": {}, "conditions": [],
}  # fmt: skip


def sequences(found: list[Event]) -> list[int]:
    return [int(event.sequence) for event in found]


def test_events_come_from_now_on_once_and_in_order() -> None:
    store = Store()

    async def work(world: World) -> Any:
        store.happen(world, 5)
        await settle()
        watch = world.bus.watch_events()
        store.happen(world, 2)
        for event in store.events[3:]:
            world.publish_event(event)
        store.happen(world, 1)
        return sequences(await next_of(watch, 3)), store.fetches

    assert play(work, store.answer) == ([6, 7, 8], [])


@pytest.mark.fault(119, "U")
def test_events_that_do_not_come_are_fetched_and_the_right_is_told(caplog: pytest.LogCaptureFixture) -> None:
    store = Store()

    async def work(world: World) -> Any:
        watch = world.bus.watch_events()
        world.loop.call_later(5, lambda: store.happen(world, 2, publish=False))
        found = sequences(await next_of(watch, 2))
        world.loop.call_later(5, lambda: store.happen(world, 1, publish=False))
        return found + sequences(await next_of(watch, 1))

    assert play(work, store.answer) == [1, 2, 3]
    said = [
        each.getMessage() for each in caplog.records if "'alice' probably has no right" in each.getMessage()
    ]
    assert len(said) == 1 and f"to read {TOPICS.all_events()}" in said[0]


@pytest.mark.fault(119, "U")
def test_a_node_that_answers_nothing_is_told_with_the_rights_it_takes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    follows = {"worker_oid": OID, "node": "n1", "topic": "t", "lease_ms": 1}

    async def work(world: World) -> Any:
        watch = await world.bus.watch_output(OID, follow=False)
        lines = [chunk async for chunk in watch]
        followed = await world.bus.watch_output(OID)
        world.loop.call_later(40, followed.close)
        return lines + [chunk async for chunk in followed], watch.heard, watch.silence

    lines, heard, silence = play(work, lambda op, _: WORKER if op == "get_worker" else follows)
    assert (lines, heard) == ([], False)
    for topic in (TOPICS.node_log("n1", "web-1"), TOPICS.node("n1", "command")):
        assert topic in silence
    assert [each.getMessage() for each in caplog.records].count(silence) == 1


def test_gaps_are_filled_from_the_store() -> None:
    store = Store()

    async def work(world: World) -> Any:
        watch = world.bus.watch_events(since=0)
        store.happen(world, 3, publish=False)
        store.happen(world, 1)
        first = await next_of(watch, 4)
        store.happen(world, 2500, publish=False)
        store.happen(world, 2)
        return sequences(first + await next_of(watch, 2502))

    assert play(work, store.answer) == list(range(1, 2507))


def test_a_reader_that_is_too_slow_fetches_what_did_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "QUEUE", 10)
    store = Store()

    async def work(world: World) -> Any:
        watch = world.bus.watch_events()
        store.happen(world, 1)
        first = await next_of(watch, 1)
        store.happen(world, 50)
        await settle(100)
        assert len(watch._live) == 10
        return sequences(first + await next_of(watch, 50))

    assert play(work, store.answer) == list(range(1, 52))


def test_events_of_a_lost_connection_are_fetched_when_it_is_back() -> None:
    store = Store()

    async def work(world: World) -> Any:
        watch = world.bus.watch_events()
        store.happen(world, 1)
        first = await next_of(watch, 1)
        world.link.reachable.clear()
        world.broker.drop("alice")
        await settle()
        store.happen(world, 3)
        await settle()
        world.link.reachable.set()
        return sequences(first + await next_of(watch, 3))

    assert play(work, store.answer) == [1, 2, 3, 4]


def test_what_the_manager_has_deleted_is_said_to_be_lost_and_the_watch_goes_on() -> None:
    store = Store()

    async def work(world: World) -> Any:
        watch = world.bus.watch_events()
        store.happen(world, 1)
        await next_of(watch, 1)
        store.happen(world, 20, publish=False)
        store.kept = 15
        store.happen(world, 1)
        with pytest.raises(EventsLostError) as caught:
            await anext(watch)
        return (caught.value.after, caught.value.before), sequences(await next_of(watch, 7))

    assert play(work, store.answer) == ((1, 16), list(range(16, 23)))


def test_a_manager_that_is_away_while_a_gap_is_filled_is_waited_for() -> None:
    store = Store()
    away: list[bool] = []

    def answer(op: str, params: dict[str, Any]) -> Any:
        return None if away else store.answer(op, params)

    async def work(world: World) -> Any:
        watch = world.bus.watch_events()
        store.happen(world, 1)
        first = await next_of(watch, 1)
        away.append(True)
        store.happen(world, 1, publish=False)
        store.happen(world, 1)
        world.loop.call_later(25.0, away.clear)
        return sequences(first + await next_of(watch, 2))

    assert play(work, answer) == [1, 2, 3]


def test_fetching_what_is_missing_pauses_even_when_a_call_may_take_no_time() -> None:
    store = Store()

    async def work(world: World) -> Any:
        watch = world.bus.watch_events()
        store.happen(world, 1)
        first = await next_of(watch, 1)
        store.happen(world, 1, publish=False)
        store.happen(world, 1)
        world.bus.timeout = 0.0
        waiting = asyncio.create_task(next_of(watch, 2))
        await asyncio.sleep(10.0)
        world.bus.timeout = 10.0
        return sequences(first + await waiting)

    assert play(work, store.answer) == [1, 2, 3], "in virtual time a loop without a pause would never end"


def test_only_wanted_events_are_told() -> None:
    store = Store()

    async def work(world: World) -> Any:
        kinds = world.bus.watch_events(types=["worker_failed", "busbar.on_worker_moved"])
        mine = world.bus.watch_events(object="worker/web-1", cluster="edge")
        by_oid, other = world.bus.watch_events(object=OID), world.bus.watch_events(cluster="core")
        edge = world.bus.watch_events(cluster="edge")
        await asyncio.gather(*(watch._begin() for watch in (kinds, mine, edge, by_oid, other)))
        for type in ("worker_ready", "worker_failed", "worker_moved", "worker_ready"):
            store.happen(world, type=type)
        group = {"subject": "workergroup/web", "data": {"cluster_oid": OID}}
        world.publish_event({**world.event(5), "subject": "worker/db-1", "data": {"cluster": "core"}})
        world.publish_event({**world.event(6), **group})
        world.manager.post(TOPICS.event("edge", "worker", "x", "ready"), b'{"sequence": "many"}')
        found = [
            await next_of(kinds, 2),
            await next_of(mine, 4),
            await next_of(edge, 5),
            await next_of(by_oid, 4),
            await next_of(other, 1),
        ]
        return [sequences(each) for each in found]

    assert play(work, store.answer) == [[2, 3], [1, 2, 3, 4], [1, 2, 3, 4, 6], [1, 2, 3, 4], [5]]


@pytest.mark.parametrize("published", [True, False])
def test_a_restored_store_goes_on_far_above_and_nothing_counts_as_lost(published: bool) -> None:
    store = Store()

    async def work(world: World) -> Any:
        watch = world.bus.watch_events()
        store.happen(world, 3)
        first = await next_of(watch, 3)
        for sequence, type in ((1_000_000, "manager_restored"), (1_000_001, "worker_ready")):
            event = world.event(sequence, type)
            store.events.append(event)
            if published or type == "worker_ready":
                world.publish_event(event)
        return sequences(first + await next_of(watch, 2))

    assert play(work, store.answer) == [1, 2, 3, 1_000_000, 1_000_001]


def test_a_store_whose_sequence_begins_again_below_is_followed() -> None:
    store = Store()

    async def work(world: World) -> Any:
        watch = world.bus.watch_events()
        store.happen(world, 9)
        first = await next_of(watch, 9)
        del store.events[4:]
        store.happen(world, 1, type="manager_restored")
        store.happen(world, 1)
        return sequences(first + await next_of(watch, 2))

    assert play(work, store.answer) == [*range(1, 10), 5, 6]


# --- output ------------------------------------------------------------------------------------------------


WORKER: dict[str, Any] = {
    "oid": OID, "name": "web-1", "cluster_oid": OID, "cluster": "edge", "workergroup_oid": OID,
    "workergroup": "web", "node_oid": OID, "node": "n1", "state": "RUNNING", "status": "RUNNING",
    "generation": 1, "address": None,
    "pid": 1, "restarts": 0, "reason": None, "since_ms": 1,
}  # fmt: skip


def test_output_is_followed_while_somebody_reads_it() -> None:
    def answer(op: str, _params: dict[str, Any]) -> Any:
        return (
            WORKER if op == "get_worker" else {"worker_oid": OID, "node": "n1", "topic": "t", "lease_ms": 1}
        )

    async def work(world: World) -> Any:
        def say(line: str, after: float, cluster: str = "edge") -> None:
            payload = f'{{"lines": ["{line}"], "worker": "web-1", "cluster": "{cluster}"}}'.encode()
            world.loop.call_later(after, world.manager.post, TOPICS.node_log("n1", "web-1"), payload)

        say("one", 0.5)
        say("foreign", 0.5, "core")
        past = [chunk.lines async for chunk in await world.bus.watch_output(OID, follow=False)]
        say("two", 40.0)
        async with await world.bus.watch_output(OID, lines=7) as watch:
            later = (await anext(watch)).lines
        return past, later, [params for op, params in world.asked if op == "follow_worker"]

    past, later, asked = play(work, answer)
    assert past == [["one"]] and later == ["two"]
    assert [params.get("lines", 100) for params in asked] == [100, 7, 0, 0], "the lease is renewed"


def test_output_of_a_worker_without_a_node_is_an_error() -> None:
    async def work(world: World) -> None:
        await world.bus.watch_output(OID)

    with pytest.raises(BusError, match="is not placed: no room"):
        play(work, lambda _op, _params: {**WORKER, "node": None, "reason": "no room"})


def test_past_lines_come_once_whoever_else_follows_the_same_output() -> None:
    def answer(op: str, _params: dict[str, Any]) -> Any:
        return (
            WORKER if op == "get_worker" else {"worker_oid": OID, "node": "n1", "topic": "t", "lease_ms": 1}
        )

    async def work(world: World) -> Any:
        def say(line: str, number: int, reader: str | None = None) -> None:
            chunk = LogChunk([line], "web-1", "edge", 0, "s1", number, reader)
            world.manager.post(TOPICS.node_log("n1", "web-1"), encode(chunk))

        async with await world.bus.watch_output(OID) as watch:
            found = asyncio.ensure_future(next_of(watch, 2))
            while "follow_worker" not in [op for op, _ in world.asked]:
                await settle()
            mine = world.asked[-1][1]["reader"]
            say("before", 4)
            say("before", 3, "other")
            say("before", 4, mine)
            say("after", 5)
            return await found

    assert [chunk.lines for chunk in play(work, answer)] == [["before"], ["after"]]
