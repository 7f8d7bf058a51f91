"""TLS with client certificates: the CN is the user name, for every service and the command line."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from busbar.bus.access.acl import render_mosquitto
from busbar.cli.settings import service_settings

from tests import forked
from tests.brokers import mosquitto
from tests.certificates import certificates
from tests.pace import bound
from tests.stack import Stack

pytestmark = [pytest.mark.mosquitto, pytest.mark.timeout(90)]
USERS = ("manager", "n1", "alice", "vic")
HEARTBEAT_S = 0.5


class Secure(Stack):
    """Services with certificates only: no password anywhere."""

    def connection(self, user: str) -> list[str]:
        return ["--realm", "lab", "--broker", f"mqtts://127.0.0.1:{self.port}", *self.tls(user)]

    def tls(self, user: str, authority: str = "ca") -> list[str]:
        files = (self.folder / f"{authority}.crt", self.folder / f"{user}.crt", self.folder / f"{user}.key")
        return [word for pair in zip(("--tls-ca", "--tls-cert", "--tls-key"), files, strict=True)
                for word in map(str, pair)]  # fmt: skip

    def busbar(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("BUSBAR_", "XDG_"))}
        return forked.run(*arguments, env={**clean, "HOME": str(self.folder), **env}, timeout=bound(30))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    folder = tmp_path_factory.mktemp("tls")
    certificates(folder, "ca", "server", *USERS)
    certificates(folder, "stranger", "alice2")
    access = folder / "acl"
    access.write_text(render_mosquitto("busbar", "lab", "manager", ["alice", "vic"]))
    access.chmod(0o600)
    lines = (
        f"cafile {folder}/ca.crt", f"certfile {folder}/server.crt", f"keyfile {folder}/server.key",
        "require_certificate true", "use_identity_as_username true", f"acl_file {access}",
    )  # fmt: skip
    made = Secure(folder, HEARTBEAT_S)
    try:
        with mosquitto(folder, *lines) as made.port:
            made.start_manager()
            made.start_agent("n1")
            yield made
    finally:
        made.close()


def as_alice(lab: Secure) -> list[str]:
    return [*lab.connection("alice"), "--username", "alice"]


def test_manager_agent_and_command_line_need_only_certificates(lab: Secure) -> None:
    paired = lab.busbar("node", "pair", "n1", *as_alice(lab), BUSBAR_TIMEOUT="20")
    assert paired.returncode == 0, paired.stderr + lab.logs()
    assert "CN is 'n1'" in paired.stderr, "it prints what an external broker needs"
    made = lab.busbar("cluster", "create", "edge", "--type", "mqtt", "--port", "25300-25399", *as_alice(lab))
    assert made.returncode == 0, made.stderr
    for words in (["cluster", "add-node", "edge", "n1"], ["group", "add", "edge/web"],
                  ["cluster", "start", "edge", "--wait"]):  # fmt: skip
        done = lab.busbar(*words, *as_alice(lab))
        assert done.returncode == 0, (words, done.stderr, lab.logs())
    assert "edge" in lab.busbar("cluster", "list", *as_alice(lab)).stdout
    nodes = json.loads(lab.busbar("node", "list", "-o", "json", *as_alice(lab)).stdout)
    assert [(row["name"], row["status"]) for row in nodes] == [("n1", "online")]


def test_environment_and_context_work_alike(lab: Secure) -> None:
    env = {
        "BUSBAR_BROKER": f"mqtts://127.0.0.1:{lab.port}",
        "BUSBAR_REALM": "lab",
        "BUSBAR_USERNAME": "alice",
    }
    files = {"BUSBAR_TLS_CA": "ca.crt", "BUSBAR_TLS_CERT": "alice.crt", "BUSBAR_TLS_KEY": "alice.key"}
    env |= {name: str(lab.folder / file) for name, file in files.items()}
    assert lab.busbar("cluster", "list", **env).returncode == 0
    kept = lab.busbar("context", "add", "secure", "--realm", "lab", "--username", "alice", "--broker",
                      env["BUSBAR_BROKER"], *lab.tls("alice"))  # fmt: skip
    assert kept.returncode == 0, kept.stderr
    assert lab.busbar("cluster", "list").returncode == 0


def test_the_certificate_determines_the_user_not_the_option(lab: Secure) -> None:
    """vic's certificate with alice's name: for the broker it is vic, so alice's topics are forbidden."""
    mixed = [*lab.connection("vic"), "--username", "alice"]
    result = lab.busbar("cluster", "create", "stolen", *mixed, BUSBAR_TIMEOUT="2")
    assert result.returncode in (5, 6, 7), result.stderr
    assert "stolen" not in lab.busbar("cluster", "list", *as_alice(lab)).stdout


@pytest.mark.parametrize("what", ["no certificate", "another authority's", "an unknown server"])
def test_unknown_certificates_are_rejected(lab: Secure, what: str, tmp_path: Path) -> None:
    where = ["--realm", "lab", "--broker", f"mqtts://127.0.0.1:{lab.port}", "--username", "alice"]
    tls = {
        "no certificate": ["--tls-ca", str(lab.folder / "ca.crt")],
        "another authority's": lab.tls("alice2"),
        "an unknown server": lab.tls("alice", authority="stranger"),
    }[what]
    result = lab.busbar("cluster", "list", *where, *tls, HOME=str(tmp_path))
    assert result.returncode == 7 and "can't be reached" in result.stderr, result.stderr
    assert ("certificate verify failed: " in result.stderr) is (what == "an unknown server"), result.stderr
    assert "Traceback" not in result.stderr


def test_a_persons_certificate_is_not_used_by_a_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manager or an agent does not use the certificate of a person's context."""
    for name in [name for name in os.environ if name.startswith("BUSBAR_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("BUSBAR_STATE", str(tmp_path / "state"))
    (tmp_path / "busbar").mkdir()
    (tmp_path / "busbar" / "config.toml").write_text(
        'current = "x"\n[contexts.x]\nbroker = "mqtts://b"\nusername = "alice"\npassword_file = "p"\n'
        'tls_ca = "ca"\ntls_cert = "alice.crt"\ntls_key = "alice.key"\n'
    )
    settings = service_settings("manager")
    assert (settings.username, settings.password_file, settings.tls_cert, settings.tls_key) == (
        "manager",
        None,
        None,
        None,
    )
    assert settings.tls_ca == "ca"
