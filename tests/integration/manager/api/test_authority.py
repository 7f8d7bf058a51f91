"""Who may do what is decided in the transaction that acts: what was committed before it always wins."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from busbar.bus.connection.link import Message, Properties
from busbar.bus.decode import encode
from busbar.bus.testing import FakeClock
from busbar.bus.topics import Topics
from busbar.manager.api.operations.principals import seed
from busbar.manager.api.requests import Dispatch, Responder
from busbar.manager.rate_limit import Limits
from busbar.manager.store import Store

TOPICS = Topics("lab")
SEEDS = range(25)
WHO = ("bob", "carol")
MAY_CREATE = {"owner", "operator"}


class Court:
    """A real store and a real dispatch; requests are handed over in the same breath, as a burst is."""

    max_packet = 1024 * 1024

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        ids = itertools.count()
        self.store = Store.open(folder / "busbar.db", self.clock, lambda: f"oid-{next(ids)}", TOPICS)
        limits = Limits(1e6, 10**6, 10**6)
        responder = Responder("m1", 1, lambda: None)  # type: ignore[arg-type, return-value]
        self.dispatch = Dispatch(
            self.store, self, responder, limits, clock=self.clock, new_id=lambda: f"id-{next(ids)}"
        )
        self.refused: list[dict[str, Any]] = []

    def reply(self, caller: str, topic: str, payload: bytes, properties: Properties) -> None:
        self.refused.append(json.loads(payload))

    def request(self, caller: str, op: str, params: dict[str, Any], **envelope: Any) -> None:
        payload = encode({"params": params, **envelope})
        self.dispatch.handle(Message(TOPICS.request(caller, op), payload))

    async def settle(self) -> None:
        """Until everything submitted so far is answered: a write that waits behind it is."""
        await self.store.write(lambda tx: None)

    def audit(self) -> list[tuple[str, str, str, str, dict[str, Any]]]:
        rows = self.store.reads.db.execute("SELECT caller, role, op, outcome, params FROM audit ORDER BY id")
        return [(*row[:4], json.loads(row[4])) for row in rows.fetchall()]

    def replies(self) -> list[dict[str, Any]]:
        return [
            json.loads(row.payload) for row in self.store.reads.outbox(0, 10_000) if "/response/" in row.topic
        ]


async def court(folder: Path) -> Court:
    await asyncio.to_thread(folder.mkdir, 0o700)
    made = Court(folder)
    await made.store.write(lambda tx: seed(tx, {"alice": "owner", "bob": "operator", "carol": "operator"}))
    return made


def demote(court: Court) -> None:
    court.request("alice", "set_principal_role", {"principal_name": "bob", "role": "viewer"})


def remove(court: Court) -> None:
    court.request("alice", "remove_principal", {"principal_name": "bob"})


@pytest.mark.parametrize(("change", "code"), [(demote, "not_authorized"), (remove, "no_such_principal")])
@pytest.mark.fault(79, "P")
async def test_a_request_in_flight_behind_a_demotion_does_not_run(
    tmp_path: Path, change: Any, code: str
) -> None:
    bench = await court(tmp_path / "m")
    change(bench)
    bench.request("bob", "create_routercluster", {"routercluster": {"name": "edge"}}, id="b1")
    await bench.settle()
    assert bench.store.reads.cluster_by_name("edge") is None
    assert [(each["id"], each["error"]["code"]) for each in bench.refused] == [("b1", code)]
    bench.store.close()


@pytest.mark.fault(79, "P")
async def test_a_reply_is_not_given_to_whom_it_is_no_longer_due(tmp_path: Path) -> None:
    """A demoted caller that repeats an id gets neither the effect nor the stored reply."""
    bench = await court(tmp_path / "m")
    bench.request("bob", "create_routercluster", {"routercluster": {"name": "edge"}}, id="b1")
    await bench.settle()
    demote(bench)
    bench.request("bob", "create_routercluster", {"routercluster": {"name": "edge"}}, id="b1")
    await bench.settle()
    assert [each["error"]["code"] for each in bench.refused] == ["not_authorized"]
    bench.store.close()


@pytest.mark.parametrize("number", SEEDS)
@pytest.mark.fault(79, "P")
async def test_every_order_of_roles_and_requests(tmp_path: Path, number: int) -> None:
    """Replays the audit: each change that ran was allowed by the roles as they stood just before it."""
    random = Random(number)
    bench = await court(tmp_path / "m")
    for step in range(120):
        who = random.choice(WHO)
        match random.choice(("role", "role", "remove", "add", "create", "create", "create", "settle")):
            case "role":
                role = random.choice(("owner", "operator", "viewer"))
                asker = random.choice(("alice", *WHO))
                bench.request(asker, "set_principal_role", {"principal_name": who, "role": role})
            case "remove":
                bench.request("alice", "remove_principal", {"principal_name": who})
            case "add":
                new = {"name": who, "role": random.choice(("operator", "viewer"))}
                bench.request("alice", "add_principal", {"principal": new, "reuse": True})
            case "create":
                # A name that is used again has to say which holder it is: the one it knows of.
                row = bench.store.reads.principal(who)
                mine = {"principal": row.oid} if row else {}
                bench.request(who, "create_routercluster", {"routercluster": {"name": f"c{step}"}}, **mine)
            case _:
                await bench.settle()
    await bench.settle()
    roles = {"alice": "owner", "bob": "operator", "carol": "operator"}
    ran = 0
    for caller, role, op, outcome, params in bench.audit():
        if outcome != "ok":
            continue
        assert roles.get(caller) == role, f"{op} of {caller} ran as {role}"
        assert role == "owner" or (op == "create_routercluster" and role in MAY_CREATE)
        ran += 1
        match op:
            case "set_principal_role":
                roles[params["principal_name"]] = params["role"]
            case "remove_principal":
                del roles[params["principal_name"]]
            case "add_principal":
                roles[params["principal"]["name"]] = params["principal"]["role"]
    assert ran > 10
    assert {row.name: row.role for row in bench.store.reads.principals()} == roles
    bench.store.close()
