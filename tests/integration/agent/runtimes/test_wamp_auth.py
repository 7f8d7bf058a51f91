"""Who may join a real crossbar worker, and what they may do there: with Autobahn's own clients."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import ssl
import subprocess
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from argon2.low_level import Type, hash_secret
from autobahn.wamp.types import PublishOptions
from busbar.agent.runtimes import WorkerSpec, load_runtimes, prepare
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from nacl.signing import SigningKey

from tests.autobahn_client import error_of, joined, refusal
from tests.certificates import certificates
from tests.integration.agent.runtimes.test_real import Run, Worker, crossbar_program, run, stop
from tests.pace import bound
from tests.wamp import WampClient

__all__ = ["run"]
REALM = "com.example.shop"
TICKET = "t1cket-of-joe"
KEY = SigningKey(bytes(range(32)))
ROLES = [
    {
        "name": "backend",
        "permissions": [
            {
                "uri": "com.example.",
                "match": "prefix",
                "allow": {"call": True, "register": True, "publish": True, "subscribe": True},
                "disclose": {"caller": True, "publisher": True},
            }
        ],
    },
    {
        "name": "guest",
        "permissions": [{"uri": "com.example.*", "allow": {"call": True, "subscribe": True}}],
    },
]


def scram(password: str) -> dict[str, Any]:
    """What SCRAM stores of a password, as Autobahn derives it but with little work."""
    salt, iterations, memory = b"0123456789abcdef", 2, 64
    hashed = hash_secret(password.encode(), salt, iterations, memory, 1, 32, Type.ID, 19)
    salted = hashed.rpartition(b"$")[2]
    client_key = hmac.new(salted, b"Client Key", hashlib.sha256).digest()
    return {
        "kdf": "argon2id-13",
        "iterations": iterations,
        "memory": memory,
        "salt": salt.hex(),
        "stored-key": hashlib.sha256(client_key).hexdigest(),
        "server-key": hmac.new(salted, b"Server Key", hashlib.sha256).hexdigest(),
        "role": "backend",
    }


PRINCIPALS = {
    "ticket": {"joe": {"ticket": TICKET, "role": "backend"}},
    "wampcra": {"joe": {"secret": "s3cret-of-joe", "role": "backend"}},
    "scram": {"joe": scram("p4ssword-of-joe")},
    "cryptosign": {"joe": {"authorized_keys": [KEY.verify_key.encode().hex()], "role": "backend"}},
}
KNOWN: dict[str, dict[str, Any]] = {
    "ticket": {"ticket": TICKET},
    "wampcra": {"secret": "s3cret-of-joe"},
    "scram": {
        "password": "p4ssword-of-joe",
        "kdf": "argon2id-13",
        "nonce": base64.b64encode(b"n" * 16).decode(),
    },
    "cryptosign": {"privkey": KEY.encode().hex()},
}
WRONG: dict[str, dict[str, Any]] = {
    "ticket": {"ticket": "guessed"},
    "wampcra": {"secret": "guessed"},
    "scram": {"password": "guessed", "kdf": "argon2id-13", "nonce": base64.b64encode(b"n" * 16).decode()},
    "cryptosign": {"privkey": SigningKey(bytes(32)).encode().hex()},
}


def secrets_root(folder: Path) -> Path:
    (folder / "shop").mkdir(parents=True)
    for method, principals in PRINCIPALS.items():
        file = folder / "shop" / f"{method}.json"
        file.write_text(json.dumps(principals))
        file.chmod(0o600)
    return folder


def static(method: str) -> dict[str, Any]:
    return {method: {"type": "static", "principals_file": f"shop/{method}.json"}}


@pytest.mark.crossbar
@pytest.mark.timeout(180)
async def test_each_way_to_authenticate_and_what_a_role_may_do(run: Run, tmp_path: Path) -> None:
    table = {**crossbar_program(), "secrets_root": str(secrets_root(tmp_path / "secrets"))}
    runtime = load_runtimes({"crossbar": table})["crossbar"]
    dynamic = {"type": "dynamic", "authenticator": "com.example.auth", "authenticator-realm": REALM}
    paths = {method: {"type": "websocket", "auth": static(method)} for method in PRINCIPALS}
    paths["guests"] = {"type": "websocket", "auth": {"anonymous": {"role": "guest"}}}
    paths["asked"] = {"type": "websocket", "auth": {"ticket": dynamic}}
    worker: Worker = await run(
        runtime, {"type": "web", "realms": [{"name": REALM, "roles": ROLES}, "other"], "paths": paths}
    )
    await worker.ready()
    base = worker.launch.address.rpartition("/")[0]
    for method in PRINCIPALS:
        url = f"{base}/{method}"
        async with joined(url, REALM, {method: {"authid": "joe", **KNOWN[method]}}) as session:
            assert (session.welcome.authid, session.welcome.authrole) == ("joe", "backend")
        assert (await refusal(url, REALM, {method: {"authid": "joe", **WRONG[method]}})) != "it joined"
        assert (await refusal(url, REALM, {method: {"authid": "eve", **WRONG[method]}})) != "it joined"
        assert await refusal(url, REALM) == "wamp.error.no_auth_method", "without credentials"
    await _permissions(base)
    text = worker.log.read_text()
    assert not [each for each in (TICKET, "s3cret-of-joe", "p4ssword-of-joe") if each in text]
    config = worker.log.parent / ".crossbar" / "config.json"
    assert config.stat().st_mode & 0o777 == 0o600 and TICKET in config.read_text()
    await stop(worker)


@pytest.mark.crossbar
@pytest.mark.timeout(180)
async def test_clients_with_certificates_over_tls(run: Run, tmp_path: Path) -> None:
    root = secrets_root(tmp_path / "secrets")
    certificates(root, "ca", "router", "joe")
    certificates(tmp_path, "other", "eve")
    own = x509.load_pem_x509_certificate((root / "joe.crt").read_bytes())
    sha1 = own.fingerprint(hashes.SHA1()).hex(":").upper()
    (root / "shop" / "tls.json").write_text(
        json.dumps({"joe": {"certificate-sha1": sha1, "role": "backend"}})
    )
    runtime = load_runtimes({"crossbar": {**crossbar_program(), "secrets_root": str(root)}})["crossbar"]
    tls = {"certificate": "router.crt", "key": "router.key", "client_ca": "ca.crt"}
    transport = {
        "type": "web",
        "endpoint": {"tls": {**tls, "client_certificates": "require"}},
        "realms": [{"name": REALM, "roles": ROLES}],
        "paths": {
            "ws": {"type": "websocket", "auth": static("tls")},
            "tickets": {"type": "websocket", "auth": static("ticket")},
        },
    }
    worker: Worker = await run(runtime, transport)
    await worker.ready()
    url = worker.launch.address
    assert url == f"wss://127.0.0.1:{worker.launch.port}/ws"
    joe, eve, nobody = (ssl.create_default_context(cafile=str(root / "ca.crt")) for _ in range(3))
    joe.load_cert_chain(root / "joe.crt", root / "joe.key")
    eve.load_cert_chain(tmp_path / "eve.crt", tmp_path / "eve.key")
    async with WampClient(url, REALM, authmethod="tls", tls=joe) as wamp:
        assert (wamp.welcome["authid"], wamp.welcome["authrole"]) == ("joe", "backend")
    tickets = url.replace("/ws", "/tickets")
    ticket = {"ticket": {"authid": "joe", "ticket": TICKET}}
    async with joined(tickets, REALM, ticket, tls=joe) as session:
        assert session.welcome.authmethod == "ticket"
    assert await refusal(url, REALM, tls=joe) == "wamp.error.no_auth_method"
    for stranger in (eve, nobody):
        assert await refusal(tickets, REALM, ticket, tls=stranger) == "no connection"
    assert await worker.ask() is None, "the agent has no certificate either"
    await stop(worker)


SIGNATURE = {"key": "shop", "secret": "s3cret-of-the-bridge"}


def signed(url: str, body: str, secret: str) -> str:
    """The URL of a request, signed as Crossbar's documentation says."""
    query = {"timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"), "seq": "1", "nonce": "7"}
    text = "".join((SIGNATURE["key"], query["timestamp"], query["seq"], query["nonce"], body))
    made = hmac.new(secret.encode(), text.encode(), hashlib.sha256).digest()
    query |= {"key": SIGNATURE["key"], "signature": base64.urlsafe_b64encode(made).decode()}
    return f"{url}?{urlencode(query)}"


