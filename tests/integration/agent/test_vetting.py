"""A definition is judged on its node before a worker is touched for it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from busbar.agent.processes.checking import CheckerError, check
from busbar.agent.routers import mosquitto_check
from busbar.agent.runtimes.mosquitto import CHECK_REFUSES
from busbar.agent.workers.vetting import CHECKS_AT_ONCE
from busbar.bus.messages import NOT_REPLACED

from tests.agents import Bench, bench, worker
from tests.brokers import need_mosquitto, until
from tests.certificates import certificates
from tests.pace import bound

CHECKER = """
import pathlib, sys
text = pathlib.Path(sys.argv[1]).read_text()
print('looking at', sys.argv[1])
if 'bad' in text:
    print('x\\x1b[2J: bad directive in ' + sys.argv[1])
    sys.exit(1)
"""


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench(tmp_path) as made:
        secrets, checker = tmp_path / "secrets", tmp_path / "checker.py"
        secrets.mkdir()
        checker.write_text(CHECKER)
        argv = [sys.executable, "-u", str(tmp_path / "server.py"), "{port}", "serve"]
        made.toml.write_text(
            made.toml.read_text() + f"[runtimes.checked]\nargv = {json.dumps(argv)}\n"
            'ready = {type = "http"}\ngrace = 1\nscheme = "http"\n'
            'config_file = "c.json"\nconfig_template = "{transport}"\n'
            f"check = {json.dumps([sys.executable, str(checker), '{folder}/c.json'])}\n"
            f'[runtimes.amqtt]\nsecrets_root = "{secrets}"\n'
            f'[runtimes.mosquitto]\nsecrets_root = "{secrets}"\n'
        )
        yield made


def checked(word: str = "good", **more: Any) -> Any:
    return worker(runtime="checked", transport={"type": "tcp", "options": {"say": word}}, **more)


async def test_a_bad_definition_is_told_before_a_start(node: Bench) -> None:
    await node.start()
    node.assign(checked("bad"))
    found = await node.state("web-1", "BACKOFF")
    assert r"the check of its files failed: x\x1b[2J: bad directive in c.json" in found["reason"]
    assert not node.living(), "nothing was started"
    node.assign(checked("good", generation=2))
    await node.state("web-1", "RUNNING", generation=2, reason=None)


async def test_a_running_worker_outlives_a_bad_definition(node: Bench) -> None:
    await node.start()
    node.assign(checked())
    before = await node.state("web-1", "RUNNING", reason=None)
    node.assign(checked("bad", generation=2))
    reason = rf"{NOT_REPLACED}the check of its files failed: x\x1b[2J: bad directive in c.json"
    kept = await node.state("web-1", "RUNNING", reason=reason)
    assert (kept["pid"], kept["generation"], kept["address"]) == (before["pid"], 1, before["address"])
    node.assign(checked())
    await node.state("web-1", "RUNNING", reason=None, pid=before["pid"])
    node.assign(checked("bad", generation=3))
    await node.state("web-1", "RUNNING", reason=reason, pid=before["pid"])
    node.assign(checked("better", generation=4))
    await node.state("web-1", "RUNNING", reason=None, generation=4)
    node.assign()
    await node.report(lambda last: not last["workers"])


async def test_the_way_back_from_a_bad_definition_restarts_nothing(node: Bench) -> None:
    await node.start()
    node.assign(checked(generation=1, digest="d1"))
    pid = (await node.state("web-1", "RUNNING", reason=None))["pid"]
    for generation in (2, 4):
        node.assign(checked("bad", generation=generation, digest="d2"))
        await node.report(lambda last: (last["workers"][0]["reason"] or "").startswith(NOT_REPLACED))
        node.assign(checked(generation=generation + 1, digest="d1"))
        await node.state("web-1", "RUNNING", reason=None, generation=generation + 1, pid=pid)
    await node.stop()
    node.reports.clear()
    await node.start()
    await node.state("web-1", "RUNNING", reason=None, generation=5, pid=pid)
    node.assign(checked("bad", generation=6, digest="d2"))
    await node.report(lambda last: (last["workers"][0]["reason"] or "").startswith(NOT_REPLACED))
    node.assign(checked(generation=8, digest="d1"))  # whatever was 7 may have been a restart
    restarted = await node.state("web-1", "RUNNING", reason=None, generation=8)
    assert restarted["pid"] != pid


async def test_the_way_back_is_found_by_an_agent_that_does_not_know_what_runs(node: Bench) -> None:
    """Its record is lost while the bad definition is assigned: it adopts what it can't ask, until it may."""
    await node.start()
    node.assign(checked(generation=1, digest="d1"))
    pid = (await node.state("web-1", "RUNNING", reason=None))["pid"]
    node.assign(checked("bad", generation=2, digest="d2"))
    await node.report(lambda last: (last["workers"][0]["reason"] or "").startswith(NOT_REPLACED))
    await node.stop()
    (node.folder / "state" / "records" / "oid-web-1.json").unlink()
    node.reports.clear()
    await node.start()
    await node.report(lambda last: (last["workers"][0]["reason"] or "").startswith(NOT_REPLACED))
    node.assign(checked(generation=3, digest="d1"))
    await node.state("web-1", "RUNNING", reason=None, generation=3, pid=pid)


