"""A running worker says so when its node would start it otherwise now."""

from __future__ import annotations

import os
import resource
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from busbar.agent.runtimes import LaunchSpec, TcpProbe
from busbar.bus.messages import OUTDATED
from msgspec.structs import replace

from tests.agents import Bench, bench, worker

CHANGED = f"{OUTDATED}this node's definition of runtime 'serve' has changed since"


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench(tmp_path) as made:
        yield made


def edit(node: Bench, mode: str, before: str, after: str) -> None:
    """Change one runtime in the node's file."""
    head, tail = node.toml.read_text().split(f"[runtimes.{mode}]", 1)
    table, *rest = tail.split("[runtimes.", 1)
    assert before in table
    table = table.replace(before, after, 1)
    node.toml.write_text("[runtimes.".join([f"{head}[runtimes.{mode}]{table}", *rest]))


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({}, False),
        ({"argv": ("/bin/b", "-x")}, True),
        ({"argv": ("/bin/a -x",)}, True),
        ({"env": {"A": "2"}}, True),
        ({"files": {"f": "other"}}, True),
        ({"files": {}}, True),
        ({"live": TcpProbe(), "grace_s": 9.0, "address": "tcp://b:1"}, False),
    ],
)
@pytest.mark.fault(71, "H")
def test_the_digest_covers_what_a_process_is_started_with(changes: dict[str, Any], differs: bool) -> None:
    spec = LaunchSpec(
        ("/bin/a", "-x"), {"A": "1"}, {"f": "text"}, TcpProbe(), None, "tcp://a:1", "127.0.0.1", 1
    )
    assert (replace(spec, **changes).digest != spec.digest) is differs


@pytest.mark.fault(71, "H K")
async def test_an_adopted_worker_of_a_changed_runtime_says_so_until_it_is_started_anew(node: Bench) -> None:
    await node.start()
    node.assign(worker())
    before = await node.state("web-1", "RUNNING", reason=None)
    await node.stop()
    edit(node, "serve", '"serve"', '"stubborn"')
    await node.start()
    found = await node.state("web-1", "RUNNING", reason=CHANGED)
    assert (found["pid"], found["restarts"]) == (before["pid"], before["restarts"])
    node.assign(worker(generation=2))
    await node.state("web-1", "RUNNING", reason=None, generation=2)


@pytest.mark.fault(71, "H K")
async def test_a_reload_tells_which_workers_run_an_outdated_start(node: Bench) -> None:
    agent = await node.start()
    node.assign(worker(), worker("other-1", "share"))
    for name in ("web-1", "other-1"):
        await node.state(name, "RUNNING", reason=None)
    edit(node, "serve", "grace = 1", 'env = {MODE = "x"}\ngrace = 1')
    agent.reload()
    await node.state("web-1", "RUNNING", reason=CHANGED)
    await node.state("other-1", "RUNNING", reason=None)
    edit(node, "serve", 'env = {MODE = "x"}\n', "")
    agent.reload()
    await node.state("web-1", "RUNNING", reason=None)
    edit(node, "serve", "grace = 1", "grace = 2")
    agent.reload()
    await node.state("web-1", "RUNNING", reason=None)


@pytest.mark.fault(71, "H K")
async def test_a_worker_whose_runtime_is_gone_says_that_it_could_not_be_started(node: Bench) -> None:
    await node.start()
    node.assign(worker())
    await node.state("web-1", "RUNNING")
    await node.stop()
    node.toml.write_text(node.toml.read_text().replace("[runtimes.serve]", "[runtimes.gone]"))
    await node.start()
    found = await node.report(lambda last: last["workers"] and last["workers"][0]["state"] == "RUNNING")
    assert f"{OUTDATED}this node could not start it now: this node has no runtime 'serve'" in str(found)


async def test_limits_hold_for_the_process_and_changed_ones_from_its_next_start(node: Bench) -> None:
    cpu = min(os.sched_getaffinity(0))
    limits = f"{{nofile = 300, memory = '1G', cpus = [{cpu}]}}"
    edit(node, "serve", "grace = 1\n", f"grace = 1\nlimits = {limits}\n")
    await node.start()
    node.assign(worker())
    pid = (await node.state("web-1", "RUNNING"))["pid"]
    assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (300, 300)
    assert resource.prlimit(pid, resource.RLIMIT_DATA) == (1 << 30, 1 << 30)
    assert os.sched_getaffinity(pid) == {cpu}
    assert pid in node.living()
    await node.stop()
    edit(node, "serve", "nofile = 300", "nofile = 400, nice = 3")
    await node.start()
    assert (await node.state("web-1", "RUNNING", reason=CHANGED))["pid"] == pid
    os.kill(pid, 9)
    fresh = (await node.state("web-1", "RUNNING", reason=None))["pid"]
    assert resource.prlimit(fresh, resource.RLIMIT_NOFILE) == (400, 400)
    assert os.getpriority(os.PRIO_PROCESS, fresh) == os.getpriority(os.PRIO_PROCESS, 0) + 3


async def test_a_worker_beyond_its_memory_ends_with_the_reason_in_its_log(node: Bench) -> None:
    edit(node, "serve", "grace = 1\n", "grace = 1\nlimits = {memory = '4M'}\n")
    await node.start()
    node.assign(worker())
    reason = (await node.state("web-1", "BACKOFF"))["reason"]
    assert "emory" in reason and "each of its processes may use 4M (limits.memory)" in reason
