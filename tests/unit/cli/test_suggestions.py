"""The words of other tools are answered with the command to use."""

from __future__ import annotations

import pytest
import typer
from busbar.cli import suggestions

from .realm import Line
from .realm import line as line
from .table import all_commands


@pytest.mark.parametrize(
    ("said", "use"),
    [
        ("get clusters", "busbar cluster list"),
        ("get clusters -o json", "busbar cluster list -o json"),
        ("get cluster", "busbar cluster list"),
        ("get cluster edge", "busbar cluster show edge"),
        ("get worker edge/web-3 -o yaml", "busbar worker show edge/web-3 -o yaml"),
        ("describe node/n1", "busbar node show n1"),
        ("ls nodes", "busbar node list"),
        ("list groups", "busbar group list"),
        ("show worker edge/web-3", "busbar worker show edge/web-3"),
        ("get events", "busbar event list"),
        ("get event 5", "busbar event list"),
        ("get manager", "busbar manager show"),
        ("get status", "busbar status"),
        ("get endpoints edge/web", "busbar endpoints edge/web"),
        ("get", suggestions.OVERVIEW),
        ("ls", suggestions.OVERVIEW),
        ("get pods", suggestions.OVERVIEW),
        ("cluster ls", "busbar cluster list"),
        ("cluster ls -q", "busbar cluster list -q"),
        ("cluster get edge", "busbar cluster show edge"),
        ("worker describe edge/web-3", "busbar worker show edge/web-3"),
        ("principal get alice", "busbar principal list"),
        ("context ls", "busbar context list"),
        ("ps", "busbar worker list"),
        ("scale edge/web 3", "busbar group scale edge/web 3"),
        ("restart edge/web", "busbar group|worker restart edge/web"),
        ("restart worker edge/web-1 --wait", "busbar worker restart edge/web-1 --wait"),
        ("delete clusters edge", "busbar cluster delete edge"),
        ("rm edge", "busbar cluster delete edge"),
        ("drain n1", "busbar node drain n1"),
        ("get cluster a\x1b[2Jb", "busbar cluster show 'a\\x1b[2Jb'"),
    ],
)
def test_the_words_of_other_tools_are_told_what_to_use(line: Line, said: str, use: str) -> None:
    with pytest.raises(Exception, match="No such command") as caught:
        line.run(*said.split())
    assert str(caught.value).partition("; use: ")[2] == use


@pytest.mark.parametrize("said", ["schema ls", "get-clusters", "clster"])
def test_others_are_unknown_as_before(line: Line, said: str) -> None:
    with pytest.raises(Exception, match="No such command") as caught:
        line.run(*said.split())
    assert "; use: " not in str(caught.value)


def test_what_lists_and_what_shows_is_what_there_is() -> None:
    paths = [path.split() for path in all_commands()]
    for verb, kinds in (("list", suggestions.LISTED), ("show", suggestions.SHOWN)):
        assert kinds == {path[0] for path in paths if path[1:] == [verb]}


def test_a_suggestion_runs(line: Line) -> None:
    with pytest.raises(Exception, match="No such command") as caught:
        line.run("get", "contexts", "-o", "json")
    assert line.run(*str(caught.value).partition("; use: busbar ")[2].split()) == 0


def test_completion_is_not_disturbed() -> None:
    group = suggestions.SuggestingGroup(name="busbar", commands={})
    assert group.resolve_command(typer.Context(group, resilient_parsing=True), ["get"])[1] is None


def test_orders_are_commands_of_the_kinds_that_are_named() -> None:
    paths = set(all_commands())
    for order, kinds in suggestions.ORDERS.items():
        verb = {"rm": "delete"}.get(order, order)
        assert {f"{kind} {verb}" for kind in kinds} <= paths
