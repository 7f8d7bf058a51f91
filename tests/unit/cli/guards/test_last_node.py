"""A node that is the last of a cluster is not taken from it without a word."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from ..realm import OID, TOPICS, Line, Realm, result_of
from ..realm import line as line

N1, N2, OTHER = (OID.replace("3e", f"{n}e", 1) for n in (1, 2, 4))


def a_realm(
    others: int = 0,
    draining: bool = False,
    state: str = "RUNNING",
    shared: bool = False,
    hardlimit: int | None = None,
    refused_by: Sequence[str] = (),
    **other: Any,
) -> Realm:
    """Cluster edge with two workers on n1, and so many other members that are online, each like `other`."""
    plain = {
        "labels": {"zone": "a"},
        "runtimes": ["amqtt"],
        "capacity": {"max_workers": None},
        "workers": 0,
        "conditions": [],
    }

    def answer(operation: str, given: dict[str, Any]) -> Any:
        if operation == "list_workers":
            return [OID, OTHER] if given["node_oid"] == N1 else [OID]
        if operation == "get_routercluster_node":
            return result_of(operation, lambda member: member) | {"hardlimit": hardlimit}
        if operation == "get_routercluster_workergroup":
            return result_of(operation, lambda member: member) | {
                "oid": given["workergroup_oid"],
                "runtime": "amqtt",
                "refused_by": list(refused_by),
                "placement": {"require": {"zone": "a"}},
            }
        if operation == "get_worker":
            core = shared and given["worker_oid"] == OTHER
            cluster = {"cluster_oid": OTHER if core else OID, "cluster": "core" if core else "edge"}
            group = {"workergroup_oid": OID}
            return result_of(operation, lambda member: member) | cluster | group | {"state": state}
        if operation == "list_routercluster_nodes":
            return [N1, *[N2] * others]
        found = result_of(operation, lambda member: "n1" if member == "name" else member)
        if "node" in operation:
            at = given.get("node_oid", N1)
            found |= {
                "oid": at,
                "name": "n2" if at == N2 else "n1",
                "draining": "x" if draining and at == N2 else None,
                "drained": False,
                "cordoned": None,
            }
            found |= plain | other
        else:
            found |= {"oid": OID, "name": "edge"}
        return found

    realm = Realm(answer)

    def after(operation: str) -> None:
        if operation == "drain_node":
            status = {
                "version": 9,
                "epoch": 1,
                "sequence": "1",
                "status": "online",
                "name": "n1",
                "time": "t",
            }
            realm.publish(TOPICS.status("_", "node", "n1"), status | {"draining": "x", "drained": True})

    realm.after = after
    return realm


COMMANDS = [
    (("cluster", "remove-node", "edge", "n1"), "remove_routercluster_node"),
    (("node", "unpair", "n1", "--keep-account"), "unpair_node"),
]


@pytest.mark.fault(98, "U")
@pytest.mark.parametrize(("command", "operation"), COMMANDS)
@pytest.mark.parametrize(
    ("others", "draining", "state"),
    itertools.product((0, 1), (False, True), ("RUNNING", "BACKOFF", "STOPPED")),
)
def test_workers_that_have_nowhere_to_go_need_a_yes(
    line: Line,
    capsys: pytest.CaptureFixture[str],
    command: tuple[str, ...],
    operation: str,
    others: int,
    draining: bool,
    state: str,
) -> None:
    realm = a_realm(others, draining, state)
    harmless = state == "STOPPED" or (others and not draining)
    assert line.against(realm).run(*command) == (0 if harmless else 4)
    assert (operation in dict(realm.calls)) == harmless
    if not harmless:
        assert "'edge' has no other node that is online: 2 workers will stop" in capsys.readouterr().err
        assert line.run(*command, "--yes") == 0
        assert operation in dict(realm.calls)


@pytest.mark.fault(98, "U")
@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1), ("\n", 1)])
def test_a_person_at_a_terminal_is_asked(
    line: Line, monkeypatch: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    monkeypatch.setattr(sys, "stderr", Terminal())
    realm = a_realm()
    assert line.against(realm).run("cluster", "remove-node", "edge", "n1") == code
    assert ("remove_routercluster_node" in dict(realm.calls)) == (code == 0)


@pytest.mark.fault(98, "U")
def test_a_drain_goes_before_the_removal_and_is_taken_back_behind_it(line: Line) -> None:
    realm = a_realm(others=1)
    assert line.against(realm).run("cluster", "remove-node", "edge", "n1", "--drain") == 0
    changes = [
        name for name, _ in realm.calls if name.endswith(("_node", "drain_node")) and "get" not in name
    ]
    assert changes == ["drain_node", "remove_routercluster_node", "undrain_node"]


@pytest.mark.fault(98, "U")
@pytest.mark.parametrize("realm", [a_realm(), a_realm(others=1, shared=True)], ids=["last", "shared"])
def test_a_drain_that_would_move_nothing_or_others_is_refused(line: Line, realm: Realm) -> None:
    assert line.against(realm).run("cluster", "remove-node", "edge", "n1", "--drain", "--yes") == 4
    assert not {"drain_node", "remove_routercluster_node"} & dict(realm.calls).keys()


@pytest.mark.fault(98, "U")
@pytest.mark.parametrize(
    ("other", "stopping"),
    [
        ({"conditions": ["it follows another manager's store (a, not b)"]}, 2),
        ({"conditions": ["it follows epoch 9, newer than this manager's 2"]}, 2),
        ({"conditions": ["1 worker of another store runs on this host"]}, 0),
        ({"runtimes": ["crossbar"]}, 2),
        ({"labels": {"zone": "b"}}, 2),
        ({"labels": None}, 2),
        ({"capacity": {"max_workers": 3}, "workers": 3}, 2),
        ({"capacity": {"max_workers": 3}, "workers": 2}, 1),
        ({"capacity": {"max_workers": 3}, "workers": 1}, 0),
        ({"hardlimit": 1}, 2),
        ({"hardlimit": 2}, 1),
        ({"hardlimit": 3}, 0),
        ({"refused_by": ["n2"]}, 2),
        ({"refused_by": ["n3"]}, 0),
    ],
)
@pytest.mark.parametrize(("command", "operation"), COMMANDS)
def test_another_node_that_takes_no_more_workers_is_none(
    line: Line,
    capsys: pytest.CaptureFixture[str],
    command: tuple[str, ...],
    operation: str,
    other: dict[str, Any],
    stopping: int,
) -> None:
    realm = a_realm(others=1, **other)
    assert line.against(realm).run(*command) == (4 if stopping else 0)
    assert (operation in dict(realm.calls)) == (not stopping)
    if stopping:
        assert f"{stopping} worker{'s'[stopping == 1 :]} will stop" in capsys.readouterr().err
        assert line.run(*command, "--yes") == 0
