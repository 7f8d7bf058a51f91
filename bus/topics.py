"""Builds and parses every topic of the contract; nothing else spells one. Also MQTT's topic rules. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Literal, NamedTuple

VERSION: Final = "v1"
"""The version level of every topic: never configurable, so that two versions can share a broker."""
NO_CLUSTER: Final = "_"
"""The cluster level of topics for objects that belong to no cluster."""
PROBE: Final = "_"
"""The level, no name, of topics on which a manager sends itself empty messages to find out its rights."""
DEFAULT_INBOX: Final = "default"
NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9_-]{0,63}(?![\s\S])"
"""A name (contract, section 1). The look-ahead replaces `$`, which in Python allows a final newline."""
_NAME = re.compile(NAME_PATTERN)

StatusKind = Literal["routercluster", "node", "workergroup", "worker"]
NodeLeaf = Literal["assignment", "command", "state", "reported", "heartbeat"]
NODE_LEAVES: Final = frozenset({"assignment", "command", "state", "reported", "heartbeat"})


class RequestTopic(NamedTuple):
    """Caller and operation of a request; the broker's ACL has checked the caller."""

    caller: str
    operation: str


class StatusTopic(NamedTuple):
    """The object of a retained status."""

    cluster: str
    kind: str
    name: str


class EventTopic(NamedTuple):
    """The object of an event, what happened to it, and in which realm."""

    realm: str
    cluster: str
    kind: str
    name: str
    verb: str


class NodeTopic(NamedTuple):
    """The node of a topic, and the last level."""

    node: str
    leaf: str


def is_name(text: str) -> bool:
    """Tell whether `text` is a valid name: realm, cluster, worker group, node, principal or inbox."""
    return _NAME.match(text) is not None


def parse_event(topic: str, root: str) -> EventTopic | None:
    """Parse an event topic of any realm below `root`; None for any other topic."""
    prefix = f"{root}/{VERSION}/"
    levels = topic[len(prefix) :].split("/") if topic.startswith(prefix) else []
    if len(levels) != 6 or levels[1] != "event" or not is_name(levels[0]):
        return None
    return EventTopic(levels[0], *levels[2:])


def is_request(topic: str, root: str) -> bool:
    """Tell whether this is a request topic of any realm below `root`."""
    prefix = f"{root}/{VERSION}/"
    return topic.startswith(prefix) and topic[len(prefix) :].split("/", 2)[1:2] == ["request"]


def is_log(topic: str, root: str) -> bool:
    """Tell whether this is a log topic of any realm and node below `root`."""
    prefix = f"{root}/{VERSION}/"
    levels = topic[len(prefix) :].split("/", 4)
    return topic.startswith(prefix) and levels[1:2] == ["node"] and levels[3:4] == ["log"]


def is_valid_topic(topic: str) -> bool:
    """Tell whether one can publish to this: not empty, no wildcard, no NUL (MQTT 3.1.1, section 4.7)."""
    return bool(topic) and not any(char in topic for char in "#+\0")


def is_valid_filter(pattern: str) -> bool:
    """Tell whether this is a well-formed topic filter (MQTT 3.1.1, section 4.7)."""
    levels = pattern.split("/")
    hash_inside = any("#" in level for level in levels[:-1]) or ("#" in levels[-1] and levels[-1] != "#")
    plus_inside = any("+" in level and level != "+" for level in levels)
    return bool(pattern) and "\0" not in pattern and not hash_inside and not plus_inside


@lru_cache(maxsize=1024)
def matcher(pattern: str) -> Callable[[str], object]:
    """What tells, by a true value, whether the filter `pattern` matches a topic (MQTT 3.1.1, section 4.7).

    Given a well-formed filter instead of a topic, it tells whether `pattern` matches all that this one does:
    a wildcard matches a literal level, `+` also `+`, and `#` everything below and the parent level itself.
    Topics that begin with `$` are matched by no leading wildcard.
    """
    levels = pattern.split("/")
    open_end = levels[-1] == "#"
    literal = levels[:-1] if open_end else levels
    text = "/".join("[^/#]*" if level == "+" else re.escape(level) for level in literal)
    if open_end:
        text = f"{text}(?:/.*)?" if literal else ".*"
    if levels[0] in ("+", "#"):
        text = rf"(?!\$){text}"
    return re.compile(rf"{text}\Z", re.DOTALL).match


def matches(pattern: str, topic: str) -> bool:
    """Tell whether a topic filter matches a topic (MQTT 3.1.1, section 4.7)."""
    return matcher(pattern)(topic) is not None


