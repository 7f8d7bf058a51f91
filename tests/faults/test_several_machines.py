"""docs/howto/several-machines.md, run as printed on machines of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers import need_mosquitto
from tests.faults.census import until
from tests.faults.conftest import needs_root
from tests.machines import Block, Machine, blocks, machines

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "several-machines.md"
EVERY = "every machine"
TYPED = "TOKEN@BROKER"

pytestmark = [needs_root, pytest.mark.mosquitto, pytest.mark.timeout(300)]


def carry_out(made: dict[str, Machine], block: Block, typed: str = "") -> str:
    """`typed`: what the user has read before and types in the place of `TOKEN@BROKER`."""
    said = ""
    for name in made if block.host == EVERY else [block.host]:
        if block.file:
            made[name].write(block.file, block.text)
        else:
            said += made[name].run(block.text.replace(TYPED, typed), 120)
    return said


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Machine], list[str]]]:
    """The machines of the page after its last step, and what each step has printed."""
    need_mosquitto()
    steps = list(blocks(PAGE))
    names = sorted({step.host for step in steps} - {EVERY})
    assert names == ["broker.example", "broker2.example", "manager.example", "n1.example", "n2.example"]
    with machines(tmp_path_factory.mktemp("fleet"), names) as made:
        for node in ("n1.example", "n2.example"):
            made[node].run("mkdir -p /run/systemd/system")  # as where systemd runs the machine
        said: list[str] = []
        for step in steps:
            words = re.findall(r"bb1-\S+@\S+", said[-1]) if said else []
            said.append(carry_out(made, step, *words))
        yield made, said


@pytest.mark.fault(124, "U")
def test_the_page_on_several_machines_runs_as_printed(fleet: tuple[dict[str, Machine], list[str]]) -> None:
    made, said = fleet
    broker, n2 = made["broker.example"], made["n2.example"]
    workers = next(text for text in said if "edge/web-4" in text)
    assert workers.count("RUNNING") >= 4
    shown = broker.run("busbar worker list -o json")
    assert '"node": "n1"' in shown and '"node": "n2"' in shown
    through_the_bridge = "busbar --broker mqtts://broker2.example:8883 --username alice"
    through_the_bridge += " --password-file ~/.busbar-secret"
    until(
        lambda: broker.run(f"{through_the_bridge} node list").count("online") == 2,
        20,
        "both nodes are seen through the bridge",
    )
    # What the page leaves behind: services as their user, secrets that nobody else reads, no copies.
    n2.run("test $(stat -c '%U %a' /var/lib/busbar/agent/secret | tr ' ' -) = busbar-600")
    workers_of_n2 = n2.run("pgrep -u busbar -f routers | sort")
    agent = n2.run("cat /run/units/busbar-agent")
    word = [found for text in said for found in re.findall(r"bb1-\S+@\S+", text)][-1]
    again = n2.run(f"echo {word} | busbar join - --host n2.example")
    assert "'n2' had joined already" in again and n2.run("cat /run/units/busbar-agent") == agent
    n2.run("systemctl restart busbar-agent")
    assert n2.run("pgrep -u busbar -f routers | sort") == workers_of_n2, "they run on"
    # A node's file can be made anew; the earlier secret is then void.
    broker.run("busbar node token n2 --passwords /etc/mosquitto/passwords --join-file n2.join")
    broker.run("scp n2.join n2.example: && rm n2.join")
    n2.run("systemctl stop busbar-agent && busbar agent join n2.join --service")
    until(lambda: broker.run("busbar node list").count("online") == 2, 20, "the node has joined once more")


@pytest.mark.fault(124, "U")
def test_the_page_on_backups_runs_as_printed(fleet: tuple[dict[str, Machine], list[str]]) -> None:
    """What was made after the backup is gone, what was made before it serves on."""
    made, _ = fleet
    broker, steps = made["broker.example"], list(blocks(PAGE.with_name("backup.md")))
    back_up, restore = steps
    carry_out(made, back_up)
    broker.run("busbar cluster create later")
    workers = made["n1.example"].run("pgrep -u busbar -f routers | sort")
    assert "is intact" in carry_out(made, restore)
    until(lambda: "online" in broker.run("busbar node list || true"), 30, "the restored manager serves")
    names = broker.run("busbar cluster list -q").split()
    assert "edge" in names and "later" not in names
    assert made["n1.example"].run("pgrep -u busbar -f routers | sort") == workers, "untouched"
