"""Topic trees: who subscribed to what, and what is retained where. Pure: values in, values out.

Both walk the levels of one topic or filter, so their cost depends on its depth and its wildcards and not
on how many filters or topics there are. Rules: MQTT 3.1.1, section 4.7.
"""

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class _Branch(Generic[K]):
    __slots__ = ("children", "keys")

    def __init__(self) -> None:
        self.children: dict[str, _Branch[K]] = {}
        self.keys: dict[K, int] = {}


class SubscriptionTree(Generic[K]):
    """Filters, each with its subscribers and the QoS granted to them."""

    def __init__(self) -> None:
        self._root: _Branch[K] = _Branch()

    def add(self, wanted: str, key: K, qos: int) -> None:
        """Subscribe `key` to the filter; replaces its former QoS."""
        branch = self._root
        for level in wanted.split("/"):
            branch = branch.children.setdefault(level, _Branch())
        branch.keys[key] = qos

    def remove(self, wanted: str, key: K) -> None:
        """Undo `add`; branches without subscribers go with it."""
        path, branch = [], self._root
        for level in wanted.split("/"):
            path.append((branch, level))
            if (child := branch.children.get(level)) is None:
                return
            branch = child
        branch.keys.pop(key, None)
        for parent, level in reversed(path):
            child = parent.children[level]
            if child.keys or child.children:
                break
            del parent.children[level]

    def match(self, topic: str) -> dict[K, int]:
        """Everybody whose filters match the topic, each once, with the highest QoS granted."""
        found: dict[K, int] = {}
        branches = [self._root]
        wild = not topic.startswith("$")  # 4.7.2: a leading wildcard never matches $-topics
        for level in topic.split("/"):
            below: list[_Branch[K]] = []
            for branch in branches:
                self._step(branch.children, level, wild, below, found)
            branches, wild = below, True
        for branch in branches:
            _merge(found, branch.keys)
            if (rest := branch.children.get("#")) is not None:
                _merge(found, rest.keys)
        return found

    @staticmethod
    def _step(
        children: dict[str, _Branch[K]], level: str, wild: bool, below: list[_Branch[K]], found: dict[K, int]
    ) -> None:
        if (exact := children.get(level)) is not None:
            below.append(exact)
        if wild and (one := children.get("+")) is not None:
            below.append(one)
        if wild and (rest := children.get("#")) is not None:
            _merge(found, rest.keys)


def _merge(found: dict[K, int], keys: dict[K, int]) -> None:
    for key, qos in keys.items():
        if qos > found.get(key, -1):
            found[key] = qos


class _Leaf(Generic[V]):
    __slots__ = ("children", "value")

    def __init__(self) -> None:
        self.children: dict[str, _Leaf[V]] = {}
        self.value: V | None = None


class TopicTree(Generic[V]):
    """One value per topic, found by topic or by filter."""

    def __init__(self) -> None:
        self._root: _Leaf[V] = _Leaf()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def get(self, topic: str) -> V | None:
        """The topic's value, or None."""
        leaf = self._root
        for level in topic.split("/"):
            if (child := leaf.children.get(level)) is None:
                return None
            leaf = child
        return leaf.value

    def put(self, topic: str, value: V) -> None:
        """Set the topic's value."""
        leaf = self._root
        for level in topic.split("/"):
            leaf = leaf.children.setdefault(level, _Leaf())
        self._count += leaf.value is None
        leaf.value = value

    def pop(self, topic: str) -> V | None:
        """Take the topic's value out; None when there is none."""
        path, leaf = [], self._root
        for level in topic.split("/"):
            path.append((leaf, level))
            if (child := leaf.children.get(level)) is None:
                return None
            leaf = child
        value, leaf.value = leaf.value, None
        self._count -= value is not None
        for parent, level in reversed(path):
            child = parent.children[level]
            if child.value is not None or child.children:
                break
            del parent.children[level]
        return value

    def match(self, wanted: str) -> Iterator[V]:
        """The values of all topics that the filter matches."""
        return self._walk(self._root, tuple(wanted.split("/")), 0)

    def _walk(self, leaf: _Leaf[V], wanted: tuple[str, ...], depth: int) -> Iterator[V]:
        if depth == len(wanted):
            if leaf.value is not None:
                yield leaf.value
        elif wanted[depth] == "#":
            yield from self._all(leaf, depth)
        elif wanted[depth] != "+":
            if (child := leaf.children.get(wanted[depth])) is not None:
                yield from self._walk(child, wanted, depth + 1)
        else:
            for child in _below(leaf, depth):
                yield from self._walk(child, wanted, depth + 1)

    def _all(self, leaf: _Leaf[V], depth: int) -> Iterator[V]:
        stack = [leaf]
        while stack:
            top = stack.pop()
            if top.value is not None:
                yield top.value
            stack.extend(_below(top, depth if top is leaf else 1))


def _below(leaf: _Leaf[V], depth: int) -> list[_Leaf[V]]:
    """The children a wildcard may enter: in the first level not those that begin with `$`."""
    if depth:
        return list(leaf.children.values())
    return [child for level, child in leaf.children.items() if not level.startswith("$")]
