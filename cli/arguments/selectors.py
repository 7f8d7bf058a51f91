"""Which objects a list is narrowed to: by labels of nodes, by tags of clusters and groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..errors import usage

Labels = Mapping[str, str] | None


def by_labels(asked: Sequence[str] | None) -> Callable[[Labels], bool]:
    """Whether labels are all those asked for: `zone=a`, or `zone` with any value.

    Raises:
        CliError: one has no key.
    """
    wanted = [text.partition("=") for text in asked or ()]
    if any(not key for key, _, _ in wanted):
        raise usage("--label expects key=value, or a key")

    def matches(labels: Labels) -> bool:
        own = labels or {}
        return all(key in own and (not equals or own[key] == value) for key, equals, value in wanted)

    return matches


def has_tags(tags: Sequence[str] | None, asked: Sequence[str] | None) -> bool:
    """Whether each tag asked for is among the tags."""
    return set(asked or ()) <= set(tags or ())
