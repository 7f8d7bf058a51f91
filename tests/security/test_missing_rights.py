"""A right that is missing at the broker is told by name, by the manager, the agent and the command line."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Literal

import pytest
from busbar.bus.access.acl import PERSON, may_read, render_mosquitto
from busbar.bus.clock import SystemClock
from busbar.bus.connection.link import Message
from busbar.bus.connection.mqtt_link import MqttLink
from busbar.bus.connection.rights import missing_rights
from busbar.bus.errors import BusOfflineError, MissingRightError
from busbar.bus.options import ConnectOptions

from tests import forked
from tests.brokers import mosquitto, until
from tests.pace import bound

pytestmark = pytest.mark.mosquitto
USERS = ("manager", "alice", "bob", "n1")
PAGE = Path(__file__).parents[2] / "docs" / "howto" / "security.md"


@dataclass
class Realm:
    """A mosquitto with an ACL, and services and commands for its realm `lab`."""

    folder: Path
    port: int

    def environment(self, user: str) -> dict[str, str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("BUSBAR_", "XDG_"))}
        mine = {"BUSBAR_BROKER": f"mqtt://127.0.0.1:{self.port}", "BUSBAR_PASSWORD": "secret"}
        named = {"BUSBAR_USERNAME": user, "BUSBAR_REALM": "lab", "BUSBAR_TIMEOUT": "3"}
        return {**clean, "HOME": str(self.folder), **mine, **named}

    def log(self, name: str) -> str:
        file = self.folder / f"{name}.log"
        return file.read_text() if file.exists() else ""

    @contextmanager
    def running(self, name: str, user: str, *words: str) -> Iterator[None]:
        with (self.folder / f"{name}.log").open("wb") as log:
            state = ("--state", str(self.folder / name))
            child = forked.start(*words, *state, env=self.environment(user), output=log)
        try:
            yield
        finally:
            child.kill()
            child.wait(bound(10))

    def command(self, user: str, *words: str, patience: float = 3.0) -> tuple[int, str]:
        """Run a command; `patience`: seconds in which a manager has to answer."""
        env = self.environment(user) | {"BUSBAR_TIMEOUT": str(patience)}
        done = forked.run(*words, env=env, timeout=bound(60))
        return done.returncode, done.stdout + done.stderr


@contextmanager
def realm(folder: Path, acl: str) -> Iterator[Realm]:
    passwords, rights = folder / "passwords", folder / "acl"
    passwords.touch(mode=0o600)
    for user in USERS:
        subprocess.run(["mosquitto_passwd", "-b", str(passwords), user, "secret"], check=True)
    rights.write_text(acl)
    rights.chmod(0o600)
    with mosquitto(
        folder, "allow_anonymous false", f"password_file {passwords}", f"acl_file {rights}"
    ) as port:
        yield Realm(folder, port)


def printed(folder: Path) -> str:
    """What the page's command prints."""
    (line,) = re.findall(r"^busbar (.*\bacl .*?) >", PAGE.read_text(), re.MULTILINE)
    env = {**os.environ, "HOME": str(folder), "BUSBAR_STATE": str(folder / "none")}
    done = forked.run(*line.split(), env=env, timeout=bound(60))
    done.check_returncode()
    return done.stdout


@pytest.mark.parametrize("mqtt", ["5", "3.1.1"])
@pytest.mark.fault(119, "U L")
async def test_a_manager_with_the_rights_of_another_realm_says_what_is_missing(
    tmp_path: Path, mqtt: str
) -> None:
    with (
        realm(tmp_path, render_mosquitto("busbar", "default", "manager", ["alice"])) as here,
        here.running("manager", "manager", "manager", "--owner", "alice", "--mqtt", mqtt),
    ):
        topic = "busbar/v1/lab/manager/m1/state"
        said = f"user 'manager' {'has' if mqtt == '5' else 'probably has'} no right to write"
        await until(lambda: f"{said} {topic}: the broker's ACL must give it" in here.log("manager"), 30)
        status, text = await asyncio.to_thread(here.command, "alice", "cluster", "list")
        assert status == 6 and "none was ever seen there" in text and "is this the manager's realm?" in text
        log = here.log("manager")
        assert log.count("connected to") <= 2 and log.count(said) == 1, log


@pytest.mark.fault(119, "U L")
async def test_the_page_s_command_serves_the_realm_that_it_names(tmp_path: Path) -> None:
    acl = await asyncio.to_thread(printed, tmp_path)
    with (
        realm(tmp_path, acl) as here,
        here.running("manager", "manager", "manager", "--owner", "alice"),
    ):
        await until(lambda: "connected to" in here.log("manager"), 30)
        status, text = await asyncio.to_thread(here.command, "alice", "cluster", "create", "edge")
        assert status == 0, text
        status, text = await asyncio.to_thread(here.command, "alice", "node", "pair", "n1")
        assert status == 0, text
        with here.running("n1", "n1", "agent", "--node", "n1"):
            await until(lambda: "assignment" in here.log("n1"), 30)
        assert "no right" not in here.log("manager") + here.log("n1"), here.log("manager")


