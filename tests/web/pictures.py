"""Takes the pictures of the documentation from a real realm: `python -m tests.web.pictures FOLDER`."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path

from tests.integration.cli.harness import Stack, stack
from tests.web.browser import Browser, browser

POINTS = 8
MESH = '{"type": "mqtt", "listeners": {"mqtt": {"port": "26500-26599"}, "routes": {"type": "cluster"}}}'


def realm(up: Stack) -> None:
    """Two clusters on three nodes, one of them a mesh of nats-server."""
    up.ok("cluster", "create", "edge", "--type", "mqtt", "--port", "26600-26699")
    up.ok("cluster", "create", "mesh")
    for node in ("n1", "n2", "n3"):
        for cluster in ("edge", "mesh"):
            up.ok("cluster", "add-node", cluster, node)
    up.ok("group", "add", "edge/web", "--scale", "3")
    up.ok("group", "add", "mesh/mqtt", "--runtime", "nats", "--scale", "3", "--transport", MESH)
    for cluster in ("edge", "mesh"):
        up.ok("cluster", "start", cluster, "--wait")


def take(up: Stack, page: Browser, folder: Path) -> None:
    """The realm, a worker on a phone, in the dark, and a plan."""
    page.sign_in("admin", (up.state / "secrets" / "admin").read_text().strip())
    page.shows('[data-key="workergroup/mesh/mqtt"] .picture', "3 of 3 pairs", 60)
    page.click('[data-key="worker/edge/web-2"] button.open')
    page.shows("#usage", "CPU", 60)
    os.kill(up.pids("edge")["web-2"], signal.SIGKILL)
    page.shows("#why", "killed", 60)
    page.status("worker/edge/web-2", "RUNNING", timeout=60)
    page.shows("#lines", "listening", 60)
    page.until(lambda: "Cause:" not in page.text("#why"), "it is well again", 60)
    points = "return document.querySelector('.plot .line').getAttribute('points').split(' ').length"
    page.until(lambda: page.script(points) >= POINTS, "some minutes have passed", 300)
    page.picture(folder / "page.png", 1060, 660)
    page.picture(folder / "page-phone.png", 390, 700, dark=True)
    page.click("#panel-close")
    page.script("window.scrollTo(0, 0)")
    page.click('[data-key="node/n1"] [data-action=drain]')
    page.shows("#dialog-plan", "move")
    page.picture(folder / "page-plan.png", 1060, 660)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as here, stack(Path(here)) as up:
        up.realm = "harbour"
        up.up("--agents", "3", "--port", "0", "--web", "--stop-workers")
        up.ready()
        realm(up)
        with browser(up.written()["page"], Path(here)) as page:
            take(up, page, folder)
        up.signal(signal.SIGTERM)
        up.wait()
    for file in sorted(folder.glob("page*.png")):
        print(f"{file}: {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
