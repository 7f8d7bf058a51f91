"""The shell completes what there is: wherever an option or argument takes a name."""

from __future__ import annotations

from typing import Any

import pytest
from busbar.cli.errors import ExitCode

from ..realm import OID, Line, Realm, result_of
from ..realm import line as line
from ..table import CALLS, LOCAL, all_commands

NAMES = {
    "list_routerclusters": ["core", "edge"],
    "list_routercluster_workergroups": ["web"],
    "list_workers": ["web-3"],
    "list_nodes": ["n1"],
}


def answer(operation: str, given: dict[str, Any]) -> Any:
    """A realm of two clusters, and one of everything else."""
    if operation in NAMES:
        return NAMES[operation] if given.get("return_names") else [OID]
    if operation == "get_definitions":
        return {"clusters": {"edge": {"tags": ["live"], "groups": {"web": {"tags": ["front"]}}}}}
    if operation == "get_routercluster_by_name":
        assert given["routercluster_name"] == "edge"
    known = {"oid": OID, "name": "edge", "runtimes": "amqtt", "labels": "zone"}
    if operation == "list_principals":
        known["name"] = "alice"
    if operation == "stat_routercluster_workergroup":
        known["name"] = "ws"
    return result_of(operation, lambda member: known.get(member, "x"))


CLUSTERS, GROUPS, NODES = {"edge"}, {"edge/web"}, {"n1"}
EXPECTED: dict[str, tuple[str, set[str]]] = {
    "cluster": ("", CLUSTERS),
    "cluster_option": ("", CLUSTERS),
    "clusters": ("", CLUSTERS),
    "group": ("edge/", GROUPS),
    "node": ("", NODES),
    "worker": ("edge/", {"edge/web-3"}),
    "target": ("edge/", {"edge/web", "edge/web-3"}),
    "object_": ("", {"edge", "edge/", "n1"}),
    "runtime": ("", {"amqtt"}),
    "tag": ("", {"live", "front"}),
    "context": ("", {"lab"}),
    "output": ("", {"wide", "jsonpath="}),
    "form": ("", {"toml"}),
    "type_": ("worker", {"worker", "worker_failed"}),
    "listener": ("", {"ws"}),
    "who": ("", {"alice", "n1"}),
    "op": ("drain", {"drain_node"}),
    "operation": ("drain", {"drain_node"}),
    "source": ("", {"alice"}),
}
"""By a parameter's name: what is typed, and some of what is offered."""
OTHERS: dict[tuple[str, str], tuple[str, set[str]]] = {
    ("node list", "label"): ("", {"zone=zone"}),
    ("node pair", "label"): ("", {"zone=zone"}),
    ("node label", "labels"): ("", {"zone=zone"}),
    **{(f"group {name}", "on"): ("", {"zone=zone"}) for name in ("add", "update")},
    **{(f"group {name}", "spread"): ("", {"zone"}) for name in ("add", "update")},
    ("rebalance", "where"): ("edge/", {"edge/web"}),
    ("principal role", "name"): ("", {"alice"}),
    ("principal remove", "name"): ("", {"alice"}),
    ("principal transfer", "to"): ("", {"alice"}),
    ("rollback cluster", "to"): ("", {"3"}),
    ("history cluster", "revision"): ("", {"3"}),
    ("group add", "group"): ("", {"edge/", "core/"}),
    **{(f"context {name}", "name"): ("", {"lab"}) for name in ("use", "remove", "rename", "test", "show")},
}
NEW = {
    "node pair node", "node join node", "agent reset node", "acl node", "context add context",
    "cluster create tag", "agent join node", "acl broker", "check form",
}  # fmt: skip
"""What is not there yet, or not in the realm that the line names."""
GLOBAL = ("context", "output")
"""Of every command, from one place."""


