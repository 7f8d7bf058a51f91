"""`busbar check`: what is critical, what a warning, and what a plugin prints."""

from __future__ import annotations

from typing import Any

import pytest
from busbar.bus.results import ManagerInfo, Node, Stat
from busbar.cli.commands.check import judge, plugin_text
from busbar.cli.commands.status import Realm
from busbar.cli.errors import CliError

from ..printing.test_streams import a_realm
from ..realm import Line
from ..realm import line as line


def stat(**members: Any) -> Stat:
    counts = dict.fromkeys(("starting", "backoff", "pending", "unknown", "stopping", "restarts"), 0)
    usual: dict[str, Any] = {"oid": "1", "name": "edge", "status": "RUNNING", "scale": 3, "ready": 3}
    rest = {"cpu_s": 0.0, "rss": 0, "since_ms": 0, "conditions": [], "endpoints": [], "workers": []}
    return Stat(**counts | usual | rest | members)


def node(**members: Any) -> Node:
    usual = {"oid": "2", "name": "n1", "labels": {}, "status": "online", "changed": 0, "version": 1}
    return Node(**usual | members)


def realm(*clusters: Stat, nodes: tuple[Node, ...] = (), **members: Any) -> Realm:
    texts = dict.fromkeys(("manager", "state", "store", "realm", "version"), "x")
    numbers = dict.fromkeys(("epoch", "uptime_ms", "sequence", "outbox"), 0)
    tables: dict[str, Any] = {name: {} for name in ("nodes", "clusters", "workers", "limits")}
    manager = ManagerInfo(**texts | numbers | tables | {"brake": None} | members)
    return Realm(manager, list(clusters), list(nodes))


@pytest.mark.parametrize(
    ("found", "severity", "told"),
    [
        (
            realm(stat(), nodes=(node(),)),
            "OK",
            "3 of 3 workers ready, 1 clusters running, 1 of 1 nodes online",
        ),
        (realm(), "OK", "0 of 0 workers ready"),
        (realm(stat(status="STOPPED", ready=0)), "OK", "0 of 0"),
        (realm(stat(status="DEGRADED", ready=2, conditions=["1 pending"])), "WARNING", "edge: 1 pending"),
        (realm(stat(status="DEGRADED", ready=0)), "CRITICAL", "cluster edge: no worker is ready"),
        (realm(stat(status="ERROR", ready=0)), "CRITICAL", "no worker is ready"),
        (realm(stat(status="STARTING", ready=0)), "WARNING", "STARTING"),
        (realm(stat(scale=0, ready=0)), "OK", "0 of 0"),
        (realm(nodes=(node(status="lost"),)), "CRITICAL", "node n1 is lost"),
        (realm(nodes=(node(status="late"),)), "WARNING", "node n1: late"),
        (realm(brake="half of the nodes fell silent"), "CRITICAL", "the brake is on: half"),
        (realm(conditions=["the database can't be written"]), "WARNING", "manager: the database"),
    ],
)
def test_how_bad_it_is(found: Realm, severity: str, told: str) -> None:
    result = judge(found)
    assert (result.severity, told in result.text) == (severity, True), result


def test_one_cluster_alone_without_the_nodes() -> None:
    found = realm(stat(), stat(name="core", status="ERROR", ready=0), nodes=(node(status="lost"),))
    assert judge(found, ["edge"]).severity == "OK"
    assert judge(found, ["core"]).severity == "CRITICAL"
    with pytest.raises(CliError, match="no cluster 'web'"):
        judge(found, ["web"])


def test_a_plugin_has_figures_on_its_first_line_and_no_other_bar() -> None:
    many = [
        stat(name=f"c{i}", status="DEGRADED", ready=1, conditions=["a|b\nBUSBAR OK - c"]) for i in range(30)
    ]
    first, *others = plugin_text(judge(realm(*many))).split("\n")
    assert first.endswith("| clusters=30 running=0 desired=90 ready=30 nodes=0 online=0")
    assert others[-1] == "and 11 more" and len(others) == 20
    assert not any("|" in line or line.startswith("BUSBAR") for line in others)


def test_each_problem_is_printed_on_a_line_of_its_own(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    assert line.against(a_realm()).run("check") == 2
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith("BUSBAR CRITICAL - ") and " | clusters=" in first
    assert others and not any("\\n" in each for each in (first, *others))


def test_a_broker_that_is_away_is_critical(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    assert line.run("check") == 2
    shown = capsys.readouterr().out
    assert shown.startswith("BUSBAR CRITICAL - ") and "127.0.0.1:1" in shown


WRONG = [
    (("check", "--bogus"), "No such option: --bogus"),
    (("check", "--format", "xml"), "'xml' is none of nagios"),
    (("--realm", "check", "check", "-o", "xml"), "xml"),
    (("check", "--username", "a|b", "--password-file", "/no|where"), "password file /no/where"),
    (("check", "--context", "nope"), "no context 'nope'"),
    (("check", "--broker", "foo"), "mqtt://foo"),
]


@pytest.mark.parametrize(("words", "told"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_a_check_that_is_called_wrongly_is_unknown_and_says_so(
    words: tuple[str, ...], told: str, line: Line,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Plugins print to stdout, and 2 is critical: no operator is woken for a file that can't be read."""
    monkeypatch.setattr("sys.argv", ["busbar", *words])
    assert line.run(*words) == 3
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith("BUSBAR UNKNOWN - ") and told in first and "|" not in first and not others
