"""Nodes of a mosquitto with its dynamic security plugin: accounts are made and removed over the bus."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from busbar.bus.client.connect import connect
from busbar.bus.errors import BusError
from busbar.cli.services.join_token import from_word, to_word

from tests.brokers import lacking, mosquitto
from tests.certificates import certificates
from tests.integration.cli.harness import until
from tests.pace import bound
from tests.stack import Stack

pytestmark = [pytest.mark.mosquitto, pytest.mark.timeout(180)]
CONTROL = shutil.which("mosquitto_ctrl") or shutil.which("mosquitto_ctrl", path="/usr/bin:/usr/local/bin")


class Lab(Stack):
    """A manager on such a broker, by TLS, and two machines: alice's, and one that is to be a node."""

    def connection(self, user: str) -> list[str]:
        broker = ["--realm", "lab", "--broker", f"mqtts://127.0.0.1:{self.port}"]
        secret = str(self.folder / "secrets" / user)
        ca = str(self.folder / "ca.crt")
        return [*broker, "--tls-ca", ca, "--username", user, "--password-file", secret]

    def run(self, *words: str, home: str = "home") -> subprocess.CompletedProcess[str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("BUSBAR_", "XDG_"))}
        env = {**clean, "HOME": str(self.folder / home)}
        command = [sys.executable, "-m", "busbar.cli.app", *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=bound(60), input="")

    def ok(self, *words: str, user: str = "alice") -> str:
        done = self.run(*words, *self.connection(user))
        assert done.returncode == 0, f"{done.stderr}\n{self.logs()}"
        return done.stdout

    def word(self, *words: str) -> str:
        """What stands between `echo` and the pipe of the line that is printed."""
        printed = self.ok("node", *words, "--dynsec-context", "admin")
        (line,) = [row for row in printed.splitlines() if row.startswith("echo ")]
        return line.removeprefix("echo ").removesuffix(" | busbar join -")

    def join(self, word: str, *more: str) -> subprocess.CompletedProcess[str]:
        return self.run("join", word, "--no-unit", *more, home="n1")


def plugin() -> str:
    """The plugin's file, where the distribution has it."""
    for folder in ("/usr/lib", "/usr/local/lib"):
        for path in (*Path(folder).glob("mosquitto_dyn*.so"), *Path(folder).glob("*/mosquitto_dyn*.so")):
            return str(path)
    lacking("mosquitto's dynamic security plugin is not installed")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("dynsec")
    if CONTROL is None:
        lacking("the program mosquitto_ctrl is not installed")
    made = Lab(folder, 0.5)
    made.secrets["admin"] = "only for accounts"
    (folder / "secrets" / "admin").write_text(made.secrets["admin"])
    (folder / "secrets" / "admin").chmod(0o600)
    init = [CONTROL, "dynsec", "init", str(folder / "accounts.json"), "admin", made.secrets["admin"]]
    subprocess.run(init, check=True, capture_output=True, timeout=bound(20))
    certificates(folder, "ca", "server")
    certificates(folder, "other")
    lines = (
        "allow_anonymous false", f"certfile {folder}/server.crt", f"keyfile {folder}/server.key",
        f"plugin {plugin()}", f"plugin_opt_config_file {folder}/accounts.json",
    )  # fmt: skip
    try:
        with mosquitto(folder, *lines) as made.port:
            try:
                asyncio.run(_people(made))
                made.start_manager()
                made.ok("context", "add", "admin", user="admin")
                until(
                    lambda: made.run("node", "list", *made.connection("alice")).returncode == 0, "a manager"
                )
                yield made
            finally:
                made.close()
    finally:
        made.close()


async def _people(made: Lab) -> None:
    """The manager, an owner, and one who knows nothing of accounts; a client that is not ours."""
    url, ca = f"mqtts://127.0.0.1:{made.port}", made.folder / "ca.crt"
    secret = made.folder / "secrets" / "admin"
    async with connect(url, realm="lab", username="admin", password_file=secret, tls_ca=ca) as bus:
        plugin = bus.dynamic_security()
        for kind, user in (("manager", "manager"), ("person", "alice"), ("person", "n3")):
            assert await plugin.put(kind, user, "busbar", "lab", made.secrets[user])
        assert not await plugin.put("person", "alice", "busbar", "lab", made.secrets["alice"]), (
            "there already"
        )
        with pytest.raises(BusError, match="is no node of realm"):
            await plugin.remove("node", "n3", "lab")


def test_a_node_s_account_is_made_used_changed_and_removed_over_the_bus(lab: Lab) -> None:
    word = lab.word("pair", "n1")
    file = from_word(word)
    assert (file.node, file.realm, file.token) == ("n1", "lab", None) and file.ca is not None
    stranger = to_word(msgspec.structs.replace(file, ca=(lab.folder / "other.crt").read_text()))
    refused = lab.join(stranger)
    assert refused.returncode == 7 and "its certificate has to be" in refused.stderr, refused.stderr
    assert not (lab.folder / "n1" / ".local").exists(), "nothing is left"
    joined = lab.join(word)
    assert joined.returncode == 0 and joined.stderr == "", joined.stderr
    folder = lab.folder / "n1" / ".local" / "state" / "busbar" / "agents" / "n1"
    lab.spawn("n1", "agent", "--state", str(folder))
    until(lambda: "online" in lab.ok("node", "list", "--status", "online"), "n1 is online")
    again = lab.word("token", "n1")
    joined = lab.join(again, "-o", "json")
    assert joined.returncode == 0 and '"changed": true' in joined.stdout, "beside its agent"
    until(lambda: "online" in lab.ok("node", "list", "--status", "online"), "n1 is back")
    old = lab.join(word, "--state", str(lab.folder / "old"))
    assert old.returncode == 5 and "refused the password" in old.stderr
    lab.ok("node", "unpair", "n1", "--dynsec-context", "admin", "--yes")
    gone = lab.join(again, "--state", str(lab.folder / "gone"))
    assert gone.returncode == 5, gone.stderr


def test_who_may_not_change_accounts_is_told_before_anything_is_paired(lab: Lab) -> None:
    mine = lab.run("node", "pair", "n2", "--dynsec", *lab.connection("alice"))
    assert mine.returncode == 5 and "no right to change accounts" in mine.stderr, mine.stderr
    taken = lab.run("node", "pair", "n3", "--dynsec-context", "admin", *lab.connection("alice"))
    assert taken.returncode == 4 and "'n3' is no node of realm 'lab'" in taken.stderr, taken.stderr
    assert lab.ok("node", "list", "-q") == ""


def test_roles_are_given_to_clients_that_there_are(lab: Lab) -> None:
    """As for a realm that is new; here they have theirs, and keep them."""
    words = ("acl", "--broker", "dynsec", "--dynsec-context", "admin", "--realm", "lab", "--person")
    given = lab.run(*words, "alice")
    assert given.returncode == 0 and "manager, alice: the roles are given" in given.stdout, given.stderr
    unknown = lab.run(*words, "bob")
    assert unknown.returncode == 1 and "refuses addClientRole" in unknown.stderr, unknown.stderr
    assert lab.ok("node", "list", "-q") == "", "they have their rights"
