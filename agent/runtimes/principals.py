"""Principals of WAMP clients: files of the node with their secrets, in the shape that Crossbar.io has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from busbar.bus.decode import explain, parse
from busbar.bus.errors import BusError
from busbar.bus.routers.wamp import TRUSTED, Realms, RoleName
from busbar.bus.system.regular_files import read_regular
from msgspec import UNSET, Meta, Struct, UnsetType, ValidationError, convert

from .base import RuntimeConfigError

MAX_FILE: Final = 1024 * 1024
"""Bytes of a file of principals."""
Secret = Annotated[str, Meta(min_length=1, max_length=4096)]
Hex = Annotated[str, Meta(pattern=r"^(?:[0-9a-fA-F]{2}){1,64}(?![\s\S])")]
_NAMES: Final = {
    "stored_key": "stored-key",
    "server_key": "server-key",
    "certificate_sha1": "certificate-sha1",
}
_VARIABLE: Final = re.compile(r"\$\{.+\}")
_FINGERPRINT: Final = r"^[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){19}(?![\s\S])"


class Ticket(Struct, frozen=True, forbid_unknown_fields=True):
    """A principal with a ticket."""

    ticket: Secret
    role: RoleName | UnsetType = UNSET


class Wampcra(Struct, frozen=True, forbid_unknown_fields=True):
    """A principal with a secret; salted if it has salt, iterations and keylen."""

    secret: Secret
    role: RoleName | UnsetType = UNSET
    salt: Secret | UnsetType = UNSET
    iterations: Annotated[int, Meta(ge=1)] | UnsetType = UNSET
    keylen: Annotated[int, Meta(ge=1, le=1024)] | UnsetType = UNSET


class Scram(Struct, frozen=True, forbid_unknown_fields=True, rename=_NAMES):
    """A principal with what SCRAM derives from a password, as hex digits."""

    kdf: Literal["pbkdf2", "argon2id-13"]
    iterations: Annotated[int, Meta(ge=1)]
    memory: Annotated[int, Meta(ge=0)]
    salt: Hex
    stored_key: Hex
    server_key: Hex
    role: RoleName | UnsetType = UNSET


class Cryptosign(Struct, frozen=True, forbid_unknown_fields=True):
    """A principal with public keys (Ed25519), as hex digits."""

    authorized_keys: Annotated[list[Hex], Meta(min_length=1)]
    role: RoleName | UnsetType = UNSET
    realm: str | UnsetType = UNSET


class Tls(Struct, frozen=True, forbid_unknown_fields=True, rename=_NAMES):
    """A principal with the SHA-1 fingerprint of its certificate."""

    certificate_sha1: Annotated[str, Meta(pattern=_FINGERPRINT)]
    role: RoleName | UnsetType = UNSET


class Signature(Struct, frozen=True, forbid_unknown_fields=True):
    """What requests to a publisher or caller are signed with."""

    key: Secret
    secret: Secret


class Webhook(Struct, frozen=True, forbid_unknown_fields=True):
    """What GitHub signs its requests with."""

    github_secret: Secret


Principal = Ticket | Wampcra | Scram | Cryptosign | Tls
_KINDS: Final[Mapping[str, type[Principal]]] = {
    "ticket": Ticket,
    "wampcra": Wampcra,
    "scram": Scram,
    "cryptosign": Cryptosign,
    "tls": Tls,
}


def read_secrets(path: Path) -> bytes:
    """A file of secrets.

    Raises:
        OSError: it can't be read, is no regular file, or has more than `MAX_FILE` bytes.
    """
    return read_regular(path, MAX_FILE)


def secrets_in(content: bytes, pointer: str) -> dict[str, Any]:
    """The JSON object in a file of secrets; no error repeats what is in it.

    Raises:
        RuntimeConfigError: it is none, or uses variables of the environment, which nothing sets here.
    """
    try:
        found = parse(content, MAX_FILE)
    except BusError as error:
        raise RuntimeConfigError(pointer, f"this node's file: {error.detail}") from None
    if _has_variable(found):
        raise RuntimeConfigError(pointer, "this node's file: '${...}' is not replaced: write the value")
    return found


def principals_of(
    content: bytes, method: str, pointer: str, realms: Realms, default_role: str | None
) -> dict[str, Any]:
    """The principals of one way to authenticate, each with a role that exists.

    Raises:
        RuntimeConfigError: the file or a principal in it is invalid; it names the principal and no secret.
    """
    found = secrets_in(content, pointer)
    for authid, given in found.items():
        wrong = _wrong(given, method, realms, default_role)
        if wrong:
            raise RuntimeConfigError(pointer, f"this node's file: principal '{authid[:64]}': {wrong}")
    return found


def credentials_in(content: bytes, kind: str, pointer: str) -> dict[str, Any]:
    """The credentials of a path of the HTTP bridge.

    Raises:
        RuntimeConfigError: the file is invalid; no error repeats what is in it.
    """
    found = secrets_in(content, pointer)
    try:
        convert(found, Webhook if kind == "webhook" else Signature, strict=True)
    except ValidationError as error:
        detail, at = explain(str(error))
        raise RuntimeConfigError(pointer, f"this node's file: {at}: {detail}") from None
    return found


def _wrong(given: Any, method: str, realms: Realms, default_role: str | None) -> str | None:
    try:
        principal = convert(given, _KINDS[method], strict=True)
    except ValidationError as error:
        detail, at = explain(str(error))
        return f"{at or 'it'}: {detail}"
    role = principal.role if principal.role is not UNSET else default_role
    if role is None:
        return "has no role, and there is no default-role"
    if role == TRUSTED:
        return "the role 'trusted' is the router's own"
    if isinstance(principal, Cryptosign) and principal.realm is not UNSET:
        if role not in realms.get(principal.realm, ()):
            return f"realm '{principal.realm[:64]}' has no role '{role}'"
    elif not any(role in roles for roles in realms.values()):
        return f"no realm has a role '{role}'"
    salting = (getattr(principal, name, None) for name in ("salt", "iterations", "keylen"))
    if isinstance(principal, Wampcra) and len({each is UNSET for each in salting}) > 1:
        return "salt, iterations and keylen go together"
    return None


def _has_variable(value: Any) -> bool:
    if isinstance(value, str):
        return _VARIABLE.fullmatch(value) is not None
    if isinstance(value, Mapping):
        return any(map(_has_variable, value.values()))
    return isinstance(value, list) and any(map(_has_variable, value))
