"""What the page's server answers: who is let in, what is refused, what the streams bring."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from busbar.bus.client.errors import LoginRefusedError
from busbar.bus.clock import SystemClock
from busbar.bus.errors import BusError, BusOfflineError
from busbar.bus.messages import LogChunk, ManagerState, Status
from busbar.bus.options import ConnectOptions
from busbar.cli.web import session as sessions_of
from busbar.cli.web import sessions, streams
from busbar.cli.web.app import Web
from busbar.cli.web.guard import FORM, HEADERS
from busbar.cli.web.history import History
from busbar.cli.web.origins import Origins
from busbar.cli.web.session import Session
from busbar.cli.web.sessions import Sessions

from tests.brokers import until
from tests.unit.cli.realm import OID, TOPICS, Realm, result_of
from tests.unit.cli.test_text_of_others import HOSTILE, hostile, is_clean
from tests.web.asgi import HOST, Client

PASSWORD = "right"
PRINCIPAL = {"oid": OID, "name": "admin", "role": "owner", "changed": 1}


def answer(operation: str, given: dict[str, Any]) -> Any:
    """A small realm of a manager that works."""
    if operation == "list_principals":
        return [PRINCIPAL]
    if operation == "get_events":
        return []
    if operation.startswith("list_"):
        return [OID]
    return result_of(operation, hostile)


class House:
    """The application on a realm of a test's making."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.realm = Realm(answer)
        self.refusal: Exception | None = None
        self.status("edge", "routercluster", "edge", "RUNNING", oid=OID)
        self.status("edge", "worker", "web-1", "RUNNING", oid=OID, workergroup="web", node="n1")
        self.realm.retain(TOPICS.manager_state("m1"), ManagerState("online", "m1", "s", 1))
        self.sessions = Sessions(ConnectOptions(), TOPICS, SystemClock())
        origins = Origins("127.0.0.1", 8780, tls=False, more=["https://busbar.example.org"])
        self.web = Web(self.sessions, origins, SystemClock(), "busbar-8780")
        monkeypatch.setattr(sessions_of, "connect_with", self._connect)

    @asynccontextmanager
    async def _connect(self, options: ConnectOptions, *_: Any) -> AsyncIterator[Any]:
        if self.refusal is not None:
            raise self.refusal
        if options.password != PASSWORD:
            raise LoginRefusedError("not authorised")
        async with self.realm.connect() as bus:
            yield bus

    def status(self, cluster: str, kind: str, name: str, status: str, **more: Any) -> None:
        self.realm.retain(TOPICS.status(cluster, kind, name), Status(1, 1, "1", status, name, "", **more))

    def client(self, **more: Any) -> Client:
        return Client(self.web.app, **more)

    async def signed_in(self) -> tuple[Client, str]:
        """A browser that is signed in, and the token of its page."""
        client = self.client()
        assert (await sign_in(client)).status == 303
        page = await client.ask("GET", "/")
        found = re.search(rb'name="busbar-token" content="([\w-]+)"', page.body)
        assert page.status == 200 and found is not None
        return client, found[1].decode()


async def sign_in(client: Client, user: str = "admin", password: str = PASSWORD) -> Any:
    form = await client.ask("GET", "/signin")
    found = re.search(rb'name="token" value="([\w-]+)"', form.body)
    assert found is not None
    return await client.ask(
        "POST", "/signin", {"user": user, "password": password, "token": found[1].decode()}
    )


