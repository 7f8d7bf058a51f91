"""A flooding caller gets `busy`, and everybody else is answered. Figures: tests.security.flood."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.pace import bound
from tests.plain import Plain
from tests.stack import ROOT, stack

pytestmark = pytest.mark.timeout(60)

PROGRAM = """
import asyncio, sys
from pathlib import Path
from busbar.bus.options import ConnectOptions
from busbar.manager.service import ManagerConfig, run
port, state, secret = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]).read_text()
options = ConnectOptions(port=port, username="manager", password=secret, client_id="m-flood")
asyncio.run(run(ManagerConfig(state, "lab", options, principals={"alice": "owner"}, rate=50, burst=100)))
"""
"""What `busbar manager` runs, with lower limits: it has no options for them."""
FLOOD = 1_000


def answers(client: Plain) -> Counter[str]:
    found: Counter[str] = Counter()
    for topic, payload, _ in list(client.messages):
        if topic.endswith("/flood"):
            reply = json.loads(payload)
            found["ok" if reply["ok"] else reply["error"]["code"]] += 1
            assert reply["ok"] or reply["error"].get("retry_after_ms", 0) > 0, reply
    return found


@pytest.mark.parametrize("broker", ["embedded", pytest.param("mosquitto", marks=pytest.mark.mosquitto)])
@pytest.mark.parametrize("operation", ["list_nodes", "create_routercluster"])
def test_a_flooding_caller_gets_busy_and_others_are_answered(
    tmp_path: Path, broker: str, operation: str
) -> None:
    with stack(tmp_path, broker) as made:
        arguments = [str(made.port), str(tmp_path / "manager-state"), str(tmp_path / "secrets" / "manager")]
        with (tmp_path / "manager.log").open("wb") as log:
            made.processes["manager"] = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, *arguments], cwd=ROOT, stdout=log, stderr=log
            )
        alice = made.client("alice")
        made.wait_manager(alice)
        # An owner: no quota ends the flood before the limit does.
        alice.ok("add_principal", {"principal": {"name": "bob", "role": "owner"}})
        bob = made.client("bob")
        topic = bob.topic("request", "bob", operation)
        for number in range(FLOOD):
            params = {"routercluster": {"name": f"f{number}"}} if operation.startswith("create") else {}
            body = json.dumps({"id": f"f{number}", "reply": "flood", "params": params})
            bob.client.publish(topic, body, 1)
        # Meanwhile, requests of another caller are each answered in time.
        for number in range(5):
            alice.ok("create_routercluster", {"routercluster": {"name": f"calm{number}"}}, timeout=5)
        end = time.monotonic() + bound(30)
        while sum(topic.endswith("/flood") for topic, _, _ in list(bob.messages)) < FLOOD:
            assert time.monotonic() < end, answers(bob)
            time.sleep(0.05)
        found = answers(bob)
        assert set(found) == {"ok", "busy"} and sum(found.values()) == FLOOD
        assert found["busy"] > FLOOD / 2
        assert alice.ok("get_manager")["conditions"] == []
