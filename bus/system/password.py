"""Reads a password file. Light to import."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from .regular_files import read_given

_MAX_BYTES: Final = 65_535
"""Of a password in MQTT, and so of its file."""


def read_password(path: Path) -> str:
    """The password in a file that nobody else may read, without the line's end.

    Raises:
        ValueError: it can't be read, or others can read it.
    """
    try:
        if path.stat().st_mode & 0o077:
            raise ValueError(f"password file {path} can be read by others: chmod 600 it")
        return read_given(path, _MAX_BYTES).decode().strip("\r\n")
    except OSError as error:
        raise ValueError(f"password file {path}: {error.strerror}") from None
