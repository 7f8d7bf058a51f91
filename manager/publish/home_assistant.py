"""What Home Assistant is told of a realm: one discovery message per entity. Pure.

States are not published again: entities read the retained statuses by templates. What stands in a template
is escaped (`_literal`), so that no text can become a part of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from busbar.bus.access.home_assistant import HomeAssistant
from busbar.bus.decode import encode
from busbar.bus.roles import CHANGE_ROLES, OWNER
from busbar.bus.topics import NO_CLUSTER, Topics
from msgspec import Struct

RESTART: Final = "restart_routercluster_workergroup"
RUNNING: Final = ("RUNNING", "DEGRADED")
"""States of a cluster or a group whose workers serve."""
FAULTY: Final = ("DEGRADED", "ERROR")
NODE_PROBLEM: Final = (
    "value_json.status in ['late', 'lost'] or (value_json.status == 'online' and value_json.conditions"
    " and value_json.get('draining') is none and value_json.get('cordoned') is none)"
)
"""What is done to a node on purpose is no problem of it."""
REQUEST_ID: Final = "ha-{{ utcnow().timestamp() }}-{{ range(100000) | random }}"
"""Fresh for each press: a message that is delivered twice restarts once, another press restarts again."""
TTL_MS: Final = 60_000


class Device(Struct, frozen=True):
    """A node, or a cluster with its groups (oid, name), who owns it, and what Home Assistant sees of it."""

    oid: str
    name: str
    groups: tuple[tuple[str, str], ...] = ()
    owner: str | None = None


class Realm(Struct, frozen=True):
    """All that the messages are made of."""

    nodes: tuple[Device, ...] = ()
    clusters: tuple[Device, ...] = ()
    principal: str | None = None
    """The oid of Home Assistant's principal; None: its user has no role."""
    role: str = ""


