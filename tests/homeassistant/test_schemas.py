"""Home Assistant itself takes every discovery message, and renders its templates as intended."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from busbar.bus.access.home_assistant import HomeAssistant
from busbar.bus.topics import Topics
from busbar.manager.publish.home_assistant import Device, Discovery, Realm

PYTHON = os.environ.get("BUSBAR_HOME_ASSISTANT", "")
TOPICS = Topics("lab")


@pytest.mark.skipif(not PYTHON, reason="part of make home-assistant, which installs Home Assistant")
@pytest.mark.timeout(300)
def test_home_assistant_takes_every_message_and_renders_its_templates() -> None:
    make = Discovery(HomeAssistant("ha"), TOPICS, "m1", "1.2")
    cluster = Device("c-1", "edge", (("g-1", "web"),))
    messages = make.messages(Realm((Device("n-1", "n1"),), (cluster,), "p-1", "owner"))
    given = {
        "messages": {topic: json.loads(body) for topic, body in messages.items()},
        "states": {
            TOPICS.status("_", "node", "n1"): '{"status": "online", "conditions": []}',
            TOPICS.status("edge", "routercluster", "edge"): '{"status": "RUNNING", "ready": 2, "scale": 2}',
            TOPICS.status("edge", "workergroup", "web"): '{"status": "ERROR", "ready": 0, "scale": 2}',
            TOPICS.response("ha", "edge"): '{"ok": false, "error": {"code": "cannot_start"}}',
        },
    }
    judge = Path(__file__).with_name("judge.py")
    text = json.dumps(given)
    said = subprocess.run([PYTHON, judge], input=text, capture_output=True, text=True, timeout=280)
    assert said.returncode == 0, said.stderr[-3000:]
    found: dict[str, Any] = {topic.split("/")[3]: shown for topic, shown in json.loads(said.stdout).items()}
    assert len(found) == len(messages)
    states = {leaf: shown[0] for leaf, shown in found.items() if not leaf.endswith("-restart")}
    assert states == {
        "n-1-online": "ON", "n-1-problem": "OFF", "n-1-status": "online",
        "c-1-running": "ON", "c-1-problem": "OFF", "c-1-ready": "2", "c-1-status": "RUNNING",
        "g-1-running": "OFF", "g-1-problem": "ON", "g-1-ready": "0", "c-1-request": "cannot_start",
    }  # fmt: skip
    assert {shown[1] for leaf, shown in found.items() if not leaf.endswith("-restart")} == {""}
    assert found["g-1-ready"][2:] == [{"scale": 2}, {}]
    first, second = (json.loads(request) for request in found["g-1-restart"])
    assert first["id"] != second["id"] and first["params"]["workergroup_oid"] == "g-1"
