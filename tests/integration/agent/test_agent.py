"""The agent with real workers: assignments in, reports out, with every behaviour of a worker."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from unittest import mock

import pytest
from busbar.agent.planner.lifecycle import WorkerTiming
from busbar.agent.processes import logs, procfs
from busbar.agent.state import StateError

from tests.agents import QUICK, Bench, bench, worker
from tests.pace import bound, within


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench(tmp_path) as made:
        yield made


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=bound(5)) as answer:
        body: bytes = answer.read()
        return body


async def test_an_assigned_worker_is_started_and_reported_ready_with_its_address(
    node: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "busbar.agent")
    await node.start()
    node.assign(worker())
    ready = await node.state("web-1", "RUNNING")
    assert await asyncio.to_thread(get, ready["address"]) == b"ok"
    assert ready["pid"] in node.living()
    # Another cluster may have a worker of that name.
    assert f"worker edge/web-1: ready at {ready['address']}" in caplog.messages
    assert (ready["restarts"], ready["reason"], ready["oid"]) == (0, None, "oid-web-1")
    last = node.reports[-1]
    assert (last["store"], last["applied"], last["refused"]) == ("s1", {"epoch": 1, "version": 1}, None)
    assert {"amqtt", "serve"} <= set(last["runtimes"])
    assert last["capacity"]["cpus"] >= 1
    assert last["capacity"]["workers"] == 1


@pytest.mark.fault(107, "L")
async def test_the_log_of_a_crash_loop_is_bounded_and_its_last_output_is_told(node: Bench) -> None:
    await node.start()
    node.assign(worker(runtime="spill"))
    largest = 0
    for starts in range(4):
        found = await node.report(
            lambda r, n=starts: (
                r["workers"]
                and r["workers"][0]["restarts"] >= n
                and r["workers"][0]["state"] == "BACKOFF"
                and r["workers"][0]
            )
        )
        assert "boom: cannot go on" in found["workers"][0]["reason"]
        sizes = [path.stat().st_size for path in (node.folder / "state" / "logs").iterdir()]
        largest = max(largest, sum(sizes))
    # Three copies, and what one run writes on top of a log that is not too large.
    assert largest <= (logs.KEEP + 1) * logs.MAX_BYTES + 4_100_000


@pytest.mark.fault(107, "L")
async def test_the_logs_of_the_time_without_an_agent_are_bounded_at_its_start(node: Bench) -> None:
    folder = node.folder / "state" / "logs"
    folder.mkdir(parents=True)
    for name in ("oid-web-1.log", "unknown.log"):
        (folder / name).write_bytes(b"x" * 5_000_000)
    await node.start()
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 2 * logs.MAX_BYTES


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m,mode=700", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(command, check=False).returncode:
        pytest.skip("a tmpfs can't be mounted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=False)


@pytest.mark.fault(107, "L C")
async def test_a_full_disk_stops_no_restart_and_a_new_worker_is_told_why(
    small_disk: Path, tmp_path: Path
) -> None:
    async with bench(tmp_path) as node:
        await node.start(state=small_disk / "state")
        node.assign(worker())
        first = await node.state("web-1", "RUNNING")
        with contextlib.suppress(OSError), (small_disk / "filler").open("wb") as filler:
            while True:
                filler.write(bytes(1 << 16))
        os.kill(first["pid"], signal.SIGKILL)
        again = await node.state("web-1", "RUNNING", restarts=1)
        assert again["pid"] != first["pid"]
        os.kill(again["pid"], signal.SIGKILL)
        await node.state("web-1", "RUNNING", restarts=2)
        node.assign(worker(), worker("web-2"))
        await node.report(lambda r: len(r["workers"]) == 2)
        os.unlink(small_disk / "filler")
        await node.state("web-2", "RUNNING")
        await node.state("web-1", "RUNNING", restarts=2)


@pytest.mark.fault(63, "K H C")
async def test_on_a_shared_port_only_the_hung_worker_is_restarted(node: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    shared = {"type": "tcp", "endpoint": {"type": "tcp", "port": port, "shared": True}}
    await node.start()
    names = ("web-1", "web-2", "web-3")
    node.assign(*(worker(name, "share", transport=shared) for name in names))
    before = {name: (await node.state(name, "RUNNING", timeout=30))["pid"] for name in names}
    os.kill(before["web-2"], signal.SIGSTOP)
    await node.state("web-2", "RUNNING", restarts=1, timeout=60)
    pids = {each["worker"]: each["pid"] for each in node.reports[-1]["workers"]}
    assert pids["web-2"] != before["web-2"]
    for name in ("web-1", "web-3"):
        restarts = [e["restarts"] for r in node.reports for e in r["workers"] if e["worker"] == name]
        assert pids[name] == before[name] and set(restarts) == {0}


DAEMON = """
import ctypes, os, sys, time
told, telling = os.pipe()
if os.fork() == 0:
    os.setsid()
    raw = open("/proc/self/stat").read().rpartition(")")[2].split()
    ctypes.memset(int(raw[47]), 120, int(raw[48]) - int(raw[47]) - 1)  # env_start, env_end
    os.chdir("/")
    with open(sys.argv[1], "a") as pids:
        print(os.getpid(), file=pids)
    os.write(telling, b".")
    time.sleep(600)
