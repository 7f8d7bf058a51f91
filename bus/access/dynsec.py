"""Accounts of mosquitto's dynamic security plugin, as commands for its control topic. Pure.

Each user has a role of its own, which holds the rights of bus/access/acl.py for its name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from .acl import NODE, check_names, filters, kinds_of, with_house
from .home_assistant import HomeAssistant

CONTROL: Final = "$CONTROL/dynamic-security/v1"
RESPONSE: Final = f"{CONTROL}/response"
Command = dict[str, Any]


def role_of(kind: str, user: str, realm: str) -> str:
    """The name of a user's role, which tells whose it is."""
    return f"busbar-{realm}-{kind}-{user}"


def rights(kind: str, user: str, root: str, realm: str, house: HomeAssistant | None = None) -> list[Command]:
    """The rights of a user as the plugin's ACLs, with those for Home Assistant.

    Raises ValueError for a malformed root, realm or user name.
    """
    check_names(root, realm, [user])
    sends = [("publishClientSend", topic) for topic in filters(kind, user, "write", root, realm, house)]
    reads = filters(kind, user, "read", root, realm, house)
    gets = [(way, topic) for way in ("subscribePattern", "publishClientReceive") for topic in reads]
    return [{"acltype": way, "topic": topic, "priority": 0, "allow": True} for way, topic in sends + gets]


def put_commands(kind: str, user: str, root: str, realm: str, known: bool, password: str) -> list[Command]:
    """Make a user and its role, or with `known` give it this password and these rights.

    Raises ValueError as `rights`.
    """
    role, acls = role_of(kind, user, realm), rights(kind, user, root, realm)
    account = {"username": user, "password": password}
    return [
        # What a removed user has left behind may be of an older version.
        *([] if known else [{"command": "createRole", "rolename": role}]),
        {"command": "modifyRole", "rolename": role, "textname": f"Busbar: {kind} {user}", "acls": acls},
        # Who is known has the role, and keeps others, such as 'admin'.
        {"command": "modifyClient", **account}
        if known
        else {"command": "createClient", **account, "roles": [{"rolename": role, "priority": 0}]},
    ]


def role_commands(
    root: str,
    realm: str,
    manager_user: str,
    persons: Sequence[str],
    nodes: Sequence[str],
    house: HomeAssistant | None = None,
) -> list[Command]:
    """What makes the roles of clients that the plugin knows, and gives them to these.

    Raises ValueError as `rights`.
    """
    rows: list[Command] = []
    persons = with_house(root, persons, house)
    for user, kind in [*kinds_of(manager_user, persons), *((node, NODE) for node in nodes)]:
        role, acls = role_of(kind, user, realm), rights(kind, user, root, realm, house)
        rows += [
            {"command": "createRole", "rolename": role},
            {"command": "modifyRole", "rolename": role, "textname": f"Busbar: {kind} {user}", "acls": acls},
            {"command": "addClientRole", "username": user, "rolename": role},
        ]
    return rows


def render_dynsec(commands: Sequence[Command]) -> str:
    """Commands as one message for the control topic."""
    return json.dumps({"commands": commands}, indent=1) + "\n"


def remove_commands(kind: str, user: str, realm: str) -> list[Command]:
    """Remove a user, which ends its connections, and its role."""
    role = role_of(kind, user, realm)
    return [{"command": "deleteClient", "username": user}, {"command": "deleteRole", "rolename": role}]


def is_ours(client: object, kind: str, user: str, realm: str) -> bool:
    """Whether a client that the plugin knows is this user: by its role."""
    return role_of(kind, user, realm) in roles_of(client)


def roles_of(client: object) -> list[str]:
    """The names of a client's roles, as `getClient` shows it."""
    roles = client.get("roles") if isinstance(client, dict) else None
    rows = roles if isinstance(roles, list) else []
    return [str(role.get("rolename")) for role in rows if isinstance(role, dict)]
