"""Faults of the manager: killed at failpoints, suspended, partitioned, duplicated, a jumping wall clock."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import pytest

from tests.faults.census import until
from tests.faults.failing import AFTER, BEFORE, REPLY, command
from tests.faults.yard import Yard, threads
from tests.pace import bound

pytestmark = pytest.mark.timeout(120)


def _killed_by(here: Yard, request_id: str, name: str) -> None:
    """Start a manager with failpoints, and send the request that kills it."""
    here.kill("manager")
    here.start_manager(*command("commits", "reply"))
    here.manager_is_up()
    here.alice.push("create_routercluster", {"routercluster": {"name": name}}, request_id)
    assert here.stack.processes["manager"].wait(bound(15)) == -9
    here.stack.processes.pop("manager")


def _created(here: Yard, request_id: str) -> list[dict[str, Any]]:
    kinds = (e for e in here.alice.events() if e["type"] == "busbar.on_routercluster_created")
    by_id = {e["id"]: e for e in kinds if e["data"].get("request_id") == request_id}
    return list(by_id.values())


@pytest.mark.parametrize(
    ("point", "replied"),
    [
        pytest.param(BEFORE, False, marks=pytest.mark.fault(2, "A")),
        pytest.param(AFTER, False, marks=pytest.mark.fault(3, "D A")),
        pytest.param(REPLY, True, marks=pytest.mark.fault(4, "D")),
    ],
)
def test_a_manager_killed_around_a_commit(here: Yard, point: str, replied: bool) -> None:
    request_id, name = f"{point}1", point.strip("-")
    wish = {"routercluster": {"name": name}}
    _killed_by(here, request_id, name)
    first = here.alice.reply(request_id, 0.2)
    assert (first is not None) == replied
    assert not _created(here, request_id)
    here.start_manager()
    if point == BEFORE:
        assert name not in here.alice.sure("list_routerclusters", {"return_names": True})
    elif point == AFTER:
        # Its reply and its event come from the outbox, without a retry.
        first = here.alice.reply(request_id, 15)
        assert first is not None
    again = here.alice.ask("create_routercluster", wish, id=request_id)
    assert again["ok"]
    assert first is None or again["result"] == first["result"], "the same id has the same reply"
    assert here.alice.sure("list_routerclusters", {"return_names": True}).count(name) == 1
    until(lambda: len(_created(here, request_id)) == 1, 10, "its event, once")
    assert (
        here.alice.ask("create_routercluster", {"routercluster": {"name": "other"}}, id=request_id)["error"][
            "code"
        ]
        == "request_id_reused"
    )


@pytest.mark.fault(5, "B C K")
def test_a_manager_killed_during_scaling(here: Yard) -> None:
    cluster = here.cluster(2)
    before = cluster.running(2)
    cluster.scale(6)
    here.kill("manager")
    here.start_manager()
    here.manager_is_up()
    after = cluster.running(6)
    assert before.items() <= after.items()
    cluster.scale(3)
    here.kill("manager")
    here.start_manager()
    after = cluster.running(3)
    assert {f"web-{n}" for n in (1, 2, 3)} == set(after) and before.items() <= after.items()
    assert here.census.most[cluster.name] == 6
    here.check()
    cluster.stop()


@pytest.mark.fault(7, "D")
def test_a_manager_killed_during_a_migration(here: Yard) -> None:
    cluster = here.cluster(1)
    before = cluster.running(1)
    here.kill("manager")
    here.start_manager(*command("migration"))
    assert here.stack.processes.pop("manager").wait(bound(20)) == -9
    here.start_manager()
    cluster.running(1)
    cluster.kept(before)
    assert here.alice.sure("get_routercluster", {"routercluster_oid": cluster.oid})["name"] == cluster.name
    cluster.stop()


@pytest.mark.fault(8, "M B K")
def test_a_manager_paused_for_longer_than_lost_after(here: Yard) -> None:
    cluster = here.cluster(3, lost_after=1)
    before = cluster.running(3)
    mark = len(here.alice.messages)
    with here.paused("manager"):
        time.sleep(16 * here.stack.heartbeat)
    cluster.running(3)
    cluster.kept(before)
    moved = [e for e in _events_since(here, mark) if e["type"].endswith(("_moved", "_node_lost"))]
    assert not moved, "the time in which the manager was suspended counted against the nodes"
    cluster.stop()


def _events_since(here: Yard, mark: int) -> list[dict[str, Any]]:
    return [json.loads(body) for topic, body, _ in here.alice.messages[mark:] if "/event/" in topic]


@pytest.mark.fault(9, "M")
def test_a_manager_of_another_store_moves_no_worker_and_is_reported(here: Yard) -> None:
    cluster = here.cluster(2)
    before = cluster.running(2)
    here.start_manager(state="other-state", name="rogue", adopt_realm=True)

    def seen() -> Any:
        conditions = " ".join(here.alice.sure("get_manager").get("conditions", []))
        return "another store" in conditions

    try:
        until(seen, 15, "a manager says that there is another one")
    finally:
        here.kill("rogue")
        here.kill("manager")
    cluster.kept(before)
    here.start_manager()
    cluster.running(2)
    cluster.kept(before)
    cluster.stop()


@pytest.mark.fault(10, "H C K")
def test_a_manager_partitioned_from_the_broker(here: Yard) -> None:
    cluster = here.cluster(3)
    before = cluster.running(3)
    state = here.alice.topic("manager", "m1", "state")
    here.alice.subscribe("manager", "+", "state")
    here.proxies["manager"].cut()
    here.alice.wait_retained(state, lambda value: value["state"] == "offline", 10)
    time.sleep(6 * here.stack.heartbeat)
    cluster.kept(before)
    request_id = "while-cut"
    here.alice.push("create_routercluster", {"routercluster": {"name": "while-cut"}}, request_id)
    assert here.alice.reply(request_id, 0.3) is None
    here.proxies["manager"].heal()
    here.alice.wait_retained(state, lambda value: value["state"] == "online", 10)
    cluster.running(3)
    cluster.kept(before)
    here.alice.sure("create_routercluster", {"routercluster": {"name": "while-cut"}}, id=request_id)
    cluster.stop()


@pytest.mark.fault(14, "B H")
def test_a_wall_clock_that_jumps_an_hour_each_way(here: Yard) -> None:
    offset = here.stack.folder / "offset"
    offset.write_text("0")
    cluster = here.cluster(2, lost_after=1)
    before = cluster.running(2)
    for name in ("manager", "n1"):
        here.kill(name)
    here.start_manager(*command(f"clock:{offset}"))
    here.start_agent("n1", *command(f"clock:{offset}"))
    here.all_online()
    mark = len(here.alice.messages)
    for seconds in (3600, -3600):
        offset.write_text(str(seconds))
        time.sleep(4 * here.stack.heartbeat)
        stat = cluster.stat()
        assert (stat["status"], stat["ready"]) == ("RUNNING", 2)
        made = here.alice.sure("create_routercluster", {"routercluster": {"name": f"at{seconds + 3600}"}})
        assert abs(made["changed"] / 1e9 - time.time() - seconds) < 60, "the clock did jump"
    bad = [e["type"] for e in _events_since(here, mark) if e["type"].endswith(("late", "lost", "moved"))]
    assert not bad
    cluster.kept(before)
    cluster.stop()
    for name in ("manager", "n1"):
        here.kill(name)


@pytest.mark.fault(46, "L")
def test_a_broker_with_five_seconds_of_latency(here: Yard) -> None:
    cluster = here.cluster(2)
    before = cluster.running(2)
    here.proxies["manager"].delay = 2.5
    time.sleep(1)
    began = time.monotonic()
    stat = here.alice.ask("stat_routercluster", {"routercluster_oid": cluster.oid}, timeout=15)
    assert time.monotonic() - began > 4.0, "it was not slow"
    assert stat["ok"]
    here.proxies["manager"].heal()
    cluster.running(2)
    cluster.kept(before)
    cluster.stop()


@pytest.mark.fault(54, "A")
def test_two_callers_change_one_group_concurrently(here: Yard) -> None:
    cluster = here.cluster(1, start=False)
    other = here.watcher("alice")
    version = here.alice.sure(
        "get_routercluster_workergroup", {"routercluster_oid": cluster.oid, "workergroup_oid": cluster.group}
    )["version"]
    replies: list[Any] = []

    def change(client: Any, scale: int) -> None:
        params = {"routercluster_oid": cluster.oid, "workergroup_oid": cluster.group, "scale": scale}
        replies.append(
            client.ask("scale_routercluster_workergroup", params, expect={"version": version}, id=f"w{scale}")
        )

    threads([lambda: change(here.alice, 2), lambda: change(other, 3)])
    won = [reply for reply in replies if reply["ok"]]
    lost = [reply for reply in replies if not reply["ok"]]
    assert len(won) == len(lost) == 1
    assert lost[0]["error"]["code"] == "version_conflict"
    group = here.alice.sure(
        "get_routercluster_workergroup", {"routercluster_oid": cluster.oid, "workergroup_oid": cluster.group}
    )
    assert group["scale"] == won[0]["result"]["scale"]


@pytest.mark.fault((45, 47), "A M")
def test_duplicated_torn_and_reordered_requests_have_one_effect_each(here: Yard) -> None:
    proxy = here.proxy("client")
    client = here.watcher("alice", proxy.port)
    proxy.twice = lambda packet: packet.up and "/request/" in packet.topic
    for number in range(10):
        client.sure("create_routercluster", {"routercluster": {"name": f"two{number}"}}, id=f"two{number}")
    assert proxy.doubled >= 10
    proxy.heal()
    proxy.hold = lambda packet: packet.up and "/request/" in packet.topic and b"slow-" in packet.raw
    for number in range(5):
        # The deletion arrives before the creation; both are retried until answered.
        client.push("create_routercluster", {"routercluster": {"name": f"slow-{number}"}}, f"slow-{number}")
        code = client.ask("get_routercluster_by_name", {"routercluster_name": f"slow{number}"})["error"][
            "code"
        ]
        assert code == "no_such_object"
        assert client.reply(f"slow-{number}", 5) is not None
    assert proxy.held >= 5
    for place_, match in (
        ("client", lambda p: p.up),
        ("manager", lambda p: p.up and "/response/" in p.topic),
    ):
        _torn(here, client, place_, match)
    names = here.alice.sure("list_routerclusters", {"return_names": True})
    wanted = {f"two{n}" for n in range(10)} | {f"slow-{n}" for n in range(5)}
    wanted |= {f"torn-{where}-{n}" for where in ("client", "manager") for n in range(3)}
    assert wanted <= set(names) and len(names) == len(set(names))
    created = [e["data"]["name"] for e in _events_once(here) if e["type"].endswith("routercluster_created")]
    assert len(created) == len(set(created))


def _events_once(here: Yard) -> list[dict[str, Any]]:
    return list({event["id"]: event for event in here.alice.events()}.values())


def _torn(here: Yard, client: Any, where: str, match: Any) -> None:
    """Three requests; the connection breaks within a packet of each."""
    proxy = here.proxies[where]
    for number in range(3):
        name = f"torn-{where}-{number}"
        before, armed = proxy.torn, [True]

        def tear(packet: Any, name: str = name, armed: list[bool] = armed) -> bool:
            if armed and match(packet) and name.encode() in packet.raw:
                armed.clear()
                return True
            return False

        proxy.tear = tear
        client.sure("create_routercluster", {"routercluster": {"name": name}}, id=name)
        assert proxy.torn == before + 1
    with contextlib.suppress(KeyError):
        proxy.heal()
