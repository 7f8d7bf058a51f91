"""The demonstration: `python -m busbar.cli.demo`, which is `make demo`.

It runs the real command line and services in a temporary folder, checks every claim that it prints, and
leaves nothing running. Exit code 0 if all checks passed, else 1 with the reason.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shutil
import signal
import sys
import tempfile
from asyncio.subprocess import Process
from pathlib import Path
from typing import Final

from busbar.bus.clock import SystemClock

from ..printing.output import paint, print_table
from . import clients
from .mesh import mesh
from .page import page, served
from .stage import STEP_S, DemoError, Events, Stage, check, end

NODES: Final = ("n1", "n2", "n3")
WORKERS: Final = 4
MESSAGES: Final = 25
LIMIT_S: Final = 240.0
"""Bound of the whole demonstration, seconds."""
CROSSBAR_TRANSPORT: Final = (
    '{"type": "web", "endpoint": {"type": "tcp", "port": "24100-24199"}, "paths": {'
    '"ws": {"type": "websocket"}, "info": {"type": "nodeinfo"}, '
    '"hello": {"type": "json", "value": {"hello": "from a router worker"}}}}'
)


# --- the chapters ------------------------------------------------------------------------------------------


async def bring_up(stage: Stage) -> Process:
    """Start `busbar up` and wait until it is ready."""
    arguments = ("up", "--agents", str(len(NODES)), "--realm", stage.realm, "--port", "0", "--heartbeat", "1")
    async with stage.chapter("Broker, manager and three agents") as facts:
        up = await stage.start(*arguments, *(["--web"] if served() else []), "--stop-workers")
        try:
            assert up.stdout is not None
            ready = ""
            while raw := await up.stdout.readline():
                text = raw.decode().rstrip()
                stage.say(text)
                ready = text if text.startswith("ready in") else ready
                if text.startswith("Ctrl-C"):
                    break
            check(ready, "busbar up did not become ready")
        except BaseException:
            await end(up, signal.SIGINT)
            raise
        facts.append(ready)
        nodes = await stage.query("node", "list")
        check([row["status"] for row in nodes] == ["online"] * 3, f"not all nodes are online: {nodes}")
    return up


async def make_cluster(stage: Stage) -> None:
    """Create a cluster with a group of four workers on three nodes."""
    async with stage.chapter(f"A cluster with {WORKERS} MQTT routers on {len(NODES)} nodes") as facts:
        await stage.busbar("cluster", "create", "edge", "--type", "mqtt", "--port", "24000-24099")
        for node in NODES:
            await stage.busbar("cluster", "add-node", "edge", node)
        await stage.busbar("group", "add", "edge/web", "--scale", str(WORKERS))
        started = stage.clock.monotonic()
        await stage.busbar("cluster", "start", "edge", "--wait")
        facts.append(f"all ready in {stage.clock.monotonic() - started:.1f} s")
        await stage.busbar("worker", "list")
        workers = await stage.workers("edge")
        check(len(workers) == WORKERS, f"there are {len(workers)} workers")
        check({row["node"] for row in workers.values()} == set(NODES), "they are not spread over the nodes")
        check(all(row["status"] == "RUNNING" for row in workers.values()), "not all are running")


async def send_messages(stage: Stage) -> None:
    """Use every worker's endpoint with a real client."""
    async with stage.chapter("A client sends messages through the workers") as facts:
        stat = await stage.query("cluster", "stat", "edge")
        check(len(stat["endpoints"]) == WORKERS, f"endpoints: {stat['endpoints']}")
        for endpoint in stat["endpoints"]:
            back = await clients.mqtt_echo(endpoint["url"], MESSAGES, stage.clock)
            check(back == MESSAGES, f"{endpoint['worker']}: {back} of {MESSAGES} messages came back")
            stage.say(f"{endpoint['worker']} at {endpoint['url']}: {back} of {MESSAGES} messages came back")
        facts.append(f"{WORKERS * MESSAGES} of {WORKERS * MESSAGES} came back")


async def kill_worker(stage: Stage) -> None:
    """SIGKILL a worker while watching the events."""
    async with stage.chapter("A worker is killed, and replaced") as facts:
        before = await stage.workers("edge")
        manager = await stage.query("manager", "show")
        watch = await stage.start(
            "event", "watch", "--since", str(manager["sequence"]), "-o", "json", quiet=True
        )
        print("$ busbar event watch", flush=True)
        try:
            victim = before["web-2"]
            stage.say(f"kill -9 {victim['pid']}  (worker web-2 on {victim['node']})")
            started = stage.clock.monotonic()
            os.kill(victim["pid"], signal.SIGKILL)
            events = Events(stage, watch)
            await events.until("worker_failed", "web-2")
            await events.until("worker_ready", "web-2")
            facts.append(f"ready again after {stage.clock.monotonic() - started:.1f} s")
        finally:
            await end(watch, signal.SIGINT, 5.0)
        after = await stage.workers("edge")
        check(after["web-2"]["pid"] not in (None, victim["pid"]), "it was not replaced")
        same = all(after[name]["pid"] == row["pid"] for name, row in before.items() if name != "web-2")
        check(same, "another worker was restarted too")
        url = after["web-2"]["address"]
        check(await clients.mqtt_echo(url, MESSAGES, stage.clock) == MESSAGES, "it routes no messages")
        stage.say(f"web-2 runs as pid {after['web-2']['pid']}, the others as before; messages flow again")


