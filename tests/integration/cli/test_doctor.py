"""The tries behind `busbar doctor`, on real brokers and certificates that have a fault."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from busbar.cli.context import Settings
from busbar.cli.doctor.checks import Check, checks
from busbar.cli.doctor.tries import examine

from tests.brokers import mosquitto
from tests.certificates import certificates
from tests.integration.manager.fixtures import REALM, mqtt_net, rig_on
from tests.pace import bound


def named(found: list[Check]) -> dict[str, str]:
    """The worst status of each check."""
    order = ("ok", "warning", "failed")
    statuses: dict[str, str] = {}
    for check in found:
        statuses[check.name] = max(statuses.get(check.name, "ok"), check.status, key=order.index)
    return statuses


@pytest.mark.mosquitto
async def test_a_broker_without_an_acl_that_takes_small_packets_only(tmp_path: Path) -> None:
    lines = ("allow_anonymous true", "max_packet_size 50000")
    with mosquitto(tmp_path, *lines) as port:
        async with rig_on(mqtt_net(port), tmp_path / "manager") as (_, client):
            await client.cluster("edge")
            settings = Settings(broker=f"mqtt://127.0.0.1:{port}", realm=REALM, username="vera")
            found = named(checks(await examine(settings, bound(5.0))))
    assert found["acl"] == "failed" and found["packet size"] == "failed", found
    assert found["broker"] == found["retained"] == found["manager"] == "ok", found


async def test_a_broker_that_is_not_there_is_one_check(tmp_path: Path) -> None:
    found = checks(await examine(Settings(broker="mqtt://127.0.0.1:1", realm="lab", username="vera"), 2.0))
    assert named(found)["broker"] == "failed" and len(found) <= 2
    assert named(checks(await examine(Settings(), 2.0)))["broker"] == "failed"


def short_lived(folder: Path, name: str) -> Path:
    """A certificate signed by itself that ends in five days."""
    signed = folder / "short.crt"
    command = [
        "openssl",
        "x509",
        "-in",
        f"{name}.crt",
        "-signkey",
        f"{name}.key",
        "-days",
        "5",
        "-out",
        signed,
    ]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=bound(30))
    return signed


@asynccontextmanager
async def listening(certificate: Path, key: Path) -> AsyncIterator[int]:
    """A TLS server that says nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_certificates_that_end_soon_or_have_no_authority(tmp_path: Path) -> None:
    certificates(tmp_path, "ca", "broker")
    short = short_lived(tmp_path, "broker")
    async with listening(short, tmp_path / "broker.key") as port:
        url = f"mqtts://127.0.0.1:{port}"
        trusted = Settings(broker=url, realm="lab", username="vera", tls_ca=str(short))
        found = [each for each in checks(await examine(trusted, 2.0)) if each.name == "certificate"]
        assert any("ends on" in each.text and each.status == "warning" for each in found), found
        strange = Settings(broker=url, realm="lab", username="vera", tls_ca=str(tmp_path / "ca.crt"))
        found = [each for each in checks(await examine(strange, 2.0)) if each.name == "certificate"]
        assert any(each.status == "failed" and "issuer" in each.text for each in found), found
