"""Options that bind a group to labels of nodes."""

from __future__ import annotations

from typing import Any

import pytest
from busbar.bus.params import Placement
from busbar.cli.arguments.placement import PlacementChange
from busbar.cli.errors import CliError
from msgspec import UNSET

from ..realm import OID, Line, Realm, result_of
from ..realm import line as line

BOTH = {"require": {"zone": "a"}, "spread": "rack"}


@pytest.mark.parametrize(
    ("asked", "present", "wanted"),
    [
        (PlacementChange((), None), BOTH, UNSET),
        (PlacementChange(["zone=b"], None), None, Placement({"zone": "b"})),
        (
            PlacementChange(["zone=b", "disk=", "zone=c"], "zone"),
            None,
            Placement({"zone": ["b", "c"], "disk": ""}, "zone"),
        ),
        (PlacementChange(["disk=ssd"], None), BOTH, Placement({"disk": "ssd"}, "rack")),
        (PlacementChange((), "zone"), BOTH, Placement({"zone": "a"}, "zone")),
        (PlacementChange((), None, anywhere=True), BOTH, None),
        (PlacementChange((), "zone", anywhere=True), BOTH, Placement(spread="zone")),
    ],
)
def test_what_is_asked_for_is_changed_and_the_rest_stays(
    asked: PlacementChange, present: dict[str, Any] | None, wanted: object
) -> None:
    assert asked.of(present) == wanted


@pytest.mark.parametrize(
    "asked",
    [PlacementChange(["zone"], None), PlacementChange(["=a"], None)],
)
def test_what_can_not_be_read_is_refused(asked: PlacementChange) -> None:
    with pytest.raises(CliError):
        asked.of(None)


def test_an_update_is_of_the_placement_that_was_read(line: Line) -> None:
    def answer(operation: str, given: dict[str, Any]) -> Any:
        found = result_of(operation, lambda member: "edge" if member == "name" else member)
        return found | {"oid": OID, "cluster_oid": OID, "version": 7, "placement": BOTH}

    realm = Realm(answer)
    assert line.against(realm).run("group", "update", "edge/edge", "--on", "zone=b") == 0
    asked = dict(realm.calls)["update_routercluster_workergroup"]
    assert asked["workergroup"] == {"placement": {"require": {"zone": "b"}, "spread": "rack"}}
    assert line.against(realm).run("group", "update", "edge/edge", "--anywhere") == 0
    assert realm.calls[-1][1]["workergroup"] == {"placement": None}
    assert line.run("group", "update", "edge/edge") == 2, "nothing was asked for"
