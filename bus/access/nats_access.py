"""The configuration of nats-server for a realm: who may do what, and limits. Pure.

nats-server has no patterns: each user, nodes included, stands with the subjects that its kind may use. A
topic `a/b` of MQTT is the subject `a.b`, and a dot of it two slashes.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from ..addresses import netloc
from .acl import NODE, check_names, filters, kinds_of, with_house
from .home_assistant import HomeAssistant
from .nats_text import nats_text

PASSWORDS: Final = "busbar-passwords.conf"
"""What the printed configuration includes from its own folder: a variable for each user."""
LARGEST: Final = 1024 * 1024
"""Bytes of a message; see `Limits.packet_bytes` of the embedded broker."""
CONNECTIONS: Final = 65_536
LIMITS: Final[Mapping[str, int]] = {
    "max_connections": CONNECTIONS,
    "max_subscriptions": 1_000_000,
    "max_payload": LARGEST,
}
"""Of the realm's account."""
JETSTREAM: Final[Mapping[str, int]] = {
    "max_memory": 64 * 2**20,
    "max_file": 4 * 2**30,
    "max_streams": 16,
    "max_consumers": 262_144,
}
"""Of the realm's account: five streams hold sessions, retained messages, and messages of QoS 1 until they are
acknowledged; each subscription of QoS 1 is a consumer."""
MQTT: Final[Mapping[str, Any]] = {"ack_wait": "2s", "max_ack_pending": 4096, "js_api_timeout": "2s"}
"""How soon an unacknowledged message comes again, how many may be unacknowledged, and how soon a request that
no leader has heard fails. nats-server has 30 s, 1024 and 5 s."""
_DELIVERY: Final = "$MQTT.sub.>"
"""Where it delivers QoS 1 messages to a client; without it such subscriptions are refused. With its own
protocol one could read those of others there, so users may connect by MQTT alone."""
_BY_MQTT: Final = '["MQTT", "MQTT_WS"]'
_WILD: Final = {"+": "*", "#": ">"}


class Server(Struct, frozen=True):
    """The part of a server that runs alone: where it serves MQTT, and the folder of its messages."""

    host: str
    port: int
    store: str


def render_nats(
    root: str,
    realm: str,
    manager_user: str,
    persons: Sequence[str],
    nodes: Sequence[str],
    server: Server | None = None,
    house: HomeAssistant | None = None,
) -> str:
    """Accounts, users with their permissions, and limits; with `server` the whole configuration of one.

    Raises ValueError for a malformed root, realm or user name.
    """
    persons = with_house(root, persons, house)
    users = [*kinds_of(manager_user, persons), *((node, NODE) for node in nodes)]
    names = [user for user, _ in users]
    check_names(root, realm, names)
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"user name {twice!r} must be named once: nats-server knows each user once")
    lines = [
        f"# Access to realm {realm} for nats-server 2.15, generated: change the table, not this file.",
        f"# {PASSWORDS} beside it has a line for each user (mode 0600), a secret or its bcrypt hash:",
        f'#   {variable("NAME")}: "SECRET"',
        "# For a new user: print this again with it, add its line there, then nats-server --signal reload.",
        f"include ./{PASSWORDS}",
        *(_server(server) if server else ()),
        f"max_payload: {LARGEST}",
        f"max_connections: {CONNECTIONS}",
        "accounts {",
        f"  busbar-{realm} {{",
        f"    jetstream {_map(JETSTREAM)}",
        f"    limits {_map(LIMITS)}",
        "    users [",
    ]
    for user, kind in users:
        write, read = (filters(kind, user, access, root, realm, house) for access in ("write", "read"))
        lines += [
            f"      # {kind}",
            f'      {{ user: "{user}", password: ${variable(user)}, allowed_connection_types: {_BY_MQTT}',
            "        permissions {",
            f"          publish: {_subjects(write)}",
            f"          subscribe: {_subjects(read, _DELIVERY)}",
            "        } }",
        ]
    return "\n".join([*lines, "    ]", "  }", "  SYS { }", "}", "system_account: SYS"]) + "\n"


def render_passwords(secrets: Mapping[str, str]) -> str:
    """What `PASSWORDS` has to hold. Raises ValueError for a secret with a control character."""
    return "".join(f"{variable(user)}: {nats_text(secret)}\n" for user, secret in secrets.items())


def variable(user: str) -> str:
    """The variable that holds a user's password."""
    return f"busbar_password_{user}"


def _server(server: Server) -> list[str]:
    return [
        'server_name: "busbar"',
        # Its own protocol, which nobody may speak, at a free port.
        f"listen: {nats_text(netloc(server.host, -1))}",
        f"mqtt {_map({'listen': netloc(server.host, server.port), **MQTT})}",
        f"jetstream {_map({'store_dir': server.store, **_of_server()})}",
    ]


def _of_server() -> dict[str, int]:
    return {"max_memory_store": JETSTREAM["max_memory"], "max_file_store": JETSTREAM["max_file"]}


def _map(entries: Mapping[str, Any]) -> str:
    return "{ " + ", ".join(f"{name}: {nats_text(value)}" for name, value in entries.items()) + " }"


def _subjects(topics: Iterable[str], *more: str) -> str:
    subjects = [
        ".".join(_WILD.get(level, level.replace(".", "//")) for level in topic.split("/")) for topic in topics
    ]
    # To nats-server a subscription to `a/#` is two, since `a.>` is not `a`; both have to be allowed.
    parents = [subject.removesuffix(".>") for subject in subjects if subject.endswith(".>")]
    return "[" + ", ".join(f'"{subject}"' for subject in (*subjects, *parents, *more)) + "]"
