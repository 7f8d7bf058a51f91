"""A real Node-RED for tests: without an editor, driven by its admin API, with what its sidebar would show."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.brokers import free_port
from tests.pace import bound

SETTINGS = """module.exports = {
    uiHost: "127.0.0.1", uiPort: Number(process.env.PORT), flowFile: "flows.json", credentialSecret: false,
    httpNodeRoot: false, diagnostics: {enabled: false},
    telemetry: {enabled: false, updateNotification: false},
    externalModules: {palette: {allowInstall: false}}, logging: {console: {level: "info"}},
};
"""


class NodeRed:
    """Its admin API, and the debug messages."""

    def __init__(self, port: int, log: Path) -> None:
        self.url, self.log = f"http://127.0.0.1:{port}", log
        self.socket: ClientConnection | None = None
        self.seen: list[tuple[str, Any]] = []
        """Debug messages: the name of the node, and what it was given."""

    def post(self, path: str, body: object) -> int:
        """Post JSON; the status."""
        request = urllib.request.Request(
            f"{self.url}{path}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json", "Node-RED-API-Version": "v1"},
        )
        with urllib.request.urlopen(request, timeout=bound(20)) as reply:
            return int(reply.status)

    def listen(self) -> None:
        """Have debug messages come, as an editor's sidebar does."""
        self.socket = connect(self.url.replace("http", "ws") + "/comms", open_timeout=bound(10))
        self.socket.send(json.dumps({"subscribe": "debug"}))

    def press(self, node: str, **props: str) -> None:
        """Press an inject's button; `props`: other words for properties of the message."""
        given = [{"p": name, "v": value, "vt": "jsonata"} for name, value in props.items()]
        assert self.post(f"/inject/{node}", {"__user_inject_props__": given} if given else {}) == 200

    def shows(self, name: str, part: str, since: int = 0, timeout: float = 30.0) -> Any:
        """Wait until the debug node of this name shows something with this part, after `since` messages."""
        assert self.socket is not None
        end = time.monotonic() + bound(timeout)
        while True:
            for shown, value in self.seen[since:]:
                if shown == name and part in str(value):
                    return value
            try:
                self._read(self.socket.recv(timeout=max(0.01, end - time.monotonic())))
            except TimeoutError:
                pytest.fail(f"{name}: no {part!r} among {self.seen[since:]}\n{self.log.read_text()[-2000:]}")

    def _read(self, text: str | bytes) -> None:
        for message in json.loads(text):
            if message.get("topic") == "debug":
                self.seen.append((message["data"].get("name", ""), message["data"].get("msg")))


@contextmanager
def node_red(modules: str, folder: Path) -> Iterator[NodeRed]:
    """A Node-RED with no flow, and its end. `modules`: where npm has installed it."""
    folder.mkdir()
    (folder / "settings.js").write_text(SETTINGS)
    port, log = free_port(), folder / "node-red.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            ["node", f"{modules}/node_modules/node-red/red.js", "--userDir", folder],
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PORT": str(port), "HOME": str(folder)},
            cwd=folder,
        )
        made = NodeRed(port, log)
        try:
            _wait(made, process)
            made.listen()
            yield made
        finally:
            if made.socket is not None:
                made.socket.close()
            process.send_signal(signal.SIGINT)
            try:
                process.wait(bound(10))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(bound(10))


def _wait(made: NodeRed, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + bound(60)
    while True:
        try:
            with urllib.request.urlopen(f"{made.url}/flows", timeout=bound(5)):
                return
        except (urllib.error.URLError, OSError):
            if process.poll() is not None or time.monotonic() > end:
                pytest.fail(f"Node-RED did not start:\n{made.log.read_text()[-2000:]}")
            time.sleep(0.1)
