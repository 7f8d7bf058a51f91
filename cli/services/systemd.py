"""The systemd units of the services, and the file owner and the `systemctl` calls that go with them."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from busbar.bus.system.files import write_atomically

from ..errors import CliError, usage
from ..printing import output
from .specs import REFUSED

UNITS: Final = Path("/etc/systemd/system")
AGENT_UNIT: Final = "busbar-agent"
SERVICE_STATE: Final = Path("/var/lib/busbar/agent")
SYSTEMCTL_S: Final = 120.0
"""Bound of one call; a unit's stop may take systemd's default of 90 s."""
LINGERS: Final = Path("/var/lib/systemd/linger")
"""Has a file for each user whose services run on after the last logout."""
CREDENTIAL: Final = "password"
"""The name under which systemd hands a service the file of its password."""
Kind = Literal["manager", "agent", "broker"]
Scope = Literal["system", "user"]

_UNIT: Final = """\
[Unit]
Description={description}
Wants=network-online.target
After={after}
# Tried again for as long as it takes.
StartLimitIntervalSec=0

[Service]
Type=notify
# `systemctl status` shows what it says of its connection.
NotifyAccess=main
ExecStart={command}
{service}Restart=always
RestartSec=5
# It gives signs of life from its event loop; one that hangs is killed and started again.
WatchdogSec=60
UMask=0077
{hardening}
[Install]
WantedBy={target}
"""
_AFTER: Final = "network-online.target"
_BROKERS: Final = ("busbar-broker.service", "mosquitto.service", "nats-server.service")
"""Brokers of the same machine: up before the services that connect, and there to take their goodbyes."""
_OF_AGENT: Final = """\
ExecReload=/bin/kill -HUP $MAINPID
# Only the agent is stopped with the unit: its workers run on, and the next start adopts them.
KillMode=process
# Each worker gets a cgroup of its own, which names its processes exactly.
Delegate=yes
# With systemd 254 or later: limits of memory are those of the workers' cgroups.
#DelegateSubgroup=agent
"""
_HARD_AGENT: Final = """\
# For the agent and its workers alike. No mount namespace: workers outlive the agent that started them, and
# the next one has to see the same files.
NoNewPrivileges=yes
RestrictSUIDSGID=yes
RestrictRealtime=yes
LockPersonality=yes
"""
_HARD: Final = """\
NoNewPrivileges=yes
CapabilityBoundingSet=
RestrictSUIDSGID=yes
RestrictRealtime=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
PrivateTmp=yes
PrivateDevices=yes
ProtectSystem=strict
ReadWritePaths={state}
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
"""
_HARD_USER: Final = "NoNewPrivileges=yes\n"
"""What a user's own service manager can do without privileges."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A service to be installed. `command` is its words, `state` its folder, `password` the file that systemd
    hands it as a credential; `user` is for the system's service manager alone, None where root is meant."""

    kind: Kind
    description: str
    command: Sequence[str]
    state: Path
    scope: Scope = "system"
    user: str | None = None
    password: Path | None = None

    @property
    def name(self) -> str:
        return f"busbar-{self.kind}"


def render(unit: Unit) -> str:
    """The text of its file. Pure.

    Raises:
        CliError: a word has a control character.
    """
    lines = [f"User={unit.user}\n"] if unit.user and unit.scope == "system" else []
    command = quoted(unit.command)
    if unit.password is not None:
        # The service reads a copy that is its own: the file may be root's.
        quoted([str(unit.password)])  # no control characters; systemd takes the rest of the line as it is
        lines.append(f"LoadCredential={CREDENTIAL}:{str(unit.password).replace('%', '%%')}\n")
        command += f" --password-file %d/{CREDENTIAL}"
    if unit.kind == "agent":
        lines.append(_OF_AGENT)
    if unit.kind == "manager":
        lines.append(
            "# A newer manager serves the realm, or the store is damaged.\n"
            f"RestartPreventExitStatus={REFUSED}\n"
        )
    hard = _HARD_AGENT if unit.kind == "agent" else _HARD.format(state=quoted([str(unit.state)]))
    return _UNIT.format(
        description=unit.description.replace("%", "%%"),
        after=" ".join([_AFTER, *(_BROKERS if unit.kind != "broker" else ())]),
        command=command,
        service="".join(lines),
        hardening=_HARD_USER if unit.scope == "user" else hard,
        target="multi-user.target" if unit.scope == "system" else "default.target",
    )


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


