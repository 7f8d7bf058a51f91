"""A client that plays Home Assistant on a real broker: birth, states, a press of a button, and the end."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.pace import bound
from tests.plain import Plain
from tests.stack import Stack, stack

jinja2 = pytest.importorskip(
    "jinja2", reason="templates are rendered by Jinja2, which the extra 'web' brings"
)
from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: E402

pytestmark = pytest.mark.mosquitto


class House:
    """What Home Assistant does with discovery, in small: it knows nothing of Busbar."""

    def __init__(self, client: Plain) -> None:
        self.client = client
        self.env = ImmutableSandboxedEnvironment()
        self.env.globals["utcnow"] = lambda: datetime.now(UTC)

    def subscribe(self, topic: str) -> None:
        done = threading.Event()
        self.client.client.on_subscribe = lambda *_: done.set()
        self.client.client.subscribe(topic, 1)
        assert done.wait(bound(10)), "no SUBACK"

    def entities(self) -> dict[str, dict[str, Any]]:
        """Every entity that is configured now, by component and name."""
        held = list(self.client.retained.items())
        found = {topic: body for topic, body in held if topic.startswith("homeassistant/") and body}
        return {
            f"{topic.split('/')[1]} {body['name']}": body for topic, body in found.items() if "name" in body
        }

    def wait_entity(self, key: str) -> dict[str, Any]:
        def is_configured(message: tuple[str, bytes, bool]) -> bool:
            return message[0].endswith("/config") and key in self.entities()

        self.client.wait(is_configured, 20)
        return self.entities()[key]

    def wait_state(self, entity: dict[str, Any], state: str) -> None:
        """Until its template shows this of a message on its topic, read anew as Home Assistant does."""
        mark = len(self.client.messages)
        self.subscribe(entity["state_topic"])

        def shows(message: tuple[str, bytes, bool]) -> bool:
            return (
                message[0] == entity["state_topic"]
                and self.render(entity["value_template"], message[1]) == state
            )

        self.client.wait(shows, 30, mark)

    def press(self, button: dict[str, Any]) -> str:
        request = self.render(button["command_template"], b"PRESS")
        self.client.publish(button["command_topic"], request, qos=button["qos"])
        return request

    def render(self, template: str, payload: bytes) -> str:
        known: dict[str, Any] = {"value": payload.decode()}
        with contextlib.suppress(ValueError):
            known["value_json"] = json.loads(payload)
        return str(self.env.from_string(template).render(known)).strip()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack(tmp_path_factory.mktemp("house"), "mosquitto", house="bob") as made:
        made.start_manager()
        made.start_agent("n1", "--stop-workers")
        yield made


def test_home_assistant_sees_a_cluster_restarts_a_group_and_forgets_it(made: Stack) -> None:
    alice, bob = made.client(), made.client("bob")
    made.wait_manager(alice)
    made.add_principals(alice)
    node = alice.ok("pair_node", {"node": {"name": "n1"}})["oid"]
    cluster = bob.ok("create_routercluster", {"routercluster": {"name": "edge"}})["oid"]
    where = {"routercluster_oid": cluster}
    bob.ok("add_routercluster_node", {**where, "node_oid": node})
    wish = {"name": "web", "scale": 1, "runtime": "amqtt", "transport": {"type": "mqtt"}}
    group = bob.ok("add_routercluster_workergroup", {**where, "workergroup": wish})["oid"]
    bob.ok("start_routercluster", where)

    house = House(made.client("bob"))
    house.subscribe("homeassistant/#")
    house.wait_entity("button web restart")
    mark = len(house.client.messages)
    house.client.publish("homeassistant/status", "online", retain=True)  # its birth
    button_topic = f"homeassistant/button/busbar-lab/{group}-restart/config"
    house.client.wait(lambda m: m[0] == button_topic and not m[2], 20, mark)

    running = house.wait_entity("binary_sensor Running")
    assert running["device"]["name"] == "Busbar cluster edge"
    house.wait_state(running, "ON")
    house.wait_state(house.wait_entity("sensor web ready workers"), "1")
    house.wait_state(house.wait_entity("binary_sensor Online"), "ON")
    (available,) = running["availability"]
    house.subscribe(available["topic"])
    house.client.wait(
        lambda m: m[0] == available["topic"] and house.render(available["value_template"], m[1]) == "online"
    )

    alice.subscribe("status", "#")
    status = alice.topic("status", "edge", "worker", "web-1")
    before = alice.wait_retained(status, lambda value: value.get("status") == "RUNNING", 30)
    house.subscribe(house.wait_entity("sensor Last request")["state_topic"])
    request = house.press(house.entities()["button web restart"])
    after = alice.wait_retained(
        status, lambda v: v.get("status") == "RUNNING" and v.get("pid") not in (None, before["pid"]), 60
    )
    assert after["generation"] > before["generation"]
    asked = house.entities()["sensor Last request"]
    house.client.wait(
        lambda m: m[0] == asked["state_topic"] and house.render(asked["value_template"], m[1]) == "ok"
    )
    # The broker delivers it again: it was carried out already.
    mark = len(house.client.messages)
    house.client.publish(house.entities()["button web restart"]["command_topic"], request)
    house.client.wait(lambda m: m[0] == asked["state_topic"], 20, mark)
    revision = bob.ok("get_routercluster_workergroup", {**where, "workergroup_oid": group})["revision"]
    assert revision == 2

    bob.ok("stop_routercluster", where)
    alice.status("edge", "routercluster", "edge", "STOPPED", timeout=40)
    bob.ok("remove_routercluster_workergroup", {**where, "workergroup_oid": group})
    bob.ok("delete_routercluster", where)
    house.client.wait(lambda m: m[0] == button_topic and not m[1], 20)
    gone = f"homeassistant/binary_sensor/busbar-lab/{cluster}-running/config"
    house.client.wait(lambda m: m[0] == gone and not m[1], 20)
    late = House(made.client("bob"))
    late.subscribe("homeassistant/#")
    late.wait_entity("binary_sensor Online")
    assert {body["device"]["name"] for body in late.entities().values()} == {"Busbar node n1"}
