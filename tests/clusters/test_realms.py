"""Ten realms on one bus: ten managers, ten SQLite files, and nobody hears of the others."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.clusters.realms import Realm, realms
from tests.plain import Plain

BUS = os.environ.get("BUSBAR_REALMS_ON", "mosquitto")
COUNT = 10


@pytest.mark.timeout(240)
@pytest.mark.mosquitto
def test_ten_realms_live_side_by_side(tmp_path: Path) -> None:
    with realms(tmp_path, BUS, COUNT) as here:
        first, *others = here.all
        assert len({each.state / "busbar.db" for each in here.all}) == COUNT
        assert all(each.rows("clusters") == 1 for each in here.all), "a file each"
        what_one_realm_does_is_not_heard_in_the_others(first, others)
        nobody_has_a_say_or_an_ear_elsewhere(first, others[0])
        the_loss_of_a_manager_touches_its_realm_alone(first, others)


def what_one_realm_does_is_not_heard_in_the_others(first: Realm, others: list[Realm]) -> None:
    before = [each.known() for each in others]
    workers = [each.running(2) for each in others]
    heard = first.known()
    first.scale(3)
    first.running(3)
    assert len(first.known()["events"]) > len(heard["events"]), "it was a change"
    assert [each.known() for each in others] == before
    assert [each.running(2) for each in others] == workers


def nobody_has_a_say_or_an_ear_elsewhere(first: Realm, other: Realm) -> None:
    stack = first.whole.stack
    with Plain(stack.port_of(first.owner), first.owner, stack.secrets[first.owner], other.name) as stranger:
        assert stranger.code("list_routerclusters") == "no_such_principal"
        stranger.client.subscribe("busbar/v1/+/status/#", 1)
        stranger.client.subscribe("busbar/v1/+/event/#", 1)
        own = f"busbar/v1/{first.name}/status/web/workergroup/web"
        stranger.wait_retained(own, lambda status: status.get("ready") == 3)
        other.scale(1)
        other.running(1)
        first.scale(2)
        stranger.wait_retained(own, lambda status: status.get("ready") == 2)
        topics = {topic for topic, _, _ in stranger.messages}
        assert not [topic for topic in topics if f"/{other.name}/s" in topic or f"/{other.name}/e" in topic]
    other.scale(2)
    other.running(2)


def the_loss_of_a_manager_touches_its_realm_alone(first: Realm, others: list[Realm]) -> None:
    before, workers = [each.known() for each in others], first.running(2)
    first.whole.stack.kill(first.manager)
    for each in others:
        each.scale(3)
    for each in others:
        each.running(3)
    assert first.lives() == workers, "its workers go on without it"
    first.client.push("get_manager", {}, "unheard")
    assert first.client.reply("unheard", 0.5) is None
    first.start_manager()
    found = first.sure("get_manager")
    assert found["epoch"] == 2
    assert first.running(2) == workers
    after = [each.known() for each in others]
    assert [known["epoch"] for known in after] == [known["epoch"] for known in before]
    assert all(len(known["nodes"]) == 1 for known in after)
    late = [json.loads(payload)["type"] for each in others for topic, payload, _ in each.client.messages
            if "/event/_/node/" in topic and topic.endswith(("/late", "/lost"))]  # fmt: skip
    assert not late
