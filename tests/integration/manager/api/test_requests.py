"""Requests as they should not be, and requests that come twice: each is answered, and has one effect."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from busbar.bus.connection.link import Properties
from busbar.bus.decode import MAX_PAYLOAD, encode
from busbar.bus.errors import ERRORS
from busbar.manager.api.operations import CHANGES, READS
from busbar.manager.leader.state_folder import database
from busbar.manager.service import Manager
from busbar.manager.store import files

from tests.brokers import mosquitto, until
from tests.integration.manager.fixtures import (
    TOPICS,
    Client,
    client_on,
    manager_on,
    memory_net,
    mqtt_net,
    open_store,
    rig_on,
)

Rig = tuple[Manager, Client]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig_on(memory_net(), tmp_path / "manager") as rig:
        yield rig


@pytest.fixture
def client(rig: Rig) -> Client:
    return rig[1]


def create(name: str, **envelope: Any) -> bytes:
    return encode({"reply": "raw", "params": {"routercluster": {"name": name}}} | envelope)


DEEP = b'{"params":' + b"[" * 10_000 + b"]" * 10_000 + b"}"
MALFORMED: dict[str, bytes] = {
    "empty": b"",
    "not-json": b"hello",
    "half": b'{"id": "1", "params": {',
    "list": b"[]",
    "number": b"17",
    "cut-utf8": b'{"id": "\xc3',
    "deep": DEEP,
    "digits": b'{"params": {"x": ' + b"9" * 5_000 + b"}}",
    "nan": b'{"params": {"x": NaN}}',
    "infinite": b'{"params": {"x": 1e999}}',
    "twice": b'{"id": "a", "id": "b"}',
    "surrogate": b'{"params": {"x": "\\ud800"}}',
}


@pytest.mark.parametrize("kind", sorted(MALFORMED))
@pytest.mark.fault(0, "L")
async def test_what_can_not_be_parsed_is_answered_in_the_default_inbox(client: Client, kind: str) -> None:
    reply = await client.send("alice", "list_routerclusters", MALFORMED[kind])
    assert reply["error"]["code"] == "malformed_request" and reply["inbox"] == "default"
    assert (reply["ok"], reply["op"], reply["manager"], reply["epoch"]) == (
        False,
        "list_routerclusters",
        "m1",
        1,
    )
    assert reply["id"] and reply["error"]["uri"] == "wamp.error.invalid_payload"


@pytest.mark.parametrize("size", [MAX_PAYLOAD + 1, 1_000_000])
@pytest.mark.fault(0, "L")
async def test_too_long_requests_are_refused_before_they_are_parsed(client: Client, size: int) -> None:
    reply = await client.send("alice", "list_routerclusters", b"x" * size)
    assert reply["error"]["code"] == "payload_too_large" and reply["error"]["status"] == 413


ENVELOPES: list[tuple[dict[str, Any], str, str]] = [
    ({"reply": "a/b"}, "/reply", "default"),
    ({"reply": "../x"}, "/reply", "default"),
    ({"reply": "+"}, "/reply", "default"),
    ({"reply": "x\n"}, "/reply", "default"),
    ({"reply": 5}, "/reply", "default"),
    ({"reply": "a" * 10_000}, "/reply", "default"),
    ({"id": ""}, "/id", "raw"),
    ({"id": "x" * 65}, "/id", "raw"),
    ({"id": 7}, "/id", "raw"),
    ({"ttl_ms": 0}, "/ttl_ms", "raw"),
    ({"ttl_ms": "soon"}, "/ttl_ms", "raw"),
    ({"params": []}, "/params", "raw"),
    ({"expect": {"version": -1}}, "/expect/version", "raw"),
    ({"expect": {"verison": 1}}, "/expect/verison", "raw"),
]


@pytest.mark.parametrize(("more", "pointer", "inbox"), ENVELOPES)
async def test_a_wrong_envelope_is_pointed_at(
    client: Client, more: dict[str, Any], pointer: str, inbox: str
) -> None:
    reply = await client.send("alice", "create_routercluster", create("edge", **more))
    assert reply["error"]["code"] == "invalid_argument" and reply["inbox"] == inbox
    assert reply["error"]["errors"] == [{"pointer": pointer}]
    assert await client.call("vera", "list_routerclusters") == []


@pytest.mark.parametrize(
    "name", ["", "a/b", "a+", "a#", "$a", "a.b", "a\x00", "a\n", "..", "A", "é", "a b", "x" * 10_000, 5, None]
)
async def test_names_that_are_none(client: Client, name: Any) -> None:
    reply = await client.send("alice", "create_routercluster", create(name, id="r1"))
    assert reply["error"]["code"] == "invalid_argument" and reply["id"] == "r1"
    assert reply["error"]["errors"] == [{"pointer": "/params/routercluster/name"}]
    assert len(json.dumps(reply)) < 5_000


async def test_unknown_members_of_parameters_are_refused_and_of_the_envelope_ignored(client: Client) -> None:
    error = await client.refused("alice", "create_routercluster", {"routercluster": {"name": "a"}, "x/y": 1})
    assert (error.code, error.pointers) == ("invalid_argument", ("/params/x~1y",))
    reply = await client.send("alice", "create_routercluster", create("edge", traceparent="00-1"))
    assert reply["ok"] and reply["result"]["name"] == "edge"


async def test_a_long_unknown_member_is_not_repeated_at_length(client: Client) -> None:
    reply = await client.send("alice", "get_manager", encode({"reply": "raw", "params": {"x" * 100_000: 1}}))
    assert reply["error"]["code"] == "invalid_argument" and len(json.dumps(reply)) < 5_000


async def test_an_unknown_operation(client: Client) -> None:
    reply = await client.send("alice", "drop_all_tables", b'{"id": "r1", "reply": "raw"}')
    assert (reply["error"]["code"], reply["id"], reply["inbox"]) == ("no_such_procedure", "r1", "raw")
    reply = await client.send("alice", "x" * 5_000, b"{}")
    assert reply["error"]["code"] == "no_such_procedure" and len(reply["op"]) == 64


async def test_a_retained_request_and_one_of_nobody_are_dropped(rig: Rig) -> None:
    manager, client = rig
    await client.link.publish(TOPICS.request("", "list_nodes"), b"{}")
    await client.link.publish(TOPICS.request("alice", "create_routercluster"), create("edge"), retain=True)
    # Live it is an ordinary request; the next connection is the one that gets it with the flag set.
    await client.until(lambda: len(client.replies("alice")) == 1)
    manager.link.reconnect("the test wants to see what is retained")
    await client.until(lambda: sum(m.topic == TOPICS.manager_state("m1") for m in client.seen) >= 3)
    assert await client.call("vera", "list_routerclusters", {"return_names": True}) == ["edge"]
    assert len(client.replies("alice")) == 1


@pytest.mark.fault(15, "L")
async def test_a_failure_inside_tells_a_correlation_and_no_traceback(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = rig[1]

    def explode(*_: Any) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setitem(CHANGES, "create_routercluster", explode)
    monkeypatch.setitem(READS, "get_manager", explode)
    for op, payload in (("create_routercluster", create("a", id="r1")), ("get_manager", b'{"reply": "raw"}')):
        reply = await client.send("alice", op, payload)
        error = reply["error"]
        assert error["code"] == "internal" and error["correlation"] in caplog.text
        assert "secret" not in json.dumps(reply) and "Traceback" not in json.dumps(reply)
    monkeypatch.undo()
    reply = await client.send("alice", "create_routercluster", create("a", id="r1"))
    assert reply["ok"], "an internal failure is not kept: the same id may be tried again"


# --- exactly once


@pytest.mark.fault(55, "A")
async def test_the_same_id_has_one_effect_and_the_same_reply(client: Client) -> None:
    first = await client.send("alice", "create_routercluster", create("edge", id="r1"))
    await client.until(client.events)
    again = await client.send("alice", "create_routercluster", create("edge", id="r1", reply="default"))
    assert again.pop("inbox") == "default" and first.pop("inbox") == "raw"
    assert again == first and first["ok"]
    other = await client.send("bob", "create_routercluster", create("edge", id="r1"))
    assert other["error"]["code"] == "already_exists", "ids belong to their callers"
    assert client.event_names() == ["routercluster_created"]
    assert len(await client.call("vera", "list_routerclusters")) == 1


async def test_members_in_another_order_are_the_same_request(client: Client) -> None:
    one = b'{"id":"r1","reply":"raw","params":{"routercluster":{"name":"edge","label":"x"}}}'
    two = b'{"params":{"routercluster":{"label":"x","name":"edge"}},"reply":"raw","id":"r1"}'
    assert await client.send("alice", "create_routercluster", one) == await client.send(
        "alice", "create_routercluster", two
    )


@pytest.mark.parametrize("changed", ["params", "expect", "op"])
@pytest.mark.fault(55, "A")
async def test_the_same_id_for_another_request_is_refused(client: Client, changed: str) -> None:
    cluster = await client.cluster("edge")
    params = {"routercluster_oid": cluster["oid"]}
    first = {"id": "r1", "reply": "raw", "params": params}
    assert (await client.send("alice", "start_routercluster", encode(first)))["ok"]
    second: dict[str, Any] = dict(first)
    if changed == "params":
        second["params"] = {"routercluster_oid": "00000000-0000-0000-0000-000000000000"}
    elif changed == "expect":
        second["expect"] = {"version": 1}
    op = "stop_routercluster" if changed == "op" else "start_routercluster"
    reply = await client.send("alice", op, encode(second))
    assert (reply["error"]["code"], reply["error"]["status"]) == ("request_id_reused", 409)
    assert (await client.send("alice", "start_routercluster", encode(first)))["ok"], "the first reply is kept"


async def test_errors_of_a_change_are_kept_like_replies(client: Client) -> None:
    await client.cluster("edge")
    first = await client.send("alice", "create_routercluster", create("edge", id="r1"))
    assert first["error"]["code"] == "already_exists"
    ref = {"routercluster_oid": (await client.call("vera", "list_routerclusters"))[0]}
    await client.call("alice", "delete_routercluster", ref)
    assert await client.send("alice", "create_routercluster", create("edge", id="r1")) == first
    assert (await client.send("alice", "create_routercluster", create("edge", id="r2")))["ok"]


async def test_wrong_parameters_are_kept_too(client: Client) -> None:
    first = await client.send("alice", "create_routercluster", create("No Name", id="r1"))
    assert first["error"]["code"] == "invalid_argument"
    assert await client.send("alice", "create_routercluster", create("No Name", id="r1")) == first
    other = await client.send("alice", "create_routercluster", create("edge", id="r1"))
    assert other["error"]["code"] == "request_id_reused"


async def test_a_request_without_an_id_runs_each_time(client: Client) -> None:
    first = await client.send("alice", "create_routercluster", create("edge"))
    assert first["ok"] and len(first["id"]) == 36
    again = await client.send("alice", "create_routercluster", create("edge"))
    assert again["error"]["code"] == "already_exists" and again["id"] != first["id"]


async def test_expired_requests_never_run_and_may_be_tried_again(rig: Rig) -> None:
    manager, client = rig
    gate = asyncio.get_running_loop().create_future()
    _hold(manager)
    manager.store.submit(lambda tx: None, gate.set_result)
    reply = await client.send("alice", "create_routercluster", create("edge", id="r1", ttl_ms=20))
    assert (reply["error"]["code"], reply["error"]["retryable"]) == ("expired", True)
    await gate
    assert await client.call("vera", "list_routerclusters") == []
    assert (await client.send("alice", "create_routercluster", create("edge", id="r1", ttl_ms=5000)))["ok"]


def _hold(manager: Manager) -> None:
    """The next commit takes a while."""

    def slow(point: str) -> None:
        manager.store.fault = lambda point: None
        time.sleep(0.2)

    manager.store.fault = slow


@pytest.mark.fault(3, "D A")
async def test_a_reply_that_was_committed_and_not_sent_comes_after_a_restart(tmp_path: Path) -> None:
    net = memory_net()
    folder = tmp_path / "manager"
    async with client_on(net) as client:
        async with manager_on(net, folder) as manager:
            # The broker vanishes for the manager between the commit and the publication.
            assert net.memory is not None
            manager.store.fault = lambda point: _cut(loop, net, point)
            loop = asyncio.get_running_loop()
            await client.link.publish(
                TOPICS.request("alice", "create_routercluster"), create("edge", id="r1")
            )
            await client.until(
                lambda: json.loads(client.retained[TOPICS.manager_state("m1")])["state"] == "offline"
            )
            assert client.replies("alice") == [] and client.event_names() == []
            manager.link.reachable.clear()  # type: ignore[attr-defined]
        async with manager_on(net, folder):
            reply = json.loads((await client.until(lambda: client.replies("alice")))[0].payload)
            assert reply["ok"] and reply["epoch"] == 1, "the reply as it was committed"
            await client.until(lambda: client.event_names() == ["routercluster_created"])
            resent = await client.send("alice", "create_routercluster", create("edge", id="r1"))
            assert resent["result"] == reply["result"]
            await client.until(lambda: client.status("edge", "routercluster", "edge"))


def _cut(loop: asyncio.AbstractEventLoop, net: Any, point: str) -> None:
    """Runs in the writer's thread: by the time the commit is told, the connection is gone."""
    if point == "before_commit":
        link = net.memory.links["manager"]
        link.reachable.clear()
        loop.call_soon_threadsafe(net.memory.drop, "manager")


