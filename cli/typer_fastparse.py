"""Converts option values without pydantic, which typer imports for it: 130 ms for each command.

Only plain types are taken over: text, numbers, flags, paths, choices and lists of them. Whatever is not
recognised, or a typer that is built otherwise, is left alone and merely starts slower. The only file that
relies on undocumented names of typer (docs/decisions/0017).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import typer

_TRUE: Final = frozenset({"1", "true", "t", "yes", "y", "on"})
_FALSE: Final = frozenset({"0", "false", "f", "no", "n", "off"})
_WHOLE: Final = re.compile(r"-?[0-9]{1,18}")
_DECIMAL: Final = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?")


class PlainParam:
    """Stands in for typer's own converter of one parameter."""

    def __init__(
        self, convert: Callable[[Any], Any], info: Any, low: float | None, high: float | None
    ) -> None:
        self.convert = convert
        self.parameter_info = info
        self.low, self.high = low, high

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """Convert a value from the command line, or each of several."""
        many = param.multiple or param.nargs == -1
        if value is None:
            return () if many else None
        if many:
            return tuple(self._one(item, param, ctx) for item in value)
        return self._one(value, param, ctx)

    def _one(self, value: Any, param: Any, ctx: Any) -> Any:
        try:
            converted = self.convert(value)
        except ValueError as error:
            raise typer.BadParameter(str(error), ctx=ctx, param=param) from None
        below = self.low is not None and converted < self.low
        if below or (self.high is not None and converted > self.high):
            wanted = f"at least {self.low}" if below else f"at most {self.high}"
            raise typer.BadParameter(f"{value} is not {wanted}", ctx=ctx, param=param)
        return converted


def lighten(command: Any) -> None:
    """Replace the converters of a command's parameters, and of its --help, where they are plain."""
    for param in command.params:
        _lighten(param)
    make_help = command.get_help_option

    def get_help_option(ctx: Any) -> Any:
        param = make_help(ctx)
        _lighten(param)
        return param

    command.get_help_option = get_help_option


def _lighten(param: Any) -> None:
    descriptor = getattr(param, "type_descriptor", None)
    if descriptor is None or not hasattr(param, "get_runtime_param"):
        return
    info, convert = descriptor.parameter_info, converter(descriptor.annotation)
    if convert is not None and getattr(info, "parser", None) is None:
        plain = PlainParam(convert, info, getattr(info, "min", None), getattr(info, "max", None))
        param.get_runtime_param = lambda: plain


def converter(annotation: Any) -> Callable[[Any], Any] | None:
    """The converter for a plain type, None for any other."""
    origin = get_origin(annotation)
    if origin is list:
        return converter(get_args(annotation)[0])
    if origin is Literal:
        return _choice(get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return None
    return _PLAIN.get(annotation)


def _choice(choices: tuple[Any, ...]) -> Callable[[Any], Any]:
    def choose(value: Any) -> Any:
        if value not in choices:
            raise ValueError(f"{value!r} is none of {', '.join(map(str, choices))}")
        return value

    return choose


def _int(value: Any) -> int:
    """Plain decimal digits: `+1` reads as relative, and is not taken for 1."""
    if isinstance(value, str) and not _WHOLE.fullmatch(value):
        raise ValueError(f"{value!r} is not a whole number")
    return int(value)


def plain_float(value: Any) -> float:
    """Plain decimal digits: no `nan`, no exponent, no unit. Raises ValueError."""
    if isinstance(value, str) and not _DECIMAL.fullmatch(value):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).lower()
    if word not in _TRUE | _FALSE:
        raise ValueError(f"{value!r} is neither yes nor no")
    return word in _TRUE


_PLAIN: Final[dict[Any, Callable[[Any], Any]]] = {
    str: str,
    int: _int,
    float: plain_float,
    bool: _bool,
    Path: Path,
}
