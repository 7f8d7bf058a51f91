"""Every action is one log line."""

from __future__ import annotations

from typing import get_args

import pytest
from busbar.bus.states import ClusterState, NodeStatus
from busbar.manager.planner import model as m
from busbar.manager.planner.describe import Describer

from tests.unit.manager.planner.fleets import cluster, group, node, snapshot, worker

WORLD = snapshot([node("n1")], cluster(group("web", 1, [worker("web", 1, on="n1")]), members=["n1"]))
LINES: list[tuple[m.Action, str]] = [
    (m.SetNode("n1", NodeStatus.LOST, "silent for 30 s"), "node n1: lost: silent for 30 s"),
    (m.SetPeers("n1", {}, "why"), "node n1: told of peers: why"),
    (m.NoteDrain("n1", "drained", "drained"), "node n1: drain: drained"),
    (m.CreateWorker("web", 2, "no room"), "worker edge/web-2: PENDING: no room"),
    (m.CreateWorker("web", 2, "least loaded", "n1"), "worker edge/web-2: placed on n1: least loaded"),
    (m.DropWorker("web-1", "why"), "worker edge/web-1: slot closed: why"),
    (m.MarkPending("web-1", "why"), "worker edge/web-1: PENDING: why"),
    (m.Place("web-1", "n1", "why"), "worker edge/web-1: placed on n1: why"),
    (m.Unassign("web-1", "why"), "worker edge/web-1: told to stop: why"),
    (m.Relocate("web-1", "web", "n1", "why"), "worker edge/web-1: told to stop, to be tried elsewhere: why"),
    (m.CancelMove("web-1", "why"), "worker edge/web-1: not to be moved any more: why"),
    (m.Evict("web-1", "why"), "worker edge/web-1: given up on its node, to be placed again: why"),
    (m.Explain("web-1", "why"), "worker edge/web-1: not started yet: why"),
    (m.MarkUnknown("web-1", "why"), "worker edge/web-1: UNKNOWN: why"),
    (m.MarkStopped("web-1", "why"), "worker edge/web-1: taken for STOPPED: why"),
    (m.Replace("web-1", "why"), "worker edge/web-1: replaced: why"),
    (m.BlockRollout("web", "no room", "no room"), "group edge/web: update held back: no room"),
    (m.BlockRollout("web", None, "nothing blocks it"), "group edge/web: update goes on: nothing blocks it"),
    (m.CompleteRollout("web", 2, "why"), "group edge/web: update complete: why"),
    (m.SetGroup("web", ClusterState.RUNNING, "why"), "group edge/web: RUNNING: why"),
    (m.SetCluster("edge", ClusterState.ERROR, "why"), "cluster edge: ERROR: why"),
    (m.MassFailureHold("2 of 3 nodes lost"), "mass failure hold: 2 of 3 nodes lost"),
    (m.MassFailureHold(None), "mass failure hold: it is over"),
]


@pytest.mark.fault(121, "U")
@pytest.mark.parametrize(("action", "line"), LINES)
def test_an_action_is_one_line_with_its_reason(action: m.Action, line: str) -> None:
    assert Describer(WORLD).lines([action]) == [line]


def test_there_is_a_line_for_every_action() -> None:
    assert {type(action) for action, _ in LINES} == set(get_args(m.Action))


def test_an_object_that_is_not_in_the_snapshot_is_named_by_its_oid() -> None:
    assert Describer(WORLD).lines([m.DropWorker("7-7", "why")]) == ["worker 7-7: slot closed: why"]