os.read(told, 1)
"""


@pytest.mark.fault(65, "O H")
async def test_a_daemonizing_worker_leaks_nothing_and_is_told_what_to_set(node: Bench) -> None:
    program, pids = node.folder / "daemon.py", node.folder / "pids"
    program.write_text(DAEMON)
    argv = json.dumps([sys.executable, str(program), str(pids)])
    with node.toml.open("a") as file:
        file.write(f"[runtimes.daemon]\nargv = {argv}\n")
    await node.start()
    node.assign(worker(runtime="daemon"))
    found = await node.report(
        lambda r: r["workers"] and r["workers"][0]["restarts"] >= 2 and "daemonized" in str(r["workers"])
    )
    assert "in the foreground" in found["workers"][0]["reason"]
    node.assign()
    await node.report(lambda r: not r["workers"])
    started = [int(line) for line in pids.read_text().split()]
    assert len(started) >= 2
    left = [stat for pid in started if (stat := procfs.read(pid)) is not None and not stat.dead]
    assert left == []


async def test_a_worker_is_not_called_ready_before_it_answers(node: Bench) -> None:
    await node.start()
    node.assign(worker(runtime="slow"))
    await node.state("web-1", "BACKOFF")
    states = {each["state"] for report in node.reports for each in report["workers"]}
    assert states <= {"STARTING", "STOPPING", "BACKOFF"}
    (found,) = node.reports[-1]["workers"]
    assert "not ready within 1 s: nothing listens on" in found["reason"]
    assert found["pid"] is None


@pytest.mark.fault(32, "C")
async def test_a_killed_worker_is_ready_again_within_two_seconds(node: Bench) -> None:
    await node.start()
    node.assign(worker(), worker("web-2"))
    first = await node.state("web-1", "RUNNING")
    other = await node.state("web-2", "RUNNING")
    began = time.monotonic()
    os.kill(first["pid"], signal.SIGKILL)
    again = await node.state("web-1", "RUNNING", restarts=1)
    assert time.monotonic() - began < within(2.0)
    assert again["pid"] != first["pid"]
    assert again["address"] == first["address"]
    assert again["reason"] == "restarted: killed by SIGKILL; last output: worker serve began | listening"
    assert (await node.state("web-2", "RUNNING"))["pid"] == other["pid"]


@pytest.mark.fault(35, "L")
async def test_a_crash_loop_reports_its_reason_and_retries(node: Bench) -> None:
    await node.start()
    node.assign(worker(runtime="crash"), worker("web-2"))
    failing = await node.state("web-1", "BACKOFF", restarts=2)
    assert failing["reason"].startswith("next try in ")
    assert failing["reason"].endswith("exit code 3; last output: worker crash began | boom: cannot go on")
    await node.state("web-1", "BACKOFF", restarts=3)
    await node.state("web-2", "RUNNING")


async def test_an_amqtt_worker_answers_mqtt(node: Bench) -> None:
    await node.start()
    node.assign(worker(runtime="amqtt", transport={"type": "mqtt"}))
    ready = await node.state("web-1", "RUNNING")
    assert ready["address"].startswith("mqtt://127.0.0.1:")
    os.kill(ready["pid"], signal.SIGKILL)
    await node.state("web-1", "RUNNING", restarts=1)


async def test_an_empty_assignment_stops_all_and_leaves_no_process(node: Bench) -> None:
    await node.start()
    node.assign(worker(), worker("web-2", "stubborn"))
    await node.report(lambda last: {each["state"] for each in last["workers"]} == {"RUNNING"})
    assert len(node.living()) == 2
    node.assign()
    last = await node.report(lambda last: not last["workers"])
    assert last["applied"]["version"] == 2
    assert node.living() == set()
    assert not list((node.folder / "state" / "workers").iterdir())
    assert not list((node.folder / "state" / "records").iterdir())


async def test_only_a_worker_that_is_no_longer_assigned_is_stopped(node: Bench) -> None:
    await node.start()
    node.assign(worker(), worker("web-2"))
    first = await node.state("web-1", "RUNNING")
    await node.state("web-2", "RUNNING")
    node.assign(worker())
    await node.report(lambda last: [each["worker"] for each in last["workers"]] == ["web-1"])
    assert node.living() == {first["pid"]}


async def test_a_report_that_names_an_assignment_as_applied_has_its_workers(node: Bench) -> None:
    await node.start()
    for count in (1, 5, 2, 0, 3):
        node.assign(*(worker(f"web-{number}") for number in range(count)))
        names = {f"web-{number}" for number in range(count)}
        at = node.version
        await node.report(lambda last, at=at: last["applied"]["version"] == at)
        same = [each for each in node.reports if each["applied"]["version"] == at]
        assert all(names <= {found["worker"] for found in each["workers"]} for each in same)


async def test_a_worker_reassigned_while_it_is_forgotten_is_in_every_report_and_starts_anew(
    node: Bench,
) -> None:
    """It is never missing: every report has all assigned workers."""
    agent = await node.start()
    node.assign(worker())
    old = await node.state("web-1", "RUNNING")
    forgetting, go_on, told = asyncio.Event(), threading.Event(), list[set[str]]()
    loop, forget, changed = asyncio.get_running_loop(), agent.state.forget, agent.reporter.changed

    def slow_forget(oid: str) -> None:
        loop.call_soon_threadsafe(forgetting.set)
        assert go_on.wait(bound(10))
        forget(oid)

    def seen() -> None:
        told.append({each.worker for each in agent.snapshot().workers})
        changed()

    with mock.patch.object(agent.state, "forget", slow_forget):
        node.assign()
        await asyncio.wait_for(forgetting.wait(), bound(10))
        node.assign(worker())
        await node.report(lambda last: last["applied"]["version"] == node.version)
        with mock.patch.object(agent.reporter, "changed", seen):
            go_on.set()
            new = await node.state("web-1", "RUNNING")
    assert new["pid"] != old["pid"]
    assert new["restarts"] == 0, "it was stopped in order"
    assert told and all(names == {"web-1"} for names in told)
    assert node.living() == {new["pid"]}


@pytest.mark.parametrize("change", [{"generation": 2}, {"digest": "d2"}])
async def test_a_new_definition_replaces_the_worker_with_never_two_instances(
    node: Bench, change: dict[str, object]
) -> None:
    await node.start()
    node.assign(worker(runtime="stubborn"))
    old = await node.state("web-1", "RUNNING")
    node.assign(worker(**change))
    stopping = await node.state("web-1", "STOPPING")
    assert "new definition" in stopping["reason"]
    assert node.living() == {old["pid"]}
    new = await node.state("web-1", "RUNNING")
    assert new["pid"] != old["pid"]
    assert (new["restarts"], new["reason"]) == (0, None)
    assert node.living() == {new["pid"]}


async def test_a_lower_epoch_is_refused_until_a_higher_one_is_applied(node: Bench) -> None:
    await node.start()
    node.assign(worker(), version=7)
    first = await node.state("web-1", "RUNNING")
    node.assign(version=6)
    node.assign(version=8, epoch=0)
    last = await node.report(lambda last: last["refused"])
    assert last["refused"] == "assignment 0/8 (epoch/version) refused: 1/7 is applied"
    assert last["workers"][0]["pid"] == first["pid"]
    node.assign(version=1, epoch=2)
    last = await node.report(lambda last: last["applied"] == {"epoch": 2, "version": 1})
    assert last["refused"] is None


async def test_a_foreign_store_is_refused_until_it_is_adopted(node: Bench) -> None:
    await node.start()
    node.assign(worker())
    await node.state("web-1", "RUNNING")
    node.assign(store="s2", epoch=99)
    last = await node.report(lambda last: last["refused"])
    assert "belongs to store 's1'" in last["refused"]
    assert node.living()
    await node.stop()
    await node.start(adopt_store=True)
    last = await node.report(lambda last: last["store"] == "s2")
    await node.report(lambda last: not last["workers"])
    assert node.living() == set()


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b'{"store": "s1"}', b'{"workers": []}', b"\xff"])
@pytest.mark.fault(0, "K L")
async def test_an_unreadable_assignment_changes_nothing(node: Bench, payload: bytes) -> None:
    await node.start()
    node.assign(worker())
    first = await node.state("web-1", "RUNNING")
    node.observer.post(node.topics.node("n1", "assignment"), payload, retain=True)
    count = len(node.reports)
    node.command(resync=True)
    last = await node.report(lambda last: len(node.reports) > count)
    # An empty payload deletes the retained message: there is nothing to refuse.
    assert ("not readable" in (last["refused"] or "")) == bool(payload)
    node.assign(worker(), worker("web-2"))
    await node.state("web-2", "RUNNING")
    assert (await node.state("web-1", "RUNNING"))["pid"] == first["pid"]


@pytest.mark.fault((33, 38, 40), "L B H")
async def test_a_worker_that_cannot_start_does_not_affect_the_others(node: Bench) -> None:
    await node.start()
    node.assign(
        worker("web-1", "nonsense"),
        worker("web-2", "amqtt", transport={"type": "web"}),
        worker("web-3", oid="../../evil"),
        worker("web-4", transport={"type": "tcp", "endpoint": {"type": "tcp", "port": "9-1"}}),
        worker("web-5", "crossbar", transport=static("/etc")),
        worker("web-6"),
    )
    await node.state("web-6", "RUNNING")
    last = await node.report(lambda last: sum(each["state"] == "BACKOFF" for each in last["workers"]) == 5)
    reasons = {each["worker"]: each["reason"] for each in last["workers"]}
    assert "no runtime 'nonsense'" in reasons["web-1"]
    assert "/transport/type" in reasons["web-2"]
    assert "not an object id" in reasons["web-3"]
    assert "9-1" in reasons["web-4"]
    assert "crossbar" in reasons["web-5"] or "static_roots" in reasons["web-5"]


def static(directory: str) -> dict[str, object]:
    return {"type": "web", "paths": {"/": {"type": "static", "directory": directory}}}


@pytest.mark.fault(37, "H C")
async def test_a_hung_worker_is_killed_and_restarted(node: Bench) -> None:
    await node.start(WorkerTiming(live_every=0.1))
    node.assign(worker())
    first = await node.state("web-1", "RUNNING")
    os.kill(first["pid"], signal.SIGSTOP)
    again = await node.state("web-1", "RUNNING", timeout=30, restarts=1)
    assert again["reason"] == "restarted: hung: 3 probes unanswered, no answer within 2 s"
    states = [each["state"] for report in node.reports for each in report["workers"]]
    after = states[states.index("RUNNING") :]
    assert after.index("BACKOFF") < after.index("STARTING") and "STOPPING" not in after
    assert node.living() == {again["pid"]}


async def test_an_answer_of_another_process_on_its_port_does_not_make_a_worker_ready(
    node: Bench, free_range: int
) -> None:
    """As when two agents on one host choose the same free port at the same time."""
    await node.start()
    transport = {"type": "tcp", "endpoint": {"type": "tcp", "port": free_range}}
    node.assign(worker(runtime="deaf", transport=transport))
    await node.report(lambda last: last["workers"] and last["workers"][0]["pid"])

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", free_range):
        waiting = await node.report(lambda last: "another process" in (last["workers"][0]["reason"] or ""))
    assert waiting["workers"][0]["state"] == "STARTING"


async def test_a_port_range_is_used_up_and_the_next_worker_reports_why(node: Bench, free_range: int) -> None:
    await node.start()
    transport = {"type": "tcp", "endpoint": {"type": "tcp", "port": [free_range, free_range + 1]}}
    node.assign(*(worker(f"web-{number}", transport=transport) for number in range(3)))
    last = await node.report(
        lambda last: sorted(each["state"] for each in last["workers"]) == ["BACKOFF", "RUNNING", "RUNNING"]
    )
    ports = {each["address"] for each in last["workers"] if each["state"] == "RUNNING"}
    assert ports == {f"http://127.0.0.1:{free_range}", f"http://127.0.0.1:{free_range + 1}"}
    (short,) = (each for each in last["workers"] if each["state"] == "BACKOFF")
    assert "no free port in" in short["reason"]


async def test_a_restart_keeps_the_port_even_if_an_earlier_one_is_free(node: Bench, free_range: int) -> None:
    transport = {"type": "tcp", "endpoint": {"type": "tcp", "port": [free_range, free_range + 1]}}
    await node.start()
    with socket.socket() as first_choice:
        first_choice.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        first_choice.bind(("127.0.0.1", free_range + zlib.crc32(b"oid-web-1") % 2))
        first_choice.listen()
        node.assign(worker(transport=transport))
        first = await node.state("web-1", "RUNNING")
    os.kill(first["pid"], signal.SIGKILL)
    again = await node.state("web-1", "RUNNING", restarts=1)
    assert again["address"] == first["address"]


@pytest.fixture
def free_range() -> int:
    """The first of two ports that are free now."""
    from busbar.agent.processes.sockets import bind_error

    low = random.randrange(15000, 18000, 2)
    pairs = range(low, low + 1000, 2)
    return next(
        port for port in pairs if all(bind_error("127.0.0.1", port + step) is None for step in (0, 1))
    )


@pytest.mark.fault(22, "B")
async def test_a_second_agent_on_the_folder_is_refused(node: Bench) -> None:
    await node.start()
    with pytest.raises(StateError, match="in use by another agent"):
        await node.start()


async def test_workers_outlive_a_clean_exit_and_are_adopted(node: Bench) -> None:
    await node.start()
    node.assign(worker(), worker("web-2"))
    before = {name: (await node.state(name, "RUNNING"))["pid"] for name in ("web-1", "web-2")}
    await node.stop()
    assert node.living() == set(before.values())
    last = json.loads(node.broker.retained[node.topics.node("n1", "state")])
    assert last["state"] == "disconnected" and last["leaves"] == "running"
    node.reports.clear()
    await node.start()
    await node.report(lambda last: len(last["workers"]) == 2)
    for report in node.reports:
        assert {each["state"] for each in report["workers"]} == {"RUNNING"}
        assert {each["worker"]: each["pid"] for each in report["workers"]} == before
        assert {each["restarts"] for each in report["workers"]} == {0}
    os.kill(before["web-1"], signal.SIGKILL)
    again = await node.state("web-1", "RUNNING", restarts=1)
    assert "exit code unknown" in again["reason"]


async def test_workers_stopped_on_exit_start_again_without_a_failure(node: Bench) -> None:
    await node.start(stop_workers=True)
    node.assign(worker(), worker("web-2", "stubborn"))
    first = await node.state("web-1", "RUNNING")
    await node.state("web-2", "RUNNING")
    await node.stop()
    assert node.living() == set()
    await node.start()
    again = await node.state("web-1", "RUNNING")
    assert (again["restarts"], again["reason"], again["address"]) == (0, None, first["address"])


@pytest.mark.fault(29, "C")
async def test_a_stored_assignment_is_enough_to_start(node: Bench) -> None:
    node.store(worker())
    agent = await node.start(broker=False)
    for _ in range(500):
        if node.living():
            break
        await asyncio.sleep(0.02)
    assert len(node.living()) == 1
    assert not agent.link.connected
    agent.link.reachable.set()  # type: ignore[attr-defined]
    await node.state("web-1", "RUNNING")


async def test_a_worker_that_died_while_the_agent_was_away_restarts_with_the_reason(node: Bench) -> None:
    await node.start()
    node.assign(worker())
    first = await node.state("web-1", "RUNNING")
    await node.stop()
    os.kill(first["pid"], signal.SIGKILL)
    await asyncio.to_thread(os.waitpid, first["pid"], 0)  # wait until it is dead: the kernel takes a moment
    node.reports.clear()
    await node.start()
    again = await node.state("web-1", "RUNNING", restarts=1)
    assert "while the agent was away" in again["reason"]
    assert again["address"] == first["address"]


@pytest.mark.fault(29, "C")
async def test_after_a_reboot_all_workers_start_without_a_failure(node: Bench) -> None:
    await node.start(stop_workers=True)
    node.assign(worker())
    first = await node.state("web-1", "RUNNING")
    await node.stop()
    path = node.folder / "state" / "records" / "oid-web-1.json"
    record = json.loads(path.read_bytes())
    path.write_text(json.dumps({**record, "boot_id": "of-an-earlier-boot", "stopped": False}))
    await node.start(broker=True)
    again = await node.state("web-1", "RUNNING", restarts=1)
    assert (again["reason"], again["address"]) == (None, first["address"])


@pytest.mark.fault(28, "O L")
async def test_a_lost_state_folder_does_not_lose_the_workers(node: Bench) -> None:
    await node.start()
    node.assign(worker(), worker("web-2"))
    before = {name: (await node.state(name, "RUNNING"))["pid"] for name in ("web-1", "web-2")}
    await node.stop()
    (node.folder / "state").rename(node.folder / "lost")
    node.reports.clear()
    node.assign(worker())
    await node.start()
    kept = await node.state("web-1", "RUNNING")  # so both were adopted; before that only web-1 is known
    assert kept["pid"] == before["web-1"]
    await node.report(lambda last: [each["worker"] for each in last["workers"]] == ["web-1"])
    assert node.living() == {kept["pid"]}


@pytest.mark.fault(28, "O L")
async def test_torn_files_do_not_lose_the_workers(node: Bench) -> None:
    await node.start()
    node.assign(worker())
    first = await node.state("web-1", "RUNNING")
    await node.stop()
    (node.folder / "state" / "assignment.json").write_bytes(b'{"store"')
    (node.folder / "state" / "records" / "oid-web-1.json").write_bytes(b"")
    node.broker.retained.clear()
    node.reports.clear()
    await node.start()
    await node.report(lambda last: last["workers"] and last["store"] is None)
    assert node.living() == {first["pid"]}
    node.assign(worker())
    kept = await node.state("web-1", "RUNNING")
    assert (kept["pid"], kept["restarts"]) == (first["pid"], first["restarts"])


async def test_a_worker_of_another_store_is_not_touched(node: Bench) -> None:
    await node.start()
    node.assign(worker())
    stranger = await node.state("web-1", "RUNNING")
    await node.stop()
    (node.folder / "state").rename(node.folder / "elsewhere")
    node.reports.clear()
    node.assign(store="s2")
    await node.start()
    last = await node.report(lambda last: last["store"] == "s2" and last["conditions"])
    assert any("left alone" in each for each in last["conditions"])
    assert node.living() == {stranger["pid"]}


async def test_descendants_of_a_dead_worker_are_gone_before_the_next_start(node: Bench) -> None:
    (node.folder / "server.py").write_text(
        "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', "
        "'import time; time.sleep(600)'], start_new_session=True)\n" + (node.folder / "server.py").read_text()
    )
    await node.start()
    node.assign(worker())
    first = await node.state("web-1", "RUNNING")
    before = node.living()
    assert len(before) == 2
    os.kill(first["pid"], signal.SIGKILL)
    await node.state("web-1", "RUNNING", restarts=1)
    assert len(node.living()) == 2
    assert not before & node.living()
    node.assign()
    await node.report(lambda last: not last["workers"])
    assert node.living() == set()


async def test_concurrent_starts_are_limited(node: Bench) -> None:
    await node.start(WorkerTiming(starting_limit=2, live_every=1.0))
    node.assign(*(worker(f"web-{number}") for number in range(6)))
    await node.report(lambda last: [each["state"] for each in last["workers"]].count("RUNNING") == 6, 30)
    for report in node.reports:
        starting = [each for each in report["workers"] if each["state"] == "STARTING" and each["pid"]]
        assert len(starting) <= 2


async def test_labels_host_and_limits_come_from_the_file(node: Bench) -> None:
    text = '[agent]\nmax_workers = 3\n[agent.labels]\nsite = "ship"\n' + node.toml.read_text()
    node.toml.write_text(text)
    await node.start(QUICK)
    last = await node.report(lambda last: True)
    assert last["labels"] == {"site": "ship"}
    assert last["capacity"]["max_workers"] == 3


@pytest.mark.fault(72, "B K")
async def test_no_worker_is_started_beyond_max_workers_and_a_free_place_is_taken(node: Bench) -> None:
    await node.start(max_workers=2)
    node.assign(*(worker(f"web-{number}") for number in range(6)))
    last = await node.report(lambda r: sum(each["state"] == "RUNNING" for each in r["workers"]) == 2)
    assert {each["worker"] for each in last["workers"] if each["state"] == "RUNNING"} == {"web-0", "web-1"}
    held = [each for each in last["workers"] if each["state"] == "BACKOFF"]
    assert len(held) == 4
    assert {each["reason"] for each in held} == {"no room: this node runs at most 2 workers (max_workers)"}
    assert "max_workers 2: 4 assigned workers are not started" in last["conditions"]
    assert len(node.living()) == 2
    node.assign(*(worker(f"web-{number}") for number in range(1, 4)))
    await node.state("web-2", "RUNNING")
    node.assign(*(worker(f"web-{number}") for number in range(1, 3)))
    last = await node.report(lambda r: len(r["workers"]) == 2)
    assert last["conditions"] == [each for each in last["conditions"] if "max_workers" not in each]


@pytest.mark.fault(72, "K")
async def test_adopted_workers_beyond_a_lower_limit_go_on_until_they_end(node: Bench) -> None:
    await node.start()
    node.assign(*(worker(f"web-{number}") for number in range(3)))
    await node.report(lambda r: sum(each["state"] == "RUNNING" for each in r["workers"]) == 3)
    await node.stop()
    await node.start(max_workers=1)
    over = "max_workers 1: 3 workers run, and go on until they end"
    last = await node.report(lambda r: over in r["conditions"])
    assert {each["restarts"] for each in last["workers"]} == {0}
    os.kill(last["workers"][0]["pid"], signal.SIGKILL)
    await node.report(lambda r: "no room: " in (r["workers"][0]["reason"] or ""))
    assert len(node.living()) == 2


FORKED = """
import http.server, os, sys, threading
if os.fork():
    threading.Event().wait()
