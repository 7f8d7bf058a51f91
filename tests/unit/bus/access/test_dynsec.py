"""Accounts of mosquitto's dynamic security plugin: the same rights as with every other broker."""

from __future__ import annotations

import json

import pytest
from busbar.bus.access import dynsec
from busbar.bus.access.acl import KINDS, filters
from busbar.bus.access.home_assistant import HomeAssistant


@pytest.mark.parametrize("kind", KINDS)
def test_a_role_has_the_rights_of_the_table_and_no_other(kind: str) -> None:
    rows = dynsec.rights(kind, "n1", "busbar", "lab")
    found = {
        way: [row["topic"] for row in rows if row["acltype"] == way] for way in {r["acltype"] for r in rows}
    }
    reads = filters(kind, "n1", "read", "busbar", "lab")
    assert found["publishClientSend"] == filters(kind, "n1", "write", "busbar", "lab")
    assert found["subscribePattern"] == found["publishClientReceive"] == reads
    assert all(row["allow"] for row in rows)


def test_a_malformed_name_gets_no_role() -> None:
    for user in ("", "+", "n1/#", "N1"):
        with pytest.raises(ValueError):
            dynsec.rights("node", user, "busbar", "lab")


def test_a_known_account_keeps_its_role_and_a_new_one_gets_it() -> None:
    new = dynsec.put_commands("node", "n1", "busbar", "lab", False, "wonder")
    known = dynsec.put_commands("node", "n1", "busbar", "lab", True, "wonder")
    assert [row["command"] for row in new] == ["createRole", "modifyRole", "createClient"]
    assert [row["command"] for row in known] == ["modifyRole", "modifyClient"]
    assert new[-1]["roles"] == [{"rolename": "busbar-lab-node-n1", "priority": 0}]
    assert "roles" not in known[-1], "the plugin would take away all others"


@pytest.mark.parametrize(
    ("client", "ours"),
    [
        ({"roles": [{"rolename": "busbar-lab-node-n1"}]}, True),
        ({"roles": [{"rolename": "busbar-lab-person-n1"}]}, False),
        ({"roles": [{"rolename": "busbar-live-node-n1"}]}, False),
        ({"roles": ["busbar-lab-node-n1", None]}, False),
        ({"roles": 7}, False),
        ({}, False),
    ],
)
def test_a_client_is_ours_by_its_role(client: dict[str, object], ours: bool) -> None:
    assert dynsec.is_ours(client, "node", "n1", "lab") is ours


def test_one_message_gives_known_clients_their_roles() -> None:
    rows = dynsec.role_commands("busbar", "lab", "manager", ["alice"], ["n1"])
    commands = json.loads(dynsec.render_dynsec(rows))["commands"]
    given = [(row["username"], row["rolename"]) for row in commands if row["command"] == "addClientRole"]
    assert given == [
        ("manager", "busbar-lab-manager-manager"),
        ("alice", "busbar-lab-person-alice"),
        ("n1", "busbar-lab-node-n1"),
    ]


def test_home_assistant_has_its_own_topics_and_no_more() -> None:
    house = HomeAssistant("hass")
    assert dynsec.rights("node", "n1", "busbar", "lab", house) == dynsec.rights("node", "n1", "busbar", "lab")
    rows = dynsec.role_commands("busbar", "lab", "manager", ["alice"], [], house)
    acls = {
        row["rolename"]: [a["topic"] for a in row["acls"]] for row in rows if row["command"] == "modifyRole"
    }
    assert house.birth in acls["busbar-lab-person-hass"] and house.birth in acls["busbar-lab-manager-manager"]
    assert house.birth not in acls["busbar-lab-person-alice"]
