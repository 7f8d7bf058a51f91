"""Real processes that the kernel really kills for memory."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from busbar.agent.processes import cgroups
from busbar.agent.processes.process import WorkerProcesses

from tests.integration.agent.processes.test_process import CLOCK, script

SCOPE = f"test/{uuid.uuid4().hex}"
V1 = Path("/sys/fs/cgroup/memory")
GREEDY = """
kept = []
while len(kept) < 512:
    kept.append(b"x" * (1 << 20))
"""


@pytest.fixture
async def processes() -> AsyncIterator[WorkerProcesses]:
    made = WorkerProcesses(SCOPE, CLOCK)
    yield made
    for found in made.scan():
        await made.kill_by_token(found.token)


@pytest.fixture
def tight() -> Iterator[Path]:
    """A memory cgroup of version 1, which is none of a worker's own."""
    if os.geteuid() != 0 or not (V1 / "memory.limit_in_bytes").exists() or not os.access(V1, os.W_OK):
        pytest.skip("no memory cgroup (version 1) that this process may make")
    folder = V1 / f"busbar-test-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made: {error}")
    (folder / "memory.limit_in_bytes").write_text(str(64 << 20))
    yield folder
    folder.rmdir()


async def test_what_the_kernel_kills_for_memory_says_so(
    processes: WorkerProcesses, tight: Path, tmp_path: Path
) -> None:
    """Here by another's limit, so the host's counter alone tells."""
    start = script(tmp_path, f"open({str(tight / 'cgroup.procs')!r}, 'w').write('0')\n{GREEDY}")
    process = processes.spawn(start)
    end = await process.wait()
    assert (end.code, end.reason) == (-9, "killed by SIGKILL")
    told = processes.killed_for_memory(start.token, end)
    assert told == "killed by SIGKILL, while the kernel killed on this host for lack of memory"
    assert (await processes.kill_leftovers(process.record)).gone


async def test_a_worker_that_reaches_its_limit_is_killed_as_a_whole_and_says_so(
    processes: WorkerProcesses, tmp_path: Path
) -> None:
    if not cgroups.limits_memory():
        pytest.skip("the memory controller of cgroup v2 can't be enabled for cgroups made here")
    text = f"import os, time\nif os.fork() == 0:\n    time.sleep(60)\n{GREEDY}"
    start = script(tmp_path, text, memory=64 << 20)
    process = processes.spawn(start)
    end = await process.wait()
    assert end.code == -9
    told = processes.killed_for_memory(start.token, end)
    assert told == "killed for memory: it used all of its 64M (limits.memory)"
    assert (await processes.kill_leftovers(process.record)).killed == 0, "its child went with it"
