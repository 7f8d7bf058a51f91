"""Why there is no connection: told with its likely cause and the file at fault, and logged as it changes."""

from __future__ import annotations

import asyncio
import logging
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Literal

import pytest
from busbar.bus.clock import SystemClock
from busbar.bus.connection.mqtt_link import MqttLink
from busbar.bus.options import ConnectOptions, TlsOptions, parse_url

from tests.brokers import free_port, mosquitto, until
from tests.certificates import certificates

pytestmark = pytest.mark.mosquitto


@dataclass(frozen=True)
class Ports:
    folder: Path
    plain: int
    tls: int
    strict: int
    """Wants a client certificate."""
    websockets: int


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    folder = tmp_path_factory.mktemp("ports")
    certificates(folder, "ca", "server")
    (folder / "junk").write_text("no certificate\n")
    encrypt = ["openssl", "ec", "-aes256", "-passout", "pass:x", "-in", "server.key", "-out", "locked.key"]
    subprocess.run(encrypt, cwd=folder, check=True, capture_output=True)
    tls, strict, websockets = free_port(), free_port(), free_port()
    files = [f"certfile {folder}/server.crt", f"keyfile {folder}/server.key"]
    lines = ["allow_anonymous true", f"listener {tls} 127.0.0.1", *files]
    lines += [f"listener {strict} 127.0.0.1", *files, f"cafile {folder}/ca.crt", "require_certificate true"]
    lines += [f"listener {websockets} 127.0.0.1", "protocol websockets"]
    with mosquitto(folder, *lines) as plain:
        yield Ports(folder, plain, tls, strict, websockets)


def files(ports: Ports, **names: str) -> TlsOptions:
    return TlsOptions(**{name: ports.folder / file for name, file in names.items()})


async def reason(options: ConnectOptions) -> str:
    """Why the first attempt fails."""
    link = MqttLink(options, clock=SystemClock(), random=Random(1))
    task = asyncio.create_task(link.run())
    try:
        await until(lambda: link.rotation.failures, 20)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return link.rotation.last_error


@pytest.mark.fault(122, "U")
@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("mqtt://127.0.0.1:{tls}", "expect TLS (mqtts://)"),
        ("mqtt://127.0.0.1:{strict}", "expect TLS (mqtts://)"),
        ("mqtt://127.0.0.1:{websockets}", "WebSockets (ws://)"),
        ("ws://127.0.0.1:{plain}", "plain MQTT (mqtt://)"),
        ("ws://127.0.0.1:{tls}", "expect TLS (wss://)"),
        ("mqtts://127.0.0.1:{plain}", "speak no TLS (mqtt://)"),
        ("wss://127.0.0.1:{websockets}", "speak no TLS (ws://)"),
        ("mqtts://127.0.0.1:{tls}", "--tls-ca names the authority"),
    ],
)
async def test_a_url_that_does_not_fit_its_port_says_what_may(
    ports: Ports, url: str, cause: str, protocol: Literal[4, 5]
) -> None:
    options = replace(parse_url(url.format(**vars(ports))), protocol=protocol)
    assert cause in await reason(options)


@pytest.mark.fault(122, "U")
@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"ca": "nowhere.crt"}, "CA file {}/nowhere.crt: No such file or directory"),
        ({"ca": "."}, "CA file {}: no regular file"),
        ({"ca": "junk"}, "CA file {}/junk holds no PEM certificate"),
        ({"ca": "ca.crt", "cert": "nowhere.crt"}, "certificate {}/nowhere.crt: No such file"),
        ({"ca": "ca.crt", "cert": "junk"}, "certificate {}/junk"),
        ({"ca": "ca.crt", "cert": "server.crt", "key": "nowhere"}, "key {}/nowhere: No such file"),
        ({"ca": "ca.crt", "cert": "server.crt", "key": "ca.key"}, "key {}/ca.key does not belong to"),
        ({"ca": "ca.crt", "cert": "server.crt", "key": "locked.key"}, "key {}/locked.key is encrypted"),
        ({"ca": "ca.crt", "key": "server.key"}, "key {}/server.key without a certificate"),
    ],
)
async def test_a_file_that_can_t_be_used_is_named(ports: Ports, names: dict[str, str], said: str) -> None:
    options = replace(parse_url(f"mqtts://127.0.0.1:{ports.tls}"), tls=files(ports, **names))
    assert (await reason(options)).startswith(said.format(ports.folder))


@pytest.mark.fault(122, "U")
async def test_a_missing_client_certificate_is_the_likely_cause(ports: Ports) -> None:
    options = replace(parse_url(f"mqtts://127.0.0.1:{ports.strict}"), tls=files(ports, ca="ca.crt"))
    assert "--tls-cert" in await reason(options)


@pytest.mark.fault(110, "U")
async def test_a_change_of_the_reason_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Down, then up and refusing, after more attempts than were ever logged alike."""
    port = free_port()
    caplog.set_level(logging.DEBUG, "busbar.bus")
    link = MqttLink(ConnectOptions(port=port), clock=SystemClock(), random=Random(1))
    task = asyncio.create_task(link.run())

    async def until_logged(text: str, level: int) -> None:
        await until(lambda: any(text in r.getMessage() and r.levelno == level for r in caplog.records), 20)

    try:
        await until_logged("connection refused", logging.WARNING)
        await until(lambda: link.rotation.failures >= 4, 20)
        passwords = tmp_path / "passwords"
        passwords.touch(mode=0o600)
        lines = ["allow_anonymous false", f"password_file {passwords}"]
        with mosquitto(tmp_path, *lines, port=port):
            await until_logged("the broker refused: Not authorized", logging.WARNING)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warned) <= 3 and "refused" in warned[0]
