"""Where workers' cgroups may be made, and what their names say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from busbar.agent.processes import cgroups, proc_files

V2 = "25 30 0:23 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
HYBRID = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
)
UNIT = "0::/system.slice/busbar-agent.service\n"
AT_UNIT = Path("/sys/fs/cgroup/system.slice/busbar-agent.service")
USER = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/"
AT_USER = Path(f"/sys/fs/cgroup{USER[3:]}")


@pytest.mark.parametrize(
    ("own", "mountinfo", "systemd", "delegated", "found"),
    [
        (UNIT, V2, True, {AT_UNIT}, AT_UNIT),
        (UNIT, V2, True, set(), "busbar-agent.service"),
        # An agent in a subgroup (DelegateSubgroup=) makes them beside its own.
        ("0::/system.slice/busbar-agent.service/main\n", V2, True, {AT_UNIT}, AT_UNIT),
        # A user's manager was given the tree, but it alone divides it: each of its units has to be delegated.
        (f"{USER}agent.service\n", V2, True, {AT_USER / "agent.service"}, AT_USER / "agent.service"),
        (f"{USER}term.scope\n", V2, True, {AT_USER.parent}, "term.scope"),
        ("0::/user.slice/user-0.slice/session-3.scope\n", V2, True, set(), "session-3.scope"),
        ("0::/\n", V2, True, {Path("/sys/fs/cgroup")}, "no unit"),
        # A container without systemd, and a machine with another init.
        ("0::/\n", V2, False, set(), Path("/sys/fs/cgroup")),
        ("9:name=x:/\n4:memory:/a\n0::/\n", HYBRID, False, set(), Path("/sys/fs/cgroup/unified")),
        ("0::/a/b\n", V2.replace(" / ", " /a ", 1), False, set(), Path("/sys/fs/cgroup/b")),
        ("0::/b\n", V2.replace(" / ", " /a ", 1), False, set(), "mounted"),
        ("0::/a b\n", V2.replace("/sys/fs/cgroup", r"/mnt/c\040g"), False, set(), Path("/mnt/c g/a b")),
        ("0::/\n", HYBRID.rpartition("41 ")[0], False, set(), "mounted"),
        ("4:memory:/a\n", HYBRID, False, set(), "no cgroup v2"),
        ("", "", False, set(), "no cgroup v2"),
    ],
)
def test_where_cgroups_may_be_made(
    own: str, mountinfo: str, systemd: bool, delegated: set[Path], found: Path | str
) -> None:
    if isinstance(found, Path):
        assert cgroups.find_parent(own, mountinfo, systemd, delegated.__contains__) == found
    else:
        with pytest.raises(ValueError, match=found):
            cgroups.find_parent(own, mountinfo, systemd, delegated.__contains__)


@pytest.mark.parametrize(("answer", "found"), [("yes", AT_USER / "agent.service"), ("no", None), ("", None)])
def test_a_user_s_service_manager_is_asked_since_it_marks_no_cgroup(
    answer: str, found: Path | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "systemctl"
    script.write_text(
        f'#!/bin/sh\n[ "$*" = "--user show --property=Delegate --value -- agent.service" ] && echo {answer}\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    if found is not None:
        assert cgroups.find_parent(f"{USER}agent.service\n", V2, True, cgroups.is_delegated) == found
    else:
        with pytest.raises(ValueError, match="not delegated"):
            cgroups.find_parent(f"{USER}agent.service\n", V2, True, cgroups.is_delegated)
    assert not cgroups.is_delegated(Path("/sys/fs/cgroup/system.slice/agent.service"))
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert not cgroups.is_delegated(AT_USER / "agent.service")


@pytest.mark.parametrize("token", ["busbar:r/n1:0ab:7f-3:1:9", "a b/c\nd", "t", "x" * 100])
def test_a_name_gives_its_token_back(token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = cgroups.name_of("r/n1", token)
    assert "/" not in name and "\n" not in name
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cgroup").write_text(f"0::/{cgroups.name_of('r/n0', 'outer')}/{name}/inner (deleted)\n")
    (tmp_path / "8").mkdir()
    (tmp_path / "8/cgroup").write_text("0::/busbar-agent.service/busbar-1234\n")
    monkeypatch.setattr(proc_files, "PROC", str(tmp_path))
    assert cgroups.tokens_of(7) == ["outer", token]
    assert cgroups.token_in_scope(7, "r/n1") == token and cgroups.token_in_scope(7, "r/n2") is None
    assert cgroups.tokens_of(8) == cgroups.tokens_of(9) == []


def test_without_a_place_nothing_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "parent", lambda: None)
    with cgroups.entry("r/n1", "t") as enter:
        assert enter is None
    assert cgroups.folders("t") == set()
    cgroups.remove_empty("r/n1", None)


def test_a_place_that_is_no_cgroup_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "parent", lambda: tmp_path)
    with cgroups.entry("r/n1", "t") as enter:
        assert enter is None
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(cgroups, "parent", lambda: tmp_path / "gone")
    with cgroups.entry("r/n1", "t") as enter:
        assert enter is None


def test_only_what_is_over_and_of_this_node_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "parent", lambda: tmp_path)
    over, begun, full, other = (
        tmp_path / cgroups.name_of(scope, token)
        for scope, token in (("r/n1", "over"), ("r/n1", "begun"), ("r/n1", "full"), ("r/n2", "other"))
    )
    for folder in (over / "inner", begun, full, other, tmp_path / "busbar-others"):
        folder.mkdir(parents=True)
    (full / "stands-for-a-process").touch()
    assert cgroups.folders("over") == {over}
    cgroups.remove_empty("r/n1", "begun")
    assert set(tmp_path.iterdir()) == {begun, full, other, tmp_path / "busbar-others"}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(cgroups, "parent", lambda: tmp_path)
    cgroups.limits_memory.cache_clear()
    yield tmp_path
    cgroups.limits_memory.cache_clear()


def test_memory_is_limited_where_the_controller_can_be_enabled(place: Path) -> None:
    (place / "cgroup.subtree_control").write_text("cpu memory pids\n")
    assert cgroups.limits_memory()


def test_memory_is_not_limited_where_it_can_not(place: Path) -> None:
    (place / "cgroup.subtree_control").mkdir()  # as it is refused where a process is in the way
    assert not cgroups.limits_memory()


def test_a_limit_that_can_not_be_set_is_no_start_without_it(place: Path) -> None:
    with pytest.raises(OSError), cgroups.entry("r/n1", "t", 1 << 20):
        raise AssertionError("not reached")