async def test_a_worker_that_ends_after_a_bad_definition_comes_back_with_what_it_ran(node: Bench) -> None:
    """A worker that was not replaced and crashes, also while its agent is away, is not lost to the update."""
    await node.start()
    node.assign(checked())
    before = await node.state("web-1", "RUNNING", reason=None)
    node.assign(checked("bad", generation=2))
    await node.report(lambda last: (last["workers"][0]["reason"] or "").startswith(NOT_REPLACED))
    first = before["pid"]
    os.kill(first, signal.SIGKILL)
    second = await came_back(node, first)
    os.kill(second, signal.SIGKILL)
    third = await came_back(node, second)
    await node.stop()
    await node.start()
    assert await came_back(node, second) == third, "a new agent judges it too before it stops what runs"
    await node.stop()
    os.kill(third, signal.SIGKILL)
    await until(lambda: state_of(third) == "Z")
    await node.start()
    await came_back(node, third)
    node.assign(checked("better", generation=3))
    await node.state("web-1", "RUNNING", generation=3)


async def came_back(node: Bench, former: int) -> int:
    """The pid of the process with its former definition that followed this one, once it is ready."""

    def found(last: dict[str, Any]) -> bool:
        seen = last["workers"][0] if last["workers"] else {"reason": None}
        kept = (seen["reason"] or "").startswith(NOT_REPLACED) and seen["generation"] == 1
        return kept and seen["state"] == "RUNNING" and seen["pid"] not in (None, former)

    pid: int = (await node.report(found))["workers"][0]["pid"]
    return pid


async def test_a_file_that_a_node_lacks_is_told_with_the_pointer_and_read_once_it_is_there(
    node: Bench, tmp_path: Path
) -> None:
    agent = await node.start()
    node.assign(worker(runtime="amqtt", transport={"type": "mqtt"}))
    before = await node.state("web-1", "RUNNING", reason=None)
    transport = {"type": "mqtt", "options": {"password_file": "users"}}
    node.assign(worker(runtime="amqtt", transport=transport, generation=2, digest="d2"))
    path = tmp_path / "secrets" / "users"
    reason = f"{NOT_REPLACED}/transport/options/password_file: can't read {path}: No such file or directory"
    await node.state("web-1", "RUNNING", reason=reason, pid=before["pid"], generation=1)
    path.write_text("")
    agent.reload()
    await node.state("web-1", "RUNNING", reason=None, generation=2)


async def test_an_acl_file_at_fault_is_told_with_its_line_and_the_worker_runs_on(
    node: Bench, tmp_path: Path
) -> None:
    acl = tmp_path / "secrets" / "acl"
    acl.write_text("topic read a/#\n")
    agent = await node.start()
    transport = {"type": "mqtt", "options": {"acl_file": "acl"}}
    node.assign(worker(runtime="amqtt", transport=transport))
    before = await node.state("web-1", "RUNNING", reason=None)
    acl.write_text("topic read a/#\nuser alice\ntopic reed b\n")
    node.assign(worker(runtime="amqtt", transport=transport, generation=2, digest="d2"))
    why = f"/transport/options/acl_file: {acl}: line 3: the access is none of read, write, readwrite, deny"
    reason = f"{NOT_REPLACED}the check of its files failed: {why}"
    await node.state("web-1", "RUNNING", timeout=30, reason=reason, pid=before["pid"], generation=1)
    acl.write_text("topic read b\n")
    agent.reload()
    await node.state("web-1", "RUNNING", timeout=30, reason=None, generation=2)


@pytest.mark.mosquitto
async def test_mosquitto_itself_judges_its_file_and_certificate(node: Bench, tmp_path: Path) -> None:
    need_mosquitto()
    secrets = tmp_path / "secrets"
    await asyncio.to_thread(certificates, secrets, "ca", "router", "other")
    await node.start()
    tls = {"certificate": "router.crt", "key": "router.key"}
    # With persistence it stays root where we are, and can read what root alone may read.
    transport = {"type": "mqtt", "endpoint": {"tls": tls}, "options": {"persistence": True}}
    node.assign(worker(runtime="mosquitto", transport=transport))
    before = await node.state("web-1", "RUNNING", timeout=30, reason=None)
    assert before["address"].startswith("mqtts://")
    wrong = {**transport, "endpoint": {"tls": {**tls, "key": "other.key"}}}
    node.assign(worker(runtime="mosquitto", transport=wrong, generation=2, digest="d2"))
    found = await node.report(lambda last: (last["workers"][0]["reason"] or "").startswith(NOT_REPLACED), 30)
    kept = found["workers"][0]
    assert (kept["state"], kept["pid"], kept["generation"]) == ("RUNNING", before["pid"], 1)
    assert "failed: /transport/endpoint/tls/key: " in kept["reason"], kept["reason"]
    assert str(secrets / "other.key") in kept["reason"]
    # A restart, with the same definition: its key was renewed, and its certificate was not.
    right = (secrets / "router.key").read_bytes()
    (secrets / "router.key").write_bytes((secrets / "other.key").read_bytes())
    node.assign(worker(runtime="mosquitto", transport=transport, generation=4))
    await node.report(lambda last: "router.key" in (last["workers"][0]["reason"] or ""), 30)
    await node.state("web-1", "RUNNING", pid=before["pid"], generation=1)
    (secrets / "router.key").write_bytes(right)
    node.assign(worker(runtime="mosquitto", transport=transport, generation=5))
    await node.state("web-1", "RUNNING", timeout=30, reason=None, generation=5)
    (secrets / "broken.crt").write_text("not a certificate\n")
    broken = {**transport, "endpoint": {"tls": {**tls, "certificate": "broken.crt"}}}
    node.assign(worker("new-1", runtime="mosquitto", transport=broken))
    failed = await node.state("new-1", "BACKOFF", timeout=30)
    assert "the check of its files failed: " in failed["reason"] and "broken.crt" in failed["reason"]


