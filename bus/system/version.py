"""The version of this installation, and the commit that it was made from."""

from __future__ import annotations

import os
import re
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Final

DISTRIBUTION: Final = "busbar-mqtt"
"""The distribution's name; the import package is `busbar`, a name that is taken on the package index."""
ROOT: Final = Path(__file__).resolve().parents[2]
"""The folder of the package, or in a clone that of the repository."""
RECORD: Final = "commit.txt"
"""The file in the package that setup.py writes: the commit it was built from."""
COMMIT: Final = re.compile(r"[0-9a-f]{7,64}(-modified)?")
GIT_S: Final = 5.0


@cache
def version() -> str:
    """The installed version; `unknown` where the code runs without having been installed."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "unknown"


@cache
def commit(root: Path = ROOT) -> str | None:
    """The commit that this code is of: recorded when it was built, or that of the clone.

    A clone whose files differ from it has `-modified` at its end. None: neither is known.
    """
    try:
        found = (root / RECORD).read_text().strip()
    except (OSError, ValueError):
        found = _of_clone(root)
    return found if COMMIT.fullmatch(found) else None


def _of_clone(root: Path) -> str:
    """What git says of this very folder: one that lies in somebody else's repository is none of it."""
    if not (root / ".git").exists():
        return ""
    import subprocess  # needed in a clone alone

    command = ["git", "-C", str(root), "describe", "--always", "--exclude=*", "--abbrev=12"]
    # Variables of a hook would lead to another repository.
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            [*command, "--dirty=-modified"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=GIT_S,
            env=env | {"GIT_OPTIONAL_LOCKS": "0"},
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def described(number: str, made_from: str | None) -> str:
    """A version with its commit, for people."""
    return f"{number} (commit {made_from or 'unknown'})"
