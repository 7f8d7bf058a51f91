"""The ids of objects."""

from __future__ import annotations

from typing import Final

RANDOM_BYTES: Final = 10


def object_id(time_ns: int, random: bytes) -> str:
    """A UUID of version 7 (RFC 9562, section 5.7), which begins with the milliseconds since 1970.

    Ids made in turn are neighbours in every index, so that a commit writes few pages: random ones would put
    each row on a page of its own. Whoever shortens one keeps its end, the random part. `random`: 10 bytes.
    """
    head = ((time_ns // 1_000_000) & 0xFFFF_FFFF_FFFF).to_bytes(6, "big").hex()
    a, b = int.from_bytes(random[:2], "big") & 0x0FFF | 0x7000, random[2] & 0x3F | 0x80
    tail = random[3:].hex()
    return f"{head[:8]}-{head[8:]}-{a:04x}-{b:02x}{tail[:2]}-{tail[2:]}"
