"""A worker with several named listeners: ready with all of them, and all of its ports are its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.agents import Bench, bench, worker

PAIR = """
import http.server, pathlib, sys, threading
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b'ok')
    def log_message(self, *arguments): pass
def serve(port):
    http.server.ThreadingHTTPServer(('127.0.0.1', port), Handler).serve_forever()
first, second, door = sys.argv[1:]
threading.Thread(target=serve, args=(int(first),), daemon=True).start()
while not pathlib.Path(door).exists():
    threading.Event().wait(0.02)
serve(int(second))
"""
"""Serves its second port once the file `door` is there."""


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Bench]:
    (tmp_path / "pair.py").write_text(PAIR)
    door = str(tmp_path / "door")
    argv = [sys.executable, "-u", str(tmp_path / "pair.py"), "{port}", "{port.back}", door]
    async with bench(tmp_path) as made:
        with made.toml.open("a") as file:
            file.write(f"[runtimes.pair]\nargv = {json.dumps(argv)}\nscheme = 'http'\n")
            file.write('types = ["web"]\nready = {type = "http"}\ngrace = 1\n')
        yield made


def pair(name: str = "web-1", *, generation: int = 1, **listeners: Any) -> Any:
    transport = {"type": "web", "listeners": listeners or {"front": {}, "back": {}}}
    return worker(name, "pair", transport=transport, generation=generation, digest=f"d{generation}")


def record_of(node: Bench, name: str = "web-1") -> Path:
    return node.folder / "state" / "records" / f"oid-{name}.json"


async def test_a_worker_is_ready_once_every_listener_answers(node: Bench) -> None:
    await node.start()
    node.assign(pair())
    found = await node.report(
        lambda last: [each for each in last["workers"] if "listener back" in (each["reason"] or "")]
    )
    assert found["workers"][0]["state"] == "STARTING"
    assert "nothing listens on" in found["workers"][0]["reason"]
    (node.folder / "door").touch()
    ready = await node.state("web-1", "RUNNING")
    assert list(ready["listeners"]) == ["front", "back"]
    assert ready["address"] == ready["listeners"]["front"] != ready["listeners"]["back"]


async def test_a_worker_with_one_listener_without_a_name_reports_none(node: Bench) -> None:
    await node.start()
    node.assign(worker())
    assert "listeners" not in await node.state("web-1", "RUNNING")
    assert json.loads(record_of(node).read_bytes())["listeners"] == {}


async def test_all_ports_are_kept_over_a_kill_a_restart_of_the_agent_and_a_lost_folder(node: Bench) -> None:
    (node.folder / "door").touch()
    await node.start()
    node.assign(pair())
    first = await node.state("web-1", "RUNNING")
    os.kill(first["pid"], signal.SIGKILL)
    again = await node.state("web-1", "RUNNING", restarts=1)
    assert again["listeners"] == first["listeners"]
    for lost in (False, True):
        await node.stop()
        if lost:
            record_of(node).unlink()
        node.reports.clear()
        await node.start()
        kept = await node.state("web-1", "RUNNING")
        assert (kept["pid"], kept["listeners"]) == (again["pid"], first["listeners"]), lost
        assert kept["reason"] is None


async def test_a_record_of_a_version_with_one_port_is_still_read(node: Bench) -> None:
    await node.start()
    node.assign(worker())
    first = await node.state("web-1", "RUNNING")
    await node.stop()
    old = json.loads(record_of(node).read_bytes())
    del old["listeners"]
    record_of(node).write_text(json.dumps(old))
    node.reports.clear()
    await node.start()
    kept = await node.state("web-1", "RUNNING")
    assert (kept["pid"], kept["address"]) == (first["pid"], first["address"])
    os.kill(kept["pid"], signal.SIGKILL)
    again = await node.state("web-1", "RUNNING", restarts=1)
    assert again["address"] == first["address"], "its port is preferred"


async def test_no_worker_takes_any_port_of_another_one(node: Bench) -> None:
    (node.folder / "door").touch()
    await node.start()
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    node.assign(pair(front={}, back={"port": port}))
    await node.state("web-1", "RUNNING")
    node.assign(pair(front={}, back={"port": port}), pair("web-2", front={"port": port}, back={}))
    failed = await node.state("web-2", "BACKOFF")
    assert f"listener 'front': port {port} is held by another worker of this node" in failed["reason"]


async def test_an_answer_of_another_process_on_any_port_does_not_make_a_worker_ready(node: Bench) -> None:
    await node.start()
    node.assign(pair())
    await node.report(
        lambda last: [each for each in last["workers"] if "listener back" in str(each["reason"])]
    )
    port = json.loads(record_of(node).read_bytes())["listeners"]["back"]["port"]
    server = await asyncio.start_server(
        lambda _, writer: writer.write(b"HTTP/1.1 200 OK\r\n\r\n"), "127.0.0.1", port
    )
    try:
        told = f"listener back: port {port} is answered by another process"
        await node.report(lambda last: [each for each in last["workers"] if told in str(each["reason"])])
        assert node.reports[-1]["workers"][0]["state"] == "STARTING"
    finally:
        server.close()


async def test_a_listener_that_falls_silent_is_a_hung_worker(node: Bench) -> None:
    program = (node.folder / "pair.py").read_text().replace(
        "serve(int(second))",
        "server = http.server.ThreadingHTTPServer(('127.0.0.1', int(second)), Handler)\n"
        "threading.Thread(target=server.serve_forever, daemon=True).start()\n"
        "while pathlib.Path(door).exists():\n    threading.Event().wait(0.02)\n"
        "server.shutdown(); threading.Event().wait()\n",
    )  # fmt: skip
    (node.folder / "pair.py").write_text(program)
    (node.folder / "door").touch()
    await node.start()
    node.assign(pair())
    await node.state("web-1", "RUNNING")
    (node.folder / "door").unlink()
    hung = await node.state("web-1", "BACKOFF", timeout=40)
    assert "listener back: no answer within" in hung["reason"]


@pytest.mark.parametrize(
    ("listeners", "pointer"),
    [({"front": {}}, "back"), ({"front": {}, "back": {}, "more": {}}, "more"), ({"back": {}, "x": {}}, "x")],
)
async def test_listeners_that_the_runtime_does_not_open_or_lacks_are_refused(
    node: Bench, listeners: Any, pointer: str
) -> None:
    await node.start()
    node.assign(pair(**listeners))
    failed = await node.state("web-1", "BACKOFF")
    assert f"/transport/listeners/{pointer}: " in failed["reason"]
