"""What the kernel's counters say of a process that has ended."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from busbar.agent.processes import cgroups, memory
from busbar.agent.processes.memory import HostKills, after_allocation, as_text, explain
from busbar.agent.processes.process_limits import ProcessLimits, as_bytes, data_limit
from hypothesis import given
from hypothesis import strategies as st

KILLED = -int(signal.SIGKILL)
LIMITED = "low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\noom_group_kill 1\n"
HOST = "low 0\nhigh 0\nmax 0\noom 0\noom_kill 1\n"
NONE = "low 0\nhigh 0\nmax 3\noom 0\noom_kill 0\n"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    vmstat = tmp_path / "vmstat"
    vmstat.write_text("nr_free_pages 3\noom_kill 4\n")
    monkeypatch.setattr(memory, "VMSTAT", vmstat)
    monkeypatch.setattr(cgroups, "parent", lambda: None)
    return vmstat


@pytest.mark.parametrize(
    ("code", "events", "limit", "reason"),
    [
        (KILLED, LIMITED, str(512 << 20), "killed for memory: it used all of its 512M (limits.memory)"),
        (None, LIMITED, str(1 << 30), "killed for memory: it used all of its 1G (limits.memory)"),
        (KILLED, HOST, str(512 << 20), "killed for memory: there was none left outside of it"),
        (KILLED, HOST, "max", "killed for memory: there was none left outside of it"),
        (
            1,
            LIMITED,
            str(4096),
            "exit code 1, after a process of it was killed for memory: it used all of its 4K (limits.memory)",
        ),
        (KILLED, NONE, "max", None),
        (1, "", "max", None),
    ],
)
def test_the_counters_of_its_own_cgroup(
    host: Path, tmp_path: Path, code: int | None, events: str, limit: str, reason: str | None
) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "memory.events").write_text(events)
    (folder / "memory.max").write_text(f"{limit}\n")
    assert explain(code, [tmp_path / "gone", folder], HostKills()) == reason


def test_the_hosts_counter_is_a_hint_for_a_moment(host: Path) -> None:
    kills = HostKills()
    assert explain(KILLED, [], kills) is None, "what was before is nothing"
    host.write_text("oom_kill 5\n")
    told = "killed by SIGKILL, while the kernel killed on this host for lack of memory"
    assert explain(KILLED, [], kills) == told
    assert explain(1, [], kills) is None and explain(None, [], kills) is None
    kills.tick()
    assert explain(KILLED, [], kills) == told, "it may be noticed just after a tick"
    kills.tick()
    assert explain(KILLED, [], kills) is None
    host.unlink()
    assert explain(KILLED, [], kills) is None


def test_a_failed_allocation_names_the_limit_per_process() -> None:
    argv = ProcessLimits(nofile=100, memory=512 << 20, nice=1).wrapped(("prog", "--data=7:7"))
    told = "each of its processes may use 512M (limits.memory)"
    assert after_allocation(argv, ["starting", "MemoryError"]) == told
    assert after_allocation(argv, ["terminate called after throwing std::bad_alloc"]) == told
    assert after_allocation(argv, ["bye"]) is None
    unlimited = ProcessLimits(memory=512 << 20).wrapped(("prog", "--data=7:7"), cgroup=True)
    assert unlimited == ("prog", "--data=7:7")
    assert after_allocation(unlimited, ["MemoryError"]) is None


@given(st.integers(1 << 20, 1 << 50))
def test_a_size_is_read_back(size: int) -> None:
    assert as_bytes(as_text(size)) == size
    assert data_limit(ProcessLimits(memory=size).wrapped(("p",))) == size
