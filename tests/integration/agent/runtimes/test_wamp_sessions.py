"""WAMP sessions of one client: none takes another's place, and a lost one's testament is published."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest
from autobahn.exception import Disconnected
from busbar.agent.runtimes import load_runtimes

from tests.autobahn_client import joined
from tests.integration.agent.runtimes.test_real import Run, crossbar_program, run, stop
from tests.integration.agent.runtimes.test_wamp_auth import REALM, TICKET, secrets_root, static
from tests.pace import bound

__all__ = ["run"]
JOE = {"ticket": {"authid": "joe", "ticket": TICKET}}
ALL = {"call": True, "register": True, "publish": True, "subscribe": True}
REALMS = [{"name": REALM, "roles": [{"name": "backend", "permissions": [
    {"uri": "", "match": "prefix", "allow": ALL}]}]}]  # fmt: skip


@pytest.mark.crossbar
@pytest.mark.timeout(180)
@pytest.mark.fault(104, "H")
async def test_a_second_session_of_a_client_ends_no_first_and_a_lost_ones_testament_comes(
    run: Run, tmp_path: Path
) -> None:
    """A WAMP session has an id of its own, also with the authid of another; its will is its testament."""
    table = {**crossbar_program(), "secrets_root": str(secrets_root(tmp_path / "secrets"))}
    runtime = load_runtimes({"crossbar": table})["crossbar"]
    ws = {"type": "websocket", "auth": static("ticket")}
    worker = await run(runtime, {"type": "web", "realms": REALMS, "paths": {"ws": ws}})
    await worker.ready()
    heard: asyncio.Queue[str] = asyncio.Queue()
    url, topic = worker.launch.address, "com.example.state"
    async with joined(url, REALM, JOE) as second:
        await second.subscribe(heard.put_nowait, topic)
        with suppress(Disconnected):  # where it says goodbye, which it no longer can
            async with joined(url, REALM, JOE) as first:
                assert first.welcome.authid == second.welcome.authid
                assert first.welcome.session != second.welcome.session
                await first.call("wamp.session.add_testament", topic, ["lost"], {}, scope="destroyed")
                async with joined(url, REALM, JOE) as third:
                    assert await third.call("wamp.session.count") == 3, "nobody was taken over"
                assert await first.call("wamp.session.count") == 2
                assert heard.empty()
                first._transport.abort()
        assert await asyncio.wait_for(heard.get(), bound(10)) == "lost"
        assert second.is_attached()
    await stop(worker)
