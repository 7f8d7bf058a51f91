"""Write the units of the Debian package: those of `busbar install`, with settings from /etc/busbar.

python units.py FOLDER    writes FOLDER/busbar.busbar-manager.service and so on, for dh_installsystemd
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from busbar.cli.services.systemd import Kind, Unit, render

STATE: Final = Path("/var/lib/busbar")
UNITS: Final[dict[Kind, tuple[str, Path]]] = {
    "manager": ("Busbar manager", STATE / "manager"),
    "agent": ("Busbar agent", STATE / "agent"),
    "broker": ("Busbar's MQTT broker", STATE),
}


def text(kind: Kind) -> str:
    """The unit of a service."""
    description, state = UNITS[kind]
    unit = Unit(kind, description, ["/usr/bin/busbar", kind, "--state", str(state)], state, user="busbar")
    lines = []
    for line in render(unit).splitlines():
        if line.startswith("ExecStart="):
            lines.append(f"EnvironmentFile=-/etc/busbar/{kind}.env")
            # systemd makes the folder, which has to exist where it alone is writable.
            lines += [f"StateDirectory={state.relative_to('/var/lib')}", "StateDirectoryMode=0700"]
            line += " $BUSBAR_OPTIONS"
        lines.append(line)
    return "\n".join(lines) + "\n"


def main(folder: Path) -> None:
    for kind in UNITS:
        (folder / f"busbar.busbar-{kind}.service").write_text(text(kind))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
