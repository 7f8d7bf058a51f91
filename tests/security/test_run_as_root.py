"""Commands that an administrator runs as root leave files that the service's own user can use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from busbar.bus.broker.accounts import ensure_account
from busbar.bus.broker.join_tokens import issue_token
from busbar.bus.system.files import FileLock, write_atomically
from busbar.manager.leader.state_folder import backup, database, restore, take_over

from tests.integration.manager.fixtures import open_store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for another user")
SERVICE = (12_345, 12_346)
WHEN = "2026-11-23T01:02:03Z"


def foreign(folder: Path) -> list[str]:
    """What in a service's folder is not its user's."""
    return [str(path) for path in folder.rglob("*") if (path.stat().st_uid, path.stat().st_gid) != SERVICE]


def give(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, *SERVICE)


@pytest.mark.parametrize("what", ["nothing", "a store", "a store that crashed"])
@pytest.mark.fault(118, "D L")
def test_a_store_restored_as_root_is_its_service_users(tmp_path: Path, what: str) -> None:
    source, state, copy = tmp_path / "source", tmp_path / "manager", tmp_path / "copy"
    open_store(source).close()
    backup(source, copy, WHEN)
    state.mkdir(mode=0o700)
    if what != "nothing":
        open_store(state).close()
    if what == "a store that crashed":
        kill = "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1]);"
        kill += 'c.execute("DELETE FROM audit"); c.commit(); os._exit(9)'
        subprocess.run([sys.executable, "-c", kill, str(database(state))], check=False)
        assert Path(f"{database(state)}-wal").exists()
    give(state)
    restore(state, copy, WHEN)
    assert foreign(state) == []
    take_over(state, 7)
    assert foreign(state) == []


@pytest.mark.fault(118, "D L")
def test_every_file_that_is_written_or_locked_as_root_is_its_folders_owners(tmp_path: Path) -> None:
    folder = tmp_path / "broker"
    folder.mkdir(mode=0o700)
    os.chown(folder, *SERVICE)
    ensure_account(folder / "accounts.json", "bob", "person", "secret")
    issue_token(folder / "accounts.json", "n1", 1_000.0)
    write_atomically(folder / "file", "text")
    with FileLock(folder / "lock"):
        pass
    assert foreign(folder) == []
    assert {path.name for path in folder.iterdir()} == {
        "accounts.json",
        "accounts.json.lock",
        "tokens.json",
        "file",
        "lock",
    }
    (tmp_path / "mine").mkdir()
    write_atomically(tmp_path / "mine" / "file", "text")
    assert (tmp_path / "mine" / "file").stat().st_uid == 0
