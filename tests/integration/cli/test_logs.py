"""Logs of real services as JSON: on the console and in the files."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from tests.integration.cli.harness import stack


def test_every_line_of_every_service_is_an_object(tmp_path: Path) -> None:
    with stack(tmp_path) as here:
        here.env["BUSBAR_LOG_FORMAT"] = "json"
        here.up("--agents", "1", "--verbose", "--log-level", "debug")
        here.ready()
        here.signal(signal.SIGTERM)
        assert here.wait() == 0
        while (line := here.lines.get()) is not None:
            here.said.append(line)
    shown = [json.loads(line) for line in here.said if line.startswith("{")]
    words = ("ready in", "  ", "Ctrl-C", "stopping")
    assert all(line.startswith(("{", *words)) for line in here.said), here.said
    assert {row["service"] for row in shown} == {"broker", "manager", "agent"}
    assert {row["node"] for row in shown if row["service"] == "agent"} == {"n1"}
    for name in ("broker", "manager", "agent-n1"):
        lines = (here.state / "logs" / f"{name}.log").read_text().splitlines()
        assert [row["level"] for line in lines if (row := json.loads(line))["message"].endswith("is ready")]
