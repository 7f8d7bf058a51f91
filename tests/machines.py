"""Machines for the pages on several of them: namespaces with names, addresses, users, services of their own.

Each has a mount, network, pid and host name namespace. `/etc`, `/var` and `/usr/local` are overlays, `/root`,
`/opt` and `/run` its own, so a page's commands run as printed. Two programs are stand-ins: `systemctl`
(`tests/systemctl.py`), since no systemd runs here, and `scp`, since no sshd does.
"""

from __future__ import annotations

import os
import re
import shutil
import site
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.pace import bound

NET: Final = "198.51.100"
"""RFC 5737: addresses for documentation."""
HUB: Final = "bbhub"
_BLOCK: Final = re.compile(r"^```(?:sh)?\n# (.*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE: Final = re.compile(r"(/\S+) on (\S+)")
_SETUP: Final = """
set -e
mount --make-rprivate /
mkdir -p {own}/root {base}
mount -t tmpfs busbar {base}
for part in etc var usr/local; do
  mkdir -p {base}/$part/upper {base}/$part/work
  mount -t overlay overlay -o lowerdir=/$part,upperdir={base}/$part/upper,workdir={base}/$part/work /$part
done
mkdir -p {base}/python && mount --bind {prefix} {base}/python
mount -t tmpfs busbar /run && mkdir /run/units && chmod 755 /run
mount -t tmpfs busbar /opt
chmod 755 /opt
mkdir -p /opt/busbar/bin /opt/busbar/lib/{python}/site-packages
mount --bind {own}/root /root && chmod 711 /root
mkdir -p {prefix} && mount --bind {base}/python {prefix}
ln -s {prefix}/bin/{python} /opt/busbar/bin/python
printf 'home = {prefix}/bin\\ninclude-system-site-packages = false\\n' > /opt/busbar/pyvenv.cfg
echo "import site; site.addsitedir('{packages}')" > /opt/busbar/lib/{python}/site-packages/busbar.pth
cat > /opt/busbar/bin/busbar << 'END'
#!/opt/busbar/bin/python
import sys
from busbar.cli.app import main
sys.exit(main())
END
cat > /usr/local/bin/systemctl << 'END'
#!/bin/sh
exec /opt/busbar/bin/python {here}/systemctl.py "$@"
END
cat > /usr/local/bin/scp << 'END'
#!/bin/bash
to="${{@: -1}}"
exec cp "${{@:1:$#-1}}" {machines}/"${{to%:}}"/root/
END
chmod 755 /opt/busbar/bin/busbar /usr/local/bin/systemctl /usr/local/bin/scp
printf '%s\\n' '127.0.0.1 localhost' {hosts} > /etc/hosts
setpriv --reuid nobody --clear-groups /opt/busbar/bin/busbar --help > {own}/help.txt
hostname {name}
ip link set lo up
"""


class Block(NamedTuple):
    """A block of a page: where it runs, and its commands; or the file that it shows."""

    host: str
    text: str
    file: str | None = None


def blocks(page: Path) -> Iterator[Block]:
    """The blocks that begin with `# on HOST` or `# FILE on HOST`."""
    for head, text in _BLOCK.findall(page.read_text()):
        if found := _FILE.fullmatch(head):
            yield Block(found[2], text, found[1])
        elif head.startswith("on "):
            yield Block(head.removeprefix("on "), text)


class Machine:
    """One machine of a page."""

    def __init__(self, name: str, own: Path, process: subprocess.Popen[bytes]) -> None:
        self.name, self.own, self.process = name, own, process
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        self.init = int(children[0])

    def run(self, script: str, timeout: float = 60) -> str:
        """Run a script as root in a login's environment; it must succeed. Returns what it prints."""
        env = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
        enter = ["nsenter", "-t", str(self.init), "-m", "-n", "-p", "-u", "bash", "-e"]
        done = subprocess.run(
            enter,
            input=f"cd /root\n{script}",
            env=env,
            text=True,
            capture_output=True,
            timeout=bound(timeout),
        )
        assert done.returncode == 0, f"on {self.name}:\n{script}\n{done.stdout}{done.stderr}\n{self.logs()}"
        return done.stdout

    def write(self, path: str, text: str) -> None:
        """Write a file."""
        self.run(f"mkdir -p $(dirname {path}) && cat > {path} << 'END OF FILE'\n{text}END OF FILE\n")

    def logs(self) -> str:
        """The ends of the logs of its services."""
        found = sorted(self.own.glob("*.log"))
        return "\n".join(f"{path.name}:\n{path.read_text(errors='replace')[-3000:]}" for path in found)


def _checked(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=bound(20))


@contextmanager
def machines(folder: Path, names: list[str]) -> Iterator[dict[str, Machine]]:
    """Machines of these names, connected; skips where namespaces or overlays are not permitted."""
    folder.chmod(0o755)
    made: dict[str, Machine] = {}
    subprocess.run(["ip", "netns", "del", HUB], check=False, capture_output=True)
    try:
        try:
            _checked("ip", "netns", "add", HUB)
            _checked("ip", "-n", HUB, "link", "add", "br0", "type", "bridge")
            _checked("ip", "-n", HUB, "link", "set", "br0", "up")
            for number, name in enumerate(names, 1):
                made[name] = _start(folder, name, names)
                _plug(made[name], number)
        except (subprocess.CalledProcessError, FileNotFoundError, _SetupError) as error:
            pytest.skip(f"no machines from namespaces here: {getattr(error, 'stderr', None) or error!r}")
        yield made
    finally:
        for machine in made.values():
            machine.process.kill()
            machine.process.wait(bound(20))
        subprocess.run(["ip", "netns", "del", HUB], check=False, capture_output=True)


class _SetupError(Exception):
    pass


def _start(folder: Path, name: str, names: list[str]) -> Machine:
    own = folder / name
    own.mkdir()
    script = _SETUP.format(
        name=name.partition(".")[0],
        own=own,
        base=own / "base",
        machines=folder,
        here=Path(__file__).parent,
        prefix=sys.base_prefix,
        python=f"python{sys.version_info[0]}.{sys.version_info[1]}",
        packages=site.getsitepackages()[0],
        hosts=" ".join(f"'{NET}.{number} {each}'" for number, each in enumerate(names, 1)),
    )
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        raise _SetupError("unshare and nsenter are needed")
    command = ["unshare", "-m", "-n", "-p", "-u", "-f", "--mount-proc", "--kill-child", "bash", "-c"]
    process = subprocess.Popen(
        [*command, f"({script}) && echo ready; exec sleep 1000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "MACHINE": str(own)},
    )
    assert process.stdout is not None
    said = b""
    while not said.endswith(b"ready\n"):
        line = process.stdout.readline()
        said += line
        if not line or b"denied" in line or b"not permitted" in line:
            process.kill()
            process.wait()
            raise _SetupError(said.decode(errors="replace"))
    machine = Machine(name, own, process)
    machine.run(f"ln -s {own} /run/machine")
    return machine


def _plug(machine: Machine, number: int) -> None:
    outer = f"bbm{number}"
    _checked(
        *("ip", "-n", HUB, "link", "add", outer, "type", "veth", "peer", "name", "eth0"),
        *("netns", str(machine.init)),
    )
    _checked("ip", "-n", HUB, "link", "set", outer, "master", "br0", "up")
    machine.run(f"ip addr add {NET}.{number}/24 dev eth0 && ip link set eth0 up")
