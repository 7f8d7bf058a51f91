"""The ACL file of the amqtt router, in mosquitto's syntax: who may publish and read what.

`python -m busbar.agent.routers.amqtt_acl FILE` says what is wrong with one: exit code 2, and a line.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, Literal, NamedTuple, cast

from busbar.bus.access.acl import both
from busbar.bus.system.regular_files import open_regular
from busbar.bus.topics import is_valid_filter, matcher
from msgspec import Struct, field

MAX_BYTES: Final = 4 * 1024 * 1024
REFUSES: Final = 2
"""Exit code for a file at fault."""
Access = Literal["read", "write", "readwrite", "deny"]
_ACCESS: Final = frozenset(("read", "write", "readwrite", "deny"))


class AclError(Exception):
    """What is wrong, with the line's number. Its text is not repeated: it may be another file's secret."""


class Rule(NamedTuple):
    """Access to the topics that the filter matches."""

    access: Access
    filter: str


class AclFile(Struct):
    """`anonymous`: the rules before the first user; `patterns` hold for everybody."""

    anonymous: list[Rule] = field(default_factory=list)
    users: dict[str, list[Rule]] = field(default_factory=dict)
    patterns: list[Rule] = field(default_factory=list)

    def rights(self, user: str | None, client_id: str) -> Rights:
        """What this client may do; `user` is None where nobody has verified who it is."""
        own = self.anonymous if user is None else self.users.get(user, [])
        return Rights((_Group.of(own), _Group.of(self._patterns(user, client_id))))

    def _patterns(self, user: str | None, client_id: str) -> Iterator[Rule]:
        if any(char in (user or "") + client_id for char in "+#"):
            return  # it would widen a filter
        for access, text in self.patterns:
            if "%u" in text and not user:
                continue
            # In one go: what stands for one is not searched for the other.
            filter = re.sub("%[uc]", lambda found: str(user) if found[0] == "%u" else client_id, text)
            if is_valid_filter(filter):
                yield Rule(access, filter)


class _Group(Struct, frozen=True):
    """Rules of which a denial comes before whatever else they say."""

    denied: tuple[str, ...]
    read: tuple[str, ...]
    write: tuple[str, ...]

    @classmethod
    def of(cls, rules: Iterable[Rule]) -> _Group:
        found = list(rules)

        def filters(*access: Access) -> tuple[str, ...]:
            return tuple(rule.filter for rule in found if rule.access in access)

        return cls(filters("deny"), filters("read", "readwrite"), filters("write", "readwrite"))


class Rights(Struct, frozen=True):
    """One client's: the user's rules come before the patterns, and what no rule names is denied."""

    groups: tuple[_Group, ...]

    def may_publish(self, topic: str) -> bool:
        """Whether messages, and a will, to this topic are let through."""
        return self._may(topic, lambda group: group.write)

    def may_read(self, topic: str) -> bool:
        """Whether messages to this topic are delivered."""
        return self._may(topic, lambda group: group.read)

    def may_subscribe(self, wanted: str) -> bool:
        """Whether any topic that the filter matches may be readable; each message is judged by itself."""
        levels = wanted.split("/")
        for group in self.groups:
            if _any(group.denied, wanted):
                return False
            if any(both(levels, allowed.split("/")) for allowed in group.read):
                return True
        return False

    def _may(self, topic: str, allowed: Callable[[_Group], tuple[str, ...]]) -> bool:
        for group in self.groups:
            if _any(group.denied, topic):
                return False
            if _any(allowed(group), topic):
                return True
        return False


def _any(filters: Iterable[str], topic: str) -> bool:
    return any(matcher(each)(topic) for each in filters)


def read(path: Path) -> AclFile:
    """Raises AclError, or OSError when it can't be read."""
    with os.fdopen(open_regular(path), "rb") as file:
        text = file.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise AclError(f"larger than {MAX_BYTES} bytes")
    try:
        return parse(text.decode())
    except UnicodeDecodeError:
        raise AclError("not UTF-8") from None


def parse(text: str) -> AclFile:
    """Raises AclError with the number of the first line at fault."""
    found = AclFile()
    rules = found.anonymous
    for number, line in enumerate(text.split("\n"), 1):
        word, rest = _first(line)
        if not word or word.startswith("#"):
            continue
        if word == "user":
            if not rest:
                raise AclError(f"line {number}: a user without a name")
            rules = found.users.setdefault(rest, [])
        elif word in ("topic", "pattern"):
            (rules if word == "topic" else found.patterns).append(_rule(rest, number))
        else:
            raise AclError(f"line {number}: begins with none of user, topic, pattern")
    return found


def _first(text: str) -> tuple[str, str]:
    """The first word, and the rest."""
    first, *rest = text.strip().split(None, 1) or [""]
    return first, rest[0] if rest else ""


def _rule(text: str, number: int) -> Rule:
    """As mosquitto reads it: a topic with spaces needs the access before it."""
    access, topic = _first(text)
    if not topic:
        access, topic = "readwrite", access
    if access not in _ACCESS:
        raise AclError(f"line {number}: the access is none of read, write, readwrite, deny")
    if not is_valid_filter(topic):
        raise AclError(f"line {number}: no topic, or one that is no topic filter")
    return Rule(cast(Access, access), topic)


def main(arguments: list[str]) -> int:
    """Check one file; see the module."""
    try:
        read(Path(arguments[0]))
    except (AclError, OSError) as error:
        print(f"{arguments[0]}: {error}")
        return REFUSES
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
