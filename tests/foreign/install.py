"""Installs the npm packages of `package.json`: `python -m tests.foreign.install FOLDER`, within `LIMIT_S`.

A failure is none of the suite's: its reason is left in the folder, and the tests that need them are skipped.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

MODULES: Final = "BUSBAR_FOREIGN"
"""Environment variable: the folder where npm has installed `package.json`."""
WHY: Final = "why-not.txt"
LIMIT_S: Final = 60.0
PACKAGES: Final = Path(__file__).with_name("package.json")
_COMMAND: Final = (
    "install",
    "--no-package-lock",
    "--no-audit",
    "--no-fund",
    "--ignore-scripts",
    "--silent",
    "--no-update-notifier",
    # A registry that does not answer is given up soon, and not asked three times.
    "--fetch-retries=1",
    "--fetch-retry-mintimeout=1000",
    "--fetch-timeout=20000",
)


def install(folder: Path, limit_s: float = LIMIT_S, npm: str | None = None) -> str | None:
    """Install what is not there yet; returns why it can't be, which is in the file `WHY` too."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted, installed, why = PACKAGES.read_text(), folder / "installed.json", folder / WHY
    why.unlink(missing_ok=True)
    if installed.is_file() and installed.read_text() == wanted:
        return None
    (folder / "package.json").write_text(wanted)
    error = _npm(npm or shutil.which("npm"), folder, limit_s)
    if error is None:
        installed.write_text(wanted)
    else:
        shutil.rmtree(folder / "node_modules", ignore_errors=True)
        why.write_text(f"{error}\n")
    return error


def _npm(npm: str | None, folder: Path, limit_s: float) -> str | None:
    if npm is None:
        return "npm is not installed"
    try:
        process = subprocess.Popen(
            (npm, *_COMMAND, "--prefix", str(folder)),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    except OSError as error:
        return f"npm can't be run: {error.strerror}"
    with process:
        try:
            _, text = process.communicate(timeout=limit_s)
        except BaseException as error:
            # npm starts others, which would hold its output open.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                return f"npm install is not through within {limit_s:g} s"
            raise
    lines = [line for line in text.splitlines() if line.strip()]
    return None if process.returncode == 0 else f"npm install failed: {lines[0] if lines else 'no message'}"


def main() -> None:
    error = install(Path(sys.argv[1]))
    if error is not None:
        print(f"clients in JavaScript are left out: {error}")


if __name__ == "__main__":
    main()
