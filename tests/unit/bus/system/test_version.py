"""What an installation tells of the commit that it was made from."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from busbar.bus.system.version import commit, described

from tests.pace import bound

Git = Callable[..., str]


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Git:
    """Runs git in a repository with one commit, without the settings of whoever runs the tests."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    monkeypatch.setattr("busbar.bus.system.version.GIT_S", bound(30))
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")

    def run(*words: str) -> str:
        env = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
        return subprocess.check_output(["git", "-C", str(tmp_path), *who, *words], text=True, env=env).strip()

    run("init", "--quiet")
    (tmp_path / "file").write_text("one")
    run("add", "file")
    run("commit", "--quiet", "-m", "one")
    return run


def test_a_clone_tells_its_commit_and_whether_it_was_changed(
    git: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as a hook sets it
    head = commit.__wrapped__(tmp_path)
    monkeypatch.delenv("GIT_DIR")
    assert head == git("rev-parse", "HEAD")[:12]
    git("tag", "-a", "-m", "v1", "v1")
    (tmp_path / "other").touch()
    assert commit.__wrapped__(tmp_path) == head
    (tmp_path / "file").write_text("two")
    assert commit.__wrapped__(tmp_path) == f"{head}-modified"


def test_what_lies_in_somebody_else_s_repository_is_none_of_it(git: Git, tmp_path: Path) -> None:
    inner = tmp_path / "site-packages"
    inner.mkdir()
    assert commit.__wrapped__(inner) is None


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("0123456789ab\n", "0123456789ab"),
        ("0123456-modified", "0123456-modified"),
        ("", None),
        ("\x1b[31m", None),
    ],
)
def test_what_was_recorded_when_it_was_built_comes_first(
    git: Git, tmp_path: Path, text: str, known: str | None
) -> None:
    (tmp_path / "commit.txt").write_text(text)
    assert commit.__wrapped__(tmp_path) == known


def test_without_git_there_is_no_commit(git: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit.__wrapped__(tmp_path) is None
    assert described("1.0", None) == "1.0 (commit unknown)"
