"""Strict JSON in, canonical JSON out: the input limits of the contract (section 3). Pure."""

from __future__ import annotations

import hashlib
import json
import math
import re
from typing import Any, Final, NoReturn, TypeVar

import msgspec
import msgspec.inspect

from .errors import BusError, pointer_step
from .printable import printable

MAX_PAYLOAD: Final = 256 * 1024
"""Bytes; checked before parsing (contract, section 3)."""
MAX_REPORT: Final = 1024 * 1024
"""Bytes of an assignment or report: what a node may be assigned follows from it (`manager.planner.sizes`)."""
SHOWN: Final = 64
"""Characters of a wrong value that its error shows."""
MAX_DEPTH: Final = 32
"""Nested objects and arrays (contract, section 3)."""

T = TypeVar("T")
# Possessive quantifiers, and an unterminated string matches to the end: otherwise matching is O(n²).
_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_AS_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_AT = re.compile(r" - at `(.+)`$")
_MEMBER = re.compile(r"(?:unknown|required) field `(.+?)`")
_PATTERN = re.compile(r"Expected 'str' matching regex '(.+)'$")
_KEY_AT: Final = " - at `key` in `"
_ANY: Final = "..."
"""How msgspec names a member of an object that may have any."""
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")

encode = msgspec.json.Encoder(enc_hook=str).encode
"""Any message or plain value as compact UTF-8 JSON."""


