"""The board of `busbar top`: shares of the processor from two samples, of the same process alone."""

from __future__ import annotations

from busbar.bus.messages import Traffic
from busbar.cli.printing.top import Board, Sample, head


def a_board() -> Board:
    board = Board("lab")
    board.node("n1", "online")
    for number in (1, 2):
        board.worker(f"edge/web-{number}", "RUNNING", "n1", None, 0, 100 + number)
    return board


def test_the_share_is_that_between_two_reports_of_one_process() -> None:
    board = a_board()
    board.usage("edge/web-1", Sample(101, 10_000, 1.0, 20_000_000))
    assert board.picture("name").workers[0].cpu == 0.1, "since its start, until there are two reports"
    board.usage("edge/web-1", Sample(101, 20_000, 6.0, 30_000_000))
    row = board.picture("name").workers[0]
    assert (row.cpu, row.rss) == (0.5, 30_000_000)
    board.worker("edge/web-1", "STARTING", "n1", None, 1, 150)
    assert board.picture("name").workers[0].cpu is None, "another process"
    board.usage("edge/web-1", Sample(150, 2_000, 1.0, 10))
    assert board.picture("name").workers[0].cpu == 0.5
    board.usage("edge/web-1", Sample(150, 1_000, 0.1, 7))
    row = board.picture("name").workers[0]
    assert (row.cpu, row.rss) == (0.1, 7), "another one that has its number, as on another node"


def test_the_rates_are_those_between_two_reports_of_one_process() -> None:
    board = a_board()

    def tell(pid: int, uptime_ms: int, *messages: int) -> tuple[object, ...]:
        traffic = Traffic(3, *messages, 0, 0, 0) if messages else None
        board.usage("edge/web-1", Sample(pid, uptime_ms, 1.0, 10, traffic=traffic))
        row = board.picture("name").workers[0]
        return row.connections, row.messages_in, row.messages_out

    assert tell(101, 10_000, 50, 100) == (3, 5.0, 10.0), "since its start, until there are two reports"
    assert tell(101, 20_000, 60, 400) == (3, 1.0, 30.0)
    assert tell(101, 30_000) == (None, None, None), "it did not say"
    assert tell(101, 40_000, 80, 400) == (3, 2.0, 10.0)
    board.worker("edge/web-1", "STARTING", "n1", None, 1, 150)
    assert board.picture("name").workers[0].messages_in is None, "another process"
    assert tell(150, 2_000, 2, 0) == (3, 1.0, 0.0)


def test_rows_are_sorted_filtered_and_summed() -> None:
    board = a_board()
    board.worker("core/api-1", "PENDING", None, "no room", 0, None)
    board.usage("edge/web-1", Sample(101, 10_000, 1.0, 30_000_000))
    board.usage("edge/web-2", Sample(102, 10_000, 2.0, 20_000_000))
    board.usage("edge/gone-1", Sample(1, 1, 1.0, 1))
    order = {sort: [row.worker for row in board.picture(sort).workers] for sort in ("cpu", "memory", "name")}
    assert order["cpu"] == ["edge/web-2", "edge/web-1", "core/api-1"]
    assert order["memory"] == ["edge/web-1", "edge/web-2", "core/api-1"] and order["name"][0] == "core/api-1"
    assert [row.worker for row in board.picture("name", "core").workers] == ["core/api-1"]
    (node,) = board.picture("cpu").nodes
    assert (node.workers, round(node.cpu, 3), node.rss) == (2, 0.3, 50_000_000)
    said = "realm lab: 1 node (1 online); 3 workers (1 PENDING, 2 RUNNING); CPU 30 %, memory 50 MB"
    assert head(board.picture("cpu")) == said
    board.worker("edge/web-1", None, None, None, 0, None)
    board.node("n1", None)
    assert len(board.picture("cpu").workers) == 2 and board.picture("cpu").nodes == []
