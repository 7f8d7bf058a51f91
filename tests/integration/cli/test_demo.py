"""The demonstration runs whole, in its time, and leaves nothing; interrupted, it leaves nothing either."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from busbar.cli.demo.clients import processes_with
from busbar.cli.demo.page import NO_PICTURE

from tests.brokers import lacking
from tests.integration.cli.harness import until
from tests.pace import bound
from tests.test_docs import missing_line
from tests.web.browser import CHROMIUM, DRIVER

pytestmark = pytest.mark.timeout(300)


def start(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("BUSBAR_")}
    return subprocess.Popen(
        [sys.executable, "-m", "busbar.cli.demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**env, "TMPDIR": str(tmp_path), "BUSBAR_CROSSBAR": "/nowhere/crossbar"},
    )


def test_the_demonstration_succeeds_and_leaves_nothing(tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    demo = start(tmp_path, "--picture", str(picture))
    try:
        text = demo.communicate(timeout=bound(250))[0]
    finally:
        demo.kill()
        demo.wait()
    assert demo.returncode == 0, text[-4000:]
    for fact in ("100 of 100 came back", "0 workers restarted", "no process left", "all of it was checked"):
        assert fact in text
    assert re.search(r"worker_failed +worker edge/web-2", text)
    assert "Crossbar.io is not installed" in text
    assert re.search(r"The page of the realm shows all of it +http://127\.0\.0\.1:\d+", text)
    if CHROMIUM and DRIVER:
        assert f"a picture of it: {picture}" in text and picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        picture.unlink()
    else:
        assert NO_PICTURE in text
    if "nats-server is not installed" in text:
        lacking("the program nats-server is not installed")
    assert re.search(r"killed while a client publishes at another +(\d+) of \1 heard", text)
    assert re.search(r"drained in lame duck mode +(\d+) of \1 heard", text)
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    shown = readme.partition("<!-- demo -->\n```\n")[2].partition("```")[0].splitlines()
    assert len(shown) > 10
    assert missing_line(shown, text.splitlines()) is None, "the README shows something else"
    assert processes_with(str(tmp_path).encode()) == []
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_demonstration_leaves_nothing(tmp_path: Path) -> None:
    demo = start(tmp_path)
    try:
        until(
            lambda: any("routers" in line for line in processes_with(str(tmp_path).encode())), "workers run"
        )
        demo.send_signal(signal.SIGINT)
        assert demo.wait(bound(90)) == 130
    finally:
        demo.kill()
        demo.communicate()
    assert processes_with(str(tmp_path).encode()) == []
    assert list(tmp_path.iterdir()) == []
