"""JSON Schema as nodes may write it: the verdict, the pointer, and a bound on the work."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from busbar.bus.json_schema import MAX_STEPS, Budget, UndecidedError, mistakes, violation
from hypothesis import given
from hypothesis import strategies as st

SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1.0, "", "a", "ab", "x"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
TYPES = ["null", "boolean", "integer", "number", "string", "array", "object"]
NAMES = ["a", "b", "x"]
BOUNDS = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]
COUNTS = ["minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"]
ONE = ["additionalProperties", "propertyNames", "items", "not", "if", "then", "else"]
SEVERAL = ["prefixItems", "anyOf", "oneOf", "allOf"]
NAMED = {"properties": NAMES, "patternProperties": ["^a", "x"]}
PLAIN = ["type", "enum", "const", "pattern", "required", *BOUNDS, *COUNTS]


@st.composite
def schemas(draw: st.DrawFn, depth: int = 3) -> Any:
    """A valid schema of the keywords that are followed."""
    if draw(st.integers(0, 5)) == 0:
        return draw(st.booleans())
    known = [*PLAIN, *(*ONE, *SEVERAL, *NAMED)] if depth else PLAIN
    found: dict[str, Any] = {}
    for keyword in draw(st.lists(st.sampled_from(known), max_size=3, unique=True)):
        if keyword in ONE:
            found[keyword] = draw(schemas(depth - 1))
        elif keyword in SEVERAL:
            found[keyword] = [draw(schemas(depth - 1)) for _ in range(draw(st.integers(1, 2)))]
        elif keyword in NAMED:
            found[keyword] = {draw(st.sampled_from(NAMED[keyword])): draw(schemas(depth - 1))}
        else:
            found[keyword] = draw(_plain(keyword))
    return found


def _plain(keyword: str) -> st.SearchStrategy[Any]:
    match keyword:
        case "type":
            names = st.sampled_from(TYPES)
            return names | st.lists(names, min_size=1, max_size=2, unique=True)
        case "enum":
            return st.lists(VALUES, min_size=1, max_size=3)
        case "const":
            return VALUES
        case "pattern":
            return st.sampled_from(["^a", "b$"])
        case "required":
            return st.lists(st.sampled_from(NAMES), max_size=2, unique=True)
    return st.integers(-2, 3) if keyword in BOUNDS else st.integers(0, 3)


@st.composite
def broken_schemas(draw: st.DrawFn) -> Any:
    """A schema with anything where a keyword has its own."""
    found = draw(schemas())
    for keyword in draw(st.lists(st.sampled_from([*PLAIN, *ONE, *SEVERAL, *NAMED, "$ref"]), max_size=3)):
        if isinstance(found, dict):
            found[keyword] = draw(VALUES)
    return found


MEMBER = {"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"minimum": 2}}}

CASES: list[tuple[Any, Any, str | None]] = [
    ({"type": "integer"}, True, ""),
    ({"type": "integer"}, 1.0, None),
    ({"type": "number"}, True, ""),
    ({"const": 1}, True, ""),
    ({"enum": [False]}, 0, ""),
    ({"enum": [[1, {"a": True}]]}, [1, {"a": 1}], ""),
    (MEMBER, {"a": 2}, None),
    (MEMBER, {"a": 1}, "/a"),
    ({"required": ["x/y"]}, {}, "/x~1y"),
    ({"properties": {"a": {}}, "additionalProperties": False}, {"b~": 1}, "/b~0"),
    ({"anyOf": [{"type": "string"}, {"properties": {"a": {"type": "string"}}}]}, {"a": 1}, "/a"),
    ({"items": {"maxLength": 1}}, ["a", "bc"], "/1"),
    ({"uniqueItems": True, "whatever": 3}, [1, 1], None),
]


@pytest.mark.parametrize(("schema", "value", "at"), CASES)
def test_the_verdict_has_a_pointer(schema: Any, value: Any, at: str | None) -> None:
    found = violation(value, schema)
    assert (None if found is None else found.pointer) == at


@given(schemas(), VALUES)
def test_it_agrees_with_the_reference_implementation(schema: Any, value: Any) -> None:
    try:
        library = importlib.import_module("jsonschema")
    except ImportError:
        pytest.skip("the package jsonschema is not installed")
    assert (violation(value, schema, trusted=True) is None) == library.Draft202012Validator(schema).is_valid(
        value
    )


@given(schemas(), VALUES)
def test_without_regular_expressions_nothing_more_is_refused(schema: Any, value: Any) -> None:
    try:
        refused = violation(value, schema) is not None
    except UndecidedError:
        return
    assert not refused or violation(value, schema, trusted=True) is not None


@given(broken_schemas(), VALUES)
def test_a_malformed_schema_decides_nothing(schema: Any, value: Any) -> None:
    try:
        violation(value, schema)
    except UndecidedError as error:
        assert str(error)


def _nested(depth: int) -> Any:
    schema: Any = {}
    for _ in range(depth):
        schema = {"allOf": [schema]}
    return schema


DOUBLING = {"$ref": "#/$defs/d", "$defs": {"d": {"anyOf": [{"allOf": [{"$ref": "#/$defs/d"}, False]}] * 2}}}
HOSTILE: dict[str, Any] = {
    "itself": {"$ref": "#"},
    "doubling": DOUBLING,
    "wide": {"allOf": [{"anyOf": [False] * 100 + [True]}] * 400},
    "names": {"enum": list(range(MAX_STEPS + 1))},
    "remote": {"$ref": "https://example.com/schema"},
    "elsewhere": {"$ref": "#/nowhere"},
    "deep": _nested(100),
    "malformed": {"properties": 3},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_schema_decides_nothing_and_costs_little(name: str) -> None:
    budget = Budget()
    with pytest.raises(UndecidedError):
        violation({"a": 1}, HOSTILE[name], budget)
    assert budget.left >= -2 * MAX_STEPS


def test_expressions_of_others_are_not_tried() -> None:
    """They may take exponential time; a node's own agent tries its own."""
    evil = {"type": "string", "pattern": "^(a+)+$"}
    assert violation("a" * 60 + "!", evil) is None
    assert violation("b", evil, trusted=True) is not None
    with pytest.raises(UndecidedError):
        violation("b", {"not": evil})


def test_a_budget_is_shared_by_several_schemas() -> None:
    budget = Budget(20)
    for _ in range(4):
        violation(1, {"type": "integer"}, budget)
    with pytest.raises(UndecidedError):
        for _ in range(4):
            violation(1, {"type": "integer"}, budget)


def test_mistakes_in_ones_own_schema_are_found() -> None:
    assert list(mistakes(MEMBER)) == []
    (text,) = mistakes({"properties": {"a": {"$ref": "other.json"}}})
    assert "leads to nothing" in text
    (text,) = mistakes({"items": {"pattern": "("}})
    assert "not a regular expression" in text
