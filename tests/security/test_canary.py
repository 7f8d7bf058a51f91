"""Searches for every secret of a running system where it must not be."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cli.harness import Stack, until
from tests.pace import bound
from tests.plain import Plain

pytestmark = pytest.mark.timeout(120)


class Listening(Stack):
    """Records the output of every command."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.outputs: list[str] = []

    def run(self, *arguments: str, timeout: float = 60.0, **env: str) -> subprocess.CompletedProcess[str]:
        result = super().run(*arguments, timeout=timeout, **env)
        self.outputs.append(result.stdout + result.stderr)
        return result


def processes() -> Iterator[tuple[int, bytes]]:
    """Every process with its argument list, which any user may read."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                yield int(entry.name), (entry / "cmdline").read_bytes()
            except OSError:
                continue


def secrets_of(*folders: Path) -> set[str]:
    found = {path.read_text().strip() for folder in folders for path in folder.iterdir()}
    assert all(len(secret) >= 32 for secret in found)
    return found


def test_a_secret_is_only_in_its_file(tmp_path: Path) -> None:
    up = Listening(tmp_path)
    agent: subprocess.Popen[bytes] | None = None
    try:
        up.up("--agents", "1", "--port", "0", "--stop-workers", "--log-level", "debug", "-v")
        up.ready()
        where = up.written()
        manager = (up.state / "secrets" / "manager").read_text().strip()
        spy = Plain(where["port"], "manager", manager, up.realm)
        spy.subscribe("#")

        # Use every kind of secret.
        person = Path(up.ask("principal", "add", "bob", "operator")["password_file"])
        token = up.ask("node", "pair", "n9")["token"]
        up.outputs.pop()  # it is printed only once, by design
        home = tmp_path / "machine"
        with (tmp_path / "agent.log").open("wb") as log:
            agent = subprocess.Popen(
                [sys.executable, "-m", "busbar.cli.app", "agent", "--node", "n9", "--realm", up.realm,
                 "--broker", where["broker"], "--join", "-", "--log-level", "debug"],
                stdin=subprocess.PIPE, stdout=log, stderr=log, env={**up.env, "BUSBAR_STATE": str(home)},
            )  # fmt: skip
        assert agent.stdin is not None
        agent.stdin.write(token.encode() + b"\n")
        agent.stdin.close()
        until(lambda: up.ask("node", "show", "n9")["status"] == "online", "n9 is online")
        as_bob = {"BUSBAR_USERNAME": "bob", "BUSBAR_PASSWORD": person.read_text().strip()}
        typed = "a-password-typed-at-the-wrong-place-0123456789"
        up.ok("cluster", "create", "edge", "--type", "mqtt", "--port", "25400-25499", **as_bob)
        up.ok("cluster", "add-node", "edge", "n9")
        up.ok("group", "add", "edge/web")
        up.ok("cluster", "start", "edge", "--wait")
        up.fails(5, "cluster", "list", BUSBAR_USERNAME="bob", BUSBAR_PASSWORD=typed)
        up.fails(2, "--broker", f"mqtt://bob:{typed}@127.0.0.1:1", "cluster", "list")
        up.ok("context", "show")
        up.ok("manager", "show")
        up.ok("event", "list")
        up.ok("backup", str(tmp_path / "copy"), "--state", str(up.state / "manager"))
        held = secrets_of(up.state / "secrets", home / "secrets") | {token, typed}
        lists = list(processes())

        up.ok("node", "unpair", "n9", "--yes")
        up.ok("principal", "remove", "bob")
        until(lambda: "n9" not in up.ok("node", "list", "-q").split(), "n9 is gone")

        # Where they must not be.
        places: dict[str, bytes] = {f"arguments of {pid}": line for pid, line in lists}
        places |= {f"topic {t} #{n}": t.encode() + payload for n, (t, payload, _) in enumerate(spy.messages)}
        places |= {f"output {n}": text.encode() for n, text in enumerate([*up.outputs, *up.said])}
        for path in tmp_path.rglob("*"):
            if path.is_file() and "secrets" not in path.relative_to(tmp_path).parts:
                places[str(path)] = path.read_bytes()
        assert len(spy.messages) > 20 and any(name.endswith(".log") for name in places)
        assert any(name.endswith("busbar.db") for name in places)
        assert str(tmp_path / "copy") in places
        for name, content in places.items():
            leaked = [secret for secret in held if secret.encode() in content]
            assert not leaked, f"a secret is in {name}"
        # The search itself does find one.
        shown = json.dumps(sorted(held))
        assert all(secret in shown for secret in held)
        spy.__exit__()
        up.signal(signal.SIGINT)
        assert up.wait() == 0
    finally:
        if agent is not None:
            agent.terminate()
            agent.wait(bound(15))
        up.clean()
