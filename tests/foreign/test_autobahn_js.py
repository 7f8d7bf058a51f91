"""Autobahn|JS against a real crossbar worker: each way to authenticate, allowed and refused."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from busbar.agent.runtimes import load_runtimes
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from tests.certificates import certificates
from tests.foreign import clients
from tests.integration.agent.runtimes.test_real import Run, crossbar_program, run, stop
from tests.integration.agent.runtimes.test_wamp_auth import KEY, REALM, ROLES, TICKET, secrets_root, static
from tests.integration.agent.runtimes.test_wamp_ways import cookie_of

__all__ = ["run"]
TOPIC = "com.example.news"
SECRETS = {"ticket": TICKET, "wampcra": "s3cret-of-joe", "cryptosign": KEY.encode().hex()}
ask = partial(
    clients.outcome, "wamp_client.mjs", "autobahn", realm=REALM, topic=TOPIC, authid="joe", method="anonymous"
)


@pytest.mark.crossbar
@pytest.mark.timeout(240)
async def test_each_way_to_authenticate(run: Run, tmp_path: Path) -> None:
    clients.need("autobahn")
    table = {**crossbar_program(), "secrets_root": str(secrets_root(tmp_path / "secrets"))}
    paths: dict[str, Any] = {method: {"type": "websocket", "auth": static(method)} for method in SECRETS}
    paths["guests"] = {"type": "websocket", "auth": {"anonymous": {"role": "guest"}}}
    paths["again"] = {
        "type": "websocket",
        "auth": {**static("ticket"), "cookie": {}},
        "cookie": {"store": {"type": "memory"}, "name": "com_example_id"},
    }
    transport = {"type": "web", "realms": [{"name": REALM, "roles": ROLES}], "paths": paths}
    worker = await run(load_runtimes({"crossbar": table})["crossbar"], transport)
    await worker.ready()
    base = worker.launch.address.rpartition("/")[0]
    for method, secret in SECRETS.items():
        found = await ask(url=f"{base}/{method}", method=method, secret=secret)
        assert found == {"outcome": "through", "authid": "joe", "authrole": "backend", "authmethod": method}
        wrong = "0" * 64 if method == "cryptosign" else "guessed"
        assert (await ask(url=f"{base}/{method}", method=method, secret=wrong))["outcome"] == "refused"
        assert (await ask(url=f"{base}/{method}"))["reason"] == "wamp.error.no_auth_method"
    guest = await ask(url=f"{base}/guests")
    assert (guest["outcome"], guest["error"]) == ("not allowed", "wamp.error.not_authorized")
    assert guest["authrole"] == "guest"
    cookie = await cookie_of(f"{base}/again")
    again = await ask(url=f"{base}/again", method="cookie", headers={"Cookie": cookie})
    assert (again["outcome"], again["authid"]) == ("through", "joe")
    assert (await ask(url=f"{base}/again", method="cookie"))["outcome"] == "refused"
    await stop(worker)


@pytest.mark.crossbar
@pytest.mark.timeout(240)
async def test_over_tls_with_certificates(run: Run, tmp_path: Path) -> None:
    clients.need("autobahn")
    root = secrets_root(tmp_path / "secrets")
    certificates(root, "ca", "router", "joe")
    certificates(tmp_path, "other", "eve")
    own = x509.load_pem_x509_certificate((root / "joe.crt").read_bytes())
    sha1 = own.fingerprint(hashes.SHA1()).hex(":").upper()
    (root / "shop" / "tls.json").write_text(
        json.dumps({"joe": {"certificate-sha1": sha1, "role": "backend"}})
    )
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
    table = {**crossbar_program(), "secrets_root": str(root)}
    worker = await run(load_runtimes({"crossbar": table})["crossbar"], transport)
    await worker.ready()
    url = worker.launch.address
    ca = {"ca": root / "ca.crt"}
    joe = {**ca, "cert": root / "joe.crt", "key": root / "joe.key"}
    eve = {**ca, "cert": tmp_path / "eve.crt", "key": tmp_path / "eve.key"}
    found = await ask(url=url, method="tls", **joe)
    assert found == {"outcome": "through", "authid": "joe", "authrole": "backend", "authmethod": "tls"}
    tickets = url.replace("/ws", "/tickets")
    assert (await ask(url=tickets, method="ticket", secret=TICKET, **joe))["outcome"] == "through"
    for stranger in (eve, ca, {}):
        assert (await ask(url=tickets, method="ticket", secret=TICKET, **stranger))["outcome"] == "refused"
    await stop(worker)
