"""What the transaction of a change does: authority, the stored reply, one effect, the audit, one answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from busbar.bus.connection.link import Properties
from busbar.bus.contract import OPERATIONS
from busbar.bus.decode import convert
from busbar.bus.errors import BusError
from busbar.bus.messages import Request
from busbar.manager.api.operations import CHANGES
from busbar.manager.api.reply_size import MAX_TEXT
from busbar.manager.api.requests import AUDIT_LIMIT, NOT_STORED, ChangeJob, RequestContext
from busbar.manager.store import Tx, sql
from busbar.manager.store.rows import PrincipalRow

from tests.unit.manager.api.test_requests import Bench
from tests.unit.manager.memory import transaction

GONE = "00000000-0000-4000-8000-000000000000"
EDGE = {"routercluster": {"name": "edge"}}


class Changes:
    """Runs changes of one caller after the other in one transaction."""

    def __init__(self, tx: Tx) -> None:
        self.tx, self.bench = tx, Bench(mqtt5=True)
        for name, role in (("alice", "owner"), ("carol", "operator"), ("vera", "viewer")):
            tx.insert_principal(PrincipalRow(f"oid-{name}", name, role, 1))

    def job(self, caller: str, op: str, params: Any, request_id: str = "r1", **more: Any) -> ChangeJob:
        ctx = RequestContext(caller, op, lambda: "made", 0.0, Properties(correlation=b"c"), "box", **more)
        ctx._id = request_id
        row = OPERATIONS[op]
        wish: Any
        try:
            wish = convert(params, row.params, "/params")
        except BusError as error:
            wish = error
        asked = convert({"params": params}, Request)
        return ChangeJob(self.bench.dispatch, ctx, row, asked, f"oid-{caller}", wish)

    def run(self, caller: str, op: str, params: Any, request_id: str = "r1", **more: Any) -> bytes | None:
        return self.job(caller, op, params, request_id, **{"has_own_id": True, **more}).run(self.tx)

    def audit(self) -> list[dict[str, Any]]:
        columns = sql.AUDIT_ADD.partition("(")[2].partition(")")[0].split(", ")
        return [dict(zip(columns, cells, strict=True)) for cells in self.tx.context.appends.audit]

    def replies(self) -> list[tuple[str, dict[str, Any], str]]:
        """Topic, reply and properties of each message to a caller in the outbox."""
        sent = [(row[1], row[2], row[4]) for row in self.tx.context.appends.outbox]
        found = [
            (str(topic), payload, str(more)) for topic, payload, more in sent if "/response/" in str(topic)
        ]
        return [(topic, json.loads(payload), more) for topic, payload, more in found]  # type: ignore[arg-type]

    def clusters(self) -> list[str]:
        return [name for _, name in self.tx.cluster_keys()]


@pytest.fixture
def changes() -> Iterator[Changes]:
    with transaction() as tx:
        yield Changes(tx)


def test_a_change_has_its_effect_its_audit_row_its_stored_reply_and_one_answer(changes: Changes) -> None:
    assert changes.run("alice", "create_routercluster", EDGE) is None
    assert changes.clusters() == ["edge"]
    params = '{"routercluster":{"name":"edge"}}'
    (row,) = changes.audit()
    assert (row["time"], row["caller"], row["caller_oid"], row["role"]) == (5, "alice", "oid-alice", "owner")
    assert (row["op"], row["request_id"], row["object"]) == ("create_routercluster", "r1", None)
    assert (row["outcome"], row["params"]) == ("ok", params)
    ((topic, reply, properties),) = changes.replies()
    assert topic.endswith("/response/alice/box") and "correlation" in properties
    assert (reply["ok"], reply["id"], reply["op"]) == (True, "r1", "create_routercluster")
    assert (reply["manager"], reply["epoch"]) == ("m1", 7)
    stored = changes.tx.stored_reply("oid-alice", "r1")
    assert stored is not None and json.loads(stored.reply) == reply


def test_a_refused_change_is_audited_and_answered_too_and_changes_nothing(changes: Changes) -> None:
    changes.run("alice", "create_routercluster", EDGE)
    changes.run("alice", "create_routercluster", EDGE, "r2")
    changes.run("alice", "delete_routercluster", {"routercluster_oid": GONE}, "r3")
    changes.run("alice", "create_routercluster", {"odd": 1}, "r4")
    assert [(row["request_id"], row["object"], row["outcome"]) for row in changes.audit()[1:]] == [
        ("r2", None, "already_exists"),
        ("r3", GONE, "no_such_object"),
        ("r4", None, "invalid_argument"),
    ]
    assert [reply["error"]["code"] for _, reply, _ in changes.replies()[1:]] == [
        "already_exists",
        "no_such_object",
        "invalid_argument",
    ]
    assert changes.clusters() == ["edge"] and changes.tx.stored_reply("oid-alice", "r4") is not None


def test_a_repeated_request_gets_the_stored_reply_and_has_one_effect(changes: Changes) -> None:
    changes.run("alice", "create_routercluster", EDGE)
    reply = changes.run("alice", "create_routercluster", EDGE)
    assert reply is not None and json.loads(reply)["ok"]
    assert len(changes.audit()) == len(changes.replies()) == 1
    with pytest.raises(BusError) as reused:
        changes.run("alice", "create_routercluster", {"routercluster": {"name": "hall"}})
    assert reused.value.code == "request_id_reused" and changes.clusters() == ["edge"]
    changes.run("carol", "create_routercluster", {"routercluster": {"name": "hall"}})
    assert changes.clusters() == ["edge", "hall"], "ids are each caller's own"


def test_an_id_that_was_made_for_it_is_not_stored(changes: Changes) -> None:
    changes.run("alice", "create_routercluster", EDGE, has_own_id=False)
    assert changes.tx.stored_reply("oid-alice", "r1") is None
    changes.run("alice", "create_routercluster", {"routercluster": {"name": "hall"}}, has_own_id=False)
    assert changes.clusters() == ["edge", "hall"] and len(changes.audit()) == 2


@pytest.mark.parametrize(("waited", "expired"), [(0.0, False), (2.0, False), (2.1, True)])
async def test_a_request_runs_until_it_expires(changes: Changes, waited: float, expired: bool) -> None:
    job = changes.job("alice", "create_routercluster", EDGE, has_own_id=True)
    job.ctx.expires = changes.bench.clock.monotonic() + 2.0
    await changes.bench.clock.advance(waited)
    if not expired:
        assert job.run(changes.tx) is None and changes.clusters() == ["edge"]
        job.ctx.expires = -1.0
        assert job.run(changes.tx) is not None, "what was done already is answered again, however late"
        return
    with pytest.raises(BusError) as refused:
        job.run(changes.tx)
    assert refused.value.code == "expired"
    assert changes.clusters() == [] and changes.audit() == [] and changes.replies() == []


@pytest.mark.parametrize(
    ("caller", "code"), [("vera", "not_authorized"), ("nobody", "no_such_principal"), ("carol", "ok")]
)
def test_who_the_caller_is_is_read_in_the_transaction(changes: Changes, caller: str, code: str) -> None:
    if code == "ok":
        assert changes.run(caller, "create_routercluster", EDGE) is None
        who = json.loads(changes.tx.context.appends.events[0][3])["data"]["who"]  # type: ignore[arg-type]
        assert who == {"authid": "carol", "authrole": "operator", "session": "box"}
        return
    with pytest.raises(BusError) as refused:
        changes.run(caller, "create_routercluster", EDGE)
    assert refused.value.code == code and changes.clusters() == [] and changes.audit() == []


def test_a_name_that_another_holds_by_now_changes_nothing(changes: Changes) -> None:
    job = changes.job("alice", "create_routercluster", EDGE)
    changes.tx.delete_principal(PrincipalRow("oid-alice", "alice", "owner", 1))
    changes.tx.insert_principal(PrincipalRow("oid-other", "alice", "owner", 1))
    with pytest.raises(BusError) as refused:
        job.run(changes.tx)
    assert refused.value.code == "no_such_principal" and changes.clusters() == [] and changes.audit() == []


def test_only_its_owner_changes_a_cluster_of_another(changes: Changes) -> None:
    changes.run("alice", "create_routercluster", EDGE)
    ((oid, _),) = changes.tx.cluster_keys()
    changes.run("carol", "delete_routercluster", {"routercluster_oid": oid}, "r2")
    last = changes.audit()[-1]
    assert (last["object"], last["outcome"]) == (oid, "not_authorized") and changes.clusters() == ["edge"]


def test_what_is_kept_of_the_parameters_is_bounded(changes: Changes) -> None:
    changes.run(
        "alice", "create_routercluster", {"routercluster": {"name": "edge", "description": "x" * 5000}}
    )
    assert len(changes.audit()[0]["params"]) <= AUDIT_LIMIT


def test_a_change_whose_answer_is_too_large_is_answered_without_the_definition(changes: Changes) -> None:
    paths = {"/": {"type": "json", "value": "x" * 200}}
    transport = {"type": "web", "endpoint": {"type": "tcp", "port": 8080}, "paths": paths}
    wish = {"routercluster": {"name": "edge", "transport": transport}}
    job = changes.job("alice", "create_routercluster", wish, has_own_id=True)
    job.run(changes.tx)
    whole = changes.replies()[0][1]
    assert whole["result"]["transport"] is not None
    size = len(json.dumps(whole, separators=(",", ":")))
    sink = changes.bench.sink
    for less, there in ((0, True), (1, False)):
        sink.max_packet = size + sink.max_packet - changes.bench.dispatch.room(job.ctx) - less
        name = f"hal{less}"  # as long as the first
        wish = {"routercluster": {"name": name, "transport": transport}}
        changes.run("alice", "create_routercluster", wish, f"q{less}")
        reply = changes.replies()[-1][1]
        assert (reply["ok"], reply["result"]["name"]) == (True, name)
        assert ("transport" in reply["result"] and reply["result"]["transport"] is not None) == there
        assert name in changes.clusters()


@pytest.mark.parametrize("code", sorted(NOT_STORED))
def test_what_may_succeed_another_time_is_neither_stored_nor_audited(
    changes: Changes, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(ctx: object, params: object) -> object:
        raise BusError(code, "not now")  # type: ignore[arg-type]

    monkeypatch.setitem(CHANGES, "create_routercluster", fail)
    with pytest.raises(BusError):
        changes.run("alice", "create_routercluster", EDGE)
    assert changes.tx.stored_reply("oid-alice", "r1") is None
    assert changes.audit() == [] and changes.replies() == []


def test_the_texts_of_an_error_are_bounded(changes: Changes, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(ctx: object, params: object) -> object:
        raise BusError("invalid_argument", "x" * 5000, ["/" + "y" * 5000])

    monkeypatch.setitem(CHANGES, "create_routercluster", fail)
    changes.run("alice", "create_routercluster", EDGE)
    error = changes.replies()[0][1]["error"]
    assert len(error["detail"]) == MAX_TEXT and error["detail"].startswith("xxx")
    assert len(json.dumps(error)) < 2 * MAX_TEXT + 500
