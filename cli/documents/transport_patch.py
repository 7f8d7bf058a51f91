"""Changes to the transport of a group: a merge patch onto what it is, shown as a diff of members."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from busbar.bus.errors import pointer_step
from busbar.bus.routers.exposure import exposed_names, is_exposed, is_loosened, not_written_out

from ..errors import usage
from ..printing import output
from . import definition

Transport = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TransportChange:
    """What the options of a command say about a transport.

    `patch` is --transport with --type and --port in it, None when none was given; `replace`: it is the whole
    new definition; `allow_anonymous`: the change may let in more clients than before.
    """

    patch: Transport | None
    replace: bool = False
    allow_anonymous: bool = False

    def __bool__(self) -> bool:
        return self.patch is not None or self.allow_anonymous

    def of(self, present: Transport | None, was: str | None, runtime: str | None) -> dict[str, Any] | None:
        """The new transport; `was` and `runtime` are the runtimes before and after. None: it is not changed.

        Raises:
            CliError: it would let in more clients, and that was not asked for.
        """
        replaced = self.replace and self.patch is not None
        after: dict[str, Any] = merge_patch({} if replaced else present or {}, self.patch or {})
        if self.patch is not None:
            after.setdefault("type", definition.DEFAULT_TYPE)
        if "endpoint" in after and "listeners" in after:
            raise usage(
                "it has listeners, and no endpoint beside them: set theirs, as in --transport "
                '\'{"listeners": {"mqtt": {"port": 1883}}}\', or take one of both away with null'
            )
        if self.allow_anonymous and (
            not_written_out(after, runtime) if "listeners" in after else is_exposed(after, runtime)
        ):
            after["anonymous"] = True
        self._check(present, after, was, runtime)
        return None if after == (present or {}) else after

    def _of_each(self, exposed: list[str]) -> bool:
        """Whether the options say `anonymous` of each of these listeners."""
        given = (self.patch or {}).get("listeners")
        configs = [given.get(name) for name in exposed] if isinstance(given, Mapping) else []
        return bool(configs) and all(
            isinstance(each, Mapping) and isinstance(each.get("anonymous"), bool) for each in configs
        )

    def _check(
        self, present: Transport | None, after: Transport, was: str | None, runtime: str | None
    ) -> None:
        written = self.patch is not None and (
            isinstance(self.patch.get("anonymous"), bool) or self._of_each(exposed_names(after, runtime))
        )
        why = is_loosened(present, after, was, runtime)
        if why and not (self.allow_anonymous or written):
            raise usage(f"{why}: say --allow-anonymous if that is intended")


def asked_change(
    patch: Transport | None, whole: object | None, replace: bool, allow_anonymous: bool
) -> TransportChange:
    """What an update's options ask for; `whole` is the value of --transport.

    Raises:
        CliError: --replace-transport without it.
    """
    if replace and whole is None:
        raise usage("--replace-transport goes with --transport")
    return TransportChange(patch, replace, allow_anonymous)


def show_change(title: str, present: Transport | None, listens: Transport | None) -> None:
    """Note what differs, before it is done; nothing where `listens` is None."""
    if listens is not None:
        output.note(f"transport of {title}:")
        for line in diff(present or {}, listens):
            output.note(f"  {line}")


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396: members of `patch` replace those of `target`, null takes one away, objects are merged."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def diff(before: Any, after: Any, pointer: str = "") -> Iterator[str]:
    """Lines such as `/endpoint/port: 24000 -> 24050`, one for each member that differs."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in [*before, *(name for name in after if name not in before)]:
            yield from diff(before.get(name), after.get(name), f"{pointer}/{pointer_step(name)}")
    elif before != after or type(before) is not type(after):
        yield f"{pointer or '/'}: {_text(before)} -> {_text(after)}"


def _text(value: Any) -> str:
    text = "none" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}…"
