"""Which peers each assigned worker is to know."""

from __future__ import annotations

from busbar.agent.planner.peers import NONE, peers_by_worker, peers_digest
from busbar.bus.assignments import expanded, shared
from busbar.bus.messages import AssignedWorker, Assignment, Peer
from msgspec import UNSET


def assigned(name: str, cluster: str = "edge", group: str = "web") -> AssignedWorker:
    return AssignedWorker(name, f"o-{name}", cluster, group, 1, "amqtt", "d1", transport={"type": "mqtt"})


def peer(name: str, url: str = "mqtt://10.0.0.1:1") -> Peer:
    return Peer(name, "n1", {"default": url})


def test_a_worker_is_told_of_the_others_of_its_own_group() -> None:
    workers = [assigned("web-1"), assigned("web-2"), assigned("api-1", group="api"), assigned("web-1", "hub")]
    told = {"edge/web": [peer("web-1"), peer("web-2"), peer("web-3")], "hub/web": [peer("web-1")]}
    assignment = Assignment("s", 1, 1, workers[:3], peers=told)
    assert {oid: [each.worker for each in found] for oid, found in peers_by_worker(assignment).items()} == {
        "o-web-1": ["web-2", "web-3"],
        "o-web-2": ["web-1", "web-3"],
    }
    assert peers_by_worker(expanded(shared(assignment))) == peers_by_worker(assignment)
    alone = Assignment("s", 1, 1, workers[3:], peers=told)
    assert peers_by_worker(alone) == {"o-web-1": ()}
    assert peers_by_worker(Assignment("s", 1, 1, workers, peers=UNSET)) == {}


def test_a_digest_tells_peers_apart_and_not_their_order() -> None:
    one, two = peer("web-1"), peer("web-2")
    assert peers_digest((one, two)) == peers_digest((two, one)) != peers_digest((one,))
    assert peers_digest((one,)) != peers_digest((peer("web-1", "mqtt://10.0.0.1:2"),))
    assert peers_digest(()) == NONE
