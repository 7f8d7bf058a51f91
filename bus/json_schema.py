"""Checks a value against a JSON Schema, which another host may have written. Pure.

What msgspec generates and people commonly write of draft 2020-12. Its cost is bounded whatever the schema
says: each step is counted, references stay within the document, and regular expressions are tried only where
the caller trusts the schema. An unknown keyword constrains nothing; beneath `not`, `oneOf` and `if`, where
that could turn into a refusal, it leaves the question open.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from .errors import pointer_step

MAX_SCHEMA: Final = 32 * 1024
"""Bytes of a schema that a node may report."""
MAX_STEPS: Final = 20_000
"""Steps of one decision: some 20 ms."""
MAX_DEPTH: Final = 64
"""Schemas entered within one another."""
_ANNOTATIONS: Final = frozenset(
    {
        *("$schema", "$id", "$defs", "$comment", "definitions", "title", "description", "default"),
        *("examples", "deprecated", "readOnly", "writeOnly", "discriminator", "format"),
    }
)
_TYPES: Final[Mapping[str, Callable[[Any], bool]]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: _is_number(value) and (isinstance(value, int) or value.is_integer()),
    "number": lambda value: _is_number(value),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}


class UndecidedError(Exception):
    """The schema can't be followed: malformed, a foreign reference, too deep or too much work."""


class Violation(Exception):
    """The value is refused: the JSON pointer into it, and why."""

    def __init__(self, pointer: str, detail: str) -> None:
        super().__init__(f"{pointer}: {detail}")
        self.pointer = pointer
        self.detail = detail


class Budget:
    """Steps that are left, for one decision about several schemas."""

    def __init__(self, steps: int = MAX_STEPS) -> None:
        self.left = steps

    def spend(self, steps: int = 1) -> None:
        self.left -= steps
        if self.left < 0:
            raise UndecidedError("the schema takes too many steps")


def violation(
    value: Any, schema: Any, budget: Budget | None = None, *, trusted: bool = False
) -> Violation | None:
    """The first violation found, or None. `trusted`: its regular expressions may be tried.

    Raises:
        UndecidedError: nothing is known.
    """
    try:
        _Check(schema, budget or Budget(), trusted).check(value, schema, "")
    except Violation as found:
        return found
    return None


