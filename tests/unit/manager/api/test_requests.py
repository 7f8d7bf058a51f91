"""The order in which requests are refused, and that nothing that comes in ever ends the loop."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from busbar.bus import params as p
from busbar.bus.connection.link import NO_PROPERTIES, Message, Properties
from busbar.bus.connection.packet_limit import publish_size
from busbar.bus.contract import OPERATIONS
from busbar.bus.decode import MAX_PAYLOAD, encode
from busbar.bus.errors import BusError
from busbar.bus.messages import Expect, RuntimeDetail
from busbar.bus.plans import OrderedMove, Rebalanced
from busbar.bus.results import Node
from busbar.bus.testing import FakeClock, settle
from busbar.bus.topics import Topics
from busbar.manager.api import authorize, read_cache
from busbar.manager.api.operations import PLANS
from busbar.manager.api.operations.brief import without_texts
from busbar.manager.api.requests import (
    DEFAULT_INBOX,
    LOCKED_RETRY_MS,
    MAX_ID,
    PACKET_OVERHEAD,
    Dispatch,
    Responder,
    searches,
)
from busbar.manager.publish.mqtt5 import properties_from_text, properties_to_text, reply_properties
from busbar.manager.rate_limit import Limits
from busbar.manager.store.rows import PrincipalRow
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

TOPICS = Topics("lab")


@dataclass
class Reads:
    principals: dict[str, str] = field(default_factory=lambda: {"alice": "owner", "vera": "viewer"})
    clusters: list[str] = field(default_factory=lambda: ["edge"])
    asked: int = 0

    def principal(self, name: str) -> PrincipalRow | None:
        self.asked += 1
        role = self.principals.get(name)
        return PrincipalRow(f"oid-{name}", name, role, 1) if role else None

    def cluster_keys(self) -> list[tuple[str, str]]:
        self.asked += 1
        return [(f"oid-{number}", name) for number, name in enumerate(self.clusters, 1)]


@dataclass
class FakeStore:
    """Takes changes and never answers; counts what touches the database."""

    reads: Reads = field(default_factory=Reads)
    commits: int = 1
    topics: Topics = TOPICS
    submitted: list[Any] = field(default_factory=list)
    full: bool = False

    def on_commit(self, listener: Callable[[Any], None]) -> None:
        pass

    def submit(self, fn: Any, done: Any, cause: Any) -> None:
        if self.full:
            raise BusError("busy", "full", retry_after_ms=500)
        self.submitted.append((fn, done))


@dataclass
class Sink:
    sent: list[tuple[str, dict[str, Any], Properties]] = field(default_factory=list)

    max_packet = 1024 * 1024

    def reply(self, caller: str, topic: str, payload: bytes, properties: Properties) -> None:
        self.sent.append((topic.removeprefix(TOPICS.prefix), json.loads(payload), properties))


class View(Struct):
    reads: Reads
    asker: Any = None


class Bench:
    def __init__(self, *, burst: int = 1000, in_flight: int = 100, mqtt5: bool = False) -> None:
        self.store, self.sink, self.clock = FakeStore(), Sink(), FakeClock()
        ids = iter(range(1_000_000))
        responder = Responder("m1", 7, lambda: View(self.store.reads), mqtt5)  # type: ignore[arg-type, return-value]
        self.dispatch = Dispatch(
            self.store,  # type: ignore[arg-type]
            self.sink,
            responder,
            Limits(1.0, burst, in_flight),
            clock=self.clock,
            new_id=lambda: f"made-{next(ids)}",
        )

    def ask(
        self, caller: str, op: str, payload: bytes, **more: Any
    ) -> list[tuple[str, dict[str, Any], Properties]]:
        self.sink.sent.clear()
        self.dispatch.handle(Message(TOPICS.request(caller, op), payload, **more))
        return list(self.sink.sent)

    def code(self, caller: str, op: str, payload: bytes, **more: Any) -> str:
        (_, reply, _), *rest = self.ask(caller, op, payload, **more)
        assert rest == []
        return str(reply["error"]["code"]) if not reply["ok"] else "ok"


def test_a_list_is_read_again_only_after_a_commit() -> None:
    bench = Bench()
    reads = bench.store.reads

    def names() -> Any:
        return bench.ask("vera", "list_routerclusters", b'{"params": {"return_names": true}}')[0][1]["result"]

    assert names() == ["edge"]
    asked = reads.asked
    assert names() == ["edge"]
    assert reads.asked == asked
    assert bench.ask("vera", "list_routerclusters", b"{}")[0][1]["result"] == ["oid-1"]
    reads.clusters.append("hall")
    bench.store.commits += 1
    assert names() == ["edge", "hall"]


def test_what_is_kept_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_cache, "MAX_BYTES", 4)
    bench = Bench()
    asked = []
    for _ in range(2):
        bench.ask("vera", "list_routerclusters", b"{}")
        asked.append(bench.store.reads.asked)
    assert asked[1] > asked[0]


def test_a_read_is_answered_in_the_same_breath() -> None:
    bench = Bench()
    sent = bench.ask(
        "vera", "list_routerclusters", b'{"id": "r1", "reply": "box", "params": {"return_names": true}}'
    )
    reply = {
        "id": "r1",
        "op": "list_routerclusters",
        "ok": True,
        "manager": "m1",
        "epoch": 7,
        "result": ["edge"],
    }
    assert sent == [("/response/vera/box", reply, NO_PROPERTIES)]


def test_the_order_of_refusals() -> None:
    """Each request has every later fault too: the first rule that is broken is the one that answers."""
    long = b"{" + b" " * MAX_PAYLOAD
    odd_envelope = b'{"id": 5, "params": {"x": 1}}'
    odd_params = b'{"params": {"x": 1}}'
    bench = Bench()
    assert bench.code("nobody", "no_op", long) == "payload_too_large"
    assert bench.code("nobody", "no_op", b"{") == "malformed_request"
    assert bench.code("nobody", "no_op", odd_envelope) == "invalid_argument"
    assert bench.code("nobody", "no_op", odd_params) == "no_such_procedure"
    assert bench.code("nobody", "create_routercluster", odd_params) == "no_such_principal"
    assert bench.code("vera", "create_routercluster", odd_params) == "not_authorized"
    assert bench.code("alice", "create_routercluster", odd_params) == "invalid_argument"
    assert bench.store.submitted == []


def test_busy_touches_no_database_and_carries_the_id() -> None:
    bench = Bench(burst=1)
    bench.ask("vera", "list_routerclusters", b"{}")
    bench.store.reads.asked = 0
    (topic, reply, _), *_ = bench.ask(
        "vera", "list_routerclusters", b'{"id": "r2", "reply": "box", "params": 5}'
    )
    assert topic == "/response/vera/box" and reply["id"] == "r2"
    assert reply["error"]["code"] == "busy" and reply["error"]["retry_after_ms"] == 1000
    assert bench.code("vera", "list_routerclusters", b"\xff[") == "busy"
    assert bench.store.reads.asked == 0


def test_a_full_queue_is_busy_and_takes_no_place_in_flight() -> None:
    bench = Bench(in_flight=1)
    bench.store.full = True
    payload = b'{"id": "r1", "params": {"routercluster": {"name": "edge"}}}'
    assert [bench.code("alice", "create_routercluster", payload) for _ in range(3)] == ["busy"] * 3
    bench.store.full = False
    assert bench.ask("alice", "create_routercluster", payload) == [] and len(bench.store.submitted) == 1
    assert bench.code("alice", "create_routercluster", payload) == "busy"
    _, done = bench.store.submitted[0]
    done(b'{"stored": true}')
    assert bench.sink.sent[-1][1] == {"stored": True}
    assert bench.ask("alice", "create_routercluster", payload) == []


@pytest.mark.parametrize(
    ("topic", "retain"),
    [
        (TOPICS.request("alice", "list_nodes"), True),
        (TOPICS.request("", "list_nodes"), False),
        (TOPICS.request("alice", "a/b"), False),
        ("elsewhere/v1/lab/request/alice/list_nodes", False),
    ],
)
def test_what_is_dropped_without_an_answer(topic: str, retain: bool) -> None:
    bench = Bench()
    bench.dispatch.handle(Message(topic, b"{}", retain))
    assert bench.sink.sent == [] and bench.store.reads.asked == 0


def test_a_caller_whose_name_no_principal_can_have_is_told_so() -> None:
    bench = Bench()
    assert bench.code("Mal Lory", "list_nodes", b"{}") == "no_such_principal"


def test_a_role_that_was_taken_away_is_gone_after_the_commit() -> None:
    bench = Bench()
    assert bench.code("vera", "list_routerclusters", b"{}") == "ok"
    asked = bench.store.reads.asked
    assert bench.code("vera", "list_routerclusters", b"{}") == "ok" and bench.store.reads.asked == asked
    bench.store.reads.principals.clear()
    bench.store.commits += 1
    assert bench.code("vera", "list_routerclusters", b"{}") == "no_such_principal"


_MEMBERS = st.sampled_from(["id", "reply", "params", "ttl_ms", "expect", "version", "name"]) | st.text()
_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_MEMBERS, inner, max_size=4),
    max_leaves=12,
)


@given(
    payload=st.binary(max_size=200) | _VALUES.map(lambda value: json.dumps(value).encode()),
    op=st.sampled_from(sorted(OPERATIONS)),
)
def test_whatever_comes_in_has_at_most_one_answer(payload: bytes, op: str) -> None:
    bench = Bench()
    sent = bench.ask("vera", op, payload)
    assert len(sent) == 1
    topic, reply, _ = sent[0]
    assert topic.startswith("/response/vera/") and topic.count("/") == 3
    if not reply["ok"]:
        row = OPERATIONS[op]
        common = {"malformed_request", "invalid_argument", "not_authorized", "internal"}
        # The fake database answers but two questions: any other read fails inside, and must say so politely.
        assert reply["error"]["code"] in common | set(row.errors)


# --- who may do what


def test_roles_follow_from_the_row_alone() -> None:
    for row in OPERATIONS.values():
        for role in ("owner", "operator", "viewer"):
            principal = PrincipalRow("oid", "p", role, 1)
            if role in row.roles:
                authorize.check_role(row, principal)
            else:
                with pytest.raises(BusError, match="not_authorized"):
                    authorize.check_role(row, principal)


def test_only_changes_are_owned() -> None:
    assert all(row.change for row in OPERATIONS.values() if row.owned)


def test_an_expected_version_needs_an_object() -> None:
    params = OPERATIONS["get_manager"].params()
    authorize.check_version(None, params, None)  # type: ignore[arg-type]
    with pytest.raises(BusError, match="invalid_argument"):
        store = SimpleNamespace(group=None, cluster=None, node=None)
        authorize.check_version(Expect(1), params, store)  # type: ignore[arg-type]


# --- MQTT 5 properties


@given(correlation=st.none() | st.binary(max_size=50), code=st.none() | st.sampled_from(["busy", "expired"]))
def test_properties_survive_the_outbox(correlation: bytes | None, code: str | None) -> None:
    error = BusError(code, "x") if code else None
    told = reply_properties(Properties(correlation=correlation), error)
    assert properties_from_text(properties_to_text(told)) == told
    assert dict(told.user)["code"] == (code or "ok")


def test_no_properties_are_no_text() -> None:
    assert properties_to_text(NO_PROPERTIES) is None and properties_from_text(None) is NO_PROPERTIES


def test_message_expiry_counts_like_a_ttl() -> None:
    bench = Bench(mqtt5=True)
    payload = encode({"id": "r1", "ttl_ms": 60_000, "params": {"routercluster": {"name": "edge"}}})
    bench.ask("alice", "create_routercluster", payload, properties=Properties(expiry_s=2))
    job = bench.store.submitted[0][0].__self__
    assert job.ctx.expires == bench.clock.monotonic() + 2


@pytest.mark.parametrize("inbox", ["a/b", "", 5, None, ["x"]])
def test_an_inbox_that_can_not_be_one_is_not_used(inbox: Any) -> None:
    bench = Bench()
    sent = bench.ask("vera", "list_routerclusters", encode({"id": "r1", "reply": inbox}))
    (topic, reply, _) = sent[0]
    assert topic == TOPICS.response("vera", DEFAULT_INBOX).removeprefix(TOPICS.prefix)
    assert reply["id"] == "r1"


@pytest.mark.parametrize("request_id", ["", "x" * (MAX_ID + 1), 7, None])
def test_an_id_that_can_not_be_one_is_replaced(request_id: Any) -> None:
    ((_, reply, _),) = Bench().ask("vera", "list_routerclusters", encode({"id": request_id}))
    assert reply["id"].startswith("made-")
    ((_, reply, _),) = Bench().ask("vera", "list_routerclusters", encode({"id": "x" * MAX_ID}))
    assert reply["id"] == "x" * MAX_ID


@pytest.mark.parametrize("correlation", [b"", b"c" * 40])
def test_a_reply_is_as_large_as_the_broker_takes(correlation: bytes) -> None:
    bench = Bench(mqtt5=True)
    bench.store.reads.clusters = ["edge" * 50]
    more = {"properties": Properties(correlation=correlation)}
    ask = partial(
        bench.ask, "vera", "list_routerclusters", b'{"params": {"return_names": true}, "id": "r"}', **more
    )
    ((topic, reply, _),) = ask()
    size = len(encode(reply)) + len(TOPICS.prefix) + len(topic) + len(correlation) + PACKET_OVERHEAD
    bench.sink.max_packet = size
    assert ask()[0][1] == reply
    bench.sink.max_packet = size - 1
    assert ask()[0][1]["error"]["code"] == "payload_too_large"


REFUSED = {
    "malformed_request": b"{",
    "invalid_argument": b'{"id": 5}',
    "payload_too_large": b'{"a": "' + b"x" * MAX_PAYLOAD + b'"}',
    "busy": b'{"id": "r2"}',
}


@pytest.mark.parametrize("code", REFUSED)
def test_a_refusal_goes_to_the_response_topic_too(code: str) -> None:
    """The caller that names one listens there, and its payload was not looked at or could not be read."""
    bench = Bench(mqtt5=True, burst=1)
    if code == "busy":
        bench.ask("vera", "list_nodes", b"{}")
    own = Properties(response_topic=TOPICS.response("vera", "raw"), correlation=b"c")
    ((topic, reply, told),) = bench.ask("vera", "list_nodes", REFUSED[code], properties=own)
    assert (topic, reply["error"]["code"], told.correlation) == ("/response/vera/raw", code, b"c")
    foreign = Properties(response_topic=TOPICS.response("alice", "raw"))
    ((topic, _, _),) = bench.ask("vera", "list_nodes", REFUSED[code], properties=foreign)
    assert topic == "/response/vera/default"


@pytest.mark.fault(58, "S")
def test_correlation_data_that_fills_the_packet_leaves_no_caller_without_an_answer() -> None:
    bench = Bench(mqtt5=True)
    bench.sink.max_packet = 12_000
    filling = Properties(correlation=b"c" * 11_650)
    ((_, reply, told),) = bench.ask("vera", "list_routerclusters", b"{}", properties=filling)
    assert reply["error"]["code"] == "payload_too_large" and told.correlation is None
    fitting = Properties(correlation=b"c" * 11_000)
    ((_, reply, told),) = bench.ask("vera", "list_routerclusters", b"{}", properties=fitting)
    assert reply["ok"] and told.correlation == fitting.correlation


@pytest.mark.parametrize("names", [1, 40])
def test_with_mqtt_3_a_reply_may_fill_the_packet(names: int) -> None:
    """As the link counts it, which sends stored replies again."""
    bench = Bench()
    bench.store.reads.clusters = [f"edge{number}" for number in range(names)]
    ask = partial(bench.ask, "vera", "list_routerclusters", b'{"params": {"return_names": true}, "id": "r"}')
    ((topic, reply, _),) = ask()
    bench.sink.max_packet = publish_size(f"{TOPICS.prefix}{topic}", encode(reply), 1)
    assert ask()[0][1] == reply
    bench.sink.max_packet -= 1
    assert ask()[0][1]["error"]["code"] == "payload_too_large"


def test_a_locked_database_is_busy_and_any_other_failure_is_internal() -> None:
    bench = Bench()
    payload = b'{"id": "r1", "params": {"routercluster": {"name": "edge"}}}'
    locked = sqlite3.OperationalError("database is locked")
    locked.sqlite_errorcode = sqlite3.SQLITE_BUSY
    for error, code in ((locked, "busy"), (ValueError("ours"), "internal")):
        bench.ask("alice", "create_routercluster", payload)
        bench.store.submitted[-1][1](error)
        told = bench.sink.sent[-1][1]["error"]
        assert told["code"] == code and "ours" not in told["detail"]
        assert ("correlation" in told) == (code == "internal")
        assert (told.get("retry_after_ms") == LOCKED_RETRY_MS) == (code == "busy")


def test_an_answer_in_the_outbox_is_not_sent_beside_it_and_an_error_is_sent_whatever_its_size() -> None:
    bench = Bench()
    payload = b'{"id": "r1", "params": {"routercluster": {"name": "edge"}}}'
    bench.ask("alice", "create_routercluster", payload)
    bench.store.submitted[-1][1](None)
    assert bench.sink.sent == []
    bench.sink.max_packet = 1
    assert bench.code("vera", "create_routercluster", payload) == "not_authorized"


def test_what_may_look_at_a_whole_table_is_told_from_what_reads_a_page() -> None:
    assert not any(
        map(searches, (p.GetEvents(), p.GetEvents(since="5"), p.ListAudit(), p.ListAudit(after="3")))
    )
    wide = [p.GetEvents(types=["worker_failed"]), p.GetEvents(object="edge"), p.GetEvents(within_ms=0)]
    wide += [p.ListAudit(caller="bob"), p.ListAudit(operation="x"), p.ListAudit(within_ms=0)]
    assert all(map(searches, wide))


def test_what_may_be_large_is_left_out_of_the_answer_to_a_change_that_was_made() -> None:
    node = Node("o", "n1", {"zone": "a"}, "online", 1, 2, runtime_details={"nats": RuntimeDetail("2.15")})
    less = without_texts(node)
    assert isinstance(less, Node) and (less.labels, less.runtime_details, less.version) == (None, None, 2)
    moved = Rebalanced([OrderedMove("edge/web-1", "o", "n1", "n2", 3)])
    assert without_texts(moved) == Rebalanced([])
    bare = Node("o", "n1", None, "online", 1, 2)
    assert without_texts(bare) is bare


# --- plans

PLAN = b'{"id": "p1", "ttl_ms": 5000, "params": {"operation": "drain_node", "params": {}}}'


@pytest.fixture
def slices(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Who had a slice of a plan; each plan has three."""
    had: list[str] = []

    def made(context: View, params: Any) -> Iterator[None]:
        for _ in range(3):
            had.append(context.asker.who.authid)
            yield

    monkeypatch.setitem(PLANS, "plan_operation", made)
    return had


