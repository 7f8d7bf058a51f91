"""mqtt.js against real workers of amqtt and mosquitto: over TCP, WebSocket and TLS, allowed and refused."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from busbar.agent.runtimes import load_runtimes

from tests.certificates import certificates
from tests.foreign import clients
from tests.integration.agent.runtimes.test_amqtt_acl import passwords
from tests.integration.agent.runtimes.test_real import Run, run, stop
from tests.pace import bound

__all__ = ["run"]
ACL = "user alice\ntopic readwrite a/#\n"
ask = partial(clients.outcome, "mqtt_client.mjs", "mqtt", topic="a/1")


def named(user: str, password: str, version: int = 4) -> dict[str, Any]:
    return {"username": user, "password": password, "protocolVersion": version}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["mqtt", "websocket"])
async def test_amqtt_with_passwords_and_an_acl(run: Run, tmp_path: Path, kind: str) -> None:
    clients.need("mqtt")
    passwords("amqtt", tmp_path / "users")
    (tmp_path / "acl").write_text(ACL)
    transport = {"type": kind, "options": {"password_file": "users", "acl_file": "acl"}}
    worker = await run(load_runtimes({"amqtt": {"secrets_root": str(tmp_path)}})["amqtt"], transport)
    await worker.ready()
    url = worker.launch.address
    assert await ask(url=url, options=named("alice", "right")) == {"outcome": "through"}
    assert (await ask(url=url, options=named("alice", "wrong")))["code"] == 5
    assert (await ask(url=url, options={"protocolVersion": 4}))["code"] == 5
    assert (await ask(url=url, options=named("bob", "right")))["outcome"] == "no subscription"
    assert (await ask(url=url, options=named("alice", "right"), topic="b"))["outcome"] == "no subscription"
    await stop(worker)


@pytest.mark.mosquitto
@pytest.mark.timeout(120)
async def test_mosquitto_over_tls(run: Run, tmp_path: Path) -> None:
    clients.need("mqtt")
    certificates(tmp_path, "ca", "router", "alice", "bob")
    certificates(tmp_path, "other", "mallory")
    passwords("mosquitto", tmp_path / "users")
    (tmp_path / "acl").write_text(ACL)
    tls = {"certificate": "router.crt", "key": "router.key"}
    required = {**tls, "client_ca": "ca.crt", "client_certificates": "require"}
    by_name = {"use_identity_as_username": True, "acl_file": "acl", "persistence": True}
    runtime = load_runtimes({"mosquitto": {"secrets_root": str(tmp_path)}})["mosquitto"]
    certified = {"type": "mqtt", "endpoint": {"tls": required}, "options": by_name}
    worker = await run(runtime, certified)
    await worker.ready()
    url = worker.launch.address
    ca = {"ca": tmp_path / "ca.crt"}

    def by(who: str) -> dict[str, Any]:
        return {**ca, "cert": tmp_path / f"{who}.crt", "key": tmp_path / f"{who}.key"}

    for version in (4, 5):
        options = {"protocolVersion": version}
        assert await ask(url=url, options=options, **by("alice")) == {"outcome": "through"}
        assert (await ask(url=url, options=options, seconds=bound(2), **by("bob")))["outcome"] == "nothing"
        for stranger in (by("mallory"), ca, {}):
            assert (await ask(url=url, options=options, **stranger))["outcome"] in ("refused", "closed")
    await stop(worker)
    options = {"password_file": "users", "acl_file": "acl", "persistence": True}
    worker = await run(runtime, {"type": "mqtt", "endpoint": {"tls": tls}, "options": options}, "web-2")
    await worker.ready()
    url = worker.launch.address
    for version in (4, 5):
        assert await ask(url=url, options=named("alice", "right", version), **ca) == {"outcome": "through"}
        refused = await ask(url=url, options=named("alice", "wrong", version), **ca)
        assert refused["code"] == {4: 5, 5: 135}[version]
    assert (await ask(url=url, options=named("alice", "right")))["outcome"] == "refused", "an unknown CA"
    await stop(worker)


@pytest.mark.mosquitto
@pytest.mark.timeout(120)
async def test_mosquitto_with_listeners_for_mqtts_and_wss(run: Run, tmp_path: Path) -> None:
    clients.need("mqtt")
    certificates(tmp_path, "ca", "router")
    passwords("mosquitto", tmp_path / "users")
    tls = {"certificate": "router.crt", "key": "router.key"}
    transport = {
        "type": "mqtt",
        "listeners": {"mqtts": {"tls": tls}, "wss": {"type": "websocket", "tls": tls}},
        "options": {"password_file": "users", "persistence": True},
    }
    runtime = load_runtimes({"mosquitto": {"secrets_root": str(tmp_path)}})["mosquitto"]
    worker = await run(runtime, transport)
    await worker.ready()
    urls = {each.name: each.address for each in worker.launch.listeners}
    assert urls["mqtts"].startswith("mqtts://") and urls["wss"].startswith("wss://")
    ca = {"ca": tmp_path / "ca.crt"}
    for url in urls.values():
        for version in (4, 5):
            through = await ask(url=url, options=named("alice", "right", version), **ca)
            assert through == {"outcome": "through"}
        assert (await ask(url=url, options=named("alice", "wrong"), **ca))["outcome"] == "refused"
        assert (await ask(url=url, options=named("alice", "right")))["outcome"] == "refused", "an unknown CA"
    await stop(worker)
