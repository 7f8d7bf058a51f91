"""busbar export where the broker does not take the whole document: the same, read in parts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from busbar.bus.decode import encode
from busbar.bus.errors import BusError
from busbar.bus.params import Node, Principal
from busbar.bus.routers.definitions import plain, read_all
from msgspec import to_builtins

from tests.unit.cli.realm import Line, Realm
from tests.unit.cli.realm import line as line

CLUSTERS: dict[str, Any] = {
    f"c{number}": {"description": "d" * 90, **({"nodes": {"n1": {}}} if number == 3 else {})}
    for number in range(9)
}
NODES: dict[str, Any] = {"n1": {"labels": {"zone": "a"}}, "n2": {}}
OF_REALM = {"busbar": 1, "clusters": CLUSTERS, "nodes": NODES, "principals": {"alice": {"role": "owner"}}}
TAKES = 450


def limited(operation: str, params: dict[str, Any]) -> Any:
    """A manager behind a broker that takes so many bytes; oids are names here."""
    found = answer(operation, params)
    if len(encode(found)) > TAKES:
        raise BusError("payload_too_large", "ask for fewer")
    return found


def answer(operation: str, params: dict[str, Any]) -> Any:
    match operation:
        case "get_definitions":
            names = params.get("clusters")
            if names is None:
                return plain(read_all(OF_REALM)[0])
            clusters = {name: CLUSTERS[name] for name in names}
            nodes = {"n1": NODES["n1"]} if "c3" in names else {}
            return plain(read_all({"busbar": 1, "clusters": clusters, "nodes": nodes})[0])
        case "list_nodes":
            return sorted(NODES)
        case "list_routerclusters":
            return sorted(CLUSTERS)
        case "list_principals":
            return [to_builtins(Principal("o", "alice", "owner", 1))]
        case "get_node":
            name = params["node_oid"]
            return to_builtins(Node("o", name, NODES[name].get("labels"), "online", 1, 1))
    raise BusError("no_such_procedure", operation)


@pytest.mark.fault(58, "S")
@pytest.mark.parametrize("names", [[], ["c1", "c3", "c5", "c7", "c8"]])
def test_a_document_that_the_broker_does_not_take_is_read_in_parts(
    line: Line, names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert line.against(Realm(answer)).run("export", *names, "-o", "json") == 0
    whole = capsys.readouterr().out
    assert line.against(realm := Realm(limited)).run("export", *names, "-o", "json") == 0
    assert capsys.readouterr().out == whole and json.loads(whole)["clusters"]
    assert sum(operation == "get_definitions" for operation, _ in realm.calls) > 2


def test_one_cluster_that_the_broker_does_not_take_is_refused(
    line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    def nothing(operation: str, params: dict[str, Any]) -> Any:
        raise BusError("payload_too_large", "it is large")

    assert line.against(realm := Realm(nothing)).run("export", "c1") == 2
    assert "it is large" in capsys.readouterr().err and len(realm.calls) == 1
