"""The demonstration goes on where a program is missing, and says so."""

from __future__ import annotations

from typing import Any

import pytest
from busbar.cli.demo.mesh import mesh


class Nodes:
    """A stage whose nodes have these runtimes, and where nothing else may happen."""

    def __init__(self, *runtimes: str) -> None:
        self._runtimes = list(runtimes)

    async def query(self, *words: str) -> list[dict[str, Any]]:
        assert words == ("node", "list")
        return [{"name": "n1", "runtimes": self._runtimes}, {"name": "n2", "runtimes": ["nats"]}]


async def test_without_nats_server_its_part_is_skipped(capsys: pytest.CaptureFixture[str]) -> None:
    await mesh(Nodes("amqtt"))  # type: ignore[arg-type]
    assert "nats-server is not installed" in capsys.readouterr().out
