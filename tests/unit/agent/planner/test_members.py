"""Which members of a cluster are gone for good."""

from __future__ import annotations

from busbar.agent.planner.members import LOOKS, counted, due, gone, group_of, leaves

MEMBERS = {"edge/web": ["oid-1111aaaa", "oid-2222aaaa"], "edge/none": []}


def test_a_worker_leaves_where_its_group_goes_on_without_it() -> None:
    assert leaves("oid-3333aaaa", "web-3", "edge", MEMBERS)
    assert not leaves("oid-1111aaaa", "web-1", "edge", MEMBERS), "it is moved"
    assert not leaves("oid-3333aaaa", "api-3", "edge", MEMBERS), "its group is stopped"
    assert not leaves("oid-3333aaaa", "none-1", "edge", MEMBERS), "nobody could take what it has"


def test_only_routers_of_ours_that_are_no_members_are_gone() -> None:
    away = ["web-1.1111aaaa", "web-2.9999aaaa", "web-3.3333aaaa", "Server name unknown at this time", "x."]
    assert gone(away, MEMBERS["edge/web"]) == {"web-2.9999aaaa", "web-3.3333aaaa"}
    assert group_of("oid-2222aaaa", MEMBERS) == MEMBERS["edge/web"]
    assert group_of("oid-9999aaaa", MEMBERS) == []


def test_one_is_removed_once_several_looks_in_a_row_have_found_it_gone() -> None:
    counts: dict[str, int] = {}
    for look in range(1, LOOKS + 1):
        counts = counted(counts, {"web-3.3333aaaa"})
        assert due(counts) == (["web-3.3333aaaa"] if look == LOOKS else [])
    assert due(counted(counted(counts, set()), {"web-3.3333aaaa"})) == [], "it was back in between"
