"""A real crossbar worker with each protocol, on ports of their own and on one, run by an agent.

Clients are Autobahn's and paho.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from tests.agents import Bench, bench, worker
from tests.autobahn_client import error_of, joined, refusal
from tests.certificates import certificates
from tests.integration.agent.runtimes.test_real import crossbar_program
from tests.mqtt_clients import echo
from tests.pace import bound

REALM = "com.example.shop"
EVERYTHING = {"call": True, "register": True, "publish": True, "subscribe": True}
ROLES = [
    {
        "name": "backend",
        "permissions": [
            {"uri": uri, "match": "prefix", "allow": EVERYTHING} for uri in ("com.example.", "com.raw.")
        ],
    },
    {
        "name": "guest",
        "permissions": [
            {"uri": "com.example.time", "allow": {"call": True}},
            {"uri": "com.raw.open", "allow": {"publish": True, "subscribe": True}},
        ],
    },
]
TICKETS = {"type": "static", "principals_file": "tickets.json"}
JOE: dict[str, Any] = {"ticket": {"authid": "joe", "ticket": "t1cket-of-joe"}}
TLS = {"certificate": "router.crt", "key": "router.key"}
JSON_BELOW = {"com.example.": {"type": "native", "serializer": "json"}, "com.raw.": {"type": "passthrough"}}
MQTT = {
    "type": "mqtt",
    "auth": {"ticket": TICKETS, "anonymous": {"role": "guest"}},
    "options": {"payload_mapping": JSON_BELOW},
}
CERTAIN = {**TLS, "client_ca": "ca.crt", "client_certificates": "require"}
CERTIFICATES = {"type": "static", "principals_file": "certificates.json"}
TOGETHER = {
    "type": "universal",
    "rawsocket": {"auth": {"ticket": TICKETS}},
    "mqtt": {"auth": {"ticket": TICKETS}, "options": {"payload_mapping": JSON_BELOW}},
}
TRANSPORT: dict[str, Any] = {
    "type": "web",
    "realms": [{"name": REALM, "roles": ROLES}],
    "paths": {
        "ws": {"type": "websocket", "auth": {"ticket": TICKETS, "anonymous": {"role": "guest"}}},
        "version": {"type": "json", "value": 12},
    },
    "listeners": {
        "ws": {},
        "wss": {"interface": "0.0.0.0", "tls": TLS},
        "raw": {"type": "rawsocket", "auth": {"ticket": TICKETS}, "serializers": ["json", "cbor"]},
        "raws": {"type": "rawsocket", "interface": "0.0.0.0", "tls": TLS, "auth": {"ticket": TICKETS}},
        "mqtt": MQTT,
        "mqtts": {**MQTT, "tls": CERTAIN, "auth": {"tls": CERTIFICATES}},
        "all": TOGETHER,
        "alls": {**TOGETHER, "interface": "0.0.0.0", "tls": TLS},
    },
}
WAMP = ("ws", "wss", "raw", "raws", "all", "alls", "raw all", "raw alls")


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Bench]:
    secrets, program = tmp_path / "secrets", crossbar_program()
    secrets.mkdir()
    certificates(secrets, "ca", "router", "joe", "eve")
    joe = x509.load_pem_x509_certificate((secrets / "joe.crt").read_bytes())
    sha1 = joe.fingerprint(hashes.SHA1()).hex(":").upper()
    named = {"joe": {"certificate-sha1": sha1, "role": "backend"}}
    (secrets / "certificates.json").write_text(json.dumps(named))
    (secrets / "tickets.json").write_text(json.dumps({"joe": {"ticket": "t1cket-of-joe", "role": "backend"}}))
    async with bench(tmp_path) as made:
        with made.toml.open("a") as file:
            file.write(f'[runtimes.crossbar]\nsecrets_root = "{secrets}"\n')
            file.writelines(f'{key} = "{value}"\n' for key, value in program.items())
        yield made


@pytest.mark.crossbar
async def test_one_worker_serves_each_protocol_to_whom_it_lets_in(node: Bench, tmp_path: Path) -> None:
    await node.start()
    node.assign(worker(runtime="crossbar", transport=TRANSPORT))
    ready = await node.state("web-1", "RUNNING", timeout=90)
    urls = ready["listeners"]
    assert {name: urlsplit(url).scheme for name, url in urls.items()} == {
        "ws": "ws", "wss": "wss", "raw": "rs", "raws": "rss", "mqtt": "mqtt", "mqtts": "mqtts",
        "all": "ws", "alls": "wss",
    }  # fmt: skip
    assert ready["address"] == urls["ws"]
    announced = dict(urls)
    for name, scheme in ("all", ""), ("alls", "s"):
        port = urlsplit(urls[name]).port
        urls[f"raw {name}"] = f"rs{scheme}://127.0.0.1:{port}"
        urls[f"mqtt {name}"] = f"mqtt{scheme}://127.0.0.1:{port}"
        urls[f"web {name}"] = f"http{scheme}://127.0.0.1:{port}/version"
    trusted = ssl.create_default_context(cafile=str(tmp_path / "secrets" / "ca.crt"))
    tls = dict.fromkeys(("wss", "raws", "alls", "raw alls", "web alls"), trusted)
    wrong = {"ticket": {"authid": "joe", "ticket": "wrong"}}

    async with joined(urls["raw"], REALM, JOE) as backend:
        await backend.register(lambda: 12, "com.example.time")
        for name in WAMP:
            async with joined(urls[name], REALM, JOE, tls=tls.get(name)) as client:
                assert await client.call("com.example.time") == 12, name
            assert await refusal(urls[name], REALM, wrong, tls=tls.get(name)) != "it joined", name
            assert await refusal(urls[name], "com.example.other", JOE, tls=tls.get(name)) != "it joined", name
        for name in ("ws", "wss", "all", "alls"):
            async with joined(urls[name], REALM, tls=tls.get(name)) as guest:
                assert await guest.call("com.example.time") == 12
                assert "not_authorized" in await error_of(guest.call("com.example.other"))
        for name in ("web all", "web alls"):
            assert await asyncio.to_thread(fetched, urls[name], tls.get(name)) == b"12"
        for name in ("raw", "raws", "raw all", "raw alls"):
            assert await refusal(urls[name], REALM, tls=tls.get(name)) != "it joined", name
        await mqtt_clients_reach_whom_they_may(urls, tmp_path / "secrets", backend)
    assert "t1cket-of-joe" not in logged(tmp_path)

    os.kill(ready["pid"], signal.SIGKILL)
    again = await node.state("web-1", "RUNNING", timeout=90, restarts=1)
    assert again["listeners"] == announced
    await node.stop()
    node.reports.clear()
    await node.start()
    kept = await node.state("web-1", "RUNNING", timeout=30)
    assert (kept["pid"], kept["listeners"]) == (again["pid"], announced)
    async with joined(urls["raw"], REALM, JOE) as client:
        assert await error_of(client.call("com.example.time")) == "wamp.error.no_such_procedure"


def fetched(url: str, tls: ssl.SSLContext | None) -> bytes:
    with urllib.request.urlopen(url, timeout=bound(10), context=tls) as response:
        content: bytes = response.read()
    return content


def logged(folder: Path) -> str:
    logs = list(folder.rglob("logs/*.log"))
    assert logs
    return "".join(each.read_text() for each in logs)


async def mqtt_clients_reach_whom_they_may(urls: dict[str, str], secrets: Path, backend: Any) -> None:
    """`backend` is a session of Autobahn's in the same realm."""

    async def outcome(
        name: str, password: str | None, topic: str, payload: bytes = b"through", who: str | None = "joe"
    ) -> str:
        return await asyncio.to_thread(echo, urls[name], secrets, who, password, topic, payload)

    async def refused(name: str, password: str | None, topic: str, who: str | None = "joe") -> bool:
        # A CONNACK with 1, after which paho tries MQTT 3.1 in vain, or a SUBACK with 128.
        return (await outcome(name, password, topic, who=who)).startswith(("closed", "refused"))

    heard: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
    await backend.subscribe(lambda *arguments: heard.put_nowait(arguments), "com.example.news")
    news = json.dumps({"args": ["nine", 9]}).encode()
    for name in ("mqtt", "mqtt all", "mqtt alls", "mqtts"):
        password = None if name == "mqtts" else "t1cket-of-joe"  # there a certificate says who it is
        assert json.loads(await outcome(name, password, "com/example/news", news)) == {"args": ["nine", 9]}
        async with asyncio.timeout(bound(10)):
            assert await heard.get() == ("nine", 9)
        assert await outcome(name, password, "com/raw/any") == "through"
        assert await refused(name, password, "com/other")
        assert await refused(name, "wrong", "com/raw/any")
    assert await outcome("mqtt", None, "com/raw/open", who=None) == "through"
    assert await refused("mqtt", None, "com/raw/any", who=None)
    for name in ("mqtt all", "mqtt alls", "mqtts"):
        assert await refused(name, None, "com/raw/open", who=None)
    assert await refused("mqtts", None, "com/raw/open", who="eve"), (
        "its certificate is good, and no principal's"
    )
    assert heard.empty()