@pytest.fixture
async def house(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    made = House(monkeypatch)
    running = asyncio.create_task(made.sessions.run())
    yield made
    running.cancel()
    await asyncio.wait([running])


# --- who is let in


async def test_without_a_session_there_is_the_form_alone(house: House) -> None:
    client = house.client()
    assert (await client.ask("GET", "/")).header("location") == "/signin"
    for path in ("/live", "/log?object=edge/web-1", "/why?kind=worker&object=edge/web-1"):
        assert (await client.ask("GET", path)).status == 401, path
    assert (await client.ask("POST", "/signout")).status == 401
    client.cookies["busbar-8780"] = "guessed"
    assert (await client.ask("GET", "/live")).status == 401


async def test_a_session_begins_with_the_brokers_word_and_ends_with_sign_out(house: House) -> None:
    client, token = await house.signed_in()
    assert (await client.ask("GET", "/signin")).header("location") == "/"
    assert (await client.ask("POST", "/signout", x_busbar_token="wrong")).status == 403
    assert (await client.ask("POST", "/signout", x_busbar_token=token)).status == 200
    assert (await client.ask("GET", "/live")).status == 401
    await until(lambda: "client" not in house.realm.broker.links, what="its connection is closed")


async def test_the_cookie_is_out_of_reach_of_scripts_and_of_other_pages(house: House) -> None:
    client = house.client()
    answer = await sign_in(client)
    cookie = answer.header("set-cookie").lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and "path=/" in cookie
    assert "secure" not in cookie and len(client.cookies["busbar-8780"]) >= 43
    through_a_proxy = house.client(host="busbar.example.org")
    assert "secure" in (await sign_in(through_a_proxy)).header("set-cookie").lower()


async def test_a_wrong_password_and_an_unknown_name_look_the_same(house: House) -> None:
    wrong = await sign_in(house.client(), "admin", "wrong")
    unknown = await sign_in(house.client(), "No/Such+Name", PASSWORD)
    empty = await sign_in(house.client(), "admin", "")
    for found in (wrong, unknown, empty):
        assert found.status == 403 and b"does not know this name and password" in found.body


async def test_a_broker_that_is_away_is_told_as_such(house: House) -> None:
    house.refusal = BusOfflineError(f"the broker can't be reached: {HOSTILE} <script>")
    found = await sign_in(house.client())
    assert found.status == 503 and b"can&#39;t be reached" in found.body
    assert b"<script>" not in found.body and is_clean(found.body.decode())


async def test_guessing_is_slowed_down_for_the_one_who_guesses(house: House) -> None:
    guesser = house.client(address="127.0.0.9")
    found = [await sign_in(guesser, f"u{number}", "wrong") for number in range(10)]
    assert [each.status for each in found] == [403] * 8 + [429] * 2
    assert int(found[-1].header("retry-after")) > 0
    assert (await sign_in(house.client(address="127.0.0.8"))).status == 303


async def test_a_form_of_another_page_signs_nobody_in(house: House) -> None:
    client = house.client()
    await client.ask("GET", "/signin")
    for token in ("", "guessed"):
        form = {"user": "admin", "password": PASSWORD, "token": token}
        found = await client.ask("POST", "/signin", form)
        assert found.status == 403 and b"out of date" in found.body
    assert "busbar-8780" not in client.cookies


async def test_sessions_are_bounded_and_end_when_nobody_uses_them(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "EACH", 2)
    first, _ = await house.signed_in()
    second, _ = await house.signed_in()
    third, _ = await house.signed_in()
    assert (await first.ask("GET", "/")).status == 303, "the one not used for the longest time has ended"
    assert (await second.ask("GET", "/")).status == 200
    assert (await sign_in(house.client(), password="guessed")).status == 403
    for each in (second, third):
        assert (await each.ask("GET", "/")).status == 200, "who only guesses ends nobody's session"
    monkeypatch.setattr(sessions, "EACH", 9)
    monkeypatch.setattr(sessions, "SESSIONS", 2)
    assert (await sign_in(house.client())).status == 503
    monkeypatch.setattr(sessions, "IDLE_S", -1.0)
    await until(lambda: not house.realm.broker.links.get("client"), what="idle sessions have ended")
    assert (await third.ask("GET", "/")).status == 303


# --- what is refused


@pytest.mark.parametrize("path", ["/", "/signin", "/live", "/static/page.js", "/static/../app.py", "/none"])
@pytest.mark.parametrize("host", [HOST, "evil.example.org:8780", ""])
async def test_every_answer_keeps_the_page_to_itself(house: House, path: str, host: str) -> None:
    found = await house.client(host=host).ask("GET", path)
    for name, value in HEADERS.items():
        assert found.header(name) == value
    assert "default-src 'none'" in found.header("content-security-policy")
    assert "unsafe" not in found.header("content-security-policy")
    assert (found.status == 403) == (host != HOST)
    if path in ("/static/../app.py", "/none") and host == HOST:
        assert found.status == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example.org"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
)
async def test_a_change_that_another_page_asks_for_is_refused(house: House, headers: dict[str, str]) -> None:
    client, token = await house.signed_in()
    assert (await client.ask("POST", "/signout", x_busbar_token=token, **headers)).status == 403
    ours = {"origin": f"http://{HOST}", "sec_fetch_site": "same-origin"}
    assert (await client.ask("POST", "/signout", x_busbar_token=token, **ours)).status == 200


