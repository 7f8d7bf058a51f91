"""Runs clients in JavaScript."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from tests.foreign.install import MODULES, WHY
from tests.pace import bound

HERE: Final = Path(__file__).parent
Config = Mapping[str, Any]


def need(package: str) -> str:
    """The folder of the installed packages; skips, in CI too, with the reason why they are not there."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    folder = os.environ.get(MODULES, "")
    if not (Path(folder) / "node_modules" / package).is_dir():
        why = Path(folder, WHY)
        pytest.skip(
            why.read_text().strip()
            if folder and why.is_file()
            else f"{MODULES} names no folder with the npm package {package} (make test installs it)"
        )
    return folder


async def outcomes(script: str, package: str, configs: Sequence[Config]) -> list[dict[str, Any]]:
    """What each of the clients prints when it is through; one takes at most as many seconds as it says.

    All of them are one process: to start it costs more than they do.
    """
    given = [{"modules": need(package), "seconds": bound(10), **config} for config in configs]
    found: list[dict[str, Any]] = await _run(script, given)
    assert len(found) == len(configs)
    return found


async def outcome(script: str, package: str, **config: Any) -> dict[str, Any]:
    """As `outcomes`, for a script with one client."""
    found: dict[str, Any] = await _run(script, {"modules": need(package), "seconds": bound(10), **config})
    return found


async def _run(script: str, given: object) -> Any:
    command = ("node", str(HERE / script), json.dumps(given, default=str))
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=bound(60), check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
