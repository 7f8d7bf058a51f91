"""What ends the workers together with the agent."""

from __future__ import annotations

import os

import pytest
from busbar.agent.processes.shutdown import ends_with_container, ends_with_unit, unit_of

UNIT = "0::/system.slice/busbar-agent.service\n"
OWN = "0::/user.slice/user-7.slice/user@7.service/app.slice/busbar-agent.service\n"
SERVICE = {"INVOCATION_ID": "x"}
ME = str(os.getpid())


@pytest.mark.parametrize(
    ("pid", "parent", "init", "ends"),
    [
        (1, 0, "busbar\n", True),
        (7, 1, "tini\n", True),
        (7, 1, "systemd\n", False),
        (7, 3, "tini\n", False),
        (7, 1, "", False),
    ],
)
def test_pid_1_of_a_container_ends_everything(pid: int, parent: int, init: str, ends: bool) -> None:
    assert ends_with_container(pid, parent, init) is ends


@pytest.mark.fault(116, "B C")
@pytest.mark.parametrize(
    ("environ", "cgroup", "answers", "ends"),
    [
        (SERVICE, UNIT, {"is-system-running": "stopping", "KillMode": "process"}, True),
        ({}, "0::/user.slice\n", {"is-system-running": "stopping"}, True),
        (SERVICE, UNIT, {"is-system-running": "running", "KillMode": "process", "MainPID": ME}, False),
        (SERVICE, UNIT, {"is-system-running": "degraded", "KillMode": "control-group", "MainPID": ME}, True),
        (SERVICE, UNIT, {"KillMode": "mixed", "MainPID": str(os.getppid())}, True),
        # Started by hand within another service, such as that of a terminal.
        (SERVICE, "0::/system.slice/ssh.service\n", {"KillMode": "control-group", "MainPID": "4"}, False),
        ({}, UNIT, {"KillMode": "control-group", "MainPID": ME}, False),
        # A user's own service manager, which ends at the last logout, ends all that it started.
        (SERVICE, OWN, {"--user is-system-running": "stopping", "KillMode": "process"}, True),
        (SERVICE, OWN, {"--user is-system-running": "running", "KillMode": "process"}, False),
        (SERVICE, UNIT, {"--user is-system-running": "stopping", "KillMode": "process"}, False),
        (SERVICE, UNIT, {}, False),
        (SERVICE, "", {}, False),
    ],
)
async def test_systemd_stops_the_machine_or_the_unit(
    environ: dict[str, str], cgroup: str, answers: dict[str, str], ends: bool
) -> None:
    async def ask(*arguments: str) -> str | None:
        asked = " ".join(arguments)
        return next((answer for words, answer in answers.items() if words in asked), None)

    assert await ends_with_unit(environ, cgroup, ask) is ends


def test_the_unit_is_the_innermost_service() -> None:
    assert unit_of("0::/user.slice/user@7.service/app.slice/busbar.service\n") == "busbar.service"
    assert unit_of("0::/init.scope\n") is None
