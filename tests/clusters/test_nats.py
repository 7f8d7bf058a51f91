"""The control bus on three nats-server, of which the one that leads is killed while requests go on.

Until the others have elected another one, which takes them 4 to 9 s, nothing of QoS 1 is acknowledged.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from busbar.bus.access.nats_access import PASSWORDS, render_passwords

from tests.certificates import certificates
from tests.clusters.engines import Engine, Node, nats_program
from tests.clusters.fleet import BOUND_S, Roamer
from tests.faults.watcher import Watcher
from tests.pace import bound
from tests.stack import ROOT, Stack, cluster

pytestmark = [pytest.mark.nats, pytest.mark.timeout(300)]
MESSAGES = "$MQTT_msgs"
"""The stream in which messages of QoS 1 are until they are acknowledged."""
LOG = ("node", "n1", "log", "web-1")


def leader(brokers: Engine) -> Node | None:
    """The node that leads the stream of messages, as one of them says."""
    url = f"http://127.0.0.1:{brokers.nodes[0].monitoring}/jsz?accounts=true&streams=true"
    with urllib.request.urlopen(url, timeout=bound(5)) as answer:
        accounts = json.load(answer).get("account_details", [])
    streams = [stream for account in accounts for stream in account.get("stream_detail", [])]
    names = [stream["cluster"].get("leader") for stream in streams if stream["name"] == MESSAGES]
    return next((node for node in brokers.nodes if node.name in names), None)


class Caller(threading.Thread):
    """Creates cluster after cluster, each by a request of its own that it repeats until it is answered."""

    def __init__(self, client: Roamer) -> None:
        super().__init__(daemon=True)
        self.client, self.answered, self.failed = client, list[dict[str, Any]](), list[Exception]()
        self.stop = threading.Event()

    def run(self) -> None:
        try:
            for number in itertools.count():
                if self.stop.is_set():
                    return
                params = {"routercluster": {"name": f"c{number}"}}
                reply = self.client.ask("create_routercluster", params, id=f"id-{number}")
                self.answered.append(reply)
                time.sleep(0.02)
        except Exception as error:
            self.failed.append(error)


class Speaker(threading.Thread):
    """Publishes line after line at QoS 1, and remembers those that were acknowledged."""

    def __init__(self, client: Watcher) -> None:
        super().__init__(daemon=True)
        self.client, self.acknowledged = client, list[str]()
        self.stop = threading.Event()

    def run(self) -> None:
        for number in itertools.count():
            if self.stop.is_set():
                return
            sent = self.client.client.publish(self.client.topic(*LOG), f"line {number}", 1)
            while not sent.is_published() and not self.stop.is_set():
                time.sleep(0.02)
            if sent.is_published():
                self.acknowledged.append(f"line {number}")


def wait(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + bound(BOUND_S)
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def test_nats_server_accepts_the_files_of_the_page(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "howto" / "several-machines.md").read_text()
    (own,) = re.findall(r"```\n# /etc/nats/nats.conf on b1.*?\n(.*?)```", page, re.DOTALL)
    (command,) = re.findall(r"^busbar (.* acl --broker nats .*) > /etc/nats/busbar.conf$", page, re.MULTILINE)
    done = subprocess.run(
        [sys.executable, "-m", "busbar.cli.app", *command.split()], cwd=ROOT, check=True, capture_output=True
    )
    (tmp_path / "busbar.conf").write_bytes(done.stdout)
    users = ("manager", "alice", "n1", "n2")
    (tmp_path / PASSWORDS).write_text(render_passwords(dict.fromkeys(users, "secret")))
    certificates(tmp_path, "ca", "router")
    for name, ours in {"b1.crt": "router.crt", "b1.key": "router.key", "ca.crt": "ca.crt"}.items():
        own = own.replace(f"/etc/nats/{name}", str(tmp_path / ours))
    (tmp_path / "nats.conf").write_text(own)
    tried = subprocess.run(
        [nats_program(), "-t", "-c", str(tmp_path / "nats.conf")], capture_output=True, text=True
    )
    assert tried.returncode == 0, tried.stderr


def test_the_leading_node_is_killed_while_requests_go_on(tmp_path: Path) -> None:
    made = Stack(tmp_path, 0.5)
    try:
        with cluster(made, "nats") as brokers:
            made.start_manager()
            first = Roamer(made.ports, "alice", made.secrets["alice"])
            made.clients.append(first)
            first.sure("get_manager", timeout=BOUND_S)
            wait(lambda: leader(brokers), "a leader")
            lost = leader(brokers)
            assert lost is not None
            loses_nothing(made, brokers, lost, first)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{made.logs()}") from error
    finally:
        made.close()


def is_heard(reader: Watcher, speaker: Watcher) -> bool:
    speaker.publish(speaker.topic(*LOG), "begin")
    return any(payload == b"begin" for _, payload, _ in list(reader.messages))


def loses_nothing(made: Stack, brokers: Engine, lost: Node, first: Roamer) -> None:
    here, there = (node.port for node in brokers.nodes if node is not lost)
    # On a busy machine its connection may be lost too: what was published meanwhile must still come.
    reader = Watcher(there, "bob", made.secrets["bob"], session="reader")
    reader.subscribe("node", "+", "log", "+")
    speaker = Speaker(Watcher(here, "n1", made.secrets["n1"]))
    # The subscription is known at other nodes a moment after its SUBACK: what is published there until then
    # is not for it.
    wait(lambda: is_heard(reader, speaker.client), "the reader hears the speaker")
    made.clients += [reader, speaker.client]
    caller = Caller(first)
    for each in (speaker, caller):
        each.start()

    def more(count: int) -> Callable[[], object]:
        wanted = (len(caller.answered) + count, len(speaker.acknowledged) + count)
        return lambda: (
            caller.failed or (len(caller.answered) >= wanted[0] and len(speaker.acknowledged) >= wanted[1])
        )

    wait(more(20), "requests before")
    lost.kill()
    wait(more(20), "requests while the node is away")
    lost.start()
    wait(more(20), "requests after it is back")
    for each in (speaker, caller):
        each.stop.set()
        each.join(bound(60))
    assert not caller.failed and all(reply["ok"] for reply in caller.answered), caller.failed
    names = [reply["result"]["name"] for reply in caller.answered]
    found = first.sure("list_routerclusters", {"return_names": True}, timeout=BOUND_S)
    assert sorted(found) == sorted(names) and len(set(names)) == len(names), "each exactly once"

    def heard() -> set[str]:
        return {payload.decode() for topic, payload, _ in list(reader.messages) if "/log/" in topic}

    def missing() -> list[str]:
        return [line for line in speaker.acknowledged if line not in heard()]

    try:
        wait(lambda: not missing(), "each line that was acknowledged")
    except AssertionError as error:
        told = f"of {len(speaker.acknowledged)} lines {len(missing())} did not come: {missing()[:9]}"
        raise AssertionError(told) from error
