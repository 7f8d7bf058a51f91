"""The agent as the first process of a container: what its workers leave behind, and its end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.agents import bench, worker
from tests.brokers import free_port
from tests.integration.agent.test_agent_process import until
from tests.pace import bound

ORPHANS = 8
PROGRAM = """
import http.server, os, pathlib, signal, sys, time
def end(*_):
    (folder / 'ended').touch()
    os._exit(0)
signal.signal(signal.SIGTERM, end)
folder, orphans = pathlib.Path(sys.argv[2]), int(sys.argv[3])
for number in range(orphans):
    if os.fork() == 0:
        if os.fork() == 0:
            if number % 2:
                os.setsid()
            while (folder / 'hold').exists():
                time.sleep(0.02)
        os._exit(0)
    os.wait()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b'ok')
    def log_message(self, *arguments): pass
http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()
"""


def children(pid: int) -> set[int]:
    """The children of all threads of a process; none where it has ended."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return {int(child) for task in tasks for child in (task / "children").read_text().split()}
    except OSError:
        return set()


@pytest.mark.fault(66, "L")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a PID namespace")
async def test_as_pid_1_the_agent_reaps_what_workers_leave_and_ends_with_them(tmp_path: Path) -> None:
    async with bench(tmp_path) as node:
        program, hold = tmp_path / "leaves.py", tmp_path / "hold"
        program.write_text(PROGRAM)
        hold.touch()
        argv = json.dumps([sys.executable, str(program), "{port}", str(tmp_path), str(ORPHANS)])
        node.toml.write_text(
            f'[runtimes.leaves]\nargv = {argv}\nready = {{type = "http"}}\nscheme = "http"\n'
        )
        node.store(worker(runtime="leaves"))
        clean = {key: text for key, text in os.environ.items() if not key.startswith(("BUSBAR_", "XDG_"))}
        outer = await asyncio.create_subprocess_exec(
            *("unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable),
            *("-m", "busbar.cli.app", "agent", "--node", "n1", "--realm", node.realm, "--stop-workers"),
            *("--state", str(tmp_path / "state"), "--runtimes", str(node.toml)),
            *("--broker", f"mqtt://127.0.0.1:{free_port()}"),
            env={**clean, "HOME": str(tmp_path)},
        )
        try:
            (first,) = await until(lambda: children(outer.pid))
            # The worker, and its orphans: they are the agent's children now.
            await until(lambda: len(children(first)) == 1 + ORPHANS, 30)
            hold.unlink()
            await until(lambda: len(children(first)) == 1, 30)
            os.kill(first, signal.SIGTERM)
            # unshare ends with the code of the namespace's first process.
            assert await asyncio.wait_for(outer.wait(), bound(30)) == 0
            assert (tmp_path / "ended").exists(), "the worker was not told"
        finally:
            if outer.returncode is None:
                outer.kill()
            await outer.wait()
