"""What somebody who has read no page is told: an example, and what to do next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from busbar.bus.errors import BusError
from busbar.bus.routers.definitions import read_all
from busbar.cli import lazy
from busbar.cli.errors import ExitCode

from .realm import OID, Line, Realm, result_of
from .realm import line as line

CREATE = {"pointer": "/clusters/edge", "action": "create"}
PLAN = {"changes": [CREATE], "workers": [], "refused": [], "left": [], "fence": {}}


def test_the_example_is_a_valid_file_of_three_workers_on_three_nodes(
    line: Line, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert line.run("schema", "example") == 0
    file = tmp_path / "realm.yaml"
    file.write_text(capsys.readouterr().out)
    assert line.run("validate", "-f", str(file)) == 0
    assert line.run("validate", "-f", str(file), "-o", "json") == 0
    import yaml

    found, errors = read_all(yaml.safe_load(file.read_text()), by_table=True)
    assert errors == [] and found.owner
    (cluster,) = found.clusters.values()
    assert cluster.running and len(cluster.nodes) == 3 and cluster.groups["web"].scale == 3


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("clusters: {edge: {}}", "begins with 'busbar: 1'"),
        ("busbar: 1\nclusters: {edge: {state: x}}", "unknown field 'state': there are description, groups, "),
        ("busbar: 1\nclusters: {edge: {node: {}}}", "unknown field 'node': did you mean 'nodes'?"),
        (
            "busbar: 1\nclusters: {edge: {nodes: [n1]}}",
            "/clusters/edge/nodes: Expected 'object', got 'array': names with",
        ),
        ("busbar: 1\nclusters: [edge]", "names with a colon each"),
        ("busbar: 1\nclusters: {edge: {groups: {web: {scal: 3, scale: 1}}}}", "did you mean 'scale'?"),
        ("busbar: 1\nbogus: 1", "there are busbar, clusters, nodes, owner, principals"),
    ],
)
def test_a_mistake_in_a_file_is_answered_with_what_may_stand_there(
    line: Line, capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, told: str
) -> None:
    file = tmp_path / "realm.yaml"
    file.write_text(text)
    assert line.run("validate", "-f", str(file)) == ExitCode.USAGE
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cluster", "changes", "told"),
    [
        ("{}", [CREATE], ("has no nodes", "busbar cluster start edge")),
        ("{nodes: {n1: }}", [CREATE], ("busbar cluster start edge",)),
        ("{nodes: {n1: }, running: true}", [CREATE, {**CREATE, "action": "start"}], ()),
        ("{}", [{**CREATE, "action": "update"}], ()),
    ],
)
def test_what_keeps_a_new_cluster_from_running_is_said(
    line: Line, capsys: pytest.CaptureFixture[str], tmp_path: Path, cluster: str, changes: Any, told: Any
) -> None:
    def answer(operation: str, given: dict[str, Any]) -> Any:
        return {**PLAN, "changes": changes} if operation == "plan_changes" else result_of(operation, str)

    file = tmp_path / "realm.yaml"
    file.write_text(f"busbar: 1\nclusters: {{edge: {cluster}}}\n")
    assert line.against(Realm(answer)).run("apply", "-f", str(file)) == 0
    said = capsys.readouterr().err
    assert all(part in said for part in told) and said.count("\n") == len(told)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("rollback edge", "Say: busbar rollback cluster edge"),
        ("history edge", "Say: busbar history cluster edge"),
        ("wait edge/web --for failed", "Say: busbar wait cluster|group|worker|node edge/web --for failed"),
    ],
)
def test_a_name_without_its_kind_is_answered_with_the_kinds(line: Line, words: str, told: str) -> None:
    with pytest.raises((typer.BadParameter, Exception)) as caught:
        line.run(*words.split())
    assert told in str(getattr(caught.value, "message", ""))


def test_a_rollback_to_nothing_says_where_revisions_are_listed(
    line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    assert line.run("rollback", "cluster", "edge") == ExitCode.USAGE
    assert "busbar history cluster edge" in capsys.readouterr().err


def test_no_line_of_the_help_is_cut_on_a_terminal_of_eighty_columns() -> None:
    widest = max(map(len, lazy.COMMANDS))
    assert [name for name, (_, text) in lazy.COMMANDS.items() if widest + 6 + len(text) > 78] == []


NAMES: dict[str, list[str]] = {
    "list_routerclusters": ["core", "edge"],
    "list_nodes": ["n1", "press-7"],
    "list_routercluster_workergroups": ["web"],
    "list_workers": ["web-1"],
}
MISSING = {
    "get_routercluster_by_name": "no router cluster named '{routercluster_name}'",
    "get_node_by_name": "no node named '{node_name}'",
    "get_routercluster_workergroup_by_name": (
        "no worker group named '{workergroup_name}' in router cluster 'edge'"
    ),
    "set_principal_role": "no principal named '{principal_name}'",
    "explain": "there is no object '{object}', and no such id among the last 10,000 requests",
}


def realm() -> Realm:
    """It has the cluster edge with a group and a worker, two nodes, and the principal alice."""

    def answer(operation: str, given: dict[str, Any]) -> Any:
        if operation in NAMES:
            return NAMES[operation] if given.get("return_names") else []
        known = operation == "get_routercluster_by_name" and given["routercluster_name"] == "edge"
        if operation in MISSING and not known:
            raise BusError("no_such_object", MISSING[operation].format(**given))
        return result_of(operation, lambda member: {"oid": OID, "name": "alice"}.get(member, "x"))

    return Realm(answer)


@pytest.mark.parametrize(
    ("words", "near"),
    [
        ("cluster show egde", "edge"),
        ("cluster start core1", "core"),
        ("node show pres-7", "press-7"),
        ("group show edge/wbe", "web"),
        ("worker show edge/web-11", "web-1"),
        ("logs edge/wbe", "edge/web"),
        ("principal role alize viewer", "alice"),
        ("why prss-7", "press-7"),
        ("cluster show zzz", ""),
    ],
)
def test_a_misspelt_name_is_answered_with_the_nearest(
    line: Line, capsys: pytest.CaptureFixture[str], words: str, near: str
) -> None:
    assert line.against(realm()).run(*words.split()) == ExitCode.NOT_FOUND
    said = capsys.readouterr().err
    assert (f"did you mean '{near}'?" in said) is bool(near) and said.count("\n") == 1
    assert "did you mean" in said or not near


def test_top_of_what_is_not_there_and_audit_of_no_operation_are_refused(
    line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    assert line.against(realm()).run("top", "--once", "-c", "nope") == ExitCode.NOT_FOUND
    assert line.run("top", "--once", "-n", "nope") == ExitCode.NOT_FOUND
    line.against(Realm(lambda operation, given: []))
    assert line.run("audit", "--op", "nope") == ExitCode.USAGE
    assert "there is no operation 'nope'" in capsys.readouterr().err
