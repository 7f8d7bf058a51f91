"""Would mosquitto start with this file? Exit code 0 if so, else 3 and its errors on one line.

Versions before 2.1 have no option for it: the file is started on free ports of loopback and ended as soon as
it runs. Nothing is stored.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from busbar.bus.addresses import IPV4
from busbar.bus.system.loopback import loopback

from .brief_start import IN_USE, free_ports, start_briefly
from .mosquitto_websockets import websockets_of, without_websockets

_TIMEOUT_S: Final = 20.0
REFUSED: Final = 3
"""No exit code that Python has of its own."""
_STAMP: Final = re.compile(r"^[\dT:.+-]+: ")


_LISTENER: Final = "listener "


def harmless(text: str, ports: Sequence[int], host: str = IPV4) -> str:
    """The file with its listeners on those ports of loopback, and without persistence."""
    kept = (line for line in text.splitlines() if not line.startswith(("persistence", "autosave_")))
    free = iter(ports)
    lines = [f"{_LISTENER}{next(free)} {host}" if line.startswith(_LISTENER) else line for line in kept]
    return "\n".join([*lines, "persistence false", ""])


def errors(lines: list[str]) -> str:
    """What it says about its end, or the last lines."""
    said = [_STAMP.sub("", line.strip()) for line in lines if line.strip()]
    found = [line for line in said if "error" in line.lower()]
    return "; ".join(found or said[-2:]) or "it ended without a word"


def bad_passwords(text: str) -> str | None:
    """What is wrong with the password file that a configuration names: it has lines, and names nobody.

    mosquitto reads it without an error, and lets nobody in any more.
    """
    paths = [line[14:] for line in text.splitlines() if line.startswith("password_file ")]
    if any(map(_names_nobody, map(Path, paths))):
        return "the password file has no line that mosquitto_passwd makes"
    return None


def _names_nobody(path: Path) -> bool:
    try:
        content = path.read_bytes()
    except OSError:
        return False  # mosquitto says so itself
    lines = [line for line in content.splitlines() if line.strip() and not line.startswith(b"#")]
    return bool(lines) and not any(re.match(rb"[^:]+:\$", line) for line in lines)


def try_once(program: str, config: Path) -> str | None:
    """Start it; None once it runs."""
    host = loopback()
    text = config.read_text()
    count = sum(1 for line in text.splitlines() if line.startswith(_LISTENER))
    own = config.with_name("check.conf")
    own.write_text(harmless(text, free_ports(count, host), host))
    own.chmod(0o644)  # mosquitto may give up root before it reads it again
    ran, lines = start_briefly(program, own, _TIMEOUT_S)
    return None if ran else errors(lines)


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", required=True)
    parser.add_argument("--config", required=True, type=Path)
    parser.add_argument("--websocket", help="where the definition has its first listener of that protocol")
    given = parser.parse_args()
    text = given.config.read_text()
    error = bad_passwords(text)
    for _ in range(0 if error else 3):
        error = try_once(given.program, given.config)
        if error is None or IN_USE not in error:
            break
    if error is not None and given.websocket:
        # Of this mosquitto says no more than that it has no socket.
        can = websockets_of(given.program)
        error = without_websockets(text, can, Path(given.program).name, given.websocket) or error
    if error is not None:
        print(error)
    return 0 if error is None else REFUSED


if __name__ == "__main__":
    sys.exit(main())