async def kill_manager(stage: Stage) -> None:
    """SIGKILL the manager; the workers are unaffected."""
    from ..context import read_up

    async with stage.chapter("The manager is killed, and no worker notices") as facts:
        before, manager = await stage.workers("edge"), await stage.query("manager", "show")
        pid = read_up(stage.state)["pids"]["manager"]
        stage.say(f"kill -9 {pid}  (the manager, epoch {manager['epoch']})")
        started = stage.clock.monotonic()
        os.kill(pid, signal.SIGKILL)

        async def restarted() -> bool:
            return bool(read_up(stage.state)["pids"].get("manager", pid) != pid)

        await stage.until("busbar up starts it again", restarted)
        again = await stage.query("manager", "show")
        facts.append(f"answers after {stage.clock.monotonic() - started:.1f} s")
        check(again["epoch"] == manager["epoch"] + 1, f"its epoch is {again['epoch']}")

        async def running() -> bool:
            return bool((await stage.query("cluster", "show", "edge"))["status"] == "RUNNING")

        await stage.until("the cluster is RUNNING", running)
        after = await stage.workers("edge")
        pids = {name: row["pid"] for name, row in before.items()}
        check(pids == {name: row["pid"] for name, row in after.items()}, "a worker was restarted")
        facts.append("0 workers restarted")
        await stage.busbar("status")


async def crossbar(stage: Stage) -> None:
    """Run a Crossbar.io router with Web services, if the program is installed."""
    nodes = await stage.query("node", "list")
    if not all("crossbar" in row["runtimes"] for row in nodes):
        print("\nCrossbar.io is not installed (the extra 'crossbar'): its part is skipped.")
        return
    async with stage.chapter("A Crossbar.io router: WAMP, a page and JSON on one port") as facts:
        await stage.busbar("cluster", "create", "wamp", "--transport", CROSSBAR_TRANSPORT)
        await stage.busbar("cluster", "add-node", "wamp", "n1")
        await stage.busbar("group", "add", "wamp/router", "--runtime", "crossbar", "--scale", "1")
        await stage.busbar("cluster", "start", "wamp", "--wait", "--timeout", "60")
        url = (await stage.query("cluster", "stat", "wamp"))["endpoints"][0]["url"]
        http = "http" + url.removeprefix("ws").rpartition("/")[0]
        found = await clients.http_json(f"{http}/hello")
        check(found == {"hello": "from a router worker"}, f"GET /hello: {found}")
        stage.say(f"GET {http}/hello: {found}")
        check("Busbar" in await clients.http_text(f"{http}/"), "the page is another")
        stage.say(f"GET {http}/: the worker's page")
        welcome = await clients.wamp_hello(url, "realm1")
        check(welcome[:1] == [2], f"WAMP HELLO was answered by {welcome}")
        stage.say(f"WAMP over {url}: welcome, session {welcome[1]}")
        facts.append("HTTP and WAMP answered")
        await stage.busbar("cluster", "delete", "wamp", "--stop", "--wait")


async def take_down(stage: Stage, up: Process) -> None:
    """Stop and delete everything; no process is left."""
    async with stage.chapter("Everything is stopped, and nothing is left") as facts:
        await stage.busbar("cluster", "stop", "edge", "--wait")
        await stage.busbar("cluster", "delete", "edge", "--wait")
        check(await stage.query("cluster", "list") == [], "a cluster is left")
        check(await stage.query("worker", "list") == [], "a worker is left")
        stage.say("Ctrl-C to busbar up")
        await end(up, signal.SIGINT)
        check(up.returncode == 0, f"busbar up ended with exit code {up.returncode}")
        left = clients.processes_with(stage.realm.encode(), str(stage.state).encode())
        check(not left, f"processes are left: {left}")
        facts.append("no process left")


async def story(stage: Stage, picture: Path | None) -> None:
    """Run all chapters in order."""
    up = await bring_up(stage)
    try:
        for chapter in (make_cluster, send_messages, kill_worker, kill_manager):
            await chapter(stage)
        await page(stage, picture)
        for chapter in (mesh, crossbar):
            await chapter(stage)
        await take_down(stage, up)
    finally:
        await end(up, signal.SIGINT)


async def run(folder: Path, picture: Path | None) -> int:
    """Run the story within its bound, then print the summary. A picture of the page goes to this file."""
    clock = SystemClock()
    stage, started = Stage(folder, clock), clock.monotonic()
    task = asyncio.current_task()
    assert task is not None
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, task.cancel)
    try:
        async with asyncio.timeout(LIMIT_S):
            await story(stage, picture)
    except (DemoError, TimeoutError, OSError) as error:
        reason = str(error) or f"it took longer than {LIMIT_S:g} s, or one part longer than {STEP_S:g} s"
        print(f"\nfailed: {reason}", file=sys.stderr)
        show_logs(stage.state / "logs")
        return 1
    except asyncio.CancelledError:
        return 130
    print()
    print_table(
        ["what happened", "", "time"], [*stage.summary, ["total", "", f"{clock.monotonic() - started:.1f} s"]]
    )
    print(paint("all of it was checked"))
    return 0


def show_logs(folder: Path) -> None:
    """Print the last log lines of each service after a failure."""
    for path in sorted(folder.glob("*.log")):
        for line in path.read_text(errors="replace").splitlines()[-15:]:
            print(f"  {path.stem}: {line}", file=sys.stderr)


def main() -> int:
    """Run it in a temporary folder, which is removed afterwards."""
    parser = argparse.ArgumentParser(prog="python -m busbar.cli.demo", description="The demonstration.")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="keep a picture (PNG) of the page here")
    picture: Path | None = parser.parse_args().picture
    # What its clients meet while routers come and go is shown by its own words.
    logging.getLogger("busbar").addHandler(logging.NullHandler())
    folder = Path(tempfile.mkdtemp(prefix="busbar-demo-"))
    try:
        return asyncio.run(run(folder, picture.absolute() if picture else None))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
