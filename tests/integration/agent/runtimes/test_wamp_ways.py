"""Further ways into a real crossbar worker: cookies, webhooks, and procedures that are asked."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
from autobahn.wamp.exception import ApplicationError
from busbar.agent.runtimes import load_runtimes

from tests.autobahn_client import joined, refusal
from tests.certificates import certificates
from tests.integration.agent.runtimes.test_real import Run, crossbar_program, run, stop
from tests.integration.agent.runtimes.test_wamp_auth import REALM, ROLES, TICKET, secrets_root, static
from tests.pace import bound
from tests.wamp import WampClient

__all__ = ["run"]
JOE = {"ticket": {"authid": "joe", "ticket": TICKET}}
REALMS = [{"name": REALM, "roles": ROLES}]
COOKIE = "com_example_id"
SECRET = "s3cret-of-the-hook"


async def cookie_of(url: str) -> str:
    """The cookie of a client that has authenticated with its ticket."""
    async with joined(url, REALM, JOE) as session:
        assert session.welcome.authmethod == "ticket"
        given = str(session._transport.http_headers["set-cookie"])
    return given.partition(";")[0]


@pytest.mark.crossbar
@pytest.mark.timeout(180)
async def test_cookies_procedures_and_webhooks_on_paths_of_one_worker(run: Run, tmp_path: Path) -> None:
    """One router for all: each start of a crossbar takes seconds of processor time."""
    root = secrets_root(tmp_path / "secrets")
    (root / "shop" / "hook.json").write_text(json.dumps({"github_secret": SECRET}))
    runtime = load_runtimes({"crossbar": {**crossbar_program(), "secrets_root": str(root)}})["crossbar"]
    asked = {"type": "dynamic", "authenticator": "com.example.auth", "authenticator-realm": REALM}
    rights = {"realm": REALM, "role": "backend", "options": {"topic": "com.example.hook"}}
    paths = {
        "ws": {"type": "websocket", "auth": static("ticket")},
        "memory": with_cookies({"type": "memory"}),
        "file": with_cookies({"type": "file", "filename": "cookies.dat"}),
        "asked": {"type": "websocket", "auth": {"anonymous": asked}},
        "signed": {"type": "webhook", **rights, "credentials_file": "shop/hook.json"},
        "open": {"type": "webhook", **rights},
        "guest": {"type": "webhook", **rights, "role": "guest"},
    }
    worker = await run(runtime, {"type": "web", "realms": REALMS, "paths": paths})
    await worker.ready()
    base = f"127.0.0.1:{worker.launch.port}"
    for store in ("memory", "file"):
        await _a_client_comes_again_with_its_cookie(f"ws://{base}/{store}")
    await _a_procedure_is_asked_for_each_client_without_credentials(f"ws://{base}/ws", f"ws://{base}/asked")
    await _a_webhook_publishes_what_is_signed(f"ws://{base}/ws", f"http://{base}")
    assert SECRET not in worker.log.read_text()
    await stop(worker)


def with_cookies(store: dict[str, Any]) -> dict[str, Any]:
    """A path whose clients, once authenticated by ticket, come again with a cookie."""
    cookie = {"store": store, "name": COOKIE, "max_age": 3600}
    return {"type": "websocket", "auth": {**static("ticket"), "cookie": {}}, "cookie": cookie}


async def _a_client_comes_again_with_its_cookie(url: str) -> None:
    cookie = await cookie_of(url)
    assert cookie.startswith(f"{COOKIE}=")
    async with WampClient(url, REALM, authmethod="cookie", headers={"Cookie": cookie}) as wamp:
        assert (wamp.welcome["authid"], wamp.welcome["authrole"]) == ("joe", "backend")
    with pytest.raises(AssertionError, match=r"no_auth_method|not_auth"):
        async with WampClient(url, REALM, authmethod="cookie", headers={"Cookie": f"{COOKIE}=guessed"}):
            pass
    with pytest.raises(AssertionError, match=r"no_auth_method|not_auth"):
        async with WampClient(url, REALM, authmethod="cookie"):
            pass


async def _a_procedure_is_asked_for_each_client_without_credentials(url: str, other: str) -> None:
    assert await refusal(other, REALM) != "it joined", "nobody answers for it"
    seen: list[Any] = []

    def authenticate(_realm: str, _authid: str, details: dict[str, Any]) -> dict[str, str]:
        seen.append(details["authmethod"])
        if len(seen) > 1:
            raise ApplicationError("com.example.full", "enough")
        return {"role": "guest", "authid": "visitor"}

    async with joined(url, REALM, JOE) as backend:
        await backend.register(authenticate, "com.example.auth")
        async with joined(other, REALM) as guest:
            assert (guest.welcome.authrole, guest.welcome.authid) == ("guest", "visitor")
        assert await refusal(other, REALM) != "it joined"
    assert seen == ["anonymous", "anonymous"]


async def _a_webhook_publishes_what_is_signed(url: str, base: str) -> None:
    body = '{"action": "opened"}'
    made = hmac.new(SECRET.encode(), body.encode(), hashlib.sha1).hexdigest()
    got: asyncio.Queue[Any] = asyncio.Queue()
    async with joined(url, REALM, JOE) as joe:
        await joe.subscribe(got.put_nowait, "com.example.hook")
        assert await post(f"{base}/signed", body, f"X-Hub-Signature: sha1={made}") == (202, "OK")
        async with asyncio.timeout(bound(10)):
            assert (await got.get())["body"] == body
        assert (await post(f"{base}/signed", body, "X-Hub-Signature: sha1=" + "0" * 40))[0] == 400
        assert (await post(f"{base}/signed", body))[0] == 400
        assert (await post(f"{base}/open", body))[0] == 202
        assert await post(f"{base}/guest", body) == (500, "NOT OK"), "its role may not publish"
        async with asyncio.timeout(bound(10)):
            assert (await got.get())["body"] == body
        assert got.empty()


async def post(url: str, body: str, *headers: str) -> tuple[int, str]:
    command = ["curl", "-s", "-d", body, "-w", "\n%{http_code}", url]
    for header in headers:
        command += ["-H", header]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=bound(30), check=True
    )
    text, _, status = done.stdout.rpartition("\n")
    return int(status), text


@pytest.mark.crossbar
@pytest.mark.timeout(180)
async def test_a_procedure_is_told_the_certificate_of_each_client(run: Run, tmp_path: Path) -> None:
    root = secrets_root(tmp_path / "secrets")
    certificates(root, "ca", "router", "joe", "eve")
    runtime = load_runtimes({"crossbar": {**crossbar_program(), "secrets_root": str(root)}})["crossbar"]
    tls = {"certificate": "router.crt", "key": "router.key", "client_ca": "ca.crt"}
    asked = {"type": "dynamic", "authenticator": "com.example.auth", "authenticator-realm": REALM}
    paths = {
        "ws": {"type": "websocket", "auth": static("ticket")},
        "asked": {"type": "websocket", "auth": {"tls": asked}},
    }
    transport = {
        "type": "web",
        "endpoint": {"tls": {**tls, "client_certificates": "require"}},
        "realms": REALMS,
        "paths": paths,
    }
    worker = await run(runtime, transport)
    await worker.ready()
    url = worker.launch.address
    clients = {name: ssl.create_default_context(cafile=str(root / "ca.crt")) for name in ("joe", "eve")}
    for name, context in clients.items():
        context.load_cert_chain(root / f"{name}.crt", root / f"{name}.key")

    def authenticate(_realm: str, _authid: str, details: dict[str, Any]) -> dict[str, str]:
        name = details["transport"]["peer_cert"]["subject"]["cn"]
        if name != "joe":
            raise ApplicationError("com.example.stranger", name)
        return {"role": "guest", "authid": name}

    async with joined(url, REALM, JOE, tls=clients["joe"]) as backend:
        await backend.register(authenticate, "com.example.auth")
        other = url.replace("/ws", "/asked")
        async with WampClient(other, REALM, authmethod="tls", tls=clients["joe"]) as wamp:
            assert (wamp.welcome["authid"], wamp.welcome["authrole"]) == ("joe", "guest")
        with pytest.raises(AssertionError, match="stranger"):
            async with WampClient(other, REALM, authmethod="tls", tls=clients["eve"]):
                pass
    await stop(worker)