class _Check:
    def __init__(self, root: Any, budget: Budget, trusted: bool) -> None:
        self._root, self._budget, self._trusted = root, budget, trusted
        self._depth = 0
        self._exact = 0
        """Within how many schemas a keyword that is not followed matters."""

    def check(self, value: Any, schema: Any, at: str) -> None:
        """Raises Violation, UndecidedError."""
        self._budget.spend()
        if schema is True or schema is False:
            if schema is False:
                raise Violation(at, "is not permitted here")
            return
        if not isinstance(schema, dict):
            raise UndecidedError("a schema is an object or a boolean")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise UndecidedError("schemas nested too deeply")
        try:
            for keyword, given in schema.items():
                self._keyword(keyword, given, schema, value, at)
        finally:
            self._depth -= 1

    def _keyword(self, keyword: str, given: Any, schema: dict[str, Any], value: Any, at: str) -> None:
        self._budget.spend()
        rule = _RULES.get(keyword)
        if rule is not None:
            try:
                rule(self, given, schema, value, at)
            except (TypeError, AttributeError, KeyError, ValueError) as error:
                raise UndecidedError(f"'{keyword}' is malformed") from error
        elif self._exact and keyword not in _ANNOTATIONS:
            raise UndecidedError(f"'{keyword}' is not followed")

    @contextmanager
    def _exactly(self) -> Iterator[None]:
        self._exact += 1
        try:
            yield
        finally:
            self._exact -= 1

    def _fails(self, value: Any, schema: Any, at: str) -> Violation | None:
        try:
            self.check(value, schema, at)
        except Violation as found:
            return found
        return None

    # --- references and combinations

    def ref(self, given: str, _: Any, value: Any, at: str) -> None:
        if not given.startswith("#"):
            raise UndecidedError("a reference leads out of the schema")
        found = self._root
        for step in given[1:].split("/")[1:]:
            self._budget.spend()
            found = found[step.replace("~1", "/").replace("~0", "~")]
        self.check(value, found, at)

    def all_of(self, given: list[Any], _: Any, value: Any, at: str) -> None:
        for schema in given:
            self.check(value, schema, at)

    def any_of(self, given: list[Any], _: Any, value: Any, at: str) -> None:
        failed = []
        for schema in given:
            found = self._fails(value, schema, at)
            if found is None:
                return
            failed.append(found)
        raise _closest(failed, at)

    def one_of(self, given: list[Any], _: Any, value: Any, at: str) -> None:
        with self._exactly():
            failed = [self._fails(value, schema, at) for schema in given]
        matching = failed.count(None)
        if matching == 0:
            raise _closest([found for found in failed if found is not None], at)
        if matching > 1:
            raise Violation(at, "matches more than one of the permitted forms")

    def not_(self, given: Any, _: Any, value: Any, at: str) -> None:
        with self._exactly():
            found = self._fails(value, given, at)
        if found is None:
            raise Violation(at, "has a form that is not permitted")

    def if_(self, given: Any, schema: dict[str, Any], value: Any, at: str) -> None:
        with self._exactly():
            branch = "then" if self._fails(value, given, at) is None else "else"
        if branch in schema:
            self.check(value, schema[branch], at)

    # --- values

    def type_(self, given: str | list[str], _: Any, value: Any, at: str) -> None:
        names = [given] if isinstance(given, str) else given
        self._budget.spend(len(names))
        if not any(_TYPES[name](value) for name in names):
            raise Violation(at, f"must be of type {' or '.join(names)}")

    def enum(self, given: list[Any], _: Any, value: Any, at: str) -> None:
        self._budget.spend(len(given))
        if not any(_same(value, each) for each in given):
            shown = ", ".join(str(each)[:40] for each in given[:8])
            raise Violation(at, f"must be one of {shown}{', …' if len(given) > 8 else ''}")

    def const(self, given: Any, _: Any, value: Any, at: str) -> None:
        if not _same(value, given):
            raise Violation(at, f"must be {str(given).lower() if isinstance(given, bool) else given}"[:80])

    def pattern(self, given: str, _: Any, value: Any, at: str) -> None:
        if not isinstance(value, str):
            return
        if self._trusted:
            if re.search(given, value) is None:
                raise Violation(at, f"must match {given}"[:200])
        elif self._exact:
            raise UndecidedError("'pattern' is not tried")

    # --- objects

    def properties(self, given: dict[str, Any], _: Any, value: Any, at: str) -> None:
        if isinstance(value, dict):
            for name in value:
                if name in given:
                    self.check(value[name], given[name], f"{at}/{pointer_step(name)}")

    def required(self, given: list[str], _: Any, value: Any, at: str) -> None:
        if isinstance(value, dict):
            self._budget.spend(len(given))
            for name in given:
                if name not in value:
                    raise Violation(f"{at}/{pointer_step(name)}", "is missing")

    def additional(self, given: Any, schema: dict[str, Any], value: Any, at: str) -> None:
        if not isinstance(value, dict):
            return
        known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
        for name in value:
            self._budget.spend()
            if name in known or self._matched(name, patterns):
                continue
            if given is False:
                names = ", ".join(sorted(known)[:20])
                raise Violation(f"{at}/{pointer_step(name)}", f"unknown member (known: {names or 'none'})")
            self.check(value[name], given, f"{at}/{pointer_step(name)}")

    def _matched(self, name: str, patterns: dict[str, Any]) -> bool:
        """Whether one of `patternProperties` may be meant; those that are not tried match all."""
        if self._trusted:
            return any(re.search(pattern, name) for pattern in patterns)
        if patterns and self._exact:
            raise UndecidedError("'patternProperties' is not tried")
        return bool(patterns)

    def pattern_properties(self, given: dict[str, Any], _: Any, value: Any, at: str) -> None:
        if not isinstance(value, dict):
            return
        if not self._trusted:
            if self._exact:
                raise UndecidedError("'patternProperties' is not tried")
            return
        for name in value:
            for pattern, schema in given.items():
                self._budget.spend()
                if re.search(pattern, name):
                    self.check(value[name], schema, f"{at}/{pointer_step(name)}")

    def property_names(self, given: Any, _: Any, value: Any, at: str) -> None:
        for name in value if isinstance(value, dict) else ():
            self.check(name, given, f"{at}/{pointer_step(name)}")

    # --- arrays

    def prefix_items(self, given: list[Any], _: Any, value: Any, at: str) -> None:
        for index, schema in enumerate(given if isinstance(value, list) else ()):
            if index < len(value):
                self.check(value[index], schema, f"{at}/{index}")

    def items(self, given: Any, schema: dict[str, Any], value: Any, at: str) -> None:
        if isinstance(value, list):
            first = len(schema.get("prefixItems", ()))
            for index in range(first, len(value)):
                self.check(value[index], given, f"{at}/{index}")