async def test_what_the_broker_has_taken_over_is_deleted_from_the_outbox(rig: Rig) -> None:
    manager, client = rig
    for number in range(5):
        await client.cluster(f"c{number}")
    await until(lambda: manager.store.reads.outbox_count() == 0)


# --- floods and a database that can't be written


@pytest.mark.fault(50, "L")
async def test_a_noisy_caller_is_told_busy_and_others_are_served(tmp_path: Path) -> None:
    async with rig_on(memory_net(), tmp_path / "manager", rate=1.0, burst=5) as (manager, client):
        for number in range(30):
            payload = encode({"id": f"r{number}", "reply": "raw"})
            await client.link.publish(TOPICS.request("bob", "list_routerclusters"), payload)
        replies = await client.until(lambda: (r := client.replies("bob")) and len(r) == 30 and r)
        read = [json.loads(message.payload) for message in replies]
        busy = [reply for reply in read if not reply["ok"]]
        assert len(busy) == 25 and {reply["error"]["code"] for reply in busy} == {"busy"}
        assert [reply["id"] for reply in busy] == [f"r{number}" for number in range(5, 30)]
        assert all(0 < reply["error"]["retry_after_ms"] <= 1000 for reply in busy)
        assert manager.store.waiting == 0
        assert await client.call("vera", "list_routerclusters") == []


