"""Which nodes a placement admits, and the one form in which it is compared."""

from __future__ import annotations

import msgspec
import pytest
from busbar.bus.decode import convert
from busbar.bus.errors import BusError
from busbar.bus.placement import Placement, normal_placement, one_way, required, unmet


@pytest.mark.parametrize(
    ("require", "labels", "lacks"),
    [
        ({}, None, None),
        ({"zone": "a"}, {"zone": "a", "rack": "r1"}, None),
        ({"zone": ["a", "b"]}, {"zone": "b"}, None),
        ({"zone": "a"}, None, "has no label zone (zone=a is required)"),
        ({"zone": ["a", "b"]}, {"zone": "c"}, "has label zone=c (zone=a or b is required)"),
        ({"disk": "ssd", "zone": "a"}, {"disk": "ssd", "zone": ""}, "has label zone= (zone=a is required)"),
    ],
)
def test_what_a_node_lacks(
    require: dict[str, str | list[str]], labels: dict[str, str] | None, lacks: str | None
) -> None:
    assert unmet(Placement(require, "zone"), labels) == lacks


def test_no_placement_admits_every_node() -> None:
    assert unmet(None, None) is None and unmet(Placement(spread="zone"), None) is None


def test_the_normal_form() -> None:
    assert normal_placement(None) is None and normal_placement(Placement()) is None
    found = normal_placement(Placement({"zone": ["b", "a", "b"], "disk": ["ssd"]}, "rack"))
    assert found == Placement({"disk": "ssd", "zone": ["a", "b"]}, "rack")
    assert list(found.require) == ["disk", "zone"] and normal_placement(found) == found
    assert required(found) == "disk=ssd, zone=a or b" and one_way(found) == ["disk=ssd", "zone=a"]
    assert msgspec.to_builtins(Placement(spread="zone")) == {"spread": "zone"}


@pytest.mark.parametrize(
    "wrong",
    [{"near": "a"}, {"require": {"zone": []}}, {"require": {"no such": "a"}}, {"require": {"zone": 1}},
     {"spread": "No"}, {"require": ["zone=a"]}, {"require": {f"k{n}": "a" for n in range(17)}}],
)  # fmt: skip
def test_what_is_no_placement(wrong: object) -> None:
    with pytest.raises(BusError):
        convert(wrong, Placement)
