"""Autobahn|JS and wampy.js against a real crossbar worker: each way to authenticate, allowed and refused."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from busbar.agent.runtimes import load_runtimes
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from tests.certificates import certificates
from tests.foreign import clients
from tests.integration.agent.runtimes.test_real import Run, crossbar_program, run
from tests.integration.agent.runtimes.test_wamp_auth import KEY, REALM, ROLES, TICKET, secrets_root, static
from tests.integration.agent.runtimes.test_wamp_ways import cookie_of

__all__ = ["run"]
SECRETS = {
    "ticket": TICKET,
    "wampcra": "s3cret-of-joe",
    "cryptosign": KEY.encode().hex(),
    "scram": "p4ssword-of-joe",
}
WAMPY = ("ticket", "wampcra", "cryptosign")
"""The ways that wampy.js knows."""
PATHS: dict[str, Any] = {
    **{method: {"type": "websocket", "auth": static(method)} for method in (*SECRETS, "tls")},
    "guests": {"type": "websocket", "auth": {"anonymous": {"role": "guest"}}},
    "again": {
        "type": "websocket",
        "auth": {**static("ticket"), "cookie": {}},
        "cookie": {"store": {"type": "memory"}, "name": "com_example_id"},
    },
}


def client(base: str, path: str, method: str = "anonymous", **more: Any) -> dict[str, Any]:
    url = f"{base}/{path}"
    return {
        "url": url,
        "realm": REALM,
        "topic": "com.example.news",
        "authid": "joe",
        "method": method,
        **more,
    }


def scram_of(password: str) -> dict[str, Any]:
    """What SCRAM stores of a password; node has PBKDF2 itself, and no argon2."""
    salt, iterations = b"0123456789abcdef", 4096
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    key = hmac.digest(salted, b"Client Key", "sha256")
    return {
        "kdf": "pbkdf2",
        "iterations": iterations,
        "memory": 0,
        "salt": salt.hex(),
        "stored-key": hashlib.sha256(key).hexdigest(),
        "server-key": hmac.digest(salted, b"Server Key", "sha256").hex(),
        "role": "backend",
    }


def with_certificates(root: Path, folder: Path) -> dict[str, dict[str, Path]]:
    """Certificates of the router, of joe, and of a stranger; the router knows joe's."""
    certificates(root, "ca", "router", "joe")
    certificates(folder, "other", "eve")
    own = x509.load_pem_x509_certificate((root / "joe.crt").read_bytes())
    sha1 = own.fingerprint(hashes.SHA1()).hex(":").upper()
    principals = {"joe": {"certificate-sha1": sha1, "role": "backend"}}
    (root / "shop" / "tls.json").write_text(json.dumps(principals))
    ca = {"ca": root / "ca.crt"}
    return {
        "joe": {**ca, "cert": root / "joe.crt", "key": root / "joe.key"},
        "eve": {**ca, "cert": folder / "eve.crt", "key": folder / "eve.key"},
        "nobody": ca,
        "strange router": {},
    }


@pytest.mark.crossbar
@pytest.mark.timeout(240)
async def test_each_way_to_authenticate(run: Run, tmp_path: Path) -> None:
    clients.need("autobahn")
    clients.need("wampy")
    root = secrets_root(tmp_path / "secrets")
    who = with_certificates(root, tmp_path)
    (root / "shop" / "scram.json").write_text(json.dumps({"joe": scram_of(SECRETS["scram"])}))
    tls = {"certificate": "router.crt", "key": "router.key", "client_ca": "ca.crt"}
    transport = {
        "type": "web",
        "listeners": {"ws": {}, "wss": {"tls": {**tls, "client_certificates": "require"}}},
        "realms": [{"name": REALM, "roles": ROLES}],
        "paths": PATHS,
    }
    table = {**crossbar_program(), "secrets_root": str(root)}
    worker = await run(load_runtimes({"crossbar": table})["crossbar"], transport)
    await worker.ready()
    plain, tls_url = (each.address.rpartition("/")[0] for each in worker.launch.listeners)
    assert (plain[:5], tls_url[:6]) == ("ws://", "wss://")
    cookie = {"Cookie": await cookie_of(f"{plain}/again")}
    guessed = {**dict.fromkeys(SECRETS, "guessed"), "cryptosign": "0" * 64}
    allowed, refused = dict[str, dict[str, Any]](), dict[str, dict[str, Any]]()
    for method, secret in SECRETS.items():
        allowed[method] = client(plain, method, method, secret=secret)
        refused[f"wrong {method}"] = client(plain, method, method, secret=guessed[method])
        refused[f"no {method}"] = client(plain, method)
    allowed["cookie"] = client(plain, "again", "cookie", headers=cookie)
    refused["no cookie"] = client(plain, "again", "cookie")
    allowed["tls"] = client(tls_url, "tls", "tls", **who["joe"])
    allowed["ticket over tls"] = client(tls_url, "ticket", "ticket", secret=TICKET, **who["joe"])
    for stranger in ("eve", "nobody", "strange router"):
        refused[stranger] = client(tls_url, "ticket", "ticket", secret=TICKET, **who[stranger])
    asked = {**allowed, **refused, "guest": client(plain, "guests")}
    answers = await clients.outcomes("wamp_client.mjs", "autobahn", list(asked.values()))
    found = dict(zip(asked, answers, strict=True))
    assert {name: found[name]["outcome"] for name in allowed} == dict.fromkeys(allowed, "through")
    assert {name: found[name]["outcome"] for name in refused} == dict.fromkeys(refused, "refused")
    for method in (*SECRETS, "tls"):
        told = (found[method][name] for name in ("authid", "authrole", "authmethod"))
        assert tuple(told) == ("joe", "backend", method)
    assert found["cookie"]["authid"] == "joe"
    assert {found[f"no {method}"]["reason"] for method in SECRETS} == {"wamp.error.no_auth_method"}
    guest = found["guest"]
    assert (guest["outcome"], guest["error"]) == ("not allowed", "wamp.error.not_authorized")
    assert guest["authrole"] == "guest"
    await wampy(plain, guessed)


async def wampy(plain: str, guessed: dict[str, str]) -> None:
    """wampy.js at the same worker."""
    allowed = {method: client(plain, method, method, secret=SECRETS[method]) for method in WAMPY}
    refused = {f"wrong {method}": client(plain, method, method, secret=guessed[method]) for method in WAMPY}
    refused |= {f"no {method}": client(plain, method) for method in WAMPY}
    asked = {**allowed, **refused, "guest": client(plain, "guests")}
    answers = await clients.outcomes("wampy_client.mjs", "wampy", list(asked.values()))
    found = dict(zip(asked, answers, strict=True))
    assert {name: found[name]["outcome"] for name in allowed} == dict.fromkeys(allowed, "through")
    assert {name: found[name]["outcome"] for name in refused} == dict.fromkeys(refused, "refused")
    assert {name: found[name]["authmethod"] for name in allowed} == {name: name for name in allowed}
    assert found["guest"]["outcome"] == "not allowed" and found["guest"]["authrole"] == "guest"
