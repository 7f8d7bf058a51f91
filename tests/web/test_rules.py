"""The parts of the page's server that only compute: board, lines of an hour, tries, origins, texts."""

from __future__ import annotations

from typing import Any

import pytest
from busbar.bus.messages import Event, MeshSeen, Reported, ReportedWorker, Status
from busbar.cli.web import board as boards
from busbar.cli.web import history, throttle
from busbar.cli.web.board import Board, Page
from busbar.cli.web.history import History
from busbar.cli.web.origins import Origins
from busbar.cli.web.rows import key_of, line_of, row_of
from busbar.cli.web.throttle import Throttle

from tests.unit.cli.test_text_of_others import HOSTILE, is_clean


def opened(board: Board) -> tuple[Page, list[int]]:
    woken: list[int] = []
    page = board.open(lambda: woken.append(1))
    return page, woken


# --- the board


def test_a_page_gets_everything_once_and_then_what_changes() -> None:
    board = Board({"realm": "lab"})
    board.put("node/n1", {"name": "n1"})
    board.add({"sequence": "1"})
    page, woken = opened(board)
    first = board.take(page)
    assert first is not None and first["reset"] and first["objects"] == {"node/n1": {"name": "n1"}}
    assert first["events"] == [{"sequence": "1"}] and first["state"]["realm"] == "lab"
    assert board.take(page) is None and not woken
    board.put("node/n1", {"name": "n1", "status": "late"})
    board.put("node/n1", {"name": "n1", "status": "lost"})
    board.use("node/n1", {"cpu": 0.5, "rss": 1})
    board.use("node/none", {"cpu": 0.5, "rss": 1})
    board.set(connected=False)
    board.add({"sequence": "2"})
    assert len(woken) == 5
    assert board.take(page) == {
        "state": {"realm": "lab", "truncated": False, "connected": False},
        "objects": {"node/n1": {"name": "n1", "status": "lost"}},
        "usage": {"node/n1": {"cpu": 0.5, "rss": 1}},
        "events": [{"sequence": "2"}],
    }
    board.put("node/n1", None)
    assert board.take(page) == {"objects": {"node/n1": None}}
    board.close(page)
    board.put("node/n2", {})
    assert board.take(page) is None and board.open_pages == 0


def test_a_state_that_is_no_news_is_not_sent() -> None:
    board = Board({"connected": True})
    page, woken = opened(board)
    board.take(page)
    board.set(connected=True)
    assert not woken and board.take(page) is None


def test_a_page_that_does_not_read_costs_no_more_than_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards, "OBJECTS", 3)
    board = Board({})
    page, _ = opened(board)
    board.take(page)
    for number in range(1000):
        board.put(f"worker/edge/w-{number % 5}", {"name": number})
        board.add({"sequence": str(number)})
    found = board.take(page)
    assert found is not None
    assert len(found["objects"]) == 3 and len(found["events"]) == boards.EVENTS
    assert found["state"]["truncated"] and found["events"][-1] == {"sequence": "999"}


def test_what_was_deleted_without_a_connection_is_forgotten() -> None:
    board = Board({})
    board.put("node/kept", {"oid": "a"})
    board.put("node/gone", {"oid": "b"})
    board.put("node/nameless", {})
    mark = board.mark
    board.put("node/new", {"oid": "c"})
    board.keep({"a"}, mark)
    assert set(board.objects) == {"node/kept", "node/nameless", "node/new"}


# --- texts


def test_what_others_wrote_is_printable_and_short() -> None:
    status = Status(
        1, 1, "1", HOSTILE, "web-1", "", conditions=[HOSTILE] * 99, reason=HOSTILE * 99, draining=HOSTILE,
        mesh=MeshSeen(2, 1, [HOSTILE]),
    )  # fmt: skip
    event = Event("1", "s", "2", "busbar.on_worker_failed", HOSTILE, HOSTILE, {"reason": HOSTILE, "name": ""})
    for found in (row_of("worker", "edge", "web-1", status), line_of(event)):
        assert all(is_clean(text) for text in texts(found))
    row = row_of("worker", "edge", "web-1", status)
    assert len(row["conditions"]) <= 20 and row["mesh"]["of"] == 2
    assert line_of(event)["type"] == "worker_failed" and "name" not in line_of(event)["data"]


def texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for name, inner in value.items() for text in (name, *texts(inner))]
    if isinstance(value, list):
        return [text for inner in value for text in texts(inner)]
    return [value] if isinstance(value, str) else []


def test_each_object_has_one_key() -> None:
    assert key_of("routercluster", "edge", "edge") == "routercluster/edge"
    assert key_of("worker", "edge", "web-1") == "worker/edge/web-1"
    assert key_of("node", None, "n1") == "node/n1"


