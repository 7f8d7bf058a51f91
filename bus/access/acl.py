"""Who may write and read which topic: one table, from section 9 of the bus contract.

The embedded broker checks every packet against it; `render_mosquitto`, `render_emqx` and nats_access.py print
it for an external broker, and `filters` serves any other. Three kinds of account: `manager`, `person`,
`node`. Wills and retained messages are publishes like any other. Pure: no clock, no I/O.

An external broker knows users, not kinds, so rules that name the user hold for everybody, as patterns. The
embedded broker decides the same (docs/decisions/0007): that a person may write below `node/{own name}` is
harmless, since no name is both a principal and a node.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Final, Literal

from msgspec import Struct

from ..topics import NAME_PATTERN, VERSION, Topics, is_name, is_valid_filter, is_valid_topic, matcher
from .home_assistant import HomeAssistant

Access = Literal["read", "write", "readwrite"]

Kind = Literal["manager", "person", "node"]
MANAGER: Final[Kind] = "manager"
PERSON: Final[Kind] = "person"
NODE: Final[Kind] = "node"
KINDS: Final[tuple[Kind, ...]] = (MANAGER, PERSON, NODE)
_ROOT: Final = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*", re.ASCII)

_USER: Final = "{user}"
_EVERYBODY: Final = frozenset(KINDS)
_ANY_REALM: Final = "+"
_ANY: Final = Topics("realm")


class Rule(Struct, frozen=True):
    """One row: these kinds of account have this access to topics matching `{root}/v1/{realm}/{tail}`."""

    kinds: frozenset[str]
    access: Access
    tail: str

    @property
    def is_pattern(self) -> bool:
        """True for rules that an external broker holds once, as patterns for every user."""
        return self.kinds == _EVERYBODY


def _rule(kinds: str, access: Access, topic: str) -> Rule:
    return Rule(frozenset(kinds.split()), access, topic.removeprefix(f"{_ANY.prefix}/"))


def _everybody(access: Access, topic: str) -> Rule:
    return _rule(" ".join(KINDS), access, topic)


RULES: Final = (
    _everybody("write", _ANY.request(_USER, "+")),
    _everybody("read", _ANY.response(_USER, "+")),
    _everybody("write", _ANY.node(_USER, "state")),
    _everybody("write", _ANY.node(_USER, "reported")),
    _everybody("write", _ANY.node(_USER, "heartbeat")),
    _everybody("write", _ANY.node_log(_USER, "+")),
    _everybody("read", _ANY.node(_USER, "state")),
    _everybody("read", _ANY.node(_USER, "assignment")),
    _everybody("read", _ANY.node(_USER, "command")),
    _everybody("read", _ANY.all_managers()),
    _rule(MANAGER, "readwrite", "#"),
    _rule(PERSON, "read", _ANY.all_status()),
    _rule(PERSON, "read", _ANY.all_events()),
    _rule(PERSON, "read", _ANY.all_nodes("state")),
    # Beyond the contract's list: what workers use, and their output for those who may operate.
    _rule(PERSON, "read", _ANY.all_nodes("reported")),
    _rule(PERSON, "read", _ANY.all_logs("+")),
)
"""The table. A new topic of the contract needs a row here; all brokers follow it."""


def is_root(root: str) -> bool:
    """True for topic levels without special characters of topic filters or ACL files."""
    return _ROOT.fullmatch(root) is not None


@lru_cache(maxsize=4096)
def _allowed(
    kind: str, user: str, access: Access, root: str, realm: str, house: HomeAssistant | None
) -> tuple[Callable[[str], object], ...]:
    """What matches the topics, and the filters, that this account may read or write."""
    return tuple(matcher(allowed) for allowed in filters(kind, user, access, root, realm, house))


def filters(
    kind: str,
    user: str,
    access: Access,
    root: str = "busbar",
    realm: str = _ANY_REALM,
    house: HomeAssistant | None = None,
) -> list[str]:
    """The topic filters that an account may read or write; none for a malformed name or root.

    `house`: with what Home Assistant's discovery takes, for the manager and for its own user.
    """
    if not is_name(user) or not is_root(root):
        return []
    return [
        f"{root}/{VERSION}/{_ANY_REALM if rule.is_pattern else realm}/{rule.tail}".replace(_USER, user)
        for rule in RULES
        if kind in rule.kinds and rule.access in (access, "readwrite")
    ] + (house.filters(kind, user, access, root, realm) if house else [])


def may_publish(
    kind: str,
    user: str,
    topic: str,
    root: str = "busbar",
    realm: str = _ANY_REALM,
    house: HomeAssistant | None = None,
) -> bool:
    """True when the account may publish to `topic`, whether live, retained or as its will.

    `realm`: where managers and persons have their rights; default: any.
    """
    if not is_valid_topic(topic):
        return False
    return any(allowed(topic) for allowed in _allowed(kind, user, "write", root, realm, house))


def may_subscribe(
    kind: str,
    user: str,
    wanted: str,
    root: str = "busbar",
    realm: str = _ANY_REALM,
    house: HomeAssistant | None = None,
) -> bool:
    """True when the account may read anything that the filter `wanted` can match (see `readable`)."""
    return readable(kind, user, wanted, root, realm, house) is not None


def readable(
    kind: str, user: str, wanted: str, root: str, realm: str, house: HomeAssistant | None = None
) -> tuple[str, ...] | None:
    """The filters that match what the account may read of `wanted`, at most one per rule; None for nothing.

    `$SYS`, which programs that show a broker ask for, has no messages here: no filters.
    """
    if not is_valid_filter(wanted):
        return None
    if any(allowed(wanted) for allowed in _allowed(kind, user, "read", root, realm, house)):
        return (wanted,)
    if wanted.split("/", 1)[0] == "$SYS":
        return ()
    return _parts(wanted, tuple(filters(kind, user, "read", root, realm, house))) or None


def _parts(wanted: str, rights: tuple[str, ...]) -> tuple[str, ...]:
    """What both `wanted` and one of `rights` match, without what another part of it covers."""
    levels = wanted.split("/")
    found = {part: part.split("/") for right in rights if (part := both(levels, right.split("/")))}
    return tuple(
        part
        for part, mine in found.items()
        if not any(both(mine, theirs) == part for other, theirs in found.items() if other != part)
    )


def both(first: list[str], second: list[str]) -> str:
    """The filter of all topics that both filters match, given by their levels; empty if there are none."""
    if first[0] in ("+", "#") and second[0].startswith("$"):
        return ""
    levels: list[str] = []
    for at in range(max(len(first), len(second))):
        one, two = first[at : at + 1], second[at : at + 1]
        if one == ["#"]:  # `a/#` matches `a` as well
            return "/".join([*levels, *second[at:]])
        if two == ["#"]:
            return "/".join([*levels, *first[at:]])
        if not one or not two or (one[0] != two[0] and "+" not in (one[0], two[0])):
            return ""
        levels.append(two[0] if one == ["+"] else one[0])
    return "/".join(levels)


def may_read(
    kind: str,
    user: str,
    topic: str,
    root: str = "busbar",
    realm: str = _ANY_REALM,
    house: HomeAssistant | None = None,
) -> bool:
    """True when the account may receive messages published to `topic`."""
    if not is_valid_topic(topic):
        return False
    return any(allowed(topic) for allowed in _allowed(kind, user, "read", root, realm, house))


def render_mosquitto(
    root: str, realm: str, manager_user: str, persons: Sequence[str], house: HomeAssistant | None = None
) -> str:
    """The `acl_file` of mosquitto for one realm, its manager's user and the named persons.

    Raises ValueError for a malformed root, realm or user name.
    """
    persons = with_house(root, persons, house)
    check_names(root, realm, [manager_user, *persons])
    lines = [f"# Access to realm {realm}, generated: change the table, not this file."]
    lines += [
        "# No line can bound what one user retains: mosquitto has no such limit (memory_limit is for all).",
        "",
    ]
    lines += [f"pattern {r.access:<5} {root}/{VERSION}/+/{r.tail.replace(_USER, '%u')}" for r in _personal()]
    for user, kind in kinds_of(manager_user, persons):
        lines += ["", f"user {user}"]
        lines += [f"topic {rule.access} {Topics(realm, root).prefix}/{rule.tail}" for rule in _shared(kind)]
        lines += [f"topic {access} {topic}" for access, topic in _of_house(house, kind, user, root, realm)]
    return "\n".join(lines) + "\n"


def render_emqx(
    root: str, realm: str, manager_user: str, persons: Sequence[str], house: HomeAssistant | None = None
) -> str:
    """EMQX's `acl.conf` (Erlang terms, first match wins) for the same rules; ends by denying the rest.

    Raises ValueError for a malformed root, realm or user name.
    """
    persons = with_house(root, persons, house)
    check_names(root, realm, [manager_user, *persons])
    lines = [f"%% Access to realm {realm}, generated: change the table, not this file."]
    for user, kind in kinds_of(manager_user, persons):
        tails = [(rule.access, f"{Topics(realm, root).prefix}/{rule.tail}") for rule in _shared(kind)]
        tails += _of_house(house, kind, user, root, realm)
        lines += _emqx_terms(f'{{username, "{user}"}}', tails)
    everyone = [
        (rule.access, f"{root}/{VERSION}/+/{rule.tail.replace(_USER, '${username}')}") for rule in _personal()
    ]
    lines += _emqx_terms("all", everyone)
    return "\n".join([*lines, "{deny, all}."]) + "\n"


_EMQX_ACTIONS: Final[dict[Access, str]] = {"readwrite": "all", "write": "publish", "read": "subscribe"}


def _emqx_terms(who: str, rows: Iterable[tuple[Access, str]]) -> list[str]:
    grouped: dict[Access, list[str]] = {}
    for access, topic in rows:
        grouped.setdefault(access, []).append(f'"{topic}"')
    return [
        f"{{allow, {who}, {_EMQX_ACTIONS[access]}, [{', '.join(topics)}]}}."
        for access, topics in grouped.items()
    ]


def with_house(root: str, persons: Sequence[str], house: HomeAssistant | None) -> Sequence[str]:
    """The persons, and Home Assistant's user. Raises ValueError where its topics are among the contract's."""
    if house is None:
        return persons
    house.check_root(root)
    return persons if house.user in persons else [*persons, house.user]


def _of_house(
    house: HomeAssistant | None, kind: str, user: str, root: str, realm: str
) -> list[tuple[Access, str]]:
    both_ways: tuple[Access, Access] = ("write", "read")
    return [(a, t) for a in both_ways for t in house.filters(kind, user, a, root, realm)] if house else []


def _personal() -> list[Rule]:
    return [rule for rule in RULES if rule.is_pattern]


def _shared(kind: str) -> list[Rule]:
    return [rule for rule in RULES if kind in rule.kinds and not rule.is_pattern]


def kinds_of(manager_user: str, persons: Sequence[str]) -> list[tuple[str, str]]:
    """The users of a realm but for its nodes, each with its kind."""
    return [(manager_user, MANAGER), *((person, PERSON) for person in persons)]


def check_names(root: str, realm: str, users: Sequence[str]) -> None:
    """Raises ValueError for a malformed root, realm or user name."""
    if not is_root(root):
        raise ValueError(f"topic root {root!r} must be plain levels of letters, digits, '_', '.' and '-'")
    for name in (realm, *users):
        if not is_name(name):
            raise ValueError(f"name {name!r} must match {NAME_PATTERN}")