async def planned(bench: Bench) -> list[tuple[str, str]]:
    """Let the waiting plans be made; ids and codes of what was answered."""
    bench.sink.sent.clear()
    task = asyncio.create_task(bench.dispatch.plans.run())
    await settle()
    task.cancel()
    replies = [reply for _, reply, _ in bench.sink.sent]
    return [(reply["id"], "ok" if reply["ok"] else reply["error"]["code"]) for reply in replies]


async def test_while_a_plan_is_made_others_are_answered(slices: list[str]) -> None:
    bench = Bench()
    assert bench.ask("alice", "plan_operation", PLAN) == []
    task = asyncio.create_task(bench.dispatch.plans.run())
    await settle(2)
    assert 0 < len(slices) < 3
    assert bench.code("vera", "list_routerclusters", b"{}") == "ok"
    assert len(slices) < 3
    await settle()
    task.cancel()
    assert [reply["id"] for _, reply, _ in bench.sink.sent][-1] == "p1" and slices == ["alice"] * 3


@pytest.mark.parametrize(
    ("role", "code"), [("viewer", "not_authorized"), (None, "no_such_principal"), ("operator", "ok")]
)
async def test_when_its_turn_comes_a_plan_is_made_for_who_the_caller_is_then(
    slices: list[str], role: str | None, code: str
) -> None:
    bench = Bench()
    bench.ask("alice", "plan_operation", PLAN)
    bench.store.reads.principals = {"alice": role} if role else {}
    bench.store.commits += 1
    assert await planned(bench) == [("p1", code)]
    assert bool(slices) == (code == "ok")


async def test_a_plan_that_nobody_waits_for_any_more_is_not_made(slices: list[str]) -> None:
    bench = Bench()
    bench.ask("alice", "plan_operation", PLAN)
    await bench.clock.advance(6)
    assert await planned(bench) == [("p1", "expired")]
    assert slices == []


async def test_plans_that_wait_count_as_in_flight(slices: list[str]) -> None:
    bench = Bench(in_flight=1)
    bench.ask("alice", "plan_operation", PLAN)
    assert bench.code("alice", "plan_operation", PLAN) == "busy"
    assert await planned(bench) == [("p1", "ok")]
    assert bench.ask("alice", "plan_operation", PLAN) == []
