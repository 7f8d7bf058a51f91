"""Manager and store go to another machine by the commands of docs/explanation/scale.md, run as they stand."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest

from tests import forked
from tests.faults.census import Life, until
from tests.faults.yard import Cluster, Yard, yard
from tests.pace import bound
from tests.stack import ROOT

PAGE = ROOT / "docs" / "explanation" / "scale.md"
STATE, BACKUPS = "/var/lib/busbar/manager", "/backups"


def commands(title: str) -> list[tuple[str, str]]:
    """Machine (old or new) and command of each step below a title of the page."""
    section = PAGE.read_text().partition(f"### {title}\n")[2].partition("\n##")[0]
    found = re.findall(r"^(old|new)\$ (.*?)(?:\s+#.*)?$", section, re.MULTILINE)
    assert found, f"no commands below {title}"
    return found


class Machines:
    """Two state folders that stand for two machines, and a place for backups that both can reach."""

    def __init__(self, here: Yard, old: str, new: str) -> None:
        """`old` and `new` name a service and its state folder."""
        self.here, self.names = here, {"old": old, "new": new}
        (here.stack.folder / "backups").mkdir(exist_ok=True)

    def folder(self, machine: str) -> Path:
        return self.here.stack.folder / f"{self.names[machine]}-state"

    def run(self, machine: str, command: str) -> None:
        """A line of the page: our own program with its folders in the place of the page's, or the service."""
        words = shlex.split(command)
        if words[:1] == ["systemctl"]:
            assert words[2] == "busbar-manager"
            {"stop": self.stop, "start": self.start}[words[1]](machine)
            return
        assert words[0] == "busbar", command
        where = {STATE: str(self.folder(machine)), BACKUPS: str(self.here.stack.folder / "backups")}
        for shown, real in where.items():
            words = [word.replace(shown, real) for word in words]
        env = {key: value for key, value in os.environ.items() if not key.startswith("BUSBAR_")}
        env |= {"HOME": str(self.here.stack.folder)}
        done = forked.run(*words[1:], env=env, timeout=bound(60), folder=ROOT)
        assert done.returncode == 0, f"{machine}$ {command}\n{done.stdout}{done.stderr}"

    def stop(self, machine: str) -> None:
        self.here.stack.kill(self.names[machine], 15)

    def start(self, machine: str) -> None:
        self.here.start_manager(state=self.folder(machine).name, name=self.names[machine])


@pytest.mark.mosquitto
@pytest.mark.timeout(120)
def test_the_commands_of_the_page(tmp_path: Path) -> None:
    """First a planned move, then the new machine is lost too; no worker is touched by either."""
    with yard(tmp_path, ("n1",), "mosquitto") as here:
        cluster = here.cluster(2, nodes=("n1",))
        before = cluster.running(2)
        planned = Machines(here, "manager", "second")
        for machine, command in commands("A planned move"):
            planned.run(machine, command)
        before = goes_on(here, cluster, before, 3)
        crash = Machines(here, "second", "third")
        for machine, command in commands("The machine is lost"):
            if machine == "new" and "second" in here.stack.processes:
                here.kill("second")
            crash.run(machine, command)
        before = goes_on(here, cluster, before, 4)
        an_old_one_that_comes_back_ends(here, crash)
        cluster.kept(before)
        cluster.stop()


def goes_on(here: Yard, cluster: Cluster, before: dict[str, Life], scale: int) -> dict[str, Life]:
    """The manager knows its workers, which are the same, and does what it is told."""
    here.manager_is_up()
    assert cluster.running(len(before)) == before
    cluster.scale(scale)
    after = cluster.running(scale)
    assert before.items() <= after.items()
    return after


def an_old_one_that_comes_back_ends(here: Yard, machines: Machines) -> None:
    name = machines.names["old"]
    mark = here.log_mark(name)
    machines.start("old")
    process = here.stack.processes.pop(name)
    until(lambda: process.poll() is not None, 20, "the old manager has ended")
    assert process.returncode != 0
    assert "was restored from an older backup or copied, so it stops" in here.log(name)[mark:]