def parse(payload: bytes, limit: int = MAX_PAYLOAD) -> dict[str, Any]:
    """Decode one JSON object, strictly.

    Raises:
        BusError: `payload_too_large`; or `malformed_request` when it is not UTF-8, not JSON, not an object,
            too deep, has a duplicate member, NaN, an infinite or absurdly long number, or a lone surrogate.
    """
    if len(payload) > limit:
        raise BusError("payload_too_large", f"{len(payload)} bytes; the limit is {limit}")
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _malformed(f"not UTF-8 at byte {error.start}") from None
    if _openers(payload) > MAX_DEPTH and _is_too_deep(payload):
        raise _malformed(f"nested deeper than {MAX_DEPTH}")
    try:
        value = _decode(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise _malformed("half a surrogate pair in a string") from None
    except json.JSONDecodeError as error:
        raise _malformed(f"not JSON: {error.msg} at character {error.pos}") from None
    except (ValueError, RecursionError):
        raise _malformed("a number has too many digits") from None
    if not isinstance(value, dict):
        raise _malformed("not a JSON object")
    return value


def convert(value: Any, kind: type[T], pointer: str = "", code: str = "invalid_argument") -> T:
    """Check a decoded value against a message type.

    Raises:
        BusError: with the given code and the JSON pointer (below `pointer`) to the invalid member.
    """
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        detail, at = explain(str(error))
        of_key = _KEY_AT in str(error)
        steps = _exact(value, kind, at, of_key)
        wrong = steps[-1] if of_key else _member(value, steps)
        if isinstance(wrong, str) and detail.startswith("not "):
            detail = f"'{printable(wrong[:SHOWN])}' is {detail}"
        if detail.startswith("Invalid enum value") and (valid := _valid(kind, steps)):
            detail += f": it is one of {', '.join(valid)}"
        exact = "".join(f"/{pointer_step(step)}" for step in steps)
        raise BusError(code, detail, [pointer + exact]) from None


def _exact(value: Any, kind: Any, at: str, of_key: bool) -> list[str]:
    """The steps to the invalid member. msgspec does not name one of an object with any members: it is halved
    until one is left, which fails alike."""
    steps = [_plain_step(step) for step in at.split("/")[1:]] + [_ANY] * of_key
    while _ANY in steps:
        place = steps[: steps.index(_ANY)]
        found = _member(value, place)
        if not isinstance(found, dict) or not found:
            break
        names = list(found)
        while len(names) > 1:
            half = names[: len(names) // 2]
            part = _with(value, place, {name: found[name] for name in half})
            names = half if _fails_at(part, kind) == at else names[len(half) :]
        steps[len(place)] = names[0]
        value = _with(value, place, {names[0]: found[names[0]]})
    return steps


def _plain_step(step: str) -> str:
    return step.replace("~1", "/").replace("~0", "~")


def _fails_at(value: Any, kind: Any) -> str | None:
    try:
        msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        return explain(str(error))[1]
    return None


def _member(value: Any, steps: list[str]) -> Any:
    for step in steps:
        if isinstance(value, list):
            value = value[int(step)]
        else:
            value = value.get(step) if isinstance(value, dict) else None
    return value


def _with(value: Any, steps: list[str], member: Any) -> Any:
    """A copy of the value with another member at the end of these steps."""
    if not steps:
        return member
    if isinstance(value, list):
        at = int(steps[0])
        return [*value[:at], _with(value[at], steps[1:], member), *value[at + 1 :]]
    return {**value, steps[0]: _with(value[steps[0]], steps[1:], member)}


def _valid(kind: Any, steps: list[str]) -> list[str]:
    """The values that the member at these steps may have, if its type lists them."""
    types: list[Any] = [msgspec.inspect.type_info(kind)]
    for step in [*steps, None]:
        types = [each for found in types for each in getattr(found, "types", (found,))]
        if step is not None:
            fields = (field for found in types for field in getattr(found, "fields", ()))
            types = [field.type for field in fields if field.encode_name == step]
    return [str(value) for found in types for value in getattr(found, "values", ())]


def read(payload: bytes, kind: type[T], limit: int = MAX_REPORT) -> T:
    """Decode and check one message of a peer (assignment, report, state …).

    Raises:
        BusError: as `parse` and `convert` do.
    """
    return convert(parse(payload, limit), kind)


def explain(message: str) -> tuple[str, str]:
    """Split a msgspec error into a sentence and an RFC 6901 pointer to the invalid member."""
    found = _AT.search(message)
    path = found.group(1) if found else "$"
    detail = message[: found.start()] if found else message
    pointer = "".join(f"/{pointer_step(a or b)}" for a, b in _STEP.findall(path))
    member = _MEMBER.search(detail)
    if member:
        pointer += f"/{pointer_step(member.group(1))}"
    plain = detail.replace("`", "'").replace("Object", "object").replace(r"(?![\\s\\S])", "$")
    return _PATTERN.sub(_in_words, plain), pointer


def _in_words(found: re.Match[str]) -> str:
    """The expected form in words: names and object ids are the common mistakes."""
    pattern = found.group(1)
    if pattern.startswith("^[0-9a-f]{8}-"):
        return "not an object id: a UUID in lower case"
    return f"not of the form {pattern.removeprefix('^').removesuffix('$')}"


def digest(*parts: Any) -> str:
    """A stable fingerprint of plain values: `sha256:` and the hash of their canonical JSON."""
    return "sha256:" + hashlib.sha256(_canonical(parts).encode("utf-8")).hexdigest()


def _malformed(detail: str) -> BusError:
    return BusError("malformed_request", detail)


def _openers(payload: bytes) -> int:
    return payload.count(b"[") + payload.count(b"{")


def _is_too_deep(payload: bytes) -> bool:
    """Whether brackets are left after the innermost pairs were removed MAX_DEPTH times.

    A few passes in C, since any client can trigger this: visiting every bracket of 1 MiB in Python would
    block the event loop for a second.
    """
    rest = _STRINGS.sub(b"", payload).translate(_AS_BRACKETS, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        if not rest:
            return False
        rest = rest.replace(b"[]", b"")
    return bool(rest)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _malformed("duplicate member in an object")
    return members


def _constant(name: str) -> NoReturn:
    raise _malformed(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _malformed("a number is too large")
    return value


# Created once: `json.loads` with hooks creates a decoder at every call, as `json.dumps` does an encoder.
_decode = json.JSONDecoder(object_pairs_hook=_members, parse_constant=_constant, parse_float=_finite).decode
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode
