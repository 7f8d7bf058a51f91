"""What docs/howto/upgrade.md says of two releases at once, by real processes of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.faults.census import until
from tests.pace import bound
from tests.upgrade.realm import BOUND_S, Realm, kept, main_job, realm
from tests.upgrade.releases import NEW, Missing, Release, previous


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The previous release."""
    try:
        return previous(tmp_path_factory.mktemp("previous"))
    except Missing as error:
        pytest.skip(str(error))


@pytest.mark.timeout(180)
def test_a_realm_is_upgraded_part_by_part_and_goes_back_while_its_workers_run(
    old: Release, tmp_path: Path
) -> None:
    with realm(tmp_path / "realm", broker=old, manager=old, agents=old, cli=old) as here:
        workers = kept(here, "kept")
        backup = tmp_path / "before.db"
        assert here.run("backup", str(backup), "--state", str(here.state)).returncode == 0

        new_manager_stands_by_and_takes_over_the_old_store(here)
        here.settled("kept", workers)
        main_job(here, "first")  # with old agents and the old command line
        old_manager_refuses_the_new_store(here, old)

        restored = here.run("restore", str(backup), "--state", str(here.state), "--take-over")
        assert restored.returncode == 0, restored.stderr
        here.manager(old)
        here.settled("kept", workers)
        here.agents(NEW)
        here.settled("kept", workers)
        here.cli = NEW
        main_job(here, "second")  # the old manager with new agents and the new command line
        what_only_the_new_one_can_is_refused(here)

        here.broker(NEW)
        here.manager(NEW)
        here.online()
        here.settled("kept", workers)
        here.agents(old)  # back, on the folders of the new ones
        here.settled("kept", workers)


def new_manager_stands_by_and_takes_over_the_old_store(here: Realm) -> None:
    former = here.stack.processes.pop("manager")
    here.stack.processes["former"] = former  # ended with the stack, whatever happens
    here.spawn_manager(NEW)
    until(lambda: "standing by" in here.log("manager"), BOUND_S, "the new manager stands by")
    here.ok("cluster", "list")  # the old one serves
    with here.taking_over("new"):
        here.end("former")


def old_manager_refuses_the_new_store(here: Realm, old: Release) -> None:
    here.end("manager")
    assert here.spawn_manager(old).wait(bound(BOUND_S)) == 4
    del here.stack.processes["manager"]
    assert "ERROR" in here.log("manager")
    last = here.log("manager").splitlines()[-1]
    assert "the database is of a newer Busbar (" in last and last.endswith("): update this one"), last


def _lasting(found: Any) -> Any:
    """What is shown, without figures that differ from moment to moment."""
    rows = found if isinstance(found, list) else [found]
    return [{key: row.get(key) for key in ("name", "version", "generation", "draining")} for row in rows]


def what_only_the_new_one_can_is_refused(here: Realm) -> None:
    """By the old manager, with a code, and nothing else comes of it."""
    unknown = here.ask("node", "label", "n1", "zone=a")
    assert (unknown.returncode, unknown.stdout) == (3, "")
    assert "no operation 'label_node' (no_such_procedure): a manager of an earlier version" in unknown.stderr
    member = here.ask("group", "add", "kept/placed", "--runtime", "serve", "--on", "zone=a")
    assert (member.returncode, member.stdout) == (2, "")
    assert "unknown field 'placement' (invalid_argument at /params/workergroup/placement)" in member.stderr
    assert [row["name"] for row in here.json("group", "list", "-c", "kept")] == ["web"]
    before = (
        here.json("node", "show", "n1"),
        here.json("cluster", "show", "kept"),
        here.json("worker", "list"),
    )
    for words in (("node", "drain", "n1"), ("cluster", "stop", "kept"), ("group", "restart", "kept/web")):
        planned = here.ask(*words, "--dry-run")
        assert (planned.returncode, planned.stdout) == (3, "")
        assert "nothing was changed: this manager can't plan " in planned.stderr
    after = here.json("node", "show", "n1"), here.json("cluster", "show", "kept"), here.json("worker", "list")
    assert [_lasting(each) for each in after] == [_lasting(each) for each in before]
