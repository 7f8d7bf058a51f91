"""Read cache: results that depend on the store alone, kept encoded until the next commit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from busbar.bus.decode import encode
from busbar.bus.params import Params
from msgspec import Raw

CACHED_OPS: Final = frozenset(
    {
        "get_routercluster",
        "get_routercluster_by_name",
        "list_nodes",
        "list_routercluster_nodes",
        "list_routercluster_workergroups",
        "list_routerclusters",
    }
)
"""Reads whose result holds neither a time nor an observation: it changes only with a commit."""
MAX_BYTES: Final = 4 * 1024 * 1024
"""About ten lists of 10,000 objects."""


class ReadCache:
    """Compares the store's number of commits before each answer, so no entry is older than the last change
    that was acknowledged."""

    def __init__(self, commits: Callable[[], int]) -> None:
        self._commits = commits
        self._version = -1
        self._bytes_left = MAX_BYTES
        self._results: dict[tuple[str, bytes], Raw] = {}

    def result(self, op: str, params: Params, compute: Callable[[], object]) -> object:
        """The result of `compute`, or its cached encoding."""
        if op not in CACHED_OPS:
            return compute()
        version = self._commits()
        if version != self._version or self._bytes_left < 0:
            self._results.clear()
            self._version, self._bytes_left = version, MAX_BYTES
        key = (op, encode(params))
        if key not in self._results:
            encoded = encode(compute())
            self._results[key] = Raw(encoded)
            self._bytes_left -= len(encoded)
        return self._results[key]