async def curl(ca: Path, url: str, body: str) -> tuple[int, Any]:
    """The status and the JSON of what a POST is answered with."""
    json_type = ("-H", "Content-Type: application/json")
    command = ("curl", "-s", "--cacert", str(ca), *json_type, "-d", body, "-w", "\n%{http_code}", url)
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=bound(30), check=True
    )
    text, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(text)


@pytest.mark.crossbar
@pytest.mark.timeout(180)
async def test_the_http_bridge_over_tls(run: Run, tmp_path: Path) -> None:
    root = secrets_root(tmp_path / "secrets")
    certificates(root, "ca", "router")
    (root / "shop" / "bridge.json").write_text(json.dumps(SIGNATURE))
    runtime = load_runtimes({"crossbar": {**crossbar_program(), "secrets_root": str(root)}})["crossbar"]
    rights = {"realm": REALM, "role": "backend"}
    transport = {
        "type": "web",
        "endpoint": {"tls": {"certificate": "router.crt", "key": "router.key"}},
        "realms": [{"name": REALM, "roles": ROLES}],
        "paths": {
            "ws": {"type": "websocket", "auth": static("ticket")},
            "call": {"type": "caller", **rights, "credentials_file": "shop/bridge.json"},
            "publish": {"type": "publisher", **rights, "options": {"post_body_limit": 100}},
            "guest": {"type": "publisher", "realm": REALM, "role": "guest"},
        },
    }
    worker: Worker = await run(runtime, transport)
    await worker.ready()
    ca, base = root / "ca.crt", f"https://127.0.0.1:{worker.launch.port}"
    ticket = {"ticket": {"authid": "joe", "ticket": TICKET}}
    async with joined(
        worker.launch.address, REALM, ticket, tls=ssl.create_default_context(cafile=str(ca))
    ) as joe:
        await joe.register(lambda a, b: a + b, "com.example.add")
        got: asyncio.Queue[Any] = asyncio.Queue()
        await joe.subscribe(got.put_nowait, "com.example.news")
        ask = json.dumps({"procedure": "com.example.add", "args": [2, 3]})
        assert await curl(ca, signed(f"{base}/call", ask, SIGNATURE["secret"]), ask) == (200, {"args": [5]})
        assert (await curl(ca, signed(f"{base}/call", ask, "guessed"), ask))[0] == 401
        assert (await curl(ca, f"{base}/call", ask))[0] == 400, "unsigned"
        news = json.dumps({"topic": "com.example.news", "args": ["open"]})
        status, answer = await curl(ca, f"{base}/publish", news)
        assert status == 200 and "id" in answer
        async with asyncio.timeout(bound(10)):
            assert await got.get() == "open"
        assert (await curl(ca, f"{base}/publish", json.dumps({"topic": "x" * 200})))[0] == 413
        refused = await curl(ca, f"{base}/guest", news)
        assert refused[1]["error"] == "wamp.error.not_authorized"
    assert SIGNATURE["secret"] not in worker.log.read_text()
    await stop(worker)


