"""Credentials are rotated by replacing a file: whoever uses it is back by itself."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from busbar.bus.broker import BrokerConfig, EmbeddedBroker
from busbar.bus.clock import SystemClock
from busbar.bus.connection.mqtt_link import MqttLink
from busbar.bus.options import ConnectOptions
from busbar.bus.system.files import write_atomically
from busbar.cli.calls.connect import options_of
from busbar.cli.context import Settings
from busbar.cli.services.run import connect_options
from busbar.cli.services.specs import ConnectSpec, ManagerSpec

from tests import forked
from tests.brokers import free_port, mosquitto, until
from tests.pace import bound

CLOCK = SystemClock()


def busbar(state: Path, *words: str) -> str:
    env = {**os.environ, "BUSBAR_STATE": str(state)}
    done = forked.run(*words, env=env, timeout=bound(60))
    done.check_returncode()
    return done.stdout.strip()


class Running:
    """A link that runs until the end of the block."""

    def __init__(self, options: ConnectOptions) -> None:
        self.link = MqttLink(options, clock=CLOCK, random=Random(1))

    async def __aenter__(self) -> MqttLink:
        self.task = asyncio.create_task(self.link.run())
        return self.link

    async def __aexit__(self, *_: object) -> None:
        assert not self.task.done(), "the link ended"
        self.task.cancel()
        await asyncio.wait([self.task])


@pytest.mark.fault(120, "C")
async def test_an_account_of_the_embedded_broker_is_rotated_as_the_page_says(tmp_path: Path) -> None:
    state = tmp_path / "state"
    file = Path(await asyncio.to_thread(busbar, state, "broker", "add-account", "bob", "person"))
    old = await asyncio.to_thread(file.read_text)
    async with EmbeddedBroker(BrokerConfig(state / "broker" / "accounts.json")) as broker:
        options = ConnectOptions(port=broker.port, username="bob", password_file=file)
        async with Running(options) as link:
            await link.wait_connected(bound(10))
            await asyncio.to_thread(busbar, state, "broker", "remove-account", "bob")
            await until(lambda: not link.connected)
            assert (
                Path(await asyncio.to_thread(busbar, state, "broker", "add-account", "bob", "person")) == file
            )
            assert await asyncio.to_thread(file.read_text) != old
            await link.wait_connected(bound(30))
        kept = tmp_path / "kept"
        write_atomically(kept, old)
        async with Running(ConnectOptions(port=broker.port, username="bob", password_file=kept)) as link:
            await until(lambda: link.rotation.failures > 0)
            assert not link.connected


def _missing(file: Path) -> None:
    file.unlink(missing_ok=True)


def _open(file: Path) -> None:
    write_atomically(file, "new")
    file.chmod(0o644)


def _empty(file: Path) -> None:
    write_atomically(file, "")


def _old(file: Path) -> None:
    write_atomically(file, "old\n")


@pytest.mark.mosquitto
@pytest.mark.parametrize("meanwhile", [_missing, _open, _empty, _old])
@pytest.mark.fault(120, "C")
async def test_whatever_the_file_is_meanwhile_the_new_password_is_used(
    tmp_path: Path, meanwhile: Callable[[Path], None]
) -> None:
    """The broker comes back with another password: by then the file may be in any state."""
    file, accounts, port = tmp_path / "secret", tmp_path / "passwd", free_port()
    lines = ("allow_anonymous false", f"password_file {accounts}")

    def password(text: str) -> None:
        accounts.touch(mode=0o600)
        subprocess.run(["mosquitto_passwd", "-b", str(accounts), "n1", text], check=True)

    password("old")
    write_atomically(file, "old\n")
    options = options_of(Settings(broker=f"mqtt://127.0.0.1:{port}", username="n1", password_file=str(file)))
    with mosquitto(tmp_path, *lines, port=port):
        running = Running(options)
        link = await running.__aenter__()
        await link.wait_connected(bound(10))
    password("new")
    with mosquitto(tmp_path, *lines, port=port):
        meanwhile(file)
        failures = link.rotation.failures
        await until(lambda: link.rotation.failures > failures + 1)
        assert not link.connected
        write_atomically(file, "new\n")
        await link.wait_connected(bound(30))
        await running.__aexit__()


@pytest.mark.fault(120, "C")
def test_services_and_commands_connect_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    write_atomically(file, "s3cret\n")
    settings = Settings(broker="mqtt://127.0.0.1", username="n1", password_file=str(file))
    assert options_of(settings).password_file == file
    spec = ManagerSpec(
        realm="lab",
        root="busbar",
        connect=ConnectSpec.of(settings),
        state=str(tmp_path),
        heartbeat_s=5.0,
        principals={},
    )
    assert connect_options(spec).password_file == file
