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
ask = partial(clients.outcomes, "mqtt_client.mjs", "mqtt")


def client(url: str, topic: str = "a/1", version: int = 4, **more: Any) -> dict[str, Any]:
    return {"url": url, "topic": topic, "options": {"protocolVersion": version}, **more}


def named(url: str, user: str, password: str, version: int = 4, **more: Any) -> dict[str, Any]:
    options = {"username": user, "password": password, "protocolVersion": version}
    return client(url, options=options, **more)


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
    right, wrong, nobody, bob, elsewhere = await ask(
        [
            named(url, "alice", "right"),
            named(url, "alice", "wrong"),
            client(url),
            named(url, "bob", "right"),
            named(url, "alice", "right", topic="b"),
        ]
    )
    assert right == {"outcome": "through"}
    assert (wrong["code"], nobody["code"]) == (5, 5)
    assert (bob["outcome"], elsewhere["outcome"]) == ("no subscription", "no subscription")
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

    # Before the others, whose messages would be those that he waits for: mosquitto grants him a subscription.
    bob = await ask([client(url, version=version, seconds=bound(2), **by("bob")) for version in (4, 5)])
    assert bob == [{"outcome": "nothing"}] * 2
    known = [client(url, version=version, topic=f"a/{version}", **by("alice")) for version in (4, 5)]
    strangers = [
        client(url, version=version, **stranger) for version in (4, 5) for stranger in (by("mallory"), ca, {})
    ]
    found = await ask([*known, *strangers])
    assert found[:2] == [{"outcome": "through"}] * 2
    assert all(each["outcome"] in ("refused", "closed") for each in found[2:])
    options = {"password_file": "users", "acl_file": "acl", "persistence": True}
    worker = await run(runtime, {"type": "mqtt", "endpoint": {"tls": tls}, "options": options}, "web-2")
    await worker.ready()
    url = worker.launch.address
    *found, old, new, unknown_ca = await ask(
        [
            *(named(url, "alice", "right", version, topic=f"a/{version}", **ca) for version in (4, 5)),
            *(named(url, "alice", "wrong", version, **ca) for version in (4, 5)),
            named(url, "alice", "right"),
        ]
    )
    assert found == [{"outcome": "through"}] * 2
    assert (old["code"], new["code"]) == (5, 135)
    assert unknown_ca["outcome"] == "refused"


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
    known = [
        named(url, "alice", "right", version, topic=f"a/{name}/{version}", **ca)
        for name, url in urls.items()
        for version in (4, 5)
    ]
    wrong = [named(url, "alice", "wrong", **ca) for url in urls.values()]
    unknown_ca = [named(url, "alice", "right") for url in urls.values()]
    found = await ask([*known, *wrong, *unknown_ca])
    assert found[:4] == [{"outcome": "through"}] * 4
    assert [each["outcome"] for each in found[4:]] == ["refused"] * 4