def _bound(applies: type | tuple[type, ...], measure: Callable[[Any], Any], sign: int, what: str) -> Any:
    """A rule for a lower (`sign` 1) or upper (-1) bound."""

    def rule(_: _Check, given: Any, __: Any, value: Any, at: str) -> None:
        if not _is_number(given):
            raise TypeError
        if isinstance(value, applies) and not isinstance(value, bool) and sign * (measure(value) - given) < 0:
            raise Violation(at, what.format(given))

    return rule


def _exclusive(sign: int, what: str) -> Any:
    def rule(_: _Check, given: Any, __: Any, value: Any, at: str) -> None:
        if _is_number(value) and sign * (value - given) <= 0:
            raise Violation(at, what.format(given))

    return rule


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(one: Any, other: Any) -> bool:
    """Equality in JSON, where true is not 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    return bool(one == other)


def _closest(failed: list[Violation], at: str) -> Violation:
    """Of alternatives that all fail, the one that got furthest tells most."""
    deepest = max(failed, key=lambda found: found.pointer.count("/"), default=Violation(at, "is refused"))
    if deepest.pointer != at or len(failed) == 1:
        return deepest
    # One that has the right type is what was meant.
    details = list(dict.fromkeys(found.detail for found in failed[:8]))
    meant = [text for text in details if not text.startswith("must be of type")]
    return Violation(at, "; or ".join(meant or details)[:300])


_NUMBER: Final = (int, float)
_RULES: Final[Mapping[str, Callable[[_Check, Any, Any, Any, str], None]]] = {
    "$ref": _Check.ref,
    "allOf": _Check.all_of,
    "anyOf": _Check.any_of,
    "oneOf": _Check.one_of,
    "not": _Check.not_,
    "if": _Check.if_,
    "then": lambda *_: None,
    "else": lambda *_: None,
    "type": _Check.type_,
    "enum": _Check.enum,
    "const": _Check.const,
    "pattern": _Check.pattern,
    "properties": _Check.properties,
    "required": _Check.required,
    "additionalProperties": _Check.additional,
    "patternProperties": _Check.pattern_properties,
    "propertyNames": _Check.property_names,
    "prefixItems": _Check.prefix_items,
    "items": _Check.items,
    "minimum": _bound(_NUMBER, lambda value: value, 1, "must be at least {}"),
    "maximum": _bound(_NUMBER, lambda value: value, -1, "must be at most {}"),
    "exclusiveMinimum": _exclusive(1, "must be more than {}"),
    "exclusiveMaximum": _exclusive(-1, "must be less than {}"),
    "minLength": _bound(str, len, 1, "must have at least {} characters"),
    "maxLength": _bound(str, len, -1, "must have at most {} characters"),
    "minItems": _bound(list, len, 1, "must have at least {} entries"),
    "maxItems": _bound(list, len, -1, "must have at most {} entries"),
    "minProperties": _bound(dict, len, 1, "must have at least {} members"),
    "maxProperties": _bound(dict, len, -1, "must have at most {} members"),
}


def mistakes(schema: Any) -> Iterator[str]:
    """What makes a schema of one's own useless: references that lead nowhere, malformed expressions."""
    parts: list[Any] = [schema]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            yield from _mistakes_in(part, schema)
            parts += part.values()
        elif isinstance(part, list):
            parts += part


def _mistakes_in(part: dict[str, Any], root: Any) -> Iterator[str]:
    reference, patterns = part.get("$ref"), part.get("patternProperties", {})
    if isinstance(reference, str):
        try:
            if not reference.startswith("#"):
                raise KeyError
            found = root
            for step in reference[1:].split("/")[1:]:
                found = found[step.replace("~1", "/").replace("~0", "~")]
        except (KeyError, TypeError):
            yield f"reference {reference[:80]} leads to nothing in this file"
    given = [part["pattern"]] if isinstance(part.get("pattern"), str) else []
    for pattern in [*given, *(patterns if isinstance(patterns, dict) else ())]:
        try:
            re.compile(pattern)
        except re.error as error:
            yield f"not a regular expression: {pattern[:80]}: {error}"
