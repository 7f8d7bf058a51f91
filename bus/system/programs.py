"""Finds programs on this host."""

import os
import shutil
from pathlib import Path
from typing import Final

_SBIN: Final = ("/usr/sbin", "/usr/local/sbin")
"""Where Debian installs mosquitto; not on every user's PATH."""


def find_program(program: str, beside: str | None = None) -> str | None:
    """An executable's path: as given if it has a slash, else next to `beside`, on PATH or in an sbin."""
    if "/" in program:
        return shutil.which(program)
    first = [str(Path(beside).parent)] if beside else []
    search = [*first, os.environ.get("PATH", os.defpath), *_SBIN]
    return shutil.which(program, path=os.pathsep.join(search))
