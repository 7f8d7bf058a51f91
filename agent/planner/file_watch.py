"""What follows when files that a running worker was started with change on disk. Pure.

A change counts once two looks have found the same: files are often written in several steps, such as a
certificate and then its key. What was judged is judged again when it changes again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum, auto
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

Identity = tuple[int, int, int] | None
"""A file's inode, size and time of change (ns); None: it can't be looked at."""
Files = Mapping[str, Identity]
"""By the pointer to the member that names the file."""
_NAMED: Final = 3


class FileStep(Enum):
    """What to do after a look."""

    NONE = auto()
    RELOAD = auto()
    """Have the files judged, then the router read them again."""
    TELL = auto()
    """Nothing but to say which files have changed: it reads them at its start alone."""


class FileWatch(Struct, frozen=True):
    """`loaded`: what the router has read. `seen`: the last look. `judged`: what was last acted on."""

    loaded: Files = field(default_factory=dict)
    seen: Files = field(default_factory=dict)
    judged: Files = field(default_factory=dict)


def looked(watch: FileWatch, now: Files, reloaded: Collection[str]) -> tuple[FileWatch, FileStep]:
    """The watch after a look, and what to do; `reloaded` are the members that the router reads again.

    A file that was not known at the start counts as loaded.
    """
    new = {pointer: identity for pointer, identity in now.items() if pointer not in watch.loaded}
    watch = replace(watch, loaded={**watch.loaded, **new}) if new else watch
    if dict(now) != dict(watch.seen):
        return replace(watch, seen=dict(now)), FileStep.NONE
    if dict(now) == dict(watch.judged):
        return watch, FileStep.NONE
    before, watch = watch.judged, replace(watch, judged=dict(now))
    changed = changed_files(watch)
    if any(member_of(pointer) in reloaded for pointer in changed):
        return watch, FileStep.RELOAD
    return watch, FileStep.TELL if changed or before else FileStep.NONE


def was_reloaded(watch: FileWatch, files: Files, reloaded: Collection[str]) -> FileWatch:
    """The router has read these again, as far as it does."""
    read = {pointer: found for pointer, found in files.items() if member_of(pointer) in reloaded}
    return replace(watch, loaded={**watch.loaded, **read})


def changed_files(watch: FileWatch) -> list[str]:
    """The pointers to files that were judged, and are not what the router has read."""
    return sorted(each for each, found in watch.judged.items() if watch.loaded.get(each, found) != found)


def stale_files(watch: FileWatch, reloaded: Collection[str]) -> str | None:
    """Which files a new start would read otherwise, as text; without those that a reload reads."""
    found = [pointer for pointer in changed_files(watch) if member_of(pointer) not in reloaded]
    if not found:
        return None
    names = ", ".join(found[:_NAMED]) + (f" and {len(found) - _NAMED} more" if len(found) > _NAMED else "")
    return f"changed on this node since: {names}"


def member_of(pointer: str) -> str:
    """The member that names the file: the last step of its pointer."""
    return pointer.rpartition("/")[2]
