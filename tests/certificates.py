"""Certificates for tests, made by the very commands of docs/howto/security.md."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Final

from tests.pace import bound

PAGE: Final = Path(__file__).parent.parent / "docs" / "howto" / "security.md"
_BLOCK: Final = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NAME: Final = re.compile(r"^name=.*$", re.MULTILINE)


def certificates(folder: Path, authority: str, *names: str, also: str = "IP:127.0.0.1") -> None:
    """A certificate authority, and a certificate of it for each name, good for 127.0.0.1 or `also`."""
    ours, each = (block for block in _BLOCK.findall(PAGE.read_text()) if "openssl" in block)
    _run(folder, ours.replace("ca.key", f"{authority}.key").replace("ca.crt", f"{authority}.crt"))
    for name in names:
        one, found = _NAME.subn(f"name={name} also={also}", each)
        assert found == 1
        _run(folder, one.replace("ca.key", f"{authority}.key").replace("ca.crt", f"{authority}.crt"))


def _run(folder: Path, script: str) -> None:
    done = subprocess.run(
        ["bash", "-eu"], input=script, cwd=folder, text=True, capture_output=True, timeout=bound(30)
    )
    assert done.returncode == 0, f"{script}\n{done.stderr}"