async def test_changes_in_flight_are_bounded_per_caller(tmp_path: Path) -> None:
    async with rig_on(memory_net(), tmp_path / "manager", in_flight=3) as (manager, client):
        _hold(manager)
        manager.store.submit(lambda tx: None, lambda outcome: None)
        for number in range(10):
            payload = create(f"c{number}", id=f"r{number}")
            await client.link.publish(TOPICS.request("bob", "create_routercluster"), payload)
        replies = await client.until(lambda: (r := client.replies("bob")) and len(r) == 10 and r)
        codes = [json.loads(message.payload).get("error", {}).get("code", "ok") for message in replies]
        assert sorted(codes) == ["busy"] * 7 + ["ok"] * 3
        assert await client.cluster("later", who="bob")


@pytest.mark.fault(11, "L")
async def test_a_locked_database_answers_busy_to_changes_and_serves_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "BUSY_MS", 50)
    async with rig_on(memory_net(), tmp_path / "manager") as (manager, client):
        other = sqlite3.connect(database(tmp_path / "manager"), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            reply = await client.send("alice", "create_routercluster", create("edge", id="r1"))
            assert reply["error"]["code"] == "busy" and reply["error"]["retry_after_ms"] > 0
            info = await client.call("vera", "get_manager")
            assert info["conditions"] == ["the database is locked by another program"]
        finally:
            other.execute("ROLLBACK")
            other.close()
        assert (await client.send("alice", "create_routercluster", create("edge", id="r1")))["ok"]
        assert manager.conditions() == []


@pytest.mark.fault(12, "L")
async def test_a_failing_disk_is_told_to_callers_and_a_condition_of_the_manager(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    manager, client = rig

    def fault(point: str) -> None:
        if point == "before_commit":
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
            raise error

    manager.store.fault = fault
    for _ in range(3):
        reply = await client.send("alice", "create_routercluster", create("edge", id="r1"))
        assert reply["error"]["code"] == "busy" and reply["error"]["retryable"]
        assert "disk I/O error" in reply["error"]["detail"] and "same id" in reply["error"]["detail"]
    assert "disk I/O error" in manager.conditions()[0]
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1, "told once"
    manager.store.fault = lambda point: None
    assert (await client.send("alice", "create_routercluster", create("edge", id="r1")))["ok"]
    assert manager.conditions() == []


@pytest.mark.fault(12, "L")
async def test_a_disk_that_can_not_be_read_is_told_to_callers_and_logged_once(
    rig: Rig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, client = rig

    def fails(*_: object) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
        raise error

    with monkeypatch.context() as patched:
        patched.setitem(READS, "list_routerclusters", fails)
        for _ in range(3):
            reply = await client.send("vera", "list_routerclusters", b'{"params": {}}')
            assert reply["error"]["code"] == "busy" and "disk I/O error" in reply["error"]["detail"]
    (told,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "list_routerclusters of 'vera' failed: the disk" in told.getMessage() and told.exc_info is None
    assert await client.call("vera", "list_routerclusters") == []


@pytest.mark.fault(12, "L")
async def test_a_full_disk_says_so_changes_nothing_and_heals(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    manager, client = rig

    async def pages(most: int | None = None) -> int:
        limit = "" if most is None else f" = {most}"
        found = await manager.store.write(
            lambda tx: tx.db.execute(f"PRAGMA max_page_count{limit}").fetchall()
        )
        return int(found[0][0])

    room = await pages()
    await pages(1)  # SQLite takes as many as there are
    name = ""
    for n in range(200):  # what fits in the pages that there are
        name = f"c{n}"
        reply = await client.send("alice", "create_routercluster", create(name, id=name))
        if not reply["ok"]:
            break
    error = reply["error"]
    assert (error["code"], error["retryable"]) == ("busy", True) and error["retry_after_ms"] > 0
    assert "the disk of the manager's state is full: nothing was changed" in error["detail"]
    assert "full" in manager.conditions()[0]
    again = await client.send("alice", "create_routercluster", create(name, id=name))
    assert again["error"]["code"] == "busy"
    listed = await client.call("vera", "list_routerclusters")
    assert listed, "reads go on"
    told = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(told) == 1 and told[0].exc_info is None and "full" in told[0].getMessage()
    assert str(manager.store.path) in told[0].getMessage()
    await pages(room)
    assert (await client.send("alice", "create_routercluster", create(name, id=name)))["ok"]
    assert manager.conditions() == []
    caplog.clear()


# --- MQTT 5


@pytest.mark.mosquitto
async def test_the_mqtt_5_mirror(tmp_path: Path) -> None:
    with mosquitto(tmp_path) as port:
        async with rig_on(mqtt_net(port, protocol=5), tmp_path / "manager") as (_, client):
            await _check_mirror(client)


async def _check_mirror(client: Client) -> None:
    own = TOPICS.response("alice", "raw")
    asked = Properties(response_topic=own, correlation=b"\x00\xff7", expiry_s=30)
    payload = encode({"id": "r1", "params": {"routercluster": {"name": "edge"}}})
    reply = await client.send("alice", "create_routercluster", payload, asked)
    assert reply["ok"] and reply["inbox"] == "raw"
    told = client.replies("alice")[-1].properties
    assert (told.correlation, told.content_type) == (b"\x00\xff7", "application/json")
    assert dict(told.user) == {"status": "200", "code": "ok"}
    await client.send("alice", "get_routercluster_by_name", b'{"params": {"routercluster_name": "x"}}', asked)
    told = client.replies("alice")[-1].properties
    assert dict(told.user) == {"status": "404", "code": "no_such_object"} and told.correlation == b"\x00\xff7"
    foreign = Properties(response_topic=TOPICS.response("bob", "raw"), correlation=b"1")
    reply = await client.send("alice", "list_routerclusters", b"{}", foreign)
    assert reply["error"]["code"] == "invalid_argument" and reply["inbox"] == "default"
    assert client.replies("bob") == []
    both = encode({"reply": "default"})
    assert (await client.send("alice", "list_routerclusters", both, asked))["inbox"] == "default"


def test_every_code_of_the_contract_is_sent_somewhere() -> None:
    """The codes that the manager's tests provoke; a new row of the table wants a test."""
    folder = Path(__file__).parents[1]
    text = "".join(path.read_text() for path in folder.rglob("test_*.py"))
    assert [code for code in ERRORS if f'"{code}"' not in text] == []


async def test_a_store_can_be_read_while_the_manager_runs(rig: Rig) -> None:
    manager, client = rig
    await client.cluster("edge")
    assert files.check(manager.store.path) == []


def test_the_fixture_opens_what_the_service_opens(tmp_path: Path) -> None:
    store = open_store(tmp_path / "m")
    store.close()
    assert database(tmp_path / "m").is_file()
