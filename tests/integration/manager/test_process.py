"""The manager as a process: killed, stopped politely, standing by, refusing a damaged file."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from busbar.bus.decode import encode
from busbar.bus.messages import ManagerState
from busbar.manager.service import EXIT_FENCED, EXIT_REFUSED, database

from tests.integration.manager.fixtures import TOPICS, Client, client_on, mqtt_net

pytestmark = pytest.mark.mosquitto

PROGRAM = """
import sys
from pathlib import Path
from busbar.bus.options import ConnectOptions
from busbar.manager.service import ManagerConfig, main
options = ConnectOptions(port=int(sys.argv[1]), client_id=sys.argv[3])
principals = {"alice": "owner", "vera": "viewer"}
sys.exit(main(ManagerConfig(Path(sys.argv[2]), "lab", options, principals=principals, heartbeat_s=1.0)))
"""


@asynccontextmanager
async def process(port: int, state: Path, name: str = "m") -> AsyncIterator[asyncio.subprocess.Process]:
    """A manager of its own; killed at the end if it still lives."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, str(port), str(state), name, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


def _state(client: Client) -> tuple[str, int]:
    payload = client.retained.get(TOPICS.manager_state("m1"))
    facts = json.loads(payload) if payload else {"state": "", "epoch": 0}
    return facts["state"], facts["epoch"]


@pytest.mark.fault((1, 3), "D A")
async def test_nothing_acknowledged_is_lost_when_it_is_killed(mosquitto_port: int, tmp_path: Path) -> None:
    state = tmp_path / "manager"
    async with client_on(mqtt_net(mosquitto_port)) as client:
        async with process(mosquitto_port, state) as child:
            await client.until(lambda: _state(client) == ("online", 1), timeout=20)
            calls = [asyncio.create_task(client.cluster(f"c{n:03}")) for n in range(300)]
            await client.until(lambda: len(client.events()) >= 20)
            child.kill()
            await child.wait()
            acknowledged = {call.result()["name"] for call in calls if call.done()}
            await client.until(lambda: _state(client)[0] == "offline")
        async with process(mosquitto_port, state):
            made = await asyncio.wait_for(asyncio.gather(*calls), 30)
            assert len({row["oid"] for row in made}) == 300, "every call had one effect, resent or not"
            names = await client.call("vera", "list_routerclusters", {"return_names": True})
            assert set(names) == {f"c{n:03}" for n in range(300)} and acknowledged <= set(names)
            events = await client.until(lambda: _sequences(client) == list(range(1, 301)) and client.events())
            assert len({event["id"] for event in events}) == 300
            assert _state(client) == ("online", 2)


def _sequences(client: Client) -> list[int]:
    """Events may come twice after a crash; none may be missing."""
    return sorted({int(event["sequence"]) for event in client.events()})


@pytest.mark.fault(9, "M")
async def test_a_second_manager_stands_by_and_takes_over(mosquitto_port: int, tmp_path: Path) -> None:
    state = tmp_path / "manager"
    async with (
        client_on(mqtt_net(mosquitto_port)) as client,
        process(mosquitto_port, state, "one") as first,
    ):
        await client.until(lambda: _state(client) == ("online", 1), timeout=20)
        await client.cluster("edge")
        async with process(mosquitto_port, state, "two") as second:
            assert second.stderr is not None
            async with asyncio.timeout(20):
                line = await second.stderr.readline()
            assert b"standing by" in line
            assert _state(client) == ("online", 1)
            os.kill(first.pid, signal.SIGKILL)
            await client.until(lambda: _state(client) == ("online", 2), timeout=20)
            assert await client.call("vera", "list_routerclusters", {"return_names": True}) == ["edge"]


async def test_sigterm_ends_it_with_a_goodbye_and_zero(mosquitto_port: int, tmp_path: Path) -> None:
    async with (
        client_on(mqtt_net(mosquitto_port)) as client,
        process(mosquitto_port, tmp_path / "manager") as child,
    ):
        await client.until(lambda: _state(client) == ("online", 1), timeout=20)
        child.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await child.wait() == 0
        await client.until(lambda: _state(client) == ("offline", 1))


@pytest.mark.fault(9, "M")
async def test_a_fenced_manager_ends_with_one_sentence_and_its_own_code(
    mosquitto_port: int, tmp_path: Path
) -> None:
    async with (
        client_on(mqtt_net(mosquitto_port)) as client,
        process(mosquitto_port, tmp_path / "m") as child,
    ):
        await client.until(lambda: _state(client) == ("online", 1), timeout=20)
        store = json.loads(client.retained[TOPICS.manager_state("m1")])["store"]
        higher = encode(ManagerState("online", "m2", store, 6))
        await client.link.publish(TOPICS.manager_state("m2"), higher, retain=True)
        async with asyncio.timeout(20):
            _, stderr = await child.communicate()
        assert child.returncode == EXIT_FENCED
        assert b"busbar manager: manager 'm2' has epoch 6" in stderr and b"Traceback" not in stderr


@pytest.mark.fault(13, "D")
async def test_a_damaged_database_is_refused_with_one_sentence(mosquitto_port: int, tmp_path: Path) -> None:
    state = tmp_path / "manager"
    state.mkdir(mode=0o700)
    database(state).write_bytes(b"this is not a database" * 1000)
    async with process(mosquitto_port, state) as child:
        async with asyncio.timeout(20):
            _, stderr = await child.communicate()
        assert child.returncode == EXIT_REFUSED
        assert b"To restore" in stderr and b"Traceback" not in stderr