# --- the last hour


def report(*workers: ReportedWorker) -> Reported:
    return Reported(boot="b", conn=1, workers=list(workers))


def used(name: str, cpu_s: float, uptime_ms: int, pid: int = 1, rss: int = 5) -> ReportedWorker:
    return ReportedWorker(
        worker=name, state="RUNNING", cluster="edge", pid=pid, cpu_s=cpu_s, uptime_ms=uptime_ms, rss=rss
    )


def test_the_share_is_that_since_the_report_before_and_a_nodes_is_the_sum() -> None:
    lines = History()
    lines.report("n1", report(used("a", 1.0, 10_000), used("b", 0.0, 10_000)), 0)
    found = lines.report("n1", report(used("a", 6.0, 20_000), used("b", 1.0, 20_000)), 10)
    assert found["worker/edge/a"] == (0.5, 5) and found["worker/edge/b"] == (0.1, 5)
    assert found["node/n1"] == (pytest.approx(0.6), 10)


@pytest.mark.parametrize(("pid", "uptime_ms"), [(2, 30_000), (1, 5_000)])
def test_another_process_begins_anew(pid: int, uptime_ms: int) -> None:
    lines = History()
    lines.report("n1", report(used("a", 9.0, 10_000)), 0)
    assert lines.report("n1", report(used("a", 3.0, uptime_ms, pid)), 10)["worker/edge/a"][
        0
    ] == pytest.approx(3000 / uptime_ms)


def test_two_reports_at_once_say_no_more_than_one() -> None:
    lines = History()
    lines.report("n1", report(used("a", 5.0, 10_000)), 0)
    assert lines.report("n1", report(used("a", 5.0, 10_000)), 0)["worker/edge/a"][0] == 0.5


def test_an_hour_is_kept_and_no_more_lines_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "LINES", 4)
    lines = History()
    for step in range(2000):
        lines.report("n1", report(used("a", step, step * 5000 + 5000)), step * 5.0)
    points = lines.points("worker/edge/a", 2000 * 5.0)
    assert 200 < len(points) <= history.POINTS and all(0 <= ago <= history.HOUR_S for ago, _, _ in points)
    assert [ago for ago, _, _ in points] == sorted((ago for ago, _, _ in points), reverse=True)
    lines.report("n2", report(*(used(f"w-{i}", 1.0, 9000) for i in range(9))), 10_000.0)
    assert lines.points("worker/edge/a", 10_000.0) == []
    assert lines.points("worker/edge/unknown", 0) == []


# --- tries and origins


def test_tries_of_one_address_are_few_and_others_go_on() -> None:
    tries = Throttle()
    granted = [tries.wait(("from a", f"as {number}"), 0) for number in range(12)]
    assert granted[:8] == [0] * 8 and all(wait == 10 for wait in granted[8:])
    assert tries.wait(("from b", "as x"), 0) == 0
    assert tries.wait(("from a", "as x"), 9) == 1 and tries.wait(("from a", "as x"), 10) == 0
    tries.forgive(("from a", "as x"))
    assert tries.wait(("from a", "as x"), 10) == 0


def test_tries_of_everybody_together_are_bounded_and_so_is_what_is_remembered() -> None:
    tries = Throttle()
    granted = [tries.wait((f"from {number}", f"as {number}"), 0) for number in range(70)]
    assert granted.count(0) == 60
    for number in range(5000):
        tries.wait((f"from {number}", f"as {number}"), number)
    assert len(tries._each) <= throttle.KNOWN


@pytest.mark.parametrize(
    ("host", "wanted"),
    [
        ("127.0.0.1:8780", "http://127.0.0.1:8780"),
        ("LOCALHOST:8780", "http://localhost:8780"),
        ("busbar.example.org", "https://busbar.example.org"),
        ("evil.example.org", None),
        ("127.0.0.1", None),
        ("127.0.0.1:8781", None),
        ("", None),
    ],
)
def test_only_our_own_names_are_answered(host: str, wanted: str | None) -> None:
    origins = Origins("127.0.0.1", 8780, tls=False, more=["https://busbar.example.org"])
    assert origins.of(host) == wanted
    assert origins.is_ours("https://busbar.example.org") and not origins.is_ours("http://evil.example.org")
    assert not origins.is_ours("null")


@pytest.mark.parametrize(
    "text", ["busbar.example.org", "https://a/", "ftp://a", "https://u@a", "https://", ""]
)
def test_what_is_no_origin_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no origin"):
        Origins("127.0.0.1", 8780, tls=False, more=[text])


def test_a_well_known_port_may_be_left_out() -> None:
    assert Origins("::1", 443, tls=True).of("[::1]") == "https://[::1]"