async def test_a_fifo_in_place_of_a_file_does_not_hold_up_the_agent(node: Bench, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "secrets" / "users")
    await node.start()
    transport = {"type": "mqtt", "options": {"password_file": "users"}}
    node.assign(worker(runtime="amqtt", transport=transport), worker("web-2"))
    await node.state("web-2", "RUNNING", reason=None)
    assert "no regular file" in (await node.state("web-1", "BACKOFF"))["reason"]


async def test_a_checker_is_bounded_and_leaves_nothing_behind(tmp_path: Path) -> None:
    sleep = shutil.which("sleep")
    assert sleep is not None
    note = tmp_path / "pid"
    script = f"{sleep} 600 & echo $! > {note}.part; mv {note}.part {note}; wait"
    running = asyncio.create_task(check(("/bin/sh", "-c", script), tmp_path, {}, None, bound(2)))
    assert "no answer within" in str(await running)
    pid = int(note.read_text())
    await until(lambda: state_of(pid) == "Z")
    assert await check(("/bin/true",), tmp_path, {}, None) is None
    assert await check(("/bin/sh", "-c", "echo one; echo; exit 3"), tmp_path, {}, None) == "one"
    assert await check(("/bin/false",), tmp_path, {}, None) == "exit code 1"
    with pytest.raises(CheckerError, match="can't run"):
        await check((str(tmp_path / "none"),), tmp_path, {}, None)
    assert await check(("/bin/sh", "-c", "echo no; exit 3"), tmp_path, {}, None, refuses_with=3) == "no"
    with pytest.raises(CheckerError, match="No module"):
        await check(("/bin/sh", "-c", "echo No module; exit 1"), tmp_path, {}, None, refuses_with=3)


async def test_not_all_checkers_run_at_once(node: Bench, tmp_path: Path) -> None:
    running = tmp_path / "running"
    running.mkdir()
    (tmp_path / "checker.py").write_text(
        "import os, pathlib, sys, time\n"
        f"here, own = pathlib.Path({str(running)!r}), str(os.getpid())\n"
        "(here / own).touch(); time.sleep(0.2); print(len(list(here.iterdir())))\n"
        "(here.parent / f'seen-{own}').write_text(str(len(list(here.iterdir())))); (here / own).unlink()\n"
    )
    await node.start()
    node.assign(*(checked(name=f"web-{number}") for number in range(1, 6)))
    for number in range(1, 6):
        await node.state(f"web-{number}", "RUNNING", timeout=30)
    seen = [int((tmp_path / name).read_text()) for name in os.listdir(tmp_path) if name.startswith("seen-")]
    assert len(seen) == 5 and max(seen) <= CHECKS_AT_ONCE


async def test_a_checker_that_cannot_be_run_keeps_nobody_from_starting(node: Bench) -> None:
    node.toml.write_text(
        node.toml.read_text()
        .replace(str(node.folder / "checker.py"), "/none")
        .replace(f'check = ["{sys.executable}"', 'check = ["/nonexistent/checker"')
    )
    await node.start()
    node.assign(checked("bad"))
    await node.state("web-1", "RUNNING", reason=None)


def state_of(pid: int) -> str:
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return done.stdout.strip()[:1] or "Z"


def test_mosquittos_checker_and_its_runtime_mean_the_same_exit_code() -> None:
    assert mosquitto_check.REFUSED == CHECK_REFUSES
    text = "listener 1883 0.0.0.0\nmax_connections 2\npersistence true\npersistence_location /x/\nuser root\n"
    assert mosquitto_check.harmless(text + "autosave_interval 1\n", [7]).splitlines() == [
        "listener 7 127.0.0.1", "max_connections 2", "user root", "persistence false",
    ]  # fmt: skip
    assert mosquitto_check.harmless("listener 1\nlistener 2", [7, 8], "::1").startswith(
        "listener 7 ::1\nlistener 8 ::1\n"
    )
