"""Fixtures that several integration tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers import mosquitto


@pytest.fixture
def mosquitto_port(tmp_path: Path) -> Iterator[int]:
    """The port of a real mosquitto that lets anybody in."""
    with mosquitto(tmp_path) as port:
        yield port
