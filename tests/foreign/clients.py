"""Runs a client in JavaScript."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from tests.pace import bound

HERE: Final = Path(__file__).parent
MODULES: Final = "BUSBAR_FOREIGN"
"""Environment variable: the folder where npm has installed `package.json`."""


def need(package: str) -> str:
    """The folder of the installed packages; skips, in CI too: `make foreign` installs them."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    folder = os.environ.get(MODULES, "")
    if not (Path(folder) / "node_modules" / package).is_dir():
        pytest.skip(f"{MODULES} names no folder with the npm package {package} (make foreign installs it)")
    return folder


async def outcome(script: str, package: str, **config: Any) -> dict[str, Any]:
    """What the client prints when it is through; it takes at most as many seconds as `config` says."""
    given = {"modules": need(package), "seconds": bound(10), **config}
    command = ("node", str(HERE / script), json.dumps(given, default=str))
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=bound(60), check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
