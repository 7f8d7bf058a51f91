"""When certificates end: reads that one date of X.509. Pure.

The public functions of `ssl` show authorities alone, the package cryptography is 10 MB for one date, and not
every host has openssl: the date is at a fixed place in the DER encoding.
"""

from __future__ import annotations

import binascii
import calendar
import re
from typing import Final

SOON_S: Final = 30 * 86_400.0
"""Seconds before its end from which a certificate is told."""
_PEM: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----\s([A-Za-z0-9+/=\s]{1,65536})-----END CERTIFICATE-----"
)
_SEQUENCE, _VERSION, _UTC_TIME, _TIME = 0x30, 0xA0, 0x17, 0x18
_UTC: Final = re.compile(rb"(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z")


def first_end(content: bytes) -> float | None:
    """When the first certificate of a PEM file ends, seconds since 1970; None where none can be read."""
    ends = [end for found in _PEM.findall(content)[:64] if (end := _end_of(found)) is not None]
    return min(ends, default=None)


def _end_of(text: bytes) -> float | None:
    try:
        return not_after(binascii.a2b_base64(text))
    except (ValueError, IndexError):
        return None


def not_after(der: bytes) -> float:
    """The end of validity of one certificate, seconds since 1970 (RFC 5280, 4.1).

    Raises:
        ValueError, IndexError: it is none.
    """
    body, _ = _part(_part(der, _SEQUENCE)[0], _SEQUENCE)
    if body[0] == _VERSION:
        _, body = _part(body, _VERSION)
    for _ in range(3):  # serial number, signature, issuer
        _, body = _part(body)
    _, end = _part(_part(body, _SEQUENCE)[0])
    kind, (text, _) = end[0], _part(end)
    if kind == _UTC_TIME:
        text = (b"20" if text[:2] < b"50" else b"19") + text
    elif kind != _TIME:
        raise ValueError("no time")
    found = _UTC.fullmatch(text[2:])
    if found is None:
        raise ValueError("no time")
    month, day, hour, minute, second = map(int, found.groups()[1:])
    return float(calendar.timegm((int(text[:4]), month, day, hour, minute, second)))


def _part(data: bytes, kind: int | None = None) -> tuple[bytes, bytes]:
    """The content of the first part, and what follows it (X.690, definite lengths)."""
    if kind is not None and data[0] != kind:
        raise ValueError(f"{data[0]:#x}, not {kind:#x}")
    length, start = data[1], 2
    if length >= 0x80:
        count = length - 0x80
        if not 1 <= count <= 4:
            raise ValueError("no length")
        length, start = int.from_bytes(data[2 : 2 + count]), 2 + count
    if start + length > len(data):
        raise ValueError("cut off")
    return data[start : start + length], data[start + length :]
