"""The demonstration goes on where a program is missing, and says so."""

from __future__ import annotations

from typing import Any

import pytest
from busbar.cli.demo.mesh import mesh
from busbar.cli.demo.page import page


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


async def test_without_the_extra_the_page_is_left_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("busbar.cli.demo.page.WEB", "no_such_library")
    await page(Nodes(), None)  # type: ignore[arg-type]
    assert "The extra 'web' is not installed" in capsys.readouterr().out
