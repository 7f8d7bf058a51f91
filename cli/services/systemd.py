"""The systemd unit of an agent, and the file owner and the `systemctl` calls that go with it."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from busbar.bus.files import write_atomically

from ..errors import CliError, usage

UNITS: Final = Path("/etc/systemd/system")
AGENT_UNIT: Final = "busbar-agent"
SERVICE_STATE: Final = Path("/var/lib/busbar/agent")
SYSTEMCTL_S: Final = 120.0
"""Bound of one call; a unit's stop may take systemd's default of 90 s."""
_UNIT: Final = """\
[Unit]
Description=Busbar agent of node {node}
Wants=network-online.target
After=network-online.target

[Service]
ExecStart={command}
# `systemctl status` shows what the agent says of its connection.
NotifyAccess=main
ExecReload=/bin/kill -HUP $MAINPID
User={user}
Restart=always
RestartSec=5
# Only the agent is stopped with the unit: its workers run on, and the next start adopts them.
KillMode=process
# Each worker gets a cgroup of its own, which names its processes exactly.
Delegate=yes
# With systemd 254 or later: limits of memory are those of the workers' cgroups.
#DelegateSubgroup=agent

[Install]
WantedBy=multi-user.target
"""


def quoted(words: Sequence[str]) -> str:
    """Words as `ExecStart=` takes them literally.

    Raises:
        CliError: one has a control character.
    """
    for word in words:
        if not word.isprintable():
            raise usage(f"a systemd unit can't hold {word!r}")
    literal = (
        word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$") for word in words
    )
    return " ".join(f'"{word}"' if set(word) & set(" '\";") or not word else word for word in literal)


def agent_unit(node: str, user: str, command: Sequence[str]) -> str:
    """The text of an agent's unit."""
    return _UNIT.format(node=node, user=user, command=quoted(command))


def program() -> list[str]:
    """The absolute command of this very `busbar`."""
    found = shutil.which(sys.argv[0])
    if found is not None and Path(found).name == "busbar":
        return [str(Path(found).absolute())]
    return [sys.executable, "-m", "busbar.cli.app"]


def systemctl(*words: str) -> None:
    """Run `systemctl`.

    Raises:
        CliError: it fails, or takes too long.
        FileNotFoundError: this machine has none.
    """
    what = f"systemctl {' '.join(words)}"
    try:
        done = subprocess.run(["systemctl", *words], capture_output=True, text=True, timeout=SYSTEMCTL_S)
    except subprocess.TimeoutExpired:
        raise CliError(f"{what}: no answer within {SYSTEMCTL_S:g} s") from None
    if done.returncode != 0:
        raise CliError(f"{what}: {done.stderr.strip() or done.stdout.strip() or 'it failed'}")


def check_service(user: str) -> None:
    """Raises CliError unless a service of this user can be installed here."""
    if os.geteuid() != 0:
        raise usage("--service installs a systemd unit: run it as root")
    if shutil.which("systemctl") is None:
        raise usage("--service needs systemd, and there is no systemctl here")
    try:
        pwd.getpwnam(user)
    except KeyError:
        raise usage(
            f"there is no user '{user}': useradd --system --create-home --home-dir /var/lib/busbar {user}"
        ) from None


def give_to(user: str, paths: Sequence[Path]) -> None:
    """Make a user the owner of files and folders. Raises OSError."""
    owner = pwd.getpwnam(user)
    for path in paths:
        os.chown(path, owner.pw_uid, owner.pw_gid, follow_symlinks=False)


def install_agent(node: str, user: str, state: Path) -> Path:
    """Write the unit of an agent with this state folder, enable it, and start or restart it.

    Raises:
        CliError: systemd refuses.
        OSError: the unit can't be written.
    """
    path = UNITS / f"{AGENT_UNIT}.service"
    write_atomically(path, agent_unit(node, user, [*program(), "agent", "--state", str(state)]))
    path.chmod(0o644)
    for words in (["daemon-reload"], ["enable", AGENT_UNIT], ["restart", AGENT_UNIT]):
        systemctl(*words)
    return path
