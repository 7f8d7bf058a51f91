"""A running worker is told of its peers, and goes on: a real program that reads its file again on SIGHUP."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from busbar.bus.messages import Peer

from tests.agents import Bench, bench, worker

PROGRAM = """
import http.server, signal, sys
def peers(*_):
    print('peers', open('peers.conf').read().strip(), flush=True)
peers()
signal.signal(signal.SIGHUP, peers)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *arguments): pass
http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench(tmp_path) as made:
        program = tmp_path / "meshed.py"
        program.write_text(PROGRAM)
        argv = json.dumps([sys.executable, "-u", str(program), "{port}"])
        with made.toml.open("a") as file:
            file.write(
                f'[runtimes.meshed]\nargv = {argv}\nready = {{type = "http"}}\nscheme = "http"\n'
                'config_file = "peers.conf"\nconfig_template = "of {worker}: {peers}"\n'
                'peer_format = "{worker}={host}:{port}"\npeer_separator = " "\nreload = "SIGHUP"\n'
            )
        yield made


def peers(*ordinals: int) -> dict[str, list[Peer]]:
    return {"edge/web": [Peer(f"web-{n}", f"n{n}", {"default": f"http://10.0.0.{n}:80"}) for n in ordinals]}


def said(node: Bench) -> list[str]:
    log = node.folder / "state" / "logs" / "oid-web-1.log"
    return [line for line in log.read_text().splitlines() if line.startswith("peers")]


async def hears(node: Bench, *lines: str) -> None:
    """Wait until the worker's log has exactly these lines."""
    wanted = [f"peers of web-1: {line}".rstrip() for line in lines]
    await node.until(lambda: said(node)[-len(wanted) :] == wanted)


def meshed(**more: Any) -> Any:
    return worker(runtime="meshed", **more)


def assign(node: Bench, ordinals: Sequence[int] | None, **more: Any) -> None:
    told = {} if ordinals is None else {"peers": peers(*ordinals)}
    node.assign(meshed(**more), **told)


async def test_a_change_of_peers_is_told_and_restarts_nothing(node: Bench) -> None:
    await node.start()
    assign(node, [1, 2])
    first = await node.state("web-1", "RUNNING")
    await hears(node, "web-2=10.0.0.2:80")
    assign(node, [1, 2, 3])
    await hears(node, "web-2=10.0.0.2:80", "web-2=10.0.0.2:80 web-3=10.0.0.3:80")
    assign(node, [1])
    await hears(node, "web-2=10.0.0.2:80 web-3=10.0.0.3:80", "")
    assign(node, None)
    await node.report(lambda report: "mesh" not in report["workers"][0])
    last = await node.state("web-1", "RUNNING")
    assert (last["pid"], last.get("reason")) == (first["pid"], None)
    assert first["mesh"] == {"of": 1, "connected": None, "missing": []}


async def test_what_it_was_told_is_known_to_the_next_agent(node: Bench) -> None:
    await node.start()
    assign(node, [1, 2])
    first = await node.state("web-1", "RUNNING")
    await node.stop()
    await node.start()
    again = await node.state("web-1", "RUNNING", pid=first["pid"])
    assert again["restarts"] == first["restarts"]
    assign(node, [1, 3])
    await hears(node, "web-2=10.0.0.2:80", "web-3=10.0.0.3:80")


async def test_peers_that_changed_while_no_agent_ran_are_told_by_the_next(node: Bench) -> None:
    await node.start()
    assign(node, [1, 2])
    await node.state("web-1", "RUNNING")
    await node.stop()
    assign(node, [1, 3])
    await node.start()
    await hears(node, "web-2=10.0.0.2:80", "web-3=10.0.0.3:80")


async def test_a_reload_that_fails_is_said_and_tried_again(node: Bench) -> None:
    await node.start()
    assign(node, [1, 2])
    running = await node.state("web-1", "RUNNING")
    folder = node.folder / "state" / "workers" / "oid-web-1"
    away = folder.with_name("away")
    folder.rename(away)
    folder.write_text("no folder")
    assign(node, [1, 3])
    told = await node.state("web-1", "RUNNING", pid=running["pid"])
    told = await node.until(lambda: _reason(node))
    assert told.startswith("not told of its present peers: ")
    folder.unlink()
    away.rename(folder)
    await hears(node, "web-2=10.0.0.2:80", "web-3=10.0.0.3:80")
    await node.until(lambda: _reason(node) is None)


def _reason(node: Bench) -> str | None:
    (found,) = node.reports[-1]["workers"]
    reason: str | None = found.get("reason")
    return reason


async def test_a_process_that_only_begins_is_not_ended_by_the_signal(node: Bench) -> None:
    """It would be: Python has no handler for SIGHUP before the program sets one."""
    text = node.toml.read_text().replace(str(node.folder / "meshed.py"), str(node.folder / "late.py"))
    node.toml.write_text(text)
    gate = node.folder / "gate"
    os.mkfifo(gate)
    (node.folder / "late.py").write_text(f"open({str(gate)!r}).read()\n{PROGRAM}")
    await node.start()
    assign(node, [1, 2])
    begun = await node.state("web-1", "STARTING")
    await node.until(lambda: node.reports[-1]["workers"][0].get("pid"))
    assign(node, [1, 3])
    await node.report(lambda report: report["applied"]["version"] == node.version)
    gate.write_text("go")
    running = await node.state("web-1", "RUNNING")
    assert running["restarts"] == begun["restarts"]
    await node.until(lambda: said(node)[-1:] == ["peers of web-1: web-3=10.0.0.3:80"])
