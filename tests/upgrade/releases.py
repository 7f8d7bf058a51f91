"""The previous release, unpacked from the repository: its source in place of ours, in the same venv."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from tests.stack import ROOT

PREVIOUS = "461329256d01c84c06325038e7bd4cc6e7973d5f"
"""Nothing has been published yet. This is the last commit before the page, metrics, units and the AsyncAPI
document; its store lacks two schema steps of ours, its manager some operations and members."""
PARTS = (".src", "bus", "manager", "agent", "cli")


class Missing(Exception):
    """Why the previous release can't be unpacked here."""


@dataclass(frozen=True, slots=True)
class Release:
    """A source tree that the interpreter of the tests runs. `source` None: ours, as it is installed."""

    name: str
    source: Path | None = None

    def env(self) -> dict[str, str]:
        """What has `python -m busbar…` run it."""
        return {} if self.source is None else {"PYTHONPATH": str(self.source)}


NEW = Release("new")


def previous(folder: Path) -> Release:
    """Unpack the previous release below a folder.

    Raises:
        Missing: there is no git, or no such commit in this clone.
    """
    git = [
        "git",
        "-c",
        f"safe.directory={ROOT}",
        "-C",
        str(ROOT),
        "archive",
        "--format=tar",
        PREVIOUS,
        *PARTS,
    ]
    try:
        done = subprocess.run(git, capture_output=True, check=False)
    except OSError as error:
        raise Missing(f"git can't be run: {error}") from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise Missing(f"the commit of the previous release is not in this clone: {said[-1:]}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        if hasattr(tarfile, "tar_filter"):  # from Python 3.11.4 on
            archive.extraction_filter = staticmethod(tarfile.tar_filter)
        archive.extractall(folder)
    made = Release("old", folder / ".src")
    check = "import busbar.bus; print(busbar.bus.__file__)"
    env = {**os.environ, **made.env()}
    ran = subprocess.run(
        [sys.executable, "-P", "-c", check], capture_output=True, text=True, check=True, env=env
    )
    assert ran.stdout.startswith(str(folder)), f"another busbar takes the place of the old one: {ran.stdout}"
    return made
