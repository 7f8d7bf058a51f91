"""Real routers whose files change while they run."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from busbar.agent import supervisor
from busbar.bus.messages import NOT_RELOADED, OUTDATED

from tests.agents import Bench, bench, worker
from tests.brokers import need_mosquitto, until
from tests.certificates import certificates
from tests.integration.agent.runtimes.test_real import crossbar_program

TLS = {"certificate": "own.crt", "key": "own.key"}
AT = "/transport/endpoint/tls"


@pytest.fixture
async def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(supervisor, "FILES_S", 0.2)
    monkeypatch.setattr(supervisor, "ROTATE_S", 0.1)
    need_mosquitto()
    async with bench(tmp_path) as made:
        secrets = tmp_path / "secrets"
        secrets.mkdir()
        certificates(secrets, "ca", "r1", "r2")
        put(secrets, "r1")
        (secrets / "acl").write_text("topic readwrite a/#\n")
        made.toml.write_text(
            made.toml.read_text() + f'[runtimes.mosquitto]\nsecrets_root = "{secrets}"\n'
            f'[runtimes.amqtt]\nsecrets_root = "{secrets}"\n'
        )
        yield made


def put(secrets: Path, name: str, *suffixes: str) -> None:
    """Replace the router's files, each at once."""
    for suffix in suffixes or ("crt", "key"):
        shutil.copy(secrets / f"{name}.{suffix}", secrets / f"fresh.{suffix}")
        os.replace(secrets / f"fresh.{suffix}", secrets / f"own.{suffix}")


def short_lived(secrets: Path) -> None:
    """A certificate for nine days in the place of the router's."""
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 9 -subj /CN=r"
    words = [*command.split(), "-keyout", "own.key", "-out", "own.crt"]
    subprocess.run(words, cwd=secrets, check=True, capture_output=True, timeout=60)


def mqtt(**more: Any) -> Any:
    # As root it would become another user, who may not read the test's folder.
    options = {"acl_file": "acl", "persistence": True}
    endpoint = {"type": "tcp", "tls": {**TLS, **more}}
    return worker(runtime="mosquitto", transport={"type": "mqtt", "endpoint": endpoint, "options": options})


def served(report: dict[str, Any]) -> str:
    """The certificate that the router shows."""
    port = urlsplit(report["address"]).port
    return ssl.get_server_certificate(("127.0.0.1", port or 0))


def content(secrets: Path, name: str) -> str:
    return ssl.DER_cert_to_PEM_cert(ssl.PEM_cert_to_DER_cert((secrets / f"{name}.crt").read_text()))


async def test_mosquitto_serves_a_new_certificate_without_a_restart(node: Bench, tmp_path: Path) -> None:
    await node.start()
    node.assign(mqtt())
    before = await node.state("web-1", "RUNNING", reason=None)
    secrets = tmp_path / "secrets"
    assert served(before) == content(secrets, "r1")
    put(secrets, "r2")
    await until(lambda: served(before) == content(secrets, "r2"), 30)
    assert (await node.state("web-1", "RUNNING", reason=None))["pid"] == before["pid"]


async def test_files_that_it_could_not_use_are_not_loaded(node: Bench, tmp_path: Path) -> None:
    await node.start()
    node.assign(mqtt())
    before = await node.state("web-1", "RUNNING", reason=None)
    secrets = tmp_path / "secrets"

    async def refused(*words: str) -> None:
        def found(report: dict[str, Any]) -> bool:
            reason = report["workers"][0]["reason"] or ""
            return reason.startswith(NOT_RELOADED) and all(word in reason for word in words)

        report = await node.report(found, 30)
        assert (report["workers"][0]["state"], report["workers"][0]["pid"]) == ("RUNNING", before["pid"])
        assert served(before) == content(secrets, "r1")

    put(secrets, "r2", "crt")
    await refused("key values mismatch")
    (secrets / "acl").write_text("whatever\n")
    put(secrets, "r2", "key")
    await refused("acl_file")
    (secrets / "acl").unlink()
    await refused("/transport/options/acl_file: can't read")
    (secrets / "acl").write_text("topic readwrite b/#\n")
    await node.state("web-1", "RUNNING", timeout=30, reason=None, pid=before["pid"])
    await until(lambda: served(before) == content(secrets, "r2"), 30)