async def test_forms_are_bounded(house: House) -> None:
    client = house.client()
    assert (await client.ask("POST", "/signin", b"x" * (FORM + 1))).status == 413
    assert (await client.ask("POST", "/signin", b"&".join([b"a=1"] * 99))).status == 400
    assert (await client.ask("POST", "/signin", b"\xff=\xff")).status == 400
    assert (await client.ask("POST", "/signin", b"{}", content_type="application/json")).status == 415
    assert (await client.ask("DELETE", "/signin")).status == 405


async def test_requests_for_objects_are_checked(house: House) -> None:
    client, _ = await house.signed_in()
    for query in ("", "?object=", f"?object={'x' * 200}", "?kind=worker", "?object=edge&kind=principal"):
        assert (await client.ask("GET", f"/why{query}")).status == 400, query


async def test_streams_of_one_session_are_bounded(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    client, _ = await house.signed_in()
    monkeypatch.setattr("busbar.cli.web.app.STREAMS", 1)
    async with client.stream("/live") as events:
        assert (await anext(events))[0] == "realm"
        refused = await client.ask("GET", "/live")
        assert refused.status == 429 and refused.header("retry-after")
    async with client.stream("/live") as events:
        assert (await anext(events))[0] == "realm"


async def test_streams_that_are_asked_for_at_one_moment_are_bounded_too() -> None:
    session = Session("alice", ConnectOptions(), TOPICS, SystemClock(), History())

    async def parts() -> AsyncGenerator[bytes]:
        yield b"news"

    made = [streams.stream(session, parts()).body_iterator for _ in range(streams.STREAMS + 3)]
    for each in made:
        assert await anext(aiter(each)) == b"retry: 1000\n\n"
    assert [await anext(aiter(each), None) for each in made].count(b"news") == streams.STREAMS


# --- what comes


async def realm_of(events: AsyncIterator[tuple[str, Any]], wanted: Any) -> dict[str, Any]:
    """All that has come, once it is as wanted."""
    known: dict[str, Any] = {"objects": {}, "usage": {}, "events": [], "state": {}}
    async for name, news in events:
        assert name == "realm"
        known["events"] += news.get("events", [])
        for part in ("objects", "usage", "state"):
            known[part] |= news.get(part, {})
        if wanted(known):
            return known
    raise AssertionError(known)


async def test_the_page_is_told_what_there_is_and_what_changes(house: House) -> None:
    client, _ = await house.signed_in()
    async with client.stream("/live") as events:
        known = await realm_of(events, lambda k: k["objects"] and k["state"].get("role"))
        assert known["objects"]["worker/edge/web-1"]["status"] == "RUNNING"
        assert known["state"]["role"] == "owner" and known["state"]["managers"] == {"m1": "online"}
        away = Status(2, 1, "2", "BACKOFF", "web-1", "", reason=HOSTILE, workergroup="web")
        house.realm.publish(TOPICS.status("edge", "worker", "web-1"), away)
        known = await realm_of(events, lambda k: "worker/edge/web-1" in k["objects"])
        row = known["objects"]["worker/edge/web-1"]
        assert row["status"] == "BACKOFF" and is_clean(row["reason"])
        house.realm.publish(TOPICS.manager_state("m1"), ManagerState("offline", "m1", "s", 1))
        await realm_of(events, lambda k: k["state"].get("managers") == {"m1": "offline"})


async def test_a_lost_broker_is_told_and_what_was_deleted_meanwhile_goes(house: House) -> None:
    client, _ = await house.signed_in()
    house.status("edge", "worker", "gone-1", "RUNNING", oid="gone", workergroup="web")
    async with client.stream("/live") as events:
        await realm_of(events, lambda k: k["state"].get("role"))
        house.realm.publish(
            TOPICS.status("edge", "worker", "gone-1"), Status(1, 1, "1", "RUNNING", "gone-1", "", oid="gone")
        )
        await realm_of(events, lambda k: k["objects"].get("worker/edge/gone-1"))
        link = house.realm.broker.links["client"]
        link.reachable.clear()
        house.realm.broker.retained.pop(TOPICS.status("edge", "worker", "gone-1"))
        house.realm.broker.drop("client")
        await realm_of(events, lambda k: k["state"].get("connected") is False)
        assert (await client.ask("GET", "/why?kind=worker&object=edge/web-1")).status == 503
        link.reachable.set()
        known = await realm_of(
            events, lambda k: k["state"].get("connected") and "worker/edge/gone-1" in k["objects"]
        )
        assert known["objects"]["worker/edge/gone-1"] is None


async def test_the_stream_ends_with_the_session(house: House) -> None:
    client, token = await house.signed_in()
    async with client.stream("/live") as events:
        await anext(events)
        assert (await client.ask("POST", "/signout", x_busbar_token=token)).status == 200
        assert [name async for name, _ in events][-1] == "over"


async def test_who_is_nobody_to_the_manager_is_told(house: House) -> None:
    def refuse(operation: str, given: dict[str, Any]) -> Any:
        raise BusError("no_such_principal", f"admin is nobody here {HOSTILE}")

    house.realm.answer = refuse
    client, _ = await house.signed_in()
    async with client.stream("/live") as events:
        known = await realm_of(events, lambda k: k["state"].get("problem"))
        assert "nobody" in known["state"]["problem"] and is_clean(known["state"]["problem"])
        assert known["state"]["role"] is None


async def test_why_is_answered_in_clean_text(house: House) -> None:
    client, _ = await house.signed_in()
    found = await client.ask("GET", "/why?kind=worker&object=edge/web-1")
    assert found.status == 200 and found.json["statements"]
    assert all(is_clean(each["text"]) for each in found.json["statements"])
    assert ("explain", {"object": "edge/web-1", "kind": "worker"}) in house.realm.calls


async def test_the_last_hour_is_told_of_what_one_may_see(house: House) -> None:
    client, _ = await house.signed_in()
    row = {"worker": "web-1", "state": "RUNNING", "cluster": "edge", "pid": 1, "cpu_s": 5.0, "rss": 7}
    report = {"boot": "b", "conn": 1, "workers": [{**row, "uptime_ms": 10_000}]}
    async with client.stream("/live") as events:
        await realm_of(events, lambda k: k["objects"])
        house.realm.publish(TOPICS.node("n1", "reported"), report)
        known = await realm_of(events, lambda k: k["usage"])
        assert known["usage"] == {"worker/edge/web-1": {"cpu": 0.5, "rss": 7}}, (
            "a node without a status has none"
        )
    found = await client.ask("GET", "/history?object=worker/edge/web-1")
    assert [point[1:] for point in found.json["points"]] == [[0.5, 7]]
    assert (await client.ask("GET", "/history?object=node/n1")).status == 404


async def test_a_workers_output_comes_in_clean_lines_and_its_errors_too(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "LINE", 60)
    client, _ = await house.signed_in()

    def write(operation: str) -> None:
        if operation == "follow_worker":
            reader = house.realm.calls[-1][1]["reader"]
            lines = ["one", HOSTILE, "x" * 999]
            house.realm.publish(
                TOPICS.node_log("n1", "edge"), LogChunk(lines, "edge", "edge", reader=reader, stream="s")
            )

    def one(operation: str, given: dict[str, Any]) -> Any:
        found = answer(operation, given)
        return {**found, "node": "n1"} if operation in ("get_worker", "follow_worker") else found

    house.realm.answer, house.realm.after = one, write
    async with client.stream(f"/log?object={OID}") as events:
        lines: list[dict[str, Any]] = []
        while len(lines) < 3:
            name, news = await anext(events)
            assert name == "lines"
            lines += [line for line in news if not line["note"]]
        assert lines[0]["text"] == "one" and all(is_clean(line["text"]) for line in lines)
        assert len(lines[2]["text"]) == 61

    def none(operation: str, given: dict[str, Any]) -> Any:
        raise BusError("no_such_object", f"there is none {HOSTILE}")

    house.realm.answer = none
    async with client.stream("/log?object=edge/none") as events:
        name, news = await anext(events)
        assert name == "failed" and is_clean(news["text"])
