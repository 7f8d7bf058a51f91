"""Join tokens as one word: what a join file holds, as `TOKEN@BROKER` for `busbar join`.

The word names node, realm, whether the broker is reached by TLS, and its authority's certificates; what
follows the `@` may be changed by hand where a node reaches the broker under another address.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import Final

import msgspec
from busbar.bus.options import parse_urls, split_urls
from busbar.bus.topics import is_name
from msgspec import Struct

from ..errors import usage
from .join_file import JoinFile

PREFIX: Final = "bb1-"
LONGEST: Final = 4000
"""Characters: a terminal takes lines of up to 4095."""
_CHECK: Final = 4
"""Bytes of the digest that tells a word that was not copied as a whole."""
_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")
_PLAIN: Final = "mqtt://"
_SECURE: Final = "mqtts://"
_AGAIN: Final = "'busbar node token NODE' prints the line to use"


class _Content(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Its order is the format. `ca` is DER."""

    node: str
    realm: str
    root: str
    secure: bool
    token: str | None
    password: str | None
    until: int | None
    ca: list[bytes]


def to_word(file: JoinFile) -> str:
    """`TOKEN@BROKER` with what a join file holds.

    Raises:
        CliError: the broker's URL is malformed, or the authorities are too many for one line.
    """
    try:
        options = parse_urls(file.broker)
    except ValueError as error:
        raise usage(str(error)) from None
    content = _Content(
        file.node,
        file.realm,
        file.root,
        options.tls is not None,
        file.token,
        file.password,
        None if file.until is None else int(file.until),
        [binascii.a2b_base64(found) for found in _PEM.findall(file.ca or "")],
    )
    packed = msgspec.msgpack.encode(content)
    text = base64.urlsafe_b64encode(_digest(packed) + packed).decode().rstrip("=")
    brokers = (url.removeprefix(_SECURE if content.secure else _PLAIN) for url in split_urls(options.url))
    word = f"{PREFIX}{text}@{','.join(brokers)}"
    if len(word) > LONGEST:
        raise usage("the certificates of --tls-ca are too many for one line: use --join-file")
    return word


def from_word(word: str) -> JoinFile:
    """What `TOKEN@BROKER` says.

    Raises:
        CliError: it is no such word, was not copied as a whole, or its broker is malformed.
    """
    text, at, brokers = word.strip().partition("@")
    if not text.startswith(PREFIX):
        raise usage(_what_else(text))
    if not at or not brokers:
        raise usage("the broker's address is missing: busbar join TOKEN@HOST:PORT")
    content = _content(text.removeprefix(PREFIX))
    urls = [url if "://" in url else _scheme(content) + url for url in split_urls(brokers)]
    try:
        options = parse_urls(",".join(urls))
    except ValueError as error:
        raise usage(str(error)) from None
    if content.secure and options.tls is None:
        raise usage(f"the token is for a broker with TLS: {options.url} would show the node's secret")
    if options.username is not None:
        raise usage(f"the node connects as '{content.node}': name no user in the broker's address")
    return JoinFile(
        busbar_join=1,
        node=content.node,
        broker=options.url,
        realm=content.realm,
        root=content.root,
        ca="".join(_pem(der) for der in content.ca) or None,
        password=content.password,
        token=content.token,
        until=content.until,
    )


def secret_of(word: str) -> str:
    """The token alone, of `TOKEN@BROKER` or as it is.

    Raises:
        CliError: it can't be read, or holds a password.
    """
    if not word.startswith(PREFIX):
        return word
    found = from_word(word)
    if found.token is None:
        raise usage("this token holds a password: busbar join takes it")
    return found.token


def _content(text: str) -> _Content:
    try:
        whole = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
        packed = whole[_CHECK:]
        if whole[:_CHECK] != _digest(packed):
            raise ValueError("digest")
        content = msgspec.msgpack.decode(packed, type=_Content)
    except ValueError:  # binascii's and msgspec's errors are some
        raise usage("the token is damaged: copy the whole line") from None
    names = all(is_name(name) for name in (content.node, content.realm))
    if not names or (content.token is None) == (content.password is None):
        raise usage(f"the token is malformed: {_AGAIN}")
    return content


def _what_else(text: str) -> str:
    if re.fullmatch(r"bb\d+-.*", text):
        return "the token was made by a newer version of Busbar: install that here too"
    if text.startswith("{") or text.endswith((".join", ".json")):
        return "that is a join file: busbar agent join FILE"
    return f"not a token of 'busbar join': {_AGAIN}"


def _scheme(content: _Content) -> str:
    return _SECURE if content.secure else _PLAIN


def _digest(packed: bytes) -> bytes:
    return hashlib.sha256(packed).digest()[:_CHECK]


def _pem(der: bytes) -> str:
    lines = base64.encodebytes(der).decode().replace("\n", "")
    body = "\n".join(lines[at : at + 64] for at in range(0, len(lines), 64))
    return f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"


def describe_authority(file: JoinFile) -> str | None:
    """The SHA-256 of each authority, as openssl shows it; None where the system's are trusted."""
    digests = [
        hashlib.sha256(binascii.a2b_base64(found)).hexdigest() for found in _PEM.findall(file.ca or "")
    ]
    return ", ".join(f"SHA-256 {digest}" for digest in digests) or None