async def _permissions(base: str) -> None:
    joe = {"ticket": {"authid": "joe", "ticket": TICKET}}
    async with joined(f"{base}/ticket", REALM, joe) as backend, joined(f"{base}/guests", REALM) as guest:
        assert guest.welcome.authrole == "guest"
        await backend.register(lambda a, b: a + b, "com.example.add")
        assert await guest.call("com.example.add", 2, 3) == 5
        assert await error_of(guest.register(lambda: 1, "com.example.mine")) == "wamp.error.not_authorized"
        said = guest.publish("com.example.news", 1, options=PublishOptions(acknowledge=True))
        assert await error_of(said) == "wamp.error.not_authorized"
        assert await error_of(backend.register(lambda: 1, "org.other")) == "wamp.error.not_authorized"

        def authenticate(_realm: str, authid: str, details: dict[str, Any]) -> dict[str, str]:
            if details["ticket"] != f"ticket-of-{authid}":
                raise ValueError("wrong ticket")
            return {"role": "guest"}

        await backend.register(authenticate, "com.example.auth")
        anna = {"ticket": {"authid": "anna", "ticket": "ticket-of-anna"}}
        async with joined(f"{base}/asked", REALM, anna) as session:
            assert (session.welcome.authid, session.welcome.authrole) == ("anna", "guest")
        mary = {"ticket": {"authid": "mary", "ticket": "ticket-of-anna"}}
        assert await refusal(f"{base}/asked", REALM, mary) != "it joined"


@pytest.mark.crossbar
@pytest.mark.timeout(120)
async def test_crossbar_s_own_checker_judges_the_files_of_a_worker(tmp_path: Path) -> None:
    table = {**crossbar_program(), "secrets_root": str(secrets_root(tmp_path / "secrets"))}
    runtime = load_runtimes({"crossbar": table})["crossbar"]
    for size, verdict in ((100, 0), (1000, 1)):
        ws = {"type": "websocket", "auth": static("ticket"), "options": {"auto_ping_size": size}}
        realm = {"name": REALM, "roles": ROLES}
        transport = {"type": "web", "realms": [realm], "paths": {"ws": ws}}
        folder = tmp_path / str(size)
        spec = WorkerSpec("web-1", str(uuid.uuid4()), "edge", "web", 1, transport)
        launch = runtime.render(spec, "127.0.0.1", {"default": 4711}, folder)
        prepare(launch, folder)
        done = await asyncio.to_thread(
            subprocess.run,
            launch.check,
            capture_output=True,
            text=True,
            timeout=bound(60),
            cwd=tmp_path,
            env={**os.environ, **launch.env},  # unbuffered: crossbar loses its output at its exit otherwise
        )
        assert done.returncode == verdict, done.stdout
        assert ("auto_ping_size" in done.stdout) is bool(verdict) and TICKET not in done.stdout
