"""Commands with several brokers, of which some are dead, mute, or refuse; the real thing on mosquitto."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import forked
from tests.brokers import free_port, mosquitto
from tests.pace import bound
from tests.stack import ROOT, Stack, stack

pytestmark = pytest.mark.mosquitto


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A manager that was told of a dead broker before the living one, on one mosquitto."""
    with stack(tmp_path_factory.mktemp("failover"), "mosquitto") as made:
        made.ports, made.at = [made.port, free_port()], {"manager": 1}
        made.start_manager()
        made.wait_manager(made.client("alice"))
        yield made


def busbar(lab: Stack, urls: list[str], *words: str) -> subprocess.CompletedProcess[str]:
    secret = str(lab.folder / "secrets" / "alice")
    env = {key: value for key, value in os.environ.items() if not key.startswith(("BUSBAR_", "XDG_"))}
    env |= {"HOME": str(lab.folder), "BUSBAR_BROKER": ",".join(urls), "BUSBAR_REALM": "lab"}
    return forked.run(
        "--username", "alice", "--password-file", secret, *words, env=env, timeout=bound(50), folder=ROOT
    )


def dead() -> str:
    return f"mqtt://127.0.0.1:{free_port()}"


def test_a_command_tries_every_broker(lab: Stack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        urls = [dead(), f"mqtt://127.0.0.1:{silent.getsockname()[1]}", f"mqtt://127.0.0.1:{lab.port}"]
        done = busbar(lab, urls, "manager", "show")
    assert done.returncode == 0 and "online" in done.stdout, done.stdout + done.stderr


def test_a_broker_that_refuses_does_not_end_the_search(lab: Stack, tmp_path: Path) -> None:
    with mosquitto(tmp_path, "allow_anonymous false") as port:
        urls = [f"mqtt://127.0.0.1:{port}", f"mqtt://127.0.0.1:{lab.port}"]
        done = busbar(lab, urls, "manager", "show")
        assert done.returncode == 0, done.stderr
        done = busbar(lab, [urls[0], dead()], "manager", "show")
    assert done.returncode == 5 and "none of the brokers" in done.stderr, done.stderr


def test_with_none_in_reach_each_is_named(lab: Stack) -> None:
    urls = [dead(), dead()]
    done = busbar(lab, urls, "manager", "show")
    assert done.returncode == 7
    for url in urls:
        assert f"{url}: connection refused" in done.stderr, done.stderr


def test_a_list_that_would_send_the_password_in_the_clear_is_refused(lab: Stack) -> None:
    done = busbar(lab, ["mqtts://broker-1", "mqtt://broker-2"], "manager", "show")
    assert done.returncode == 2 and "all with TLS, or none" in done.stderr
