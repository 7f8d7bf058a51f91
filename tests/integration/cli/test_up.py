"""`busbar up`: ready, healing, ending, adopting, refusing; with real processes."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers import free_port, mosquitto
from tests.integration.cli.harness import Stack, alive, stack, until

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Stack]:
    with stack(tmp_path) as found:
        yield found


def make_cluster(up: Stack, scale: int = 2) -> dict[str, int]:
    up.ok("cluster", "create", "edge", "--type", "mqtt", "--port", "25000-25099")
    for node in up.ask("node", "list"):
        up.ok("cluster", "add-node", "edge", node["name"])
    up.ok("group", "add", "edge/web", "--scale", str(scale))
    up.ok("cluster", "start", "edge", "--wait")
    pids = up.pids("edge")
    assert len(pids) == scale
    assert all(alive(pid) for pid in pids.values())
    return pids


def test_it_is_ready_keeps_its_secrets_and_ends_cleanly(up: Stack) -> None:
    up.up("--agents", "2", "--port", "0")
    up.ready()
    text = "\n".join(up.said)
    assert "n1 online, n2 online" in text
    written = up.written()
    assert set(written["pids"]) == {"up", "broker", "manager", "agent-n1", "agent-n2"}
    secrets = [path.read_text().strip() for path in (up.state / "secrets").iterdir()]
    assert len(set(secrets)) == 4
    assert up.state.stat().st_mode & 0o777 == 0o700
    for path in up.state.rglob("*"):
        if path.is_file() and path.parent.name != "secrets":
            content = path.read_bytes()
            assert not any(secret.encode() in content for secret in secrets), path
    for pid in written["pids"].values():
        shown = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
        assert not any(secret.encode() in shown for secret in secrets)
        assert os.getsid(pid) == pid, "the terminal's Ctrl-C must reach `up` alone"
    up.signal(signal.SIGTERM)
    assert up.wait() == 0
    assert up.left() == []
    assert up.written()["pids"] == {}


@pytest.mark.fault((1, 18, 32, 42), "C K")
def test_each_service_may_be_killed_and_no_worker_notices(up: Stack) -> None:
    up.up("--agents", "2", "--port", "0", "--stop-workers")
    up.ready()
    workers = make_cluster(up, 3)
    port = up.written()["port"]
    for service in ("agent-n1", "manager", "broker"):
        pid = up.pid(service)
        os.kill(pid, signal.SIGKILL)
        until(lambda s=service, p=pid: up.pid(s) not in (0, p), f"{service} is started again")
        until(lambda: up.running("edge", 3), f"RUNNING after {service} was killed")
        assert up.pids("edge") == workers, f"a worker was restarted when {service} was killed"
    assert up.written()["port"] == port
    os.kill(workers["web-2"], signal.SIGKILL)
    until(
        lambda: up.running("edge", 3) and up.pids("edge")["web-2"] not in (None, workers["web-2"]),
        "web-2 is replaced",
    )
    others = {name: pid for name, pid in up.pids("edge").items() if name != "web-2"}
    assert others == {name: pid for name, pid in workers.items() if name != "web-2"}
    up.signal(signal.SIGINT)
    assert up.wait() == 0
    assert up.left() == []


def test_workers_are_kept_by_default_and_adopted_by_the_next(up: Stack) -> None:
    up.up("--agents", "2", "--port", "0")
    up.ready()
    workers = make_cluster(up)
    before = up.written()
    up.signal(signal.SIGINT)
    assert up.wait() == 0
    assert all(alive(pid) for pid in workers.values())
    services = {pid for name, pid in before["pids"].items() if name != "up"}
    assert not any(alive(pid) for pid in services)
    up.up()
    up.ready()
    assert up.written()["port"] == before["port"], "the port is remembered"
    assert up.written()["nodes"] == ["n1", "n2"], "and so are the nodes"
    until(lambda: up.running("edge", 2), "RUNNING again")
    assert up.pids("edge") == workers
    up.ok("cluster", "delete", "edge", "--stop", "--wait")
    assert not any(alive(pid) for pid in workers.values())


@pytest.mark.parametrize("flag", ["--keep-workers", "--stop-workers"])
def test_when_up_itself_is_killed_its_services_end_and_the_workers_live(up: Stack, flag: str) -> None:
    up.up("--port", "0", flag)
    up.ready()
    workers = make_cluster(up)
    services = [pid for name, pid in up.written()["pids"].items() if name != "up"]
    up.signal(signal.SIGKILL)
    up.wait()
    until(lambda: not any(alive(pid) for pid in services), "the services notice")
    assert all(alive(pid) for pid in workers.values()), "nobody has ordered that"
    up.up()
    up.ready()
    until(lambda: up.running("edge", 2), "RUNNING again")
    assert up.pids("edge") == workers


def test_a_second_up_on_the_folder_is_refused(up: Stack) -> None:
    up.up("--port", "0")
    up.ready()
    said = up.fails(4, "up", "--port", "0")
    assert f"pid {up.pid('up')}" in said
    assert alive(up.pid("manager"))


def test_a_taken_port_is_refused_when_it_was_asked_for(up: Stack) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "is taken" in up.fails(4, "up", "--port", str(taken.getsockname()[1]))
    assert up.left() == []


def test_a_corrupt_database_ends_it_with_the_reason(up: Stack) -> None:
    up.up("--port", "0")
    up.ready()
    up.signal(signal.SIGINT)
    assert up.wait() == 0
    database = up.state / "manager" / "busbar.db"
    content = bytearray(database.read_bytes())
    content[:200] = bytes(200)
    database.write_bytes(bytes(content))
    said = up.fails(1, "up", "--port", "0")
    assert "manager" in said
    assert "busbar.db" in said
    assert up.left() == []
    assert up.run("manager", "check").returncode == 1


def test_manager_check_says_that_a_file_is_intact(up: Stack) -> None:
    up.up("--port", "0")
    up.ready()
    assert "is intact" in up.ok("manager", "check")
    assert up.ask("manager", "check")["ok"] is True
    with sqlite3.connect(up.state / "manager" / "busbar.db") as live:
        assert live.execute("select count(*) from nodes").fetchone() == (1,)
    assert "no file" in up.fails(3, "manager", "check", "/no/such/file")


def test_a_state_folder_may_be_named_before_the_verb(up: Stack, tmp_path: Path) -> None:
    """It once meant the default folder then: take-over would have been told to another store."""
    other = tmp_path / "other"
    assert str(other) in up.fails(3, "manager", "--state", str(other), "check")
    assert str(other) in up.fails(1, "manager", "--state", str(other), "take-over")
    assert str(other) in up.ok("broker", "--state", str(other), "add-account", "alice", "person")
    assert "removed" in up.ok("broker", "--state", str(other), "remove-account", "alice")


@pytest.mark.fault(67, "K O L")
def test_sighup_restarts_no_service_and_stops_up_in_order_however_often_it_is_sent(up: Stack) -> None:
    up.up("--agents", "1", "--port", "0", "--stop-workers")
    up.ready()
    make_cluster(up)
    services = up.written()["pids"]
    for name in ("broker", "manager", "agent-n1"):
        for signum in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            os.kill(services[name], signum)
    up.ok("cluster", "list")
    up.signal(signal.SIGUSR1)
    assert up.written()["pids"] == services
    for _ in range(3):
        up.signal(signal.SIGHUP)
    assert up.wait() == 0
    assert up.left() == []


def test_a_signal_during_the_start_ends_everything(up: Stack) -> None:
    up.up("--agents", "3", "--port", "0")
    until(lambda: len(up.left()) >= 4, "the first children are there")
    up.signal(signal.SIGINT)
    assert up.wait() in (0, 130)
    assert up.left() == []


def test_it_runs_against_an_outside_broker(up: Stack, tmp_path: Path) -> None:
    with mosquitto(tmp_path, port=free_port()) as port:
        up.up("--broker", f"mqtt://127.0.0.1:{port}", "--stop-workers")
        up.ready()
        assert set(up.written()["pids"]) == {"up", "manager", "agent-n1"}
        make_cluster(up)
        up.ok("cluster", "delete", "edge", "--stop", "--wait")
        up.signal(signal.SIGINT)
        assert up.wait() == 0
        assert up.left() == []


def test_logs_are_bounded_files_and_verbose_shows_them(up: Stack) -> None:
    up.up("--port", "0", "-v")
    up.ready()
    assert any(line.startswith("manager") and "INFO" in line for line in up.said)
    logs = {path.name for path in (up.state / "logs").iterdir()}
    assert {"broker.log", "manager.log", "agent-n1.log"} <= logs
