"""The commands of docs/howto/security.md, run as printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from busbar.bus.access.acl import render_mosquitto

from tests import forked
from tests.brokers import free_port, mosquitto
from tests.certificates import PAGE, certificates
from tests.faults.census import until
from tests.pace import bound

BLOCKS = re.findall(r"^```(?:sh)?\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def block(word: str) -> str:
    """The one block that has this."""
    (found,) = (text for text in BLOCKS if word in text)
    return str(found)


class Shell:
    """A folder as home, with `busbar` in the path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        forked.program(folder / "bin", str(Path(sys.executable).with_name("busbar")))
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("BUSBAR_", "XDG_"))}
        self.env = {**clean, "HOME": str(folder), "PATH": f"{folder / 'bin'}:{clean['PATH']}"}

    def run(self, script: str, given: str = "") -> str:
        command = ["bash", "-euo", "pipefail", "-c", script]
        done = subprocess.run(
            command,
            input=given,
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=bound(60),
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def running(self, name: str, command: str, given: str = "") -> Iterator[None]:
        with (self.folder / f"{name}.log").open("wb") as log:
            child = subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                cwd=self.folder,
                env=self.env,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        assert child.stdin is not None
        child.stdin.write(given.encode())
        child.stdin.close()
        try:
            yield
        finally:
            child.terminate()
            child.wait(bound(60))

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.mark.fault(124, "U")
def test_the_blocks_on_people_and_nodes(shell: Shell) -> None:
    port = free_port()
    with shell.running("up", f"busbar up --port {port} --node n1"):
        until(lambda: "n1" in shell.run("busbar node list || true"), 30, "it serves")
        shell.run(block("busbar principal add bob operator     #"))
        assert "carol" in shell.run("busbar principal list")
        shell.run(block("busbar audit"))
        pair, join, agent, *others = block("busbar node pair n4").strip().splitlines()
        printed = shell.run(pair).splitlines()[-1]
        word = printed.removeprefix("busbar join ")
        assert join.startswith("busbar join TOKEN@BROKER ") and word.endswith(f"@127.0.0.1:{port}")
        shell.run(f"{printed} --no-unit")
        with shell.running("n4", agent.partition("#")[0]):
            until(lambda: "n4" in shell.run("busbar node list -q --status online"), 20, "n4 has joined")
        shell.run("\n".join(others))
        left = shell.run("busbar node list").splitlines()
        assert not any(line.startswith("m4") for line in left)
        assert all("unpaired" in line for line in left if line.startswith("n4"))


@pytest.mark.mosquitto
@pytest.mark.fault(124, "U")
def test_the_blocks_on_client_certificates(shell: Shell) -> None:
    """Nobody has a password; who has no certificate is not let in."""
    folder, port = shell.folder, free_port()
    certificates(folder, "ca", "broker", "manager", "n4", "alice")
    (folder / "busbar.acl").write_text(render_mosquitto("busbar", "lab", "manager", ["alice"]))
    (folder / "busbar.acl").chmod(0o600)
    lines = block("require_certificate true").replace("/etc/mosquitto", str(folder))
    options = [line.replace("8883", f"{port} 127.0.0.1") for line in lines.strip().splitlines()]
    manager, agent, context = re.split(
        r"\n(?=busbar )",
        block("busbar manager --realm lab").replace("broker:8883", f"127.0.0.1:{port}").strip(),
    )
    without = f"busbar --realm lab --broker mqtts://127.0.0.1:{port} --username alice"
    with (
        mosquitto(folder, *options),
        shell.running("manager", manager),
        shell.running("agent", agent),
    ):
        shell.run(context)
        until(lambda: "manager is ready" in shell.log("manager"), 30, "the manager serves")
        shell.run("busbar --context lab node pair n4")
        until(
            lambda: "n4" in shell.run("busbar --context lab node list -q --status online"), 30, "n4 is online"
        )
        with pytest.raises(AssertionError, match="--tls-cert"):
            # Without the context, which has the certificate.
            shell.run(f"XDG_CONFIG_HOME=$PWD/none {without} --tls-ca ca.crt node list")
