"""Topic trees: who subscribed to what, and what is retained where. Pure: values in, values out.

Both walk the levels of one topic or filter, so their cost depends on its depth and its wildcards and not
on how many filters or topics there are. Rules: MQTT 3.1.1, section 4.7 (`bus.topics.matches` is the oracle).
"""

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class _Node(Generic[V]):
    __slots__ = ("children", "value")

    def __init__(self) -> None:
        self.children: dict[str, _Node[V]] = {}
        self.value: V | None = None


class _Tree(Generic[V]):
    """One value per path of levels; a node without a value and without children is removed."""

    def __init__(self) -> None:
        self._root: _Node[V] = _Node()

    def get(self, path: str) -> V | None:
        """The path's value, or None."""
        node = self._root
        for level in path.split("/"):
            if (child := node.children.get(level)) is None:
                return None
            node = child
        return node.value

    def _make(self, path: str) -> _Node[V]:
        node = self._root
        for level in path.split("/"):
            if (child := node.children.get(level)) is None:
                child = node.children[level] = _Node()
            node = child
        return node

    def _remove(self, path: str) -> None:
        """Take the path's value out, and all nodes that were there for it alone."""
        trail, node = [], self._root
        for level in path.split("/"):
            trail.append((node, level))
            if (child := node.children.get(level)) is None:
                return
            node = child
        node.value = None
        for parent, level in reversed(trail):
            child = parent.children[level]
            if child.value is not None or child.children:
                break
            del parent.children[level]


class SubscriptionTree(_Tree[dict[K, int]]):
    """Filters, each with its subscribers and the QoS granted to them."""

    def add(self, pattern: str, key: K, qos: int) -> None:
        """Subscribe `key` to the filter; replaces its former QoS."""
        node = self._make(pattern)
        if node.value is None:
            node.value = {}
        node.value[key] = qos

    def remove(self, pattern: str, key: K) -> None:
        """Undo `add`."""
        keys = self.get(pattern)
        if keys is not None and keys.pop(key, None) is not None and not keys:
            self._remove(pattern)

    def match(self, topic: str) -> dict[K, int]:
        """Everybody whose filters match the topic, each once, with the highest QoS granted."""
        found: dict[K, int] = {}
        nodes = [self._root]
        wild = not topic.startswith("$")  # 4.7.2: a leading wildcard never matches $-topics
        for level in topic.split("/"):
            below: list[_Node[dict[K, int]]] = []
            for node in nodes:
                self._step(node.children, level, wild, below, found)
            nodes, wild = below, True
        for node in nodes:
            _merge(found, node.value)
            if (rest := node.children.get("#")) is not None:
                _merge(found, rest.value)
        return found

    @staticmethod
    def _step(
        children: dict[str, _Node[dict[K, int]]],
        level: str,
        wild: bool,
        below: list[_Node[dict[K, int]]],
        found: dict[K, int],
    ) -> None:
        if (exact := children.get(level)) is not None:
            below.append(exact)
        if wild and (one := children.get("+")) is not None:
            below.append(one)
        if wild and (rest := children.get("#")) is not None:
            _merge(found, rest.value)


def _merge(found: dict[K, int], keys: dict[K, int] | None) -> None:
    for key, qos in (keys or {}).items():
        if qos > found.get(key, -1):
            found[key] = qos


class TopicTree(_Tree[V]):
    """One value per topic, found by topic or by filter."""

    def __init__(self) -> None:
        super().__init__()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, topic: str, value: V) -> None:
        """Set the topic's value."""
        node = self._make(topic)
        self._count += node.value is None
        node.value = value

    def pop(self, topic: str) -> V | None:
        """Take the topic's value out; None when there is none."""
        value = self.get(topic)
        if value is not None:
            self._remove(topic)
            self._count -= 1
        return value

    def match(self, pattern: str) -> Iterator[V]:
        """The values of all topics that the filter matches."""
        return self._walk(self._root, tuple(pattern.split("/")), 0)

    def _walk(self, node: _Node[V], pattern: tuple[str, ...], depth: int) -> Iterator[V]:
        if depth == len(pattern):
            if node.value is not None:
                yield node.value
        elif pattern[depth] == "#":
            yield from self._all(node, depth)
        elif pattern[depth] != "+":
            if (child := node.children.get(pattern[depth])) is not None:
                yield from self._walk(child, pattern, depth + 1)
        else:
            for child in _below(node, depth):
                yield from self._walk(child, pattern, depth + 1)

    def _all(self, node: _Node[V], depth: int) -> Iterator[V]:
        stack = [node]
        while stack:
            top = stack.pop()
            if top.value is not None:
                yield top.value
            stack.extend(_below(top, depth if top is node else 1))


def _below(node: _Node[V], depth: int) -> list[_Node[V]]:
    """The children a wildcard may enter: in the first level not those that begin with `$`."""
    if depth:
        return list(node.children.values())
    return [child for level, child in node.children.items() if not level.startswith("$")]