def places() -> list[tuple[str, str, str, set[str]]]:
    """Command, parameter, what is typed, and what is offered."""
    found = []
    for path, command in all_commands().items():
        for param in command.params:
            if f"{path} {param.name}" not in NEW and (param.name not in GLOBAL or path == "node show"):
                kind = OTHERS.get((path, param.name)) or EXPECTED.get(param.name)
                if kind is not None and not (param.name == "runtime" and path.startswith("schema")):
                    found.append((path, param.name, *kind))
    return found


class Shell:
    """Completes a line as bash asks for it."""

    def __init__(
        self, line: Line, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self._line, self._monkeypatch, self._capsys = line, monkeypatch, capsys

    def complete(self, *words: str) -> list[str]:
        """What is offered for the last word."""
        self._capsys.readouterr()
        with self._monkeypatch.context() as patch:
            patch.setenv("_BUSBAR_COMPLETE", "complete_bash")
            patch.setenv("COMP_WORDS", " ".join(("busbar", *words)))
            patch.setenv("COMP_CWORD", str(len(words)))
            with pytest.raises(SystemExit):
                self._line.run()
        return self._capsys.readouterr().out.split()


@pytest.fixture
def shell(line: Line, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    assert line.against(Realm(answer)).run("context", "add", "lab", "--broker", "mqtt://127.0.0.1:1") == 0
    return Shell(line, monkeypatch, capsys)


def test_every_parameter_that_takes_a_name_offers_those_that_there_are(shell: Shell) -> None:
    commands, missing = all_commands(), []
    for path, name, typed, offered in places():
        (param,) = [each for each in commands[path].params if each.name == name]
        before = {**CALLS, **LOCAL}[path]
        if param.opts[0].startswith("-"):
            words = (*before, param.opts[0])
        else:
            positional = [each.name for each in commands[path].params if not each.opts[0].startswith("-")]
            words = before[: positional.index(name)]
        found = shell.complete(*path.split(), *words, typed)
        if not offered <= set(found):
            missing.append((path, param.opts[0], found))
    assert len(places()) > 70
    assert missing == []


def test_states_and_other_choices_are_completed(shell: Shell) -> None:
    assert shell.complete("worker", "list", "--status", "BA") == ["BACKOFF"]
    assert "viewer" in shell.complete("principal", "role", "alice", "")
    assert "failed" in shell.complete("wait", "worker", "edge/web-3", "--for", "")


def test_names_are_those_of_the_cluster_that_the_line_names(shell: Shell) -> None:
    assert shell.complete("group", "show", "-c", "edge", "") == ["web"]
    assert shell.complete("worker", "list", "-c", "edge", "--group", "") == ["web"]
    assert shell.complete("worker", "restart", "--cluster", "edge", "w") == ["web-3"]
    assert set(shell.complete("logs", "-c", "edge", "")) == {"web", "web-3"}
    assert shell.complete("group", "show", "") == ["core/", "edge/"]


def test_the_manager_asked_is_the_one_that_the_line_names(
    shell: Shell, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    from busbar.bus.client import connect

    asked: list[str] = []
    inner = connect.connect_with

    def note(options: Any, *more: Any) -> Any:
        asked.append(f"{options.host}:{options.port}")
        return inner(options, *more)

    monkeypatch.setattr(connect, "connect_with", note)
    monkeypatch.delenv("BUSBAR_BROKER")
    line.run("context", "add", "far", "--broker", "mqtt://far:7")
    shell.complete("cluster", "show", "")
    shell.complete("--context", "far", "cluster", "show", "")
    shell.complete("cluster", "show", "--broker", "mqtt://near:8", "")
    assert asked == ["127.0.0.1:1", "far:7", "near:8"]


def test_nothing_is_offered_where_nothing_can_be_had(
    shell: Shell, line: Line, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    line.against(Realm(lambda operation, given: []))
    assert shell.complete("cluster", "show", "") == shell.complete("node", "list", "-l", "") == []
    (tmp_path / "config" / "busbar" / "config.toml").write_text("= broken")
    assert shell.complete("context", "use", "") == shell.complete("cluster", "show", "") == []
    assert line.run("cluster", "list") == ExitCode.USAGE
