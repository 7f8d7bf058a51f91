"""How services log: what is in force, the journal, and that whatever goes to stderr is a line of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from busbar.cli.errors import CliError
from busbar.cli.services import logs
from busbar.cli.services.logs import LogOptions, is_journal, log_options


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (logs.LEVEL_VARIABLE, logs.FORMAT_VARIABLE, logs.JOURNAL_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = tmp_path / "busbar" / "config.toml"
    path.parent.mkdir()
    return path


def test_an_option_precedes_the_environment_and_that_the_config_file(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert log_options(None, None) == LogOptions("info", "plain")
    config.write_text('[log]\nlevel = "error"\nformat = "json"\n')
    assert log_options(None, None) == LogOptions("error", "json")
    monkeypatch.setenv(logs.LEVEL_VARIABLE, "DEBUG")
    monkeypatch.setenv(logs.FORMAT_VARIABLE, "journald")
    assert log_options(None, None) == LogOptions("debug", "journald")
    assert log_options("warning", "plain") == LogOptions("warning", "plain")


@pytest.mark.parametrize(
    ("level", "form", "text", "said"),
    [
        ("loud", None, "", "--log-level loud: use debug, info, warning or error"),
        (None, "xml", "", "--log-format xml: use plain, json or journald"),
        (None, None, "level = 'loud'", "log.level in the config file loud: use"),
        (None, None, "colour = 'red'", r"\[log\] holds level and format"),
    ],
)
def test_what_there_is_not_is_refused(
    config: Path, level: str | None, form: str | None, text: str, said: str
) -> None:
    config.write_text(f"[log]\n{text}\n")
    with pytest.raises(CliError, match=said) as caught:
        log_options(level, form)
    assert caught.value.exit_code == 2


def test_a_service_needs_no_home_and_no_right_to_its_users_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "config_path", lambda env: Path("/no/such/folder/config.toml"))
    assert log_options("info", "plain") == LogOptions("info", "plain")

    def homeless(env: object) -> Path:
        raise logs.HomelessError

    monkeypatch.setattr(logs, "config_path", homeless)
    assert log_options("info", "plain") == LogOptions("info", "plain")


def test_the_journal_is_known_by_its_inode(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "journal").open("w") as stream:
        found = os.fstat(stream.fileno())
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv(logs.JOURNAL_VARIABLE, f"{found.st_dev}:{found.st_ino}")
        assert log_options(None, None).form == "journald"
        assert log_options(None, "plain").form == "plain"
        for other in (f"{found.st_dev}:{found.st_ino + 1}", str(found.st_ino), ""):
            assert not is_journal(stream, {logs.JOURNAL_VARIABLE: other})
    assert not is_journal(stream, dict(os.environ))  # closed


EVERYTHING = """
import asyncio, logging, sys, threading, warnings
from busbar.cli.services import logs
logs.start("info", sys.argv[1])
for name in ("paho.mqtt.client", "amqtt.broker", "uvicorn.error", "websockets.server"):
    logging.getLogger(name).warning("of %s\\n2026 ERROR busbar.x: forged\\x1b[2J", name)
logging.getLogger("paho").info("too much")
logging.getLogger("busbar.agent").info("ours")
logging.getLogger("busbar.agent").debug("too much")
logging.getLogger("busbar.agent").info("%d of them", "none", "or two")
warnings.warn("do not\\n")
thread = threading.Thread(target=lambda: 1 / 0, name="worker")
thread.start()
thread.join()
class Last:
    def __del__(self): raise OSError("late")
Last()
async def forgotten():
    async def task(): raise KeyError("nobody\\nasked")
    asyncio.create_task(task())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
asyncio.run(forgotten())
import gc; gc.collect()
raise ValueError("the end\\nof it")
"""


@pytest.mark.parametrize("form", ["plain", "json", "journald"])
def test_libraries_warnings_and_what_nobody_catches_are_a_line_each(form: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EVERYTHING, form], capture_output=True, text=True, check=False
    )
    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (1, "")
    wanted = [
        "of paho.mqtt.client", "of amqtt.broker", "of uvicorn.error", "of websockets.server",
        "ours", "of them", "do not", "uncaught in thread worker: division by zero", "late",
        "Task exception was never retrieved", "uncaught: the end",
    ]  # fmt: skip
    assert len(lines) == len(wanted), done.stderr
    for line, part in zip(lines, wanted, strict=True):
        assert line.isprintable()
        if form == "json":
            assert part in json.loads(line)["message"]
        else:
            assert part in line
            assert (line[0], line[2]) == ("<", ">") if form == "journald" else line[4] == "-"