@dataclass(frozen=True, slots=True)
class Topics:
    """All topics of one realm.

    Raises:
        ValueError: when realm is not a name, or root is empty or holds a wildcard, a NUL or a leading `$`.
    """

    realm: str
    root: str = "busbar"
    prefix: str = field(init=False, repr=False, compare=False)
    """The levels that every topic of this realm starts with, without a trailing slash."""

    def __post_init__(self) -> None:
        if not is_name(self.realm):
            raise ValueError(f"realm {self.realm!r} is not a name: use [a-z0-9][a-z0-9_-]{{0,63}}")
        if not self.root or self.root.startswith(("$", "/")) or set(self.root) & set("+#\0"):
            raise ValueError(f"topic root {self.root!r} must be plain topic levels")
        object.__setattr__(self, "prefix", f"{self.root}/{VERSION}/{self.realm}")

    def request(self, caller: str, operation: str) -> str:
        return f"{self.prefix}/request/{caller}/{operation}"

    def response(self, caller: str, inbox: str) -> str:
        return f"{self.prefix}/response/{caller}/{inbox}"

    def event(self, cluster: str, kind: str, name: str, verb: str) -> str:
        return f"{self.prefix}/event/{cluster}/{kind}/{name}/{verb}"

    def status(self, cluster: str, kind: str, name: str) -> str:
        return f"{self.prefix}/status/{cluster}/{kind}/{name}"

    def manager_state(self, manager: str) -> str:
        return f"{self.prefix}/manager/{manager}/state"

    def node(self, node: str, leaf: NodeLeaf) -> str:
        return f"{self.prefix}/node/{node}/{leaf}"

    def node_log(self, node: str, worker: str) -> str:
        return f"{self.prefix}/node/{node}/log/{worker}"

    def all_requests(self) -> str:
        return f"{self.prefix}/request/+/+"

    def all_nodes(self, leaf: NodeLeaf) -> str:
        return f"{self.prefix}/node/+/{leaf}"

    def all_managers(self) -> str:
        return f"{self.prefix}/manager/+/state"

    def all_status(self) -> str:
        return f"{self.prefix}/status/#"

    def all_events(self) -> str:
        return f"{self.prefix}/event/#"

    def all_logs(self, node: str, worker: str = "+") -> str:
        return f"{self.prefix}/node/{node}/log/{worker}"

    def parse_request(self, topic: str) -> RequestTopic | None:
        """Parse a request topic of this realm; None for any other topic."""
        levels = self._below(topic)
        if len(levels) != 3 or levels[0] != "request":
            return None
        return RequestTopic(levels[1], levels[2])

    def is_response(self, topic: str) -> bool:
        """Tell whether this is a response topic of this realm."""
        return topic.startswith(f"{self.prefix}/response/")

    def parse_node(self, topic: str) -> NodeTopic | None:
        """Parse a node topic of this realm; None for any other topic, and for log topics."""
        levels = self._below(topic)
        if len(levels) != 3 or levels[0] != "node" or levels[2] not in NODE_LEAVES:
            return None
        return NodeTopic(levels[1], levels[2])

    def parse_log(self, topic: str) -> tuple[str, str] | None:
        """Node and worker of a log topic of this realm; None for any other topic."""
        levels = self._below(topic)
        if len(levels) != 4 or levels[0] != "node" or levels[2] != "log":
            return None
        return levels[1], levels[3]

    def parse_status(self, topic: str) -> StatusTopic | None:
        """Parse a status topic of this realm; None for any other topic."""
        levels = self._below(topic)
        if len(levels) != 4 or levels[0] != "status" or levels[2] == PROBE:
            return None
        return StatusTopic(levels[1], levels[2], levels[3])

    def parse_manager(self, topic: str) -> str | None:
        """The manager id of a `manager/{id}/state` topic; None for any other topic."""
        levels = self._below(topic)
        if len(levels) != 3 or levels[0] != "manager" or levels[2] != "state":
            return None
        return levels[1]

    def _below(self, topic: str) -> list[str]:
        if not topic.startswith(self.prefix + "/"):
            return []
        return topic[len(self.prefix) + 1 :].split("/")


def written_kind(topic: str) -> str:
    """The kind of a topic of the contract, of which an ACL gives all or none to one who writes it.

    A topic that is none of the contract's is a kind of its own.
    """
    _, found, rest = topic.partition(f"/{VERSION}/")
    levels = rest.split("/")
    if not found or len(levels) < 2:
        return topic
    return "/".join([levels[1], *levels[3:4]]) if levels[1] == "node" else levels[1]
