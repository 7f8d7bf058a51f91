"""A real agent reports the version and the schema of each runtime."""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from busbar.agent import service
from busbar.agent.processes.versions import ask_version, version_in
from busbar.bus.decode import digest
from busbar.bus.routers.transport_schema import known_schemas

from tests.agents import Bench, bench, worker

SCHEMA = {"properties": {"options": {"properties": {"say": {"pattern": "^[a-z]+$"}}}}, "title": "serve"}


def program(path: Path, says: str) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(f"#!/bin/sh\necho {says}\n")
    fresh.chmod(0o755)
    os.replace(fresh, path)


@pytest.fixture
async def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(service, "VERSIONS_S", 0.1)
    async with bench(tmp_path) as made:
        program(tmp_path / "asked", "serve, release 1.2.3-rc1 of today")
        (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
        first, _, rest = made.toml.read_text().partition("[runtimes.serve]\n")
        assert rest
        made.toml.write_text(
            f"{first}[runtimes.serve]\nversion = {json.dumps([str(tmp_path / 'asked'), '--version'])}\n"
            f'transport_schema = "{tmp_path / "schema.json"}"\n{rest}'
        )
        yield made


def of(report: dict[str, Any], runtime: str) -> dict[str, Any]:
    found: dict[str, Any] = report["details"].get(runtime, {})
    return found


async def test_versions_are_reported_and_asked_again_for_another_file(node: Bench, tmp_path: Path) -> None:
    await node.start()
    found = await node.report(lambda r: of(r, "serve").get("version"))
    assert of(found, "serve")["version"] == "1.2.3-rc1"
    found = await node.report(lambda r: of(r, "amqtt").get("version"))
    assert of(found, "amqtt")["version"] == importlib.metadata.version("amqtt")
    assert of(found, "amqtt")["schema"] == known_schemas()["amqtt"]
    program(tmp_path / "asked", "serve 2.0")
    await node.report(lambda r: of(r, "serve").get("version") == "2.0")


async def test_a_schema_is_in_one_report_when_it_is_asked_for(node: Bench) -> None:
    await node.start()
    found = await node.report(lambda r: of(r, "serve").get("schema"))
    assert of(found, "serve")["schema"] == digest(SCHEMA) and "schemas" not in found
    node.command(resync=True, schemas=[digest(SCHEMA), "sha256:unknown"])
    found = await node.report(lambda r: "schemas" in r)
    assert found["schemas"] == {digest(SCHEMA): SCHEMA}
    node.command(resync=True)
    await node.report(lambda r: "schemas" not in r)


async def test_a_transport_that_its_schema_refuses_is_not_started(node: Bench) -> None:
    await node.start()
    node.assign(worker(transport={"type": "tcp", "options": {"say": "LOUD"}}))
    found = await node.state("web-1", "BACKOFF")
    assert found["reason"].endswith("/transport/options/say: must match ^[a-z]+$")
    assert not node.living()


async def test_a_program_that_does_not_answer_has_no_version(tmp_path: Path) -> None:
    assert await ask_version(("/bin/sh", "-c", "sleep 60"), None, 0.2) is None
    assert await ask_version(("/bin/sh", "-c", "yes"), None, 5.0) == "y"
    assert await ask_version(("/bin/sh", "-c", "echo first 3.1 >&2; exit 3"), None, 5.0) == "3.1"
    assert await ask_version((str(tmp_path / "nothing"),), None, 5.0) is None


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("mosquitto version 2.0.11\n\nmosquitto is an MQTT v5.0 broker", "2.0.11"),
        ("HAProxy version 2.6.12-1+deb12u3 2025/10/03", "2.6.12-1+deb12u3"),
        ("nginx version: nginx/1.22.1", "1.22.1"),
        ("\n r\x1b[2J \n", "r\\x1b[2J"),
        ("", None),
    ],
)
def test_the_version_in_what_programs_say(text: str, version: str | None) -> None:
    assert version_in(text) == version
