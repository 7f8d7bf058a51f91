"""docs/howto/python-client.md: its programs are typed, and run against a real `busbar up`."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.cli.harness import stack

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "howto" / "python-client.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
CALLS = {
    "plan": "\n\nimport asyncio, tests_connect\nasyncio.run(tests_connect.bus_of(plan))\n",
    "watch": "\n\nimport asyncio, tests_connect\nasyncio.run(tests_connect.bus_of(watch))\n",
    "start": "\n\nimport asyncio, tests_connect\nasyncio.run(tests_connect.bus_of_cluster(start))\n",
}
"""What a page's function is called with: a client, or a client and a cluster's oid."""
HELPER = """
from collections.abc import Awaitable, Callable

from busbar import BusClient, connect

URL, SECRET = {url!r}, {secret!r}


async def bus_of(work: Callable[[BusClient], Awaitable[None]]) -> None:
    async with connect(URL, realm={realm!r}, username="admin", password_file=SECRET) as bus:
        await work(bus)


async def bus_of_cluster(work: Callable[[BusClient, str], Awaitable[None]]) -> None:
    async with connect(URL, realm={realm!r}, username="admin", password_file=SECRET) as bus:
        await work(bus, await bus.cluster_oid("fromcode"))
"""


def test_the_programs_of_the_page_are_strictly_typed(tmp_path: Path) -> None:
    files = []
    for number, block in enumerate(BLOCKS):
        files.append(tmp_path / f"block{number}.py")
        files[-1].write_text(block)
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--no-error-summary",
        "--cache-dir",
        str(tmp_path / "c"),
    ]
    done = subprocess.run(
        [*command, *map(str, files)], capture_output=True, text=True, cwd=tmp_path, timeout=110
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(120)
def test_the_programs_of_the_page_run(tmp_path: Path) -> None:
    with stack(tmp_path) as up:
        up.up("--port", "0", "--stop-workers")
        up.ready()
        url = up.written()["broker"]
        secret = str(up.state / "secrets" / "admin")
        (tmp_path / "tests_connect.py").write_text(HELPER.format(url=url, secret=secret, realm=up.realm))
        printed = []
        for number, block in enumerate(BLOCKS):
            text = block.replace("mqtt://127.0.0.1:1883", url).replace(
                "~/.local/state/busbar/secrets/admin", secret
            )
            text = text.replace('username="admin"', f'realm="{up.realm}", username="admin"')
            called = re.search(rf"^async def ({'|'.join(CALLS)})\(", block, re.MULTILINE)
            (tmp_path / f"run{number}.py").write_text(text + (CALLS[called.group(1)] if called else ""))
            done = subprocess.run(
                [sys.executable, f"run{number}.py"], capture_output=True, text=True, cwd=tmp_path, timeout=90
            )
            assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
            printed.append(done.stdout)
        up.signal(signal.SIGINT)
        assert up.wait() == 0
    said = "".join(printed)
    assert printed[0] == "fromcode is RUNNING with 2 workers\n"
    assert "fromcode is RUNNING\n" in said and "node n1: online" in said
    assert "wait fromcode/web-1 n1 n1 n1 is draining\n" in said
    assert "busbar.on_worker_ready worker/" in said
