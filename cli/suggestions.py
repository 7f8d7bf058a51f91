"""What to say instead of the words of other tools: `get clusters` is `cluster list` here."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from typer.core import TyperGroup

VERBS: Final = frozenset({"get", "ls", "list", "show", "describe"})
"""Words for which other tools have commands that list or show."""
LISTED: Final = frozenset({"cluster", "group", "node", "worker", "event", "principal", "context"})
"""Commands with a `list`."""
SHOWN: Final = frozenset({"cluster", "group", "node", "worker", "context", "manager"})
"""Commands with a `show`."""
KINDS: Final = ("cluster", "group", "worker", "node")
ORDERS: Final = {
    "create": ("cluster",), "delete": ("cluster",), "rm": ("cluster",), "add": ("group",),
    "remove": ("group",), "scale": ("group",), "update": ("group", "cluster"), "start": ("cluster", "group"),
    "stop": ("cluster", "group"), "restart": ("group", "worker"), "stat": ("cluster", "group"),
    "drain": ("node",), "undrain": ("node",), "cordon": ("node",), "uncordon": ("node",),
    "label": ("node",), "pair": ("node",),
}  # fmt: skip
"""Orders that other tools have before the kind of object, with the kinds that have them here."""
OVERVIEW: Final = "busbar status, or busbar cluster|group|node|worker list"


class SuggestingGroup(TyperGroup):
    """A group of commands that knows the words of other tools."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As typer's, but a command of other tools is told what it is called here."""
        if args[0] in VERBS and args[0] not in self.commands and not ctx.resilient_parsing:
            found = of_top(args[1:], self.commands) if ctx.parent is None else of_group(self.commands, args)
            if found:
                own = found if ctx.parent is None else f"{ctx.command_path} {found}"
                ctx.fail(f"No such command '{args[0]}'; use: {own}")
        if ctx.parent is None and not ctx.resilient_parsing and args[0] not in self.commands:
            found = "busbar worker list" if args[0] == "ps" else of_order(args)
            if found:
                ctx.fail(f"No such command '{args[0]}'; use: {found}")
        if args[0] not in self.commands and set(self.commands) <= set(KINDS) and not ctx.resilient_parsing:
            kinds = "|".join(kind for kind in KINDS if kind in self.commands)
            ctx.fail(f"Of what kind is that? Say: {ctx.command_path} {kinds} {_joined(*args)}")
        return super().resolve_command(ctx, args)


def of_top(words: Sequence[str], known: Collection[str]) -> str:
    """The command for `get` and these words: `clusters`, `cluster edge`, `cluster/edge`, or none."""
    if not words:
        return OVERVIEW
    kind, slash, name = words[0].partition("/")
    kind = kind if kind in known else kind.removesuffix("s")
    if kind not in known:
        return OVERVIEW
    has = {verb for verb, kinds in (("list", LISTED), ("show", SHOWN)) if kind in kinds}
    rest = [name, *words[1:]] if slash else list(words[1:])
    return _joined("busbar", kind, *(_list_or_show(has, rest) if has else rest))


def of_order(args: Sequence[str]) -> str:
    """The command for an order before its object, `scale edge/web 3` or `restart group edge/web`, or none."""
    kinds = ORDERS.get(args[0], ())
    verb = {"rm": "delete"}.get(args[0], args[0])
    if not kinds:
        return ""
    if len(args) > 1 and args[1].removesuffix("s") in KINDS:
        return _joined("busbar", args[1].removesuffix("s"), verb, *args[2:])
    return f"busbar {'|'.join(kinds)} {_joined(verb, *args[1:])}"


def of_group(known: Collection[str], args: Sequence[str]) -> str:
    """The command of one group for `ls` or `get edge`; empty where the group neither lists nor shows."""
    has = {"list", "show"} & set(known)
    return _joined(*_list_or_show(has, args[1:])) if has else ""


def _list_or_show(has: Collection[str], rest: Sequence[str]) -> list[str]:
    """`show` for what is named, `list` otherwise."""
    named = bool(rest) and not rest[0].startswith("-")
    if "show" in has and (named or "list" not in has):
        return ["show", *rest]
    return ["list", *rest[1 if named else 0 :]]


def _joined(*words: str) -> str:
    import shlex

    from busbar.bus.printable import printable

    return printable(shlex.join(words))