class Discovery(Struct, frozen=True):
    """Makes the messages of one realm. `version` is that of the manager, `manager` its id."""

    options: HomeAssistant
    topics: Topics
    manager: str
    version: str

    def messages(self, realm: Realm) -> dict[str, bytes]:
        """Every retained message that there is to be, by topic."""
        found: dict[str, bytes] = {}
        for node in realm.nodes:
            self._add(found, node, "Node", self._node(node))
        for cluster in realm.clusters:
            may = self._may_restart(realm, cluster)
            self._add(
                found, cluster, "Router cluster", self._cluster(cluster, realm.principal if may else None)
            )
        return found

    def _may_restart(self, realm: Realm, cluster: Device) -> bool:
        """As the manager decides it of each request; here it spares a button that would be refused."""
        owns = realm.role == OWNER or cluster.owner == realm.principal
        return realm.principal is not None and realm.role in CHANGE_ROLES and owns

    def _add(
        self,
        found: dict[str, bytes],
        device: Device,
        model: str,
        entities: Iterable[tuple[str, str, dict[str, Any]]],
    ) -> None:
        shared = {
            "availability": [
                {"topic": self.topics.manager_state(self.manager), "value_template": "{{ value_json.state }}"}
            ],
            "device": {
                "identifiers": [f"busbar-{device.oid}"],
                "name": f"Busbar {'node' if model == 'Node' else 'cluster'} {device.name}",
                "manufacturer": "Busbar",
                "model": model,
            },
            "origin": {"name": "busbar", "sw_version": self.version},
        }
        for component, leaf, entity in entities:
            topic = self.options.config(component, self.topics.root, self.topics.realm, leaf)
            found[topic] = encode({**entity, "unique_id": f"busbar-{leaf}", **shared})

    def _node(self, node: Device) -> Iterator[tuple[str, str, dict[str, Any]]]:
        topic = self.topics.status(NO_CLUSTER, "node", node.name)
        yield "binary_sensor", f"{node.oid}-online", {
            "name": "Online", "device_class": "connectivity", **_is(topic, ("online",)),
        }  # fmt: skip
        yield "binary_sensor", f"{node.oid}-problem", _problem("Problem", topic, NODE_PROBLEM)
        yield "sensor", f"{node.oid}-status", _status(topic)

    def _cluster(self, cluster: Device, principal: str | None) -> Iterator[tuple[str, str, dict[str, Any]]]:
        yield from self._state(
            "", cluster.oid, self.topics.status(cluster.name, "routercluster", cluster.name)
        )
        for oid, name in cluster.groups:
            yield from self._state(name, oid, self.topics.status(cluster.name, "workergroup", name))
            if principal is not None:
                yield "button", f"{oid}-restart", self._restart(cluster, oid, name, principal)
        if principal is not None and cluster.groups:
            yield "sensor", f"{cluster.oid}-request", {
                "name": "Last request", "entity_category": "diagnostic",
                "state_topic": self.topics.response(self.options.user, cluster.name),
                "value_template": _if_json("{{ 'ok' if value_json.ok else value_json.error.code }}"),
            }  # fmt: skip

    def _state(self, of: str, oid: str, topic: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
        yield "binary_sensor", f"{oid}-running", {
            "name": _title(of, "running"), "device_class": "running", **_is(topic, RUNNING),
        }  # fmt: skip
        yield (
            "binary_sensor",
            f"{oid}-problem",
            _problem(_title(of, "problem"), topic, f"value_json.status in {_list(FAULTY)}"),
        )
        yield "sensor", f"{oid}-ready", {
            "name": _title(of, "ready workers"),
            "entity_category": "diagnostic",
            "state_class": "measurement",
            "state_topic": topic, "value_template": _if_json("{{ value_json.ready }}"),
            **_attributes(topic, "scale"),
        }  # fmt: skip
        if not of:
            yield "sensor", f"{oid}-status", _status(topic)

    def _restart(self, cluster: Device, oid: str, name: str, principal: str) -> dict[str, Any]:
        request = (
            f'{{"id":"{REQUEST_ID}","reply":{_literal(cluster.name)},"ttl_ms":{TTL_MS},'
            f'"principal":{_literal(principal)},'
            f'"params":{{"routercluster_oid":{_literal(cluster.oid)},"workergroup_oid":{_literal(oid)}}} }}'
        )
        return {
            "name": _title(name, "restart"),
            "device_class": "restart",
            "command_topic": self.topics.request(self.options.user, RESTART),
            "command_template": request,
            "qos": 1,
        }


def difference(held: Mapping[str, bytes], wanted: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """What to publish so that a broker with `held` has `wanted`: first removals, which are empty."""
    yield from ((topic, b"") for topic in held if topic not in wanted)
    yield from ((topic, payload) for topic, payload in wanted.items() if held.get(topic) != payload)


def _is(topic: str, on: Iterable[str]) -> dict[str, str]:
    """On while the status is one of these."""
    return {
        "state_topic": topic,
        "value_template": _if_json(f"{{{{ 'ON' if value_json.status in {_list(on)} else 'OFF' }}}}"),
    }


def _problem(name: str, topic: str, condition: str) -> dict[str, str]:
    return {
        "name": name,
        "device_class": "problem",
        "entity_category": "diagnostic",
        "state_topic": topic,
        "value_template": _if_json(f"{{{{ 'ON' if {condition} else 'OFF' }}}}"),
        **_attributes(topic, "status", "reason", "conditions"),
    }


def _status(topic: str) -> dict[str, str]:
    return {
        "name": "Status",
        "entity_category": "diagnostic",
        "state_topic": topic,
        "value_template": _if_json("{{ value_json.status }}"),
    }


def _attributes(topic: str, *members: str) -> dict[str, str]:
    shown = ", ".join(f"'{name}': value_json.get('{name}')" for name in members)
    return {
        "json_attributes_topic": topic,
        "json_attributes_template": _if_json(f"{{{{ {{{shown}}} | tojson }}}}", "{}"),
    }


def _if_json(template: str, instead: str = "") -> str:
    """Of an object that was deleted the last message is empty: no state then, and no error in a log."""
    other = f"{{% else %}}{instead}" if instead else ""
    return f"{{% if value_json is defined %}}{template}{other}{{% endif %}}"


def _list(words: Iterable[str]) -> str:
    return "[" + ", ".join(f"'{word}'" for word in words) + "]"


def _literal(text: str) -> str:
    """A text in JSON in a template: the same text, whatever it holds."""
    return json.dumps(text).replace("{", "\\u007b").replace("}", "\\u007d")


def _title(of: str, text: str) -> str:
    """The name of an entity of a group (`of`), or of the device itself."""
    return f"{of} {text}" if of else text.capitalize()
