"""A node in its own network namespace whose link goes down: a real half-open connection."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers import free_port, mosquitto
from tests.faults.census import until
from tests.faults.conftest import needs_root
from tests.faults.yard import Yard
from tests.integration.cli.harness import stack
from tests.pace import within
from tests.stack import Stack, mosquitto_lines
from tests.test_docs import ROOT, run_steps, steps

pytestmark = [pytest.mark.timeout(120), pytest.mark.mosquitto, needs_root]

SPACE, OUTER, INNER = "bbfault", "bbf0", "bbf1"
HOST, GUEST = "198.51.100.1", "198.51.100.2"  # RFC 5737: addresses for documentation


def _ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], check=check, capture_output=True)


@pytest.fixture
def cable() -> Iterator[str]:
    """A veth pair, with one end in a namespace."""
    _ip("netns", "del", SPACE, check=False)
    try:
        _ip("netns", "add", SPACE)
        _ip("link", "add", OUTER, "type", "veth", "peer", "name", INNER, "netns", SPACE)
        _ip("addr", "add", f"{HOST}/30", "dev", OUTER)
        _ip("link", "set", OUTER, "up")
        _ip("netns", "exec", SPACE, "ip", "addr", "add", f"{GUEST}/30", "dev", INNER)
        _ip("netns", "exec", SPACE, "ip", "link", "set", INNER, "up")
        _ip("netns", "exec", SPACE, "ip", "link", "set", "lo", "up")
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        pytest.skip(f"no network namespaces here: {getattr(error, 'stderr', error)!r}")
    try:
        yield OUTER
    finally:
        _ip("netns", "del", SPACE, check=False)
        _ip("link", "del", OUTER, check=False)


@pytest.mark.fault((23, 25), "H K C")
def test_an_unplugged_cable_is_noticed_and_nothing_restarts(cable: str, tmp_path: Path) -> None:
    made = Stack(tmp_path, 0.4)
    port = free_port()
    lines = [*mosquitto_lines(made), f"listener {port} {HOST}"]
    with mosquitto(tmp_path, *lines) as made.port:
        here = Yard(made)
        try:
            here.start_manager()
            here.manager_is_up()
            here.alice.subscribe("status", "#")
            here.oids["n1"] = here.alice.sure("pair_node", {"node": {"name": "n1"}})["oid"]
            words = ["agent", "--node", "n1", "--state", str(tmp_path / "agent-n1")]
            words += ["--runtimes", str(here.toml), *made.connection("n1")]
            words[words.index("--broker") + 1] = f"mqtt://{HOST}:{port}"
            here.spawn("n1", words, "ip", "netns", "exec", SPACE, sys.executable, "-m", "busbar.cli.app")
            here.node("n1", "online")
            cluster = here.cluster(2, nodes=("n1",))
            before = cluster.running(2)
            time.sleep(12 * made.heartbeat)  # past the grace period after the manager's start
            began, mark = time.monotonic(), here.log_mark("n1")
            _ip("link", "set", cable, "down")
            topic = here.alice.topic("status", "_", "node", "n1")
            here.alice.wait_retained(topic, lambda value: value["status"] in ("late", "lost"), 10)
            took = time.monotonic() - began
            assert took < within(4 * made.heartbeat + 1.0), f"late after {took:.2f} s"
            until(lambda: "nothing is received" in here.log("n1")[mark:], 10, "the agent has noticed")
            here.node("n1", "lost")
            cluster.kept(before)
            _ip("link", "set", cable, "up")
            here.node("n1", "online")
            cluster.running(2)
            cluster.kept(before)
            cluster.stop()
        except AssertionError as error:
            raise AssertionError(f"{error}\n{made.logs()}") from error
        finally:
            here.close()
            made.close()


@pytest.fixture
def ipv6_only() -> Iterator[tuple[str, ...]]:
    """The command that runs another one on a host that has ::1 and no other address."""
    name = f"bbsix{os.getpid()}"
    _ip("netns", "del", name, check=False)
    try:
        _ip("netns", "add", name)
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", name, "addr", "del", "127.0.0.1/8", "dev", "lo")
        _ip("-n", name, "-6", "addr", "show", "dev", "lo", "to", "::1")
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        _ip("netns", "del", name, check=False)
        pytest.skip(f"no network namespaces here: {getattr(error, 'stderr', error)!r}")
    try:
        yield ("ip", "netns", "exec", name)
    finally:
        _ip("netns", "del", name, check=False)


@pytest.mark.timeout(180)
@pytest.mark.fault(109, "U")
def test_the_quickstart_runs_on_a_host_without_ipv4(ipv6_only: tuple[str, ...], tmp_path: Path) -> None:
    page = [
        (command.replace("127.0.0.1", "[::1]"), [line.replace("127.0.0.1", "[::1]") for line in shown])
        for command, shown in steps(ROOT / "docs" / "quickstart.md")
    ]
    run_steps(page, tmp_path, Path(sys.executable).parent, prefix=ipv6_only)


@pytest.mark.fault(109, "U")
@pytest.mark.crossbar
def test_workers_on_ipv6_addresses(ipv6_only: tuple[str, ...], tmp_path: Path) -> None:
    table = tmp_path / "runtimes.toml"
    argv = json.dumps([sys.executable, "-u", "-m", "http.server", "{port}", "--bind", "{host}"])
    table.write_text(f'[runtimes.pages]\nargv = {argv}\nscheme = "http"\nready = {{type = "http"}}\n')
    kinds = {"amqtt": "mqtt", "mosquitto": "mqtt", "pages": "tcp", "crossbar": "web"}
    schemes = {"amqtt": "mqtt", "mosquitto": "mqtt", "pages": "http", "crossbar": "ws"}
    with stack(tmp_path) as made:
        made.prefix = ipv6_only
        made.up("--port", "0", "--host", "::1", "--stop-workers", "--runtimes", str(table))
        made.ready()
        made.ok("cluster", "create", "six")
        made.ok("cluster", "add-node", "six", "n1")
        for runtime, kind in kinds.items():
            for name, interface in (("any", "::"), ("own", "::1")):
                transport = json.dumps({"type": kind, "endpoint": {"type": "tcp", "interface": interface}})
                words = ("--runtime", runtime, "--transport", transport, "--allow-anonymous")
                made.ok("group", "add", f"six/{runtime}-{name}", *words)
        made.ok("cluster", "start", "six", "--wait")
        workers = made.ask("worker", "list", "-c", "six")
        assert len(workers) == 2 * len(kinds)
        for worker in workers:
            runtime = worker["workergroup"].partition("-")[0]
            assert worker["address"].startswith(f"{schemes[runtime]}://[::1]:"), worker
        made.ok("node", "list", "--broker", made.written()["broker"])
        made.signal(signal.SIGINT)
        assert made.wait() == 0
