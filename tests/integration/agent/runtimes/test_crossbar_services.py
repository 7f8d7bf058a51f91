"""A reverse proxy on paths of a real crossbar worker, and services of Crossbar.io that do not work."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from busbar.agent.processes.checking import check
from busbar.agent.runtimes import load_runtimes

from tests.integration.agent.runtimes.test_real import Run, crossbar_program, rendered, run, stop
from tests.pace import bound
from tests.wamp import WampClient

__all__ = ["run"]


class Backend(BaseHTTPRequestHandler):
    """Answers with what it was asked."""

    def do_GET(self) -> None:
        told = {"path": self.path, "for": self.headers["X-Forwarded-For"], "host": self.headers["Host"]}
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def backend() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Backend)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


async def curl(url: str, body: str | None = None) -> tuple[int, str]:
    command = ["curl", "-s", "-w", "\n%{http_code}", url, *(("-d", body) if body is not None else ())]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=bound(30), check=True
    )
    text, _, status = done.stdout.rpartition("\n")
    return int(status), text


@pytest.mark.crossbar
@pytest.mark.timeout(180)
async def test_a_proxy_beside_a_websocket(run: Run, backend: ThreadingHTTPServer) -> None:
    port = backend.server_address[1]
    table = {**crossbar_program(), "proxy_to": [f"127.0.0.1:{port}"]}
    runtime = load_runtimes({"crossbar": table})["crossbar"]
    proxy = {"type": "reverseproxy", "host": "127.0.0.1", "port": port}
    worker = await run(
        runtime,
        {
            "type": "web",
            "paths": {
                "/": proxy,
                "ws": {"type": "websocket"},
                "deep": {"type": "path", "paths": {"app": {**proxy, "path": "/base"}}},
            },
        },
    )
    await worker.ready()
    base = f"http://127.0.0.1:{worker.launch.port}"
    async with WampClient(f"ws://127.0.0.1:{worker.launch.port}/ws") as wamp:
        await wamp.subscribe("com.example.topic")
    status, text = await curl(f"{base}/x?q=1")
    told = {"path": "/x?q=1", "for": "127.0.0.1", "host": f"127.0.0.1:{port}"}
    assert (status, json.loads(text)) == (200, told)
    status, text = await curl(f"{base}/deep/app/y")
    assert (status, json.loads(text)["path"]) == (200, "/base/y")
    backend.shutdown()
    backend.server_close()
    assert (await curl(f"{base}/x"))[0] >= 500
    assert await worker.ask() is None, "the worker lives, whatever the server behind it does"
    await stop(worker)


@pytest.mark.crossbar
@pytest.mark.timeout(180)
async def test_a_worker_that_only_forwards_does_not_depend_on_the_server_behind_it(
    run: Run, backend: ThreadingHTTPServer
) -> None:
    port = backend.server_address[1]
    backend.shutdown()
    backend.server_close()
    table = {**crossbar_program(), "proxy_to": [f"127.0.0.1:{port}"]}
    runtime = load_runtimes({"crossbar": table})["crossbar"]
    paths = {"/": {"type": "reverseproxy", "host": "127.0.0.1", "port": port}}
    worker = await run(runtime, {"type": "web", "paths": paths})
    await worker.ready()
    await stop(worker)


@pytest.mark.crossbar
@pytest.mark.timeout(180)
async def test_what_is_not_offered_does_not_work_in_crossbar_either(tmp_path: Path) -> None:
    """Fails when it does: then offer it. Long polling lets nobody join, and `upload` is no service."""
    runtime = load_runtimes({"crossbar": crossbar_program()})["crossbar"]
    folder = tmp_path / "web-1"
    launch = rendered(folder, runtime, {"type": "web", "paths": {"lp": {"type": "nodeinfo"}}})
    config = folder / ".crossbar" / "config.json"
    plain = config.read_text()
    assert plain.count('"nodeinfo"') == 1
    config.write_text(plain.replace('"nodeinfo"', '"upload"'))
    assert "upload" in str(await check(launch.check, folder, launch.env, None))
    config.write_text(plain.replace('"nodeinfo"', '"longpoll"'))
    assert await check(launch.check, folder, launch.env, None) is None
    environment = {**os.environ, **launch.env}
    process = await asyncio.create_subprocess_exec(
        *launch.argv, env=environment, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        base = f"http://127.0.0.1:{launch.port}/lp"
        opened = await _opened(base)
        hello = [1, "realm1", {"roles": {"caller": {}}, "authmethods": ["anonymous"]}]
        status, text = await curl(f"{base}/{opened}/send", json.dumps(hello))
        assert (status, text) == (400, "could not unserialize WAMP message.")
    finally:
        process.terminate()
        await process.wait()


async def _opened(base: str) -> str:
    """A transport of a router that is starting."""
    async with asyncio.timeout(bound(60)):
        while True:
            with contextlib.suppress(subprocess.CalledProcessError, ValueError, KeyError):
                _, text = await curl(f"{base}/open", json.dumps({"protocols": ["wamp.2.json"]}))
                return str(json.loads(text)["transport"])
            await asyncio.sleep(0.2)