WITHOUT = (
    "status/#",
    "request/+/+",
    "response/+/+",
    "node/+/assignment",
    "node/+/heartbeat",
    "node/+/reported",
    "node/+/state",
    "node/+/command",
)


def said_of(tail: str) -> re.Pattern[str]:
    """The right to what a filter matches, in the log: the filter, or the topic at which it was missing."""
    topic = tail.replace("+", r"[^/ ]+").replace("#", r"\S+")
    return re.compile(rf"user 'manager' .*no right to .* busbar/v1/lab/{topic}: ")


def lacking(without: str) -> str:
    """The ACL of the contract, with the manager's rights one by one and one of them left out."""
    acl = render_mosquitto("busbar", "lab", "manager", ["alice"])
    every = [*WITHOUT, "event/#", "manager/+/state"]
    each = [f"topic readwrite busbar/v1/lab/{tail}" for tail in every if tail != without]
    assert acl.count("topic readwrite busbar/v1/lab/#") == 1
    return acl.replace("topic readwrite busbar/v1/lab/#", "\n".join(each))


PASSIVE = ("status/#", "node/+/state", "node/+/reported")
"""Only what should have come tells: the version of MQTT makes no difference."""


@pytest.mark.parametrize(
    ("without", "mqtt"),
    [(tail, mqtt) for tail in WITHOUT for mqtt in ("5", "3.1.1") if mqtt == "5" or tail not in PASSIVE],
)
@pytest.mark.fault(119, "U L")
async def test_each_right_of_the_manager_is_looked_at(tmp_path: Path, without: str, mqtt: str) -> None:
    beat = ("--heartbeat", "1")
    with (
        realm(tmp_path, lacking(without)) as here,
        here.running("manager", "manager", "manager", "--owner", "alice", "--mqtt", mqtt, *beat),
        ExitStack() as more,
    ):
        if without in PASSIVE:
            await until(lambda: "connected to" in here.log("manager"), 30)
            status, text = await asyncio.to_thread(here.command, "alice", "node", "pair", "n1")
            assert status == 0, text
        if without.startswith("node/") and without in PASSIVE:
            more.enter_context(here.running("n1", "n1", "agent", "--node", "n1"))
        await until(lambda: said_of(without).search(here.log("manager")), 60)
        others = [tail for tail in WITHOUT if tail != without and said_of(tail).search(here.log("manager"))]
        assert others == [], here.log("manager")


@pytest.mark.fault(119, "U L")
async def test_no_person_receives_what_a_manager_finds_out_its_rights_with(tmp_path: Path) -> None:
    with realm(tmp_path, render_mosquitto("busbar", "lab", "manager", ["alice"])) as here:
        seen: list[Message] = []
        options = ConnectOptions(port=here.port, username="manager", password="secret", client_id="spy")
        link = MqttLink(options, clock=SystemClock(), random=Random(1))
        link.subscribe("busbar/v1/lab/#", seen.append)
        running = asyncio.create_task(link.run())
        try:
            await link.wait_connected(bound(10))
            with here.running("manager", "manager", "manager", "--owner", "alice"):
                last = {f"busbar/v1/lab/node/{of}" for of in ("_/command", "manager/heartbeat")}
                await until(lambda: last <= {message.topic for message in seen}, 30)
        finally:
            running.cancel()
            await asyncio.wait([running])
        empty = [message.topic for message in seen if not message.payload]
        assert [topic for topic in empty if may_read(PERSON, "alice", topic)] == []


@pytest.mark.parametrize("mqtt", ["5", "3.1.1"])
@pytest.mark.parametrize("access", ["write", "read "])
@pytest.mark.fault(119, "U L")
async def test_an_agent_without_its_rights_says_what_is_missing(
    tmp_path: Path, access: str, mqtt: str
) -> None:
    acl, line = render_mosquitto("busbar", "lab", "manager", ["alice"]), "busbar/v1/+/node/%u/state\n"
    assert acl.count(line) == 2
    with (
        realm(tmp_path, acl.replace(f"pattern {access} {line}", "")) as here,
        here.running("n1", "n1", "agent", "--node", "n1", "--mqtt", mqtt),
    ):
        said = re.compile(r"user 'n1' .*no right to .* busbar/v1/lab/node/n1/state: ")
        await until(lambda: said.search(here.log("n1")), 40)
        assert here.log("n1").count("connected to") <= 2