def agent_unit(node: str, user: str, state: Path, scope: Scope = "system") -> Unit:
    """The unit of a node that has joined: what it needs is in its state folder."""
    command = [*program(), "agent", "--state", str(state)]
    return Unit("agent", f"Busbar agent of node {node}", command, state, scope, user)


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
    need_root()
    need_systemctl()
    if not has_user(user):
        raise usage(f"there is no user '{user}': {' '.join(new_user(user))}")


def need_root() -> None:
    """Raises CliError for everybody else."""
    if os.geteuid() != 0:
        raise usage(
            "a unit of the system is installed by root: use sudo, or a unit of your own (--scope user)"
        )


def has_user(user: str) -> bool:
    """Whether the machine has this user."""
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def new_user(user: str) -> list[str]:
    """The command that makes the user of a service."""
    return ["useradd", "--system", "--create-home", "--home-dir", "/var/lib/busbar", user]


def add_user(user: str) -> None:
    """Make the user of a service. Raises CliError."""
    words = new_user(user)
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=SYSTEMCTL_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CliError(f"{' '.join(words)}: {getattr(error, 'strerror', None) or error}") from None
    if done.returncode != 0:
        raise CliError(f"{' '.join(words)}: {done.stderr.strip() or 'it failed'}")


def is_here(scope: Scope, env: Mapping[str, str]) -> bool:
    """Whether services are run by systemd here: the machine's, or this user's own."""
    if scope == "system":
        return Path("/run/systemd/system").is_dir()
    runtime = env.get("XDG_RUNTIME_DIR")
    return runtime is not None and (Path(runtime) / "systemd").is_dir()


def need_systemctl() -> None:
    """Raises CliError where there is none."""
    if shutil.which("systemctl") is None:
        raise usage("this needs systemd, and there is no systemctl here")


def tell_linger(scope: Scope) -> None:
    """Say what keeps a user's own services after the last session."""
    if scope == "user":
        name = pwd.getpwuid(os.geteuid()).pw_name
        if (LINGERS / name).exists():
            return
        output.note(f"to keep it after you log out: loginctl enable-linger {name}")


def give_to(user: str, paths: Sequence[Path]) -> None:
    """Make a user the owner of files and folders. Raises OSError."""
    owner = pwd.getpwnam(user)
    for path in paths:
        os.chown(path, owner.pw_uid, owner.pw_gid, follow_symlinks=False)


def folder_of(scope: Scope, env: Mapping[str, str]) -> Path:
    """Where units are."""
    if scope == "system":
        return UNITS
    config = env.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(config) / "systemd" / "user"


def install(unit: Unit, folder: Path, *, start: bool = True) -> Path:
    """Write a unit and, unless told otherwise, enable it, and start or restart it.

    Raises:
        CliError: systemd refuses.
        OSError: the unit can't be written.
    """
    path = folder / f"{unit.name}.service"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, render(unit))
    path.chmod(0o644)
    scope = ["--user"] if unit.scope == "user" else []
    steps = (["daemon-reload"], ["enable", unit.name], ["restart", unit.name])
    for words in steps if start else steps[:1]:
        systemctl(*scope, *words)
    return path


def set_up(unit: Unit, *, start: bool = True) -> Path:
    """As `install`, where units of its scope are, with its folder made, which its user owns.

    Raises:
        CliError: it can't be installed here.
        OSError: a file can't be written.
    """
    if unit.scope == "system":
        check_service(str(unit.user))
    else:
        need_systemctl()
    made = not unit.state.exists()
    unit.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    if made and unit.scope == "system":
        give_to(str(unit.user), [unit.state])
    return install(unit, folder_of(unit.scope, os.environ), start=start)


def runs(unit: Unit) -> bool:
    """Whether this very unit is installed and active."""
    path = folder_of(unit.scope, os.environ) / f"{unit.name}.service"
    try:
        if path.read_text(encoding="utf-8") != render(unit):
            return False
        systemctl(*(["--user"] if unit.scope == "user" else []), "is-active", "--quiet", unit.name)
    except (CliError, OSError, ValueError):
        return False
    return True
