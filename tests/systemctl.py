"""A stand-in for `systemctl` on the machines of `tests/machines.py`: runs units as systemd would.

Knows ExecStart, ExecStartPre, User and [Install]; KillMode is checked, and Restart left out: a service that
ends is a failed test.
"""

import os
import pwd
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

FOLDERS = (Path("/etc/systemd/system"), Path("/lib/systemd/system"))
PIDS = Path("/run/units")
LOGS = Path("/run/machine")


def read_unit(name: str) -> dict[str, list[str]]:
    """The settings of a unit: `Section.Key` and its values."""
    path = next((f for folder in FOLDERS if (f := folder / f"{name}.service").is_file()), None)
    if path is None:
        sys.exit(f"Unit {name}.service could not be found.")
    settings: dict[str, list[str]] = {}
    section = ""
    for line in path.read_text().replace("\\\n", " ").splitlines():
        line = line.strip()
        if line.startswith("["):
            section = line.strip("[]")
        elif line and line[0] not in "#;":
            key, _, value = line.partition("=")
            settings.setdefault(f"{section}.{key}", []).append(value)
    return settings


def words(text: str) -> list[str]:
    return [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(text)]


def pid_of(name: str) -> int | None:
    try:
        pid = int((PIDS / name).read_text())
        os.kill(pid, 0)
        return pid if "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3] else None
    except (OSError, ValueError):
        return None


def start(name: str) -> None:
    unit = read_unit(name)
    if pid_of(name) is not None:
        return
    for line in unit.get("Service.ExecStartPre", []):
        subprocess.run(words(line), check=True)
    user = unit.get("Service.User", ["root"])[0]
    entry = pwd.getpwnam(user)
    (command,) = unit["Service.ExecStart"]
    with (LOGS / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            words(command),
            cwd="/",
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "HOME": entry.pw_dir},
            user=entry.pw_uid,
            group=entry.pw_gid,
            extra_groups=[],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (PIDS / name).write_text(str(process.pid))
    time.sleep(0.3)
    if pid_of(name) is None:
        sys.exit(f"Job for {name}.service failed:\n{(LOGS / f'{name}.log').read_text()[-2000:]}")


def stop(name: str) -> None:
    unit, pid = read_unit(name), pid_of(name)
    if pid is None:
        return
    if unit.get("Service.KillMode") == ["process"]:
        os.kill(pid, signal.SIGTERM)
    else:
        os.killpg(pid, signal.SIGTERM)
    end = time.monotonic() + 60
    while pid_of(name) is not None:
        if time.monotonic() > end:
            sys.exit(f"{name} does not stop")
        time.sleep(0.05)


def main() -> int:
    verb, *names = (word for word in sys.argv[1:] if word != "--quiet")
    now = "--now" in names
    for name in (name.removesuffix(".service") for name in names if name != "--now"):
        if verb == "enable":
            if not read_unit(name).get("Install.WantedBy"):
                sys.exit(f"The unit {name} has no installation config (WantedBy=, ...)")
            if now:
                start(name)
        elif verb == "is-active":
            return 0 if pid_of(name) else 3
        elif verb == "reload":
            pid = pid_of(name)
            if pid is None or not read_unit(name).get("Service.ExecReload"):
                sys.exit(f"{name} is not active, or has no ExecReload")
            os.kill(pid, signal.SIGHUP)
        elif verb == "start":
            start(name)
        else:
            assert verb in ("stop", "restart"), verb
            stop(name)
            if verb == "restart":
                start(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