@pytest.mark.parametrize("mqtt", ["5", "3.1.1"])
@pytest.mark.fault(119, "U L")
async def test_an_agent_that_may_not_write_heartbeats_says_so(tmp_path: Path, mqtt: str) -> None:
    acl, line = render_mosquitto("busbar", "lab", "manager", ["alice"]), "busbar/v1/+/node/%u/heartbeat\n"
    assert acl.count(line) == 1
    with (
        realm(tmp_path, acl.replace(f"pattern write {line}", "")) as here,
        here.running("n1", "n1", "agent", "--node", "n1", "--mqtt", mqtt),
    ):
        said = re.compile(r"user 'n1' .*no right to write busbar/v1/lab/node/n1/heartbeat: ")
        await until(lambda: said.search(here.log("n1")), 40)


@pytest.mark.parametrize("mqtt", ["5", "3.1.1"])
@pytest.mark.fault(119, "U L")
async def test_a_manager_without_the_right_to_write_events_says_so_at_the_second(
    tmp_path: Path, mqtt: str
) -> None:
    """With MQTT 3.1.1, mosquitto only hangs up: long after the connect, and at another topic each time."""
    with (
        realm(tmp_path, lacking("event/#")) as here,
        here.running("manager", "manager", "manager", "--owner", "alice", "--mqtt", mqtt),
    ):
        await until(lambda: "connected to" in here.log("manager"), 30)
        await asyncio.sleep(6)  # the connection counts as stable
        for name in ("edge", "core", "third"):
            # The manager connects again after each event.
            create = partial(here.command, "alice", "cluster", "create", name, patience=bound(10))
            status, text = await asyncio.to_thread(create)
            assert status == 0, text
        await until(lambda: said_of("event/#").search(here.log("manager")), 30)


@pytest.mark.parametrize("mqtt", ["5", "3.1.1"])
@pytest.mark.fault(119, "U L")
async def test_an_agent_that_may_not_read_its_assignment_says_so(tmp_path: Path, mqtt: str) -> None:
    acl, line = render_mosquitto("busbar", "lab", "manager", ["alice"]), "busbar/v1/+/node/%u/assignment\n"
    assert acl.count(line) == 1
    with (
        realm(tmp_path, acl.replace(f"pattern read  {line}", "")) as here,
        here.running("n1", "n1", "agent", "--node", "n1", "--mqtt", mqtt),
    ):
        said = "user 'n1' may have no right to read busbar/v1/lab/node/n1/assignment;"
        await until(lambda: said in here.log("n1"), 60)


@pytest.mark.fault(119, "U L")
async def test_a_person_whom_the_acl_does_not_name_is_told(tmp_path: Path) -> None:
    acl = render_mosquitto("busbar", "lab", "manager", ["alice"])
    with (
        realm(tmp_path, acl) as here,
        here.running("manager", "manager", "manager", "--owner", "bob"),
    ):
        await until(lambda: "connected to" in here.log("manager"), 30)
        status, text = await asyncio.to_thread(here.command, "bob", "cluster", "create", "edge")
        assert status == 0, text
        words = ("cluster", "start", "edge", "--wait", "--timeout", "2")
        status, text = await asyncio.to_thread(here.command, "bob", *words)
        assert status == 6
        assert "user 'bob' probably has no right to read busbar/v1/lab/status/edge/" in text, text


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.fault(119, "U L")
async def test_a_right_that_is_missing_is_told_to_the_one_who_writes(
    tmp_path: Path, protocol: Literal[4, 5]
) -> None:
    """3.1.1 does not tell at once, but a connection that is lost at the same topic again has a cause."""
    acl = render_mosquitto("busbar", "lab", "manager", ["alice"])
    with realm(tmp_path, acl) as here:
        options = ConnectOptions(port=here.port, username="alice", password="secret", protocol=protocol)
        link = MqttLink(options, clock=SystemClock(), random=Random(1))
        running = asyncio.create_task(link.run())
        try:
            await link.wait_connected(bound(10))
            own, unread = "busbar/v1/lab/node/alice/state", "busbar/v1/lab/node/alice/heartbeat"
            (error,) = await missing_rights(link, "alice", {own: own, unread: unread})
            assert error.topic == unread and "probably" in str(error)
            topic, said = (
                "busbar/v1/lab/status/edge/routercluster/edge",
                "no right to write busbar/v1/lab/status/edge",
            )
            if protocol == 5:
                with pytest.raises(MissingRightError, match=f"'alice' has {said}"):
                    await link.publish(topic, b"x")
            while said not in link.rotation.last_error:
                await link.wait_connected(bound(10))
                with contextlib.suppress(BusOfflineError):
                    await link.publish(topic, b"x")
                await until(lambda: not link.connected)
        finally:
            running.cancel()
            await asyncio.wait([running])