print('listening', os.getpid(), flush=True)
http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), http.server.BaseHTTPRequestHandler).serve_forever()
"""
SUSPENDABLE = {
    "tcp": 'ready = {type = "tcp"}',
    "log": 'ready = {type = "log", pattern = "listening"}',
    "portless": 'port = false\nready = {type = "log", pattern = "listening"}',
    "http": 'ready = {type = "http", expect = [501]}',
}


@pytest.mark.fault(75, "H C")
@pytest.mark.parametrize("who", ["first", "listener"])
@pytest.mark.parametrize("probe", SUSPENDABLE)
async def test_a_worker_that_a_signal_has_stopped_is_restarted_whatever_is_probed(
    node: Bench, probe: str, who: str
) -> None:
    if (probe, who) == ("portless", "listener"):
        pytest.skip("without a port no process is known to serve")
    program = node.folder / "forked.py"
    program.write_text(FORKED)
    argv = json.dumps([sys.executable, "-u", str(program), "{port}" if probe != "portless" else "0"])
    with node.toml.open("a") as toml:
        toml.write(f"[runtimes.x]\nargv = {argv}\ngrace = 1\n{SUSPENDABLE[probe]}\n")
    await node.start()
    node.assign(worker(runtime="x"))
    first = await node.state("web-1", "RUNNING")
    victim = first["pid"] if who == "first" else next(iter(node.living() - {first["pid"]}))
    os.kill(victim, signal.SIGSTOP)
    again = await node.state("web-1", "RUNNING", restarts=1, timeout=60)
    assert again["pid"] != first["pid"] and "hung" in again["reason"]
    reasons = [each["workers"][0]["reason"] or "" for each in node.reports if each["workers"]]
    told = "no answer" if (probe, who) == ("http", "listener") else f"a signal (state T, pid {victim})"
    assert any(told in each for each in reasons)


@pytest.mark.fault(75, "K")
async def test_a_worker_with_a_stopped_helper_is_left_alone(node: Bench) -> None:
    program = node.folder / "server.py"
    program.write_text(f"import subprocess\nsubprocess.Popen(['sleep', '600'])\n{program.read_text()}")
    await node.start(WorkerTiming(live_every=0.2, live_misses=1000))
    node.assign(worker())
    first = await node.state("web-1", "RUNNING")
    (helper,) = node.living() - {first["pid"]}
    os.kill(helper, signal.SIGSTOP)
    os.kill(first["pid"], signal.SIGSTOP)
    await node.report(lambda last: "does not answer" in (last["workers"][0]["reason"] or ""))
    os.kill(first["pid"], signal.SIGCONT)
    await node.state("web-1", "RUNNING", reason=None, restarts=0, pid=first["pid"])
