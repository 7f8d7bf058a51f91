"""Answers that follow from the store alone, kept as bytes until the next commit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from busbar.bus.decode import encode
from busbar.bus.params import Params
from msgspec import Raw

KEPT: Final = frozenset(
    {
        "get_routercluster",
        "get_routercluster_by_name",
        "list_nodes",
        "list_routercluster_nodes",
        "list_routercluster_workergroups",
        "list_routerclusters",
    }
)
"""Reads whose answer holds no time and nothing observed: it stays the same until something is committed."""
MAX_BYTES: Final = 4 * 1024 * 1024
"""Some ten lists of 10,000 objects."""


class Kept:
    """Asks the store before every answer how often it has committed: what was kept is never older than the
    last change that was answered."""

    def __init__(self, commits: Callable[[], int]) -> None:
        self._commits = commits
        self._version = -1
        self._room = MAX_BYTES
        self._answers: dict[tuple[str, bytes], Raw] = {}

    def answer(self, op: str, params: Params, make: Callable[[], Any]) -> Any:
        """The result of `make`, or the encoded one of the last time."""
        if op not in KEPT:
            return make()
        version = self._commits()
        if version != self._version or self._room < 0:
            self._answers.clear()
            self._version, self._room = version, MAX_BYTES
        key = (op, encode(params))
        if key not in self._answers:
            encoded = encode(make())
            self._answers[key] = Raw(encoded)
            self._room -= len(encoded)
        return self._answers[key]
