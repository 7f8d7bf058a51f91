"""Why a service does not start, in the format of its log: what reads the log reads that too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pace import bound

BROKER = ("--broker", "mqtt://127.0.0.1:1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def start(folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `busbar` with these words and a home of its own."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("BUSBAR_")}
    mine = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_STATE_HOME": str(folder)}
    return subprocess.run(
        [sys.executable, "-m", "busbar.cli.app", *words],
        capture_output=True, text=True, check=False, timeout=bound(60), env={**known, **mine, **env},
    )  # fmt: skip


JSON = ("--log-format", "json")
REFUSED = [
    (("manager", *JSON, "--bogus"), "No such option: --bogus"),
    (("manager", "--log-format=json", "--heartbeat", "x"), "'x' is not a number"),
    (("agent", *JSON, "--node"), "Option '--node' requires an argument."),
    (("manager", *JSON, "extra"), "No such command 'extra'."),
    (("--bogus", "web", *JSON), "No such option: --bogus"),
    (("web", "--port", "99999", *JSON), "99999 is not at most 65535"),
    (("broker", "--state", "manager", "--bogus", *JSON), "No such option: --bogus"),
    (("--realm", "x", "up", *JSON, "--host", "192.0.2.1"), "192.0.2.1"),
    (("manager", *JSON), "no broker configured"),
    (("manager", *JSON, "-o", "json"), "no broker configured"),
    (("manager", *JSON, *BROKER, "--username", "m", "--password-file", "/nowhere"), "/nowhere"),
    (("agent", *JSON, "--node", "A b"), "node name 'A b'"),
    (("manager", *JSON, "--log-level", "loud", *BROKER, "--username", "m"), "--log-level loud"),
]


@pytest.mark.parametrize(("words", "said"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_what_ends_a_service_at_its_start_is_an_object(
    folder: Path, words: tuple[str, ...], said: str
) -> None:
    done = start(folder, *words)
    (line,) = done.stderr.splitlines()
    row = json.loads(line)
    assert done.returncode and not done.stdout
    assert said in row["message"] and row["level"] == "error" and row["logger"] == "busbar.service"
    assert row["service"] in words


@pytest.mark.parametrize("form", ["json", "journald"])
def test_the_environment_and_the_config_file_choose_it_too(folder: Path, form: str) -> None:
    by_environment = start(folder, "manager", "--bogus", BUSBAR_LOG_FORMAT=form)
    file = folder / "busbar" / "config.toml"
    file.parent.mkdir()
    file.write_text(f'[log]\nformat = "{form}"\n')
    for done in (by_environment, start(folder, "manager", "--bogus")):
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert "manager: No such option: --bogus" in line
        assert line.startswith("{" if form == "json" else "<3>busbar.service: ")


def test_where_the_format_itself_is_none_the_next_that_is_one_holds(folder: Path) -> None:
    done = start(folder, "manager", "--log-format", "xml", *BROKER, BUSBAR_LOG_FORMAT="json")
    assert "--log-format xml: use plain, json or journald" in json.loads(done.stderr)["message"]
    file = folder / "busbar" / "config.toml"
    file.parent.mkdir()
    file.write_text("no toml")
    assert "config.toml" in json.loads(start(folder, "manager", *JSON, *BROKER).stderr)["message"]


@pytest.mark.parametrize(
    "words", [("manager", "check", "--bogus"), ("status", "--bogus"), ("broker", "add-account"), ("cluster",)]
)
def test_commands_that_are_no_services_speak_to_people(folder: Path, words: tuple[str, ...]) -> None:
    said = start(folder, *words, BUSBAR_LOG_FORMAT="json").stderr
    assert said.startswith("Usage: ") and '"level"' not in said


def test_plain_stays_a_sentence_with_its_usage(folder: Path) -> None:
    said = start(folder, "manager", "--bogus", "--log-format", "plain").stderr
    assert said.startswith("Usage: busbar manager") and "Error: No such option: --bogus" in said
    assert start(folder, "manager").stderr.startswith("error: no broker configured")
