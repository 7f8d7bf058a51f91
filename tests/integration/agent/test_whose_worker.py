"""Whose a process is, when its folder was moved or linked, or it has shed what it was known by."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from busbar.agent.processes import cgroups, procfs
from busbar.agent.state import State, StateError, claim, may_run

from tests.agents import Bench, bench, worker

OPENED: list[State] = []


@pytest.fixture
async def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """Without cgroups, in which nothing can be shed."""
    monkeypatch.setattr(cgroups, "parent", lambda: None)
    async with bench(tmp_path) as made:
        yield made
    while OPENED:
        OPENED.pop().close()


SHED = """
import ctypes, http.server, os, sys, threading
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b'ok')
    def log_message(self, *arguments): pass
server = http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler)
if sys.argv[2] == 'thread':
    threading.Thread(target=server.serve_forever).start()
    ctypes.CDLL(None).pthread_exit(None)
server.serve_forever()
"""


def runtimes(node: Bench) -> dict[str, str]:
    """Programs that shed their environment, or whose first thread or process is not the one that serves."""
    program = node.folder / "shed.py"
    program.write_text(SHED)
    python = [sys.executable, str(program), "{port}"]
    found = {
        "path": ["/usr/bin/env", "-i", "PATH=/usr/bin:/bin", *python, "main"],
        "none": ["/usr/bin/env", "-i", *python, "main"],
        "shell": ["/bin/sh", "-c", f"{sys.executable} {program} {{port}} main & wait"],
        "thread": [*python, "thread"],
    }
    with node.toml.open("a") as file:
        for name, argv in found.items():
            file.write(f"[runtimes.{name}]\nargv = {json.dumps(argv)}\ngrace = 1\n")
            file.write('ready = {type = "http"}\nscheme = "http"\n')
    return {name: f"web-{name}" for name in found}


@pytest.mark.fault(65, "O C")
async def test_what_has_shed_its_marks_becomes_ready_is_adopted_and_stopped(node: Bench) -> None:
    named = runtimes(node)
    assigned = [worker(name, runtime) for runtime, name in named.items()]
    await node.start()
    node.assign(*assigned)
    before = {name: await node.state(name, "RUNNING") for name in named.values()}
    await node.stop()
    await node.start()
    for name, was in before.items():
        now = await node.state(name, "RUNNING")
        assert (now["pid"], now["restarts"]) == (was["pid"], was["restarts"]), name
    node.assign()
    await node.report(lambda r: not r["workers"])
    for name, was in before.items():
        left = procfs.read(was["pid"])
        assert left is None or left.dead, name
        assert procfs.listening_inodes(int(was["address"].rpartition(":")[2])) == set(), name


def rename(node: Bench) -> Path:
    return (node.folder / "state").rename(node.folder / "moved")


def link(node: Bench) -> Path:
    at = node.folder / "link"
    at.symlink_to(node.folder / "state")
    return at


def rename_and_link(node: Bench) -> Path:
    (node.folder / "state").symlink_to(rename(node))
    return node.folder / "moved"


def replaced_by_another(node: Bench) -> Path:
    """Another node's folder took its place, and its agent lives."""
    moved = rename(node)
    OPENED.append(State.open(node.folder / "state", "ab" * 8))
    return moved


@pytest.mark.fault(64, "B C K")
@pytest.mark.parametrize("move", [rename, link, rename_and_link, replaced_by_another])
async def test_an_agent_finds_its_workers_wherever_its_folder_went(
    node: Bench, move: Callable[[Bench], Path]
) -> None:
    await node.start()
    node.assign(worker())
    before = await node.state("web-1", "RUNNING")
    await node.stop()
    at = move(node)
    await node.start(state=at)
    assert (await node.state("web-1", "RUNNING"))["pid"] == before["pid"]
    node.assign(worker(), worker("web-2"))
    second = await node.state("web-2", "RUNNING")
    await node.stop()
    await node.start(state=at.resolve())
    assert (await node.state("web-2", "RUNNING"))["pid"] == second["pid"]
    assert (await node.state("web-1", "RUNNING"))["pid"] == before["pid"]


@pytest.mark.fault(64, "B")
async def test_a_copy_in_the_place_of_a_folder_whose_agent_lives_is_refused(node: Bench) -> None:
    await node.start()
    node.assign(worker())
    before = await node.state("web-1", "RUNNING")
    state, old = node.folder / "state", node.folder / "old"
    await asyncio.to_thread(state.rename, old)
    await asyncio.to_thread(shutil.copytree, old, state)
    first = node.agent
    with pytest.raises(StateError, match="stop that agent"):
        await node.start()
    assert first is not None and first.supervisor.registry.has_processes()
    assert before["pid"] in node.living()


@pytest.mark.fault(64, "B")
def test_who_may_run_a_process(tmp_path: Path) -> None:
    token = "busbar:lab/n1:" + "ab" * 8 + ":o1:1:r"
    own, other = (State.open(tmp_path / name, name * 8) for name in ("ab", "cd"))
    assert may_run(own.folder, "o1", token)
    assert not may_run(other.folder, "o1", token), "another agent's folder in its place"
    (other.folder / "records" / "o1.json").write_text(f'{{"token": "{token}"}}')
    assert may_run(other.folder, "o1", token), "it has adopted it"
    assert not may_run(tmp_path / "gone", "o1", token) and not may_run(own.folder / "..", "../x", "t")
    held = claim("ab" * 8 + tmp_path.name)
    with pytest.raises(StateError):
        claim("ab" * 8 + tmp_path.name)
    held.close()
    claim("ab" * 8 + tmp_path.name).close()
    for each in (own, other):
        each.close()


async def test_nothing_in_the_folder_is_open_to_others_whatever_the_umask(node: Bench) -> None:
    before = os.umask(0)
    try:
        await node.start()
        node.assign(worker())
        await node.state("web-1", "RUNNING")
        modes = {p: stat.S_IMODE(p.lstat().st_mode) for p in (node.folder / "state").rglob("*")}
    finally:
        os.umask(before)
    assert modes and not {str(path) for path, mode in modes.items() if mode & 0o077}