async def test_what_it_reads_at_its_start_alone_makes_it_outdated(node: Bench, tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    shutil.copy(secrets / "ca.crt", secrets / "clients.crt")
    await node.start()
    mutual = mqtt(client_ca="clients.crt", client_certificates="require")
    node.assign(mutual)
    before = await node.state("web-1", "RUNNING", reason=None)
    (secrets / "clients.crt").write_bytes(2 * (secrets / "ca.crt").read_bytes())
    reason = f"{OUTDATED}changed on this node since: {AT}/client_ca"
    await node.state("web-1", "RUNNING", timeout=30, reason=reason, pid=before["pid"])
    await node.stop()
    await node.start()
    await node.state("web-1", "RUNNING", timeout=30, reason=reason, pid=before["pid"])
    os.kill(before["pid"], 9)

    def renewed(report: dict[str, Any]) -> bool:
        (now,) = report["workers"]
        fresh = now["state"] == "RUNNING" and now["pid"] != before["pid"]
        return fresh and OUTDATED not in (now["reason"] or "")

    await node.report(renewed, 30)


async def test_a_change_while_the_agent_was_away_is_found(node: Bench, tmp_path: Path) -> None:
    await node.start()
    node.assign(mqtt())
    before = await node.state("web-1", "RUNNING", reason=None)
    await node.stop()
    put(tmp_path / "secrets", "r2")
    await node.start()
    await until(lambda: served(before) == content(tmp_path / "secrets", "r2"), 30)
    await node.state("web-1", "RUNNING", reason=None, pid=before["pid"])


async def test_a_certificate_that_ends_soon_is_a_condition(
    node: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secrets = tmp_path / "secrets"
    await asyncio.to_thread(short_lived, secrets)
    await node.start()
    node.assign(mqtt())

    def told(report: dict[str, Any]) -> list[str]:
        return [text for text in report["conditions"] if text.startswith("certificate ")]

    report = await node.report(told, 30)
    (text,) = told(report)
    assert text.startswith(f"certificate {secrets}/own.crt ends in 8 days (") and text.endswith(
        ": worker web-1"
    )
    assert [record.message for record in caplog.records].count(text) == 1
    put(secrets, "r2")
    await node.report(lambda report: not told(report), 30)


async def test_a_router_that_reads_nothing_again_is_outdated(node: Bench, tmp_path: Path) -> None:
    passwords = tmp_path / "secrets" / "passwords"
    passwords.write_text("alice:$argon2id$v=19$m=8,t=1,p=1$AAAA$AAAA\n")
    await node.start()
    transport = {"type": "mqtt", "options": {"password_file": "passwords"}}
    node.assign(worker(runtime="amqtt", transport=transport))
    before = await node.state("web-1", "RUNNING", reason=None)
    passwords.write_text("bob:$argon2id$v=19$m=8,t=1,p=1$AAAA$AAAA\n")
    reason = f"{OUTDATED}changed on this node since: /transport/options/password_file"
    await node.state("web-1", "RUNNING", timeout=30, reason=reason, pid=before["pid"])


@pytest.mark.crossbar
async def test_crossbar_says_that_its_copies_are_outdated(node: Bench, tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    with node.toml.open("a") as file:
        file.write(f'[runtimes.crossbar]\nsecrets_root = "{secrets}"\n')
        file.writelines(f'{key} = "{value}"\n' for key, value in crossbar_program().items())
    await node.start()
    transport = {"type": "web", "endpoint": {"type": "tcp", "tls": TLS}}
    node.assign(worker(runtime="crossbar", transport=transport))
    before = await node.state("web-1", "RUNNING", timeout=90, reason=None)
    assert served(before) == content(secrets, "r1")
    put(secrets, "r2")
    reason = f"{OUTDATED}changed on this node since: {AT}/certificate, {AT}/key"
    await node.state("web-1", "RUNNING", timeout=30, reason=reason, pid=before["pid"])
