"""A worker that the kernel killed for memory, as its node reports it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.agents import bench, worker
from tests.integration.agent.processes.test_memory import GREEDY, tight

__all__ = ["tight"]


async def test_its_reason_says_so(tight: Path, tmp_path: Path) -> None:
    program = f"open({str(tight / 'cgroup.procs')!r}, 'w').write('0')\n{GREEDY}"
    async with bench(tmp_path) as node:
        (tmp_path / "greedy.py").write_text(program)
        argv = json.dumps([sys.executable, str(tmp_path / "greedy.py"), "{port}"])
        node.toml.write_text(f"{node.toml.read_text()}[runtimes.greedy]\nargv = {argv}\n")
        await node.start()
        node.assign(worker(runtime="greedy"))
        reason = (await node.state("web-1", "BACKOFF", 60))["reason"]
        assert "killed by SIGKILL, while the kernel killed on this host for lack of memory" in reason
