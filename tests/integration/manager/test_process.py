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
from busbar.cli.services.specs import REFUSED
from busbar.manager.leader.state_folder import database

from tests.integration.manager.fixtures import REALM, TOPICS, Client, Net, client_on, mqtt_net
from tests.pace import bound

pytestmark = pytest.mark.mosquitto


@asynccontextmanager
async def process(port: int, state: Path, *more: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`busbar manager` as operators run it; killed at the end if it still lives."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("BUSBAR_", "XDG_"))}
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "busbar.cli.app", "manager", "--state", str(state)),
        *("--owner", "alice", "--heartbeat", "1", "--realm", REALM, "--broker", f"mqtt://127.0.0.1:{port}"),
        *more,
        stderr=asyncio.subprocess.PIPE,
        env={**clean, "HOME": str(state.parent)},
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
            made = await asyncio.wait_for(asyncio.gather(*calls), bound(30))
            assert len({row["oid"] for row in made}) == 300, "every call had one effect, resent or not"
            names = await client.call("alice", "list_routerclusters", {"return_names": True})
            assert set(names) == {f"c{n:03}" for n in range(300)} and acknowledged <= set(names)
            events = await client.until(lambda: _sequences(client) == list(range(1, 301)) and client.events())
            assert len({event["id"] for event in events}) == 300
            assert _state(client) == ("online", 2)


def _sequences(client: Client) -> list[int]:
    """Events may come twice after a crash; none may be missing."""
    return sorted({int(event["sequence"]) for event in client.events()})


@pytest.mark.fault(67, "K L")
async def test_signals_are_no_crash_of_the_manager(mosquitto_port: int, tmp_path: Path) -> None:
    async with client_on(mqtt_net(mosquitto_port)) as client:
        async with process(mosquitto_port, tmp_path / "manager") as child:
            await client.until(lambda: _state(client) == ("online", 1), timeout=20)
            for signum in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE):
                child.send_signal(signum)
            await client.cluster("c1")
            child.send_signal(signal.SIGQUIT)
            child.send_signal(signal.SIGHUP)
            assert await asyncio.wait_for(child.wait(), bound(15)) == 0
        await client.until(lambda: _state(client)[0] == "offline")


@pytest.mark.fault(9, "M")
async def test_a_second_manager_stands_by_and_takes_over(mosquitto_port: int, tmp_path: Path) -> None:
    state = tmp_path / "manager"
    async with (
        client_on(mqtt_net(mosquitto_port)) as client,
        process(mosquitto_port, state) as first,
    ):
        await client.until(lambda: _state(client) == ("online", 1), timeout=20)
        await client.cluster("edge")
        async with process(mosquitto_port, state) as second:
            assert second.stderr is not None
            async with asyncio.timeout(bound(20)):
                line = await second.stderr.readline()
            assert b"standing by" in line
            assert _state(client) == ("online", 1)
            os.kill(first.pid, signal.SIGKILL)
            await client.until(lambda: _state(client) == ("online", 2), timeout=20)
            assert await client.call("alice", "list_routerclusters", {"return_names": True}) == ["edge"]


async def test_sigterm_ends_it_with_a_goodbye_and_zero(mosquitto_port: int, tmp_path: Path) -> None:
    async with (
        client_on(mqtt_net(mosquitto_port)) as client,
        process(mosquitto_port, tmp_path / "manager") as child,
    ):
        await client.until(lambda: _state(client) == ("online", 1), timeout=20)
        child.send_signal(signal.SIGTERM)
        async with asyncio.timeout(bound(10)):
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
        async with asyncio.timeout(bound(20)):
            _, stderr = await child.communicate()
        assert child.returncode == REFUSED
        assert b"manager: manager 'm2' has epoch 6" in stderr and b"Traceback" not in stderr


@pytest.mark.fault(13, "D")
async def test_a_damaged_database_is_refused_with_one_sentence(mosquitto_port: int, tmp_path: Path) -> None:
    state = tmp_path / "manager"
    state.mkdir(mode=0o700)
    database(state).write_bytes(b"this is not a database" * 1000)
    async with process(mosquitto_port, state) as child:
        async with asyncio.timeout(bound(20)):
            _, stderr = await child.communicate()
        assert child.returncode == REFUSED
        assert b"To restore" in stderr and b"Traceback" not in stderr


async def _says(child: asyncio.subprocess.Process, text: str) -> str:
    """The next line of its log with `text`."""
    assert child.stderr is not None
    async with asyncio.timeout(bound(20)):
        async for line in child.stderr:
            if text in line.decode():
                return line.decode()
    raise AssertionError(f"it ended without a word of {text!r}")


@pytest.mark.fault(117, "M L")
async def test_a_second_store_does_not_start_in_a_realm_in_use_and_both_say_so(
    mosquitto_port: int, tmp_path: Path
) -> None:
    async with (
        client_on(mqtt_net(mosquitto_port)) as client,
        process(mosquitto_port, tmp_path / "old") as old,
    ):
        await client.until(lambda: _state(client) == ("online", 1), timeout=20)
        await client.cluster("edge")
        store = json.loads(client.retained[TOPICS.manager_state("m1")])["store"]
        async with process(mosquitto_port, tmp_path / "new") as new:
            async with asyncio.timeout(bound(20)):
                _, stderr = await new.communicate()
            assert new.returncode == REFUSED
            said = stderr.decode()
            assert f"realm '{REALM}' is in use by manager 'm1' (store {store}, online)" in said
            assert "--adopt-realm" in said and "Traceback" not in said
        await _says(old, "manager 'm1' with another store (")
        another = Net(lambda name, will=None: mqtt_net(mosquitto_port).link(f"{name}-2", will))
        async with client_on(another) as later:  # what is retained
            await later.until(lambda: _state(later) == ("online", 1))
            assert json.loads(later.retained[TOPICS.manager_state("m1")])["store"] == store
        assert await client.call("alice", "list_routerclusters", {"return_names": True}) == ["edge"]
        async with process(mosquitto_port, tmp_path / "new", "--adopt-realm", "--id", "m2") as new:
            assert "manager 'm2'" in await _says(old, "is online in this realm")
            assert store in await _says(new, "is online in this realm")
            shown = await client.call("alice", "get_manager", {})
            assert any("with another store" in text for text in shown["conditions"])
