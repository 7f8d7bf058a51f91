"""A closed stdout, one of few characters, a full disk, no home: a sentence, or it works."""

from __future__ import annotations

import io
import json
import os
import pwd
import subprocess
import sys
from typing import Any

import pytest
import yaml
from busbar.cli import app
from busbar.cli.errors import ExitCode
from busbar.cli.printing import streams

from tests.pace import bound

from ..realm import OID, TOPICS, Line, Realm, result_of
from ..realm import line as line
from ..table import CALLS, LOCAL, VERDICTS

TEXT = "größe 中 \U0001f600 \u2026"


def a_realm() -> Realm:
    known = {
        "name": "edge",
        "cluster": "edge",
        "node": "n1",
        "oid": OID,
        "sequence": "2",
        "status": "RUNNING",
    }

    def answer(operation: str, given: dict[str, Any]) -> Any:
        found = result_of(operation, lambda member: known.get(member, TEXT))
        return found | {"sequence": 2} if operation == "get_manager" else found

    realm = Realm(answer)
    for kind in ("routercluster", "workergroup", "worker"):
        status = {"version": 9, "epoch": 1, "sequence": "1", "status": "RUNNING", "name": "edge", "time": "t"}
        realm.retain(TOPICS.status("edge", kind, "edge"), status | {"scale": 3, "ready": 3, "oid": OID})
    online = {
        "version": 9,
        "epoch": 1,
        "sequence": "1",
        "status": "online",
        "name": "edge",
        "time": "t",
        "oid": OID,
    }
    realm.retain(TOPICS.status("_", "node", "edge"), online)
    chunk = {"worker": "edge", "cluster": "edge", "lines": [TEXT]}
    realm.after = lambda operation: (
        realm.publish(TOPICS.node_log("n1", "edge"), chunk) if operation == "follow_worker" else None
    )
    return realm


@pytest.fixture
def homeless(line: Line, monkeypatch: pytest.MonkeyPatch) -> Line:
    """No HOME, and a uid that nobody knows."""

    def unknown(uid: int) -> Any:
        raise KeyError(uid)

    for name in ("HOME", "XDG_CONFIG_HOME", "BUSBAR_STATE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    return line


@pytest.mark.fault(100, "U")
@pytest.mark.parametrize("command", CALLS)
def test_a_user_without_a_home_can_do_everything_at_a_broker(
    homeless: Line,
    capsys: pytest.CaptureFixture[str],
    command: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code = homeless.against(a_realm()).run(*command.split(), *CALLS[command])
    assert code == VERDICTS.get(command, 0), capsys.readouterr().err


SERVICES = dict.fromkeys(("up", "manager", "broker"), ()) | {"agent": ("--node", "n1")}


@pytest.mark.fault(100, "U")
@pytest.mark.parametrize("command", [*LOCAL, *SERVICES])
def test_what_needs_a_home_says_so(
    homeless: Line,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
    command: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code = homeless.run(*command.split(), *{**LOCAL, **SERVICES}[command])
    said = capsys.readouterr().err
    assert code in (0, ExitCode.PROBLEMS) or len(said.splitlines()) == 1
    assert not list(tmp_path.iterdir()), "nothing is written where nobody looks for it"


@pytest.mark.fault(100, "U")
@pytest.mark.parametrize("option", ["--password-file", "--tls-ca"])
def test_a_tilde_that_nobody_knows_is_a_sentence(
    homeless: Line, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert homeless.run("status", option, "~/x", "--broker", "mqtts://h") == 2
    assert "Set HOME" in capsys.readouterr().err


@pytest.mark.fault(100, "U")
@pytest.mark.parametrize(
    ("form", "encoding"),
    [("table", "latin-1"), ("table", "cp1252"), ("table", "ascii"), ("json", "ascii"), ("yaml", "ascii")],
)
@pytest.mark.parametrize("command", CALLS)
def test_a_terminal_of_few_characters_gets_the_others_escaped(
    line: Line, monkeypatch: pytest.MonkeyPatch, command: str, form: str, encoding: str
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    streams.prepare()
    code = line.against(a_realm()).run(*command.split(), *CALLS[command], "-o", form)
    assert code == VERDICTS.get(command, 0)
    assert streams.finish(0) == 0
    text = written.getvalue().decode(encoding)
    if form == "json":
        many = command in ("event watch", "worker logs")
        assert [json.loads(each) for each in (text.splitlines() if many else [text])]
    elif form == "yaml":
        assert list(yaml.safe_load_all(text))


@pytest.mark.fault(100, "U")
@pytest.mark.parametrize("command", CALLS)
def test_a_closed_stdout_is_no_defect(line: Line, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    streams.prepare()
    code = line.against(a_realm()).run(*command.split(), *CALLS[command])
    assert code == VERDICTS.get(command, 0)
    assert streams.finish(0) == 0


@pytest.mark.fault(100, "U")
@pytest.mark.parametrize("closed", ["0", "1", "2", "0 1", "1 2", "0 1 2"])
def test_streams_that_are_closed_are_not_taken_for_files(tmp_path: Any, closed: str) -> None:
    """What the command opens next must not become its stdout."""
    close = " ".join(f"{fd}>&-" for fd in closed.split())
    store = tmp_path / "state" / "broker" / "accounts.json"
    result = subprocess.run(
        ["sh", "-c", f'exec "$0" -m busbar.cli.app broker add-account p1 person {close}', sys.executable],
        env={**os.environ, "BUSBAR_STATE": str(tmp_path / "state"), "HOME": str(tmp_path)},
        capture_output=True,
        timeout=bound(30),
    )
    assert (result.returncode, result.stderr) == (0, b"")
    json.loads(store.read_text())


@pytest.mark.fault(100, "U")
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="of Linux")
@pytest.mark.parametrize("arguments", [["--version"], ["context", "list", "-o", "json"], ["--help"]])
def test_a_full_disk_behind_stdout_is_one_sentence(tmp_path: Any, arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "busbar.cli.app", *arguments],
            env={**os.environ, "HOME": str(tmp_path)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=bound(30),
        )
    assert result.returncode == 1
    (said,) = result.stderr.splitlines()
    assert "No space left on device" in said


def test_main_goes_through_the_streams() -> None:
    assert app.streams is streams
