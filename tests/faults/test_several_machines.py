"""docs/howto/several-machines.md, run as printed on machines of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.brokers import need_mosquitto
from tests.faults.census import until
from tests.faults.conftest import needs_root
from tests.machines import Block, Machine, blocks, machines

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "several-machines.md"
EVERY = "every machine"


def carry_out(made: dict[str, Machine], block: Block) -> str:
    said = ""
    for name in made if block.host == EVERY else [block.host]:
        if block.file:
            made[name].write(block.file, block.text)
        else:
            said += made[name].run(block.text, 120)
    return said


@needs_root
@pytest.mark.mosquitto
@pytest.mark.timeout(300)
@pytest.mark.fault(124, "U")
def test_the_page_on_several_machines_runs_as_printed(tmp_path: Path) -> None:
    need_mosquitto()
    steps = list(blocks(PAGE))
    names = sorted({step.host for step in steps} - {EVERY})
    assert names == ["broker.example", "broker2.example", "manager.example", "n1.example", "n2.example"]
    with machines(tmp_path, names) as made:
        broker, n2 = made["broker.example"], made["n2.example"]
        said = [carry_out(made, step) for step in steps]
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
        n2.run("test ! -e /root/n2.join")
        assert "n2.join" not in broker.run("ls /root")
        workers_of_n2 = n2.run("pgrep -u busbar -f routers | sort")
        n2.run("systemctl restart busbar-agent")
        assert n2.run("pgrep -u busbar -f routers | sort") == workers_of_n2, "they run on"
        # A node's file can be made anew; the earlier secret is then void.
        broker.run("busbar node token n2 --passwords /etc/mosquitto/passwords --join-file n2.join")
        broker.run("scp n2.join n2.example: && rm n2.join")
        n2.run("systemctl stop busbar-agent && busbar agent join n2.join --service")
        until(
            lambda: broker.run("busbar node list").count("online") == 2, 20, "the node has joined once more"
        )
