"""The whole system for a test: broker, manager and agents as processes of their own, and their clean end."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from busbar.bus.access.acl import render_mosquitto
from busbar.bus.access.home_assistant import parse
from busbar.bus.broker.accounts import ensure_account, new_secret

from tests import forked
from tests.brokers import free_port, mosquitto, wait_for_port
from tests.pace import bound
from tests.plain import Plain

if TYPE_CHECKING:
    from tests.clusters.engines import Engine

PERSONS = {"alice": "owner", "bob": "operator", "carol": "operator", "vic": "viewer", "nobody": None}
NODES = ("n1", "n2", "n3")
KINDS = {"manager": "manager", **dict.fromkeys(PERSONS, "person"), **dict.fromkeys(NODES, "node")}
ROOT = Path(__file__).parent.parent
AnyProcess: TypeAlias = "forked.Process | subprocess.Popen[bytes]"


class Stack:
    """One realm `lab` on one broker. Use `stack(...)` to make it."""

    def __init__(self, folder: Path, heartbeat: float, house: str | None = None) -> None:
        self.folder = folder
        self.heartbeat = heartbeat
        self.broker = "embedded"
        self.house = house
        self.port = 0
        self.ports: list[int] = []
        """The nodes' ports where the broker is a cluster."""
        self.at: dict[str, int] = {}
        """Which of them a user connects to first; the first of all unless it stands here."""
        # As Busbar makes them: the broker hashes a shorter one, as people choose, at eight times the cost.
        self.secrets = {name: new_secret() for name in ("manager", *PERSONS, *NODES)}
        self.processes: dict[str, AnyProcess] = {}
        self.clients: list[Plain] = []
        (folder / "secrets").mkdir(mode=0o700)
        for name, secret in self.secrets.items():
            file = folder / "secrets" / name
            file.touch(mode=0o600)
            file.write_text(secret)

    def spawn(self, name: str, *arguments: str, before: Sequence[str] = (), **env: str) -> AnyProcess:
        """Start a service of ours under a name; its output goes to a file in the folder.

        It is forked; a program where it has a wrapper, `before`, or the modules of another release.
        """
        if not before and "PYTHONPATH" in env:
            before = (sys.executable, "-m", "busbar.cli.app")
        kept = {key for key in os.environ if not key.startswith("BUSBAR_") or key == "BUSBAR_CROSSBAR"}
        clean = {key: os.environ[key] for key in kept}
        with (self.folder / f"{name}.log").open("ab") as output:
            if not before:
                made = forked.start(*arguments, env={**clean, **env}, output=output, folder=ROOT)
            else:
                made = subprocess.Popen(
                    [*before, *arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                    env={**clean, **env}, cwd=ROOT,
                )  # fmt: skip
        self.processes[name] = made
        return self.processes[name]

    def port_of(self, user: str) -> int:
        """The port that a user connects to first."""
        return self.ports[self.at.get(user, 0)] if self.ports else self.port

    def urls(self, user: str) -> str:
        """The brokers as a user is told of them: his own first, then the next in turn."""
        first = self.at.get(user, 0)
        ports = [*self.ports[first:], *self.ports[:first]] if self.ports else [self.port]
        return ",".join(f"mqtt://127.0.0.1:{port}" for port in ports)

    def connection(self, user: str) -> list[str]:
        return [
            "--realm", "lab", "--broker", self.urls(user), "--username", user,
            "--password-file", str(self.folder / "secrets" / user),
        ]  # fmt: skip

    def start_manager(self, name: str = "manager", *more: str) -> None:
        state = ["--state", str(self.folder / "manager-state"), "--heartbeat", str(self.heartbeat)]
        state += ["--home-assistant", self.house] if self.house else []
        self.spawn(name, "manager", "--owner", "alice", *state, *more, *self.connection("manager"))

    def start_agent(self, node: str, *more: str) -> None:
        self.spawn(
            node, "agent", "--node", node, "--state", str(self.folder / f"agent-{node}"), *more,
            *self.connection(node),
        )  # fmt: skip

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to one of our own processes and wait for its end."""
        process = self.processes.pop(name)
        process.send_signal(number)
        process.wait(bound(20))

    def client(self, user: str = "alice") -> Plain:
        """A connected plain client; closed with the stack."""
        made = Plain(self.port_of(user), user, self.secrets[user])
        self.clients.append(made)
        return made

    def add_principals(self, owner: Plain) -> None:
        """Give every person its role."""
        for person, role in PERSONS.items():
            if role and person != owner.user:
                owner.ok("add_principal", {"principal": {"name": person, "role": role}})

    def wait_manager(self, client: Plain, timeout: float = 20.0) -> None:
        """Wait until the manager answers."""
        client.subscribe("manager", "+", "state")
        client.wait_retained(
            client.topic("manager", "m1", "state"), lambda value: value.get("state") == "online", timeout
        )

    def logs(self) -> str:
        """The last lines that every service wrote."""
        files = {file.name: file.read_text(errors="replace") for file in sorted(self.folder.glob("*.log"))}
        return "\n".join(f"--- {name}\n" + "\n".join(t.splitlines()[-15:]) for name, t in files.items())

    def close(self) -> None:
        """End everything that was started here, workers included."""
        for client in self.clients:
            with contextlib.suppress(Exception):
                client.__exit__()
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in reversed(self.processes.values()):
            try:
                process.wait(bound(10))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(bound(5))
        kill_workers(self.folder)


def kill_workers(folder: Path) -> None:
    """SIGKILL the workers that still run from a folder of this test: it is their working folder."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            environment = (entry / "environ").read_bytes()
            if (
                b"BUSBAR_WORKER_TOKEN=" in environment
                and str(folder).encode() in os.readlink(entry / "cwd").encode()
            ):
                os.kill(int(entry.name), signal.SIGKILL)


@contextmanager
def stack(
    folder: Path, broker: str = "embedded", heartbeat: float = 1.0, house: str | None = None
) -> Iterator[Stack]:
    """A broker of this kind (embedded, mosquitto, or a cluster: see tests.clusters.engines) with accounts for
    everybody, and nothing else yet. `house`: the user that Home Assistant is there."""
    made = Stack(folder, heartbeat, house)
    made.broker = broker
    try:
        with start_broker(made, broker):
            try:
                yield made
            finally:
                made.close()  # while there is a broker to say goodbye to
    finally:
        made.close()


@contextmanager
def start_broker(made: Stack, broker: str) -> Iterator[None]:
    if broker == "mosquitto":
        with mosquitto(made.folder, *mosquitto_lines(made)) as made.port:
            yield
        return
    if broker != "embedded":
        with cluster(made, broker):
            yield
        return
    made.port = free_port()
    state = made.folder / "broker"
    state.mkdir(mode=0o700)
    for name, kind in KINDS.items():
        ensure_account(state / "accounts.json", name, kind, made.secrets[name])
    start_embedded(made)
    yield


@contextmanager
def cluster(made: Stack, kind: str) -> Iterator[Engine]:
    """A cluster of brokers: the manager on the first node, persons on the second, agents on the last."""
    from tests.clusters.engines import Account, engine

    accounts = {name: Account(kind, made.secrets[name]) for name, kind in KINDS.items()}
    with engine(kind, made.folder / "brokers", accounts) as running:
        made.ports = running.ports
        made.port = made.ports[0]
        made.at = {
            **dict.fromkeys(PERSONS, min(1, len(made.ports) - 1)),
            **dict.fromkeys(NODES, len(made.ports) - 1),
        }
        yield running


def start_embedded(made: Stack, **env: str) -> None:
    """Start (again) the embedded broker on the stack's port."""
    house = ["--home-assistant", made.house] if made.house else []
    words = ["--state", str(made.folder), "--port", str(made.port), *house]
    process = made.spawn("broker", "broker", *words, **env)
    wait_for_port(made.port, process)


def mosquitto_lines(made: Stack) -> list[str]:
    """Passwords and the generated access list, as an operator would set them up."""
    passwords = made.folder / "passwords"
    passwords.touch(mode=0o600)
    for name, secret in made.secrets.items():
        subprocess.run(["mosquitto_passwd", "-b", passwords, name, secret], check=True, capture_output=True)
    access = made.folder / "acl"
    access.write_text(render_mosquitto("busbar", "lab", "manager", list(PERSONS), parse(made.house)))
    access.chmod(0o600)
    return ["allow_anonymous false", f"password_file {passwords}", f"acl_file {access}"]


def schema_digest(schema: Any) -> str:
    """As the contract has it."""
    text = json.dumps([schema], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


class FakeNode:
    """An agent made of plain MQTT: applies every assignment at once, reports, and sends heartbeats."""

    def __init__(self, made: Stack, node: str, runtimes: list[str] | None = None) -> None:
        self.node = node
        self.runtimes = runtimes if runtimes is not None else ["amqtt", "crossbar", "mosquitto"]
        self.client = made.client(node)
        self.boot, self.conn = f"b-{secrets.token_hex(3)}", 1
        self.assignment: dict[str, Any] | None = None
        self.behave: Callable[[dict[str, Any]], dict[str, Any]] = lambda worker: {"state": "RUNNING"}
        self.silent = False
        self.schemas: dict[str, dict[str, Any]] = {}
        """By runtime: what it says that it accepts."""
        self._stop = threading.Event()
        self._beat = threading.Thread(target=self._heartbeats, args=(made.heartbeat,), daemon=True)
        self.client.client.message_callback_add(self.client.topic("node", node, "assignment"), self._assigned)
        self.client.client.message_callback_add(self.client.topic("node", node, "command"), self._command)

    def start(self) -> FakeNode:
        self.client.subscribe("node", self.node, "assignment")
        self.client.subscribe("node", self.node, "command")
        self.state("ready")
        self.report()
        self._beat.start()
        return self

    def stop(self) -> None:
        self._stop.set()

    def state(self, state: str, **more: Any) -> None:
        body = {"state": state, "boot": self.boot, "conn": self.conn, **more}
        self._publish("state", body, retain=True)

    def report(self, asked: Collection[str] = ()) -> None:
        if self.silent:
            return
        workers = []
        for worker in (self.assignment or {}).get("workers", []):
            row = {"worker": worker["worker"], "generation": worker["generation"], "pid": 4711, "restarts": 0,
                   "address": f"mqtt://{self.node}:1883", "reason": None, **self.behave(worker)}  # fmt: skip
            workers.append(row)
        self.digest = json.dumps(workers, sort_keys=True)[-64:]
        body = {"boot": self.boot, "conn": self.conn, "store": (self.assignment or {}).get("store"),
                "applied": self.applied(), "refused": None, "capacity": {"cpus": 2},
                "runtimes": self.runtimes, "workers": workers, "digest": self.digest}  # fmt: skip
        if self.schemas:
            known = {schema_digest(schema): schema for schema in self.schemas.values()}
            body["details"] = {name: {"version": "1.2", "schema": schema_digest(schema)}
                               for name, schema in self.schemas.items()}  # fmt: skip
            body["schemas"] = {key: schema for key, schema in known.items() if key in asked}
        self._publish("reported", body, retain=True)

    def applied(self) -> dict[str, int]:
        held = self.assignment or {"epoch": 0, "version": 0}
        return {"epoch": held["epoch"], "version": held["version"]}

    def _publish(self, leaf: str, body: dict[str, Any], *, retain: bool = False, qos: int = 1) -> None:
        self.client.client.publish(self.client.topic("node", self.node, leaf), json.dumps(body), qos, retain)

    def _assigned(self, _client: Any, _data: Any, message: Any) -> None:
        if message.payload:
            new = json.loads(message.payload)
            held = self.applied()
            if (new["epoch"], new["version"]) > (held["epoch"], held["version"]):
                self.assignment = new
                self.report()

    def _command(self, _client: Any, _data: Any, message: Any) -> None:
        command = json.loads(message.payload)
        if command.get("resync"):
            self.report(command.get("schemas", ()))

    def _heartbeats(self, interval: float) -> None:
        number = 0
        while not self._stop.wait(interval / 2):
            number += 1
            if not self.silent:
                body = {"boot": self.boot, "conn": self.conn, "seq": number, "uptime_ms": number * 500,
                        "applied": self.applied(), "digest": self.digest}  # fmt: skip
                self._publish("heartbeat", body, qos=0)
