"""Every decoder of untrusted input, as a function of bytes that may refuse but must not fail.

The suite runs some thousands of inputs (test_fuzz). With atheris installed, this runs millions, guided by
coverage; without it, it mutates blindly:

python -m tests.security.fuzz --inputs 10000000            all of them, in turn
python -m tests.security.fuzz --inputs 100000 request      one of them
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from random import Random
from typing import Any

from busbar.bus import messages
from busbar.bus.access import acl
from busbar.bus.broker.accounts import Accounts
from busbar.bus.broker.client_connection import ENDINGS
from busbar.bus.broker.connect import Refused, read_connect
from busbar.bus.broker.join_tokens import parse_offer
from busbar.bus.connection.link import Message
from busbar.bus.contract import OPERATIONS
from busbar.bus.decode import convert, parse, read
from busbar.bus.errors import BusError
from busbar.bus.listeners import port_range
from busbar.bus.options import parse_urls
from busbar.bus.routers.transport import check_transport
from busbar.bus.topics import Topics, is_name, is_valid_topic, matches, parse_event
from msgspec import UNSET

from tests import pace
from tests.ending import end_on_sigterm
from tests.security.decoders import FOLDER, agent_file, drive, folder, packets

TOPICS = Topics("lab")
Target = Callable[[bytes], None]
PEER_MESSAGES = (
    messages.Assignment, messages.Reported, messages.Heartbeat, messages.NodeState, messages.Command,
    messages.ManagerState, messages.Event, messages.Status, messages.Response, messages.LogChunk,
)  # fmt: skip
PARAMS = [row.params for row in OPERATIONS.values()]


def request(data: bytes) -> None:
    """An operation's request: the envelope, then the parameters of every operation."""
    try:
        body = parse(data)
    except BusError as error:
        assert error.code in ("malformed_request", "payload_too_large")
        return
    try:
        params = convert(body, messages.Request).params
    except BusError as error:
        assert error.code == "invalid_argument" and error.pointers
        return
    for kind in PARAMS:
        try:
            convert(params, kind, "/params")
        except BusError as error:
            assert error.code == "invalid_argument" and error.pointers[0].startswith("/params")


def peer(data: bytes) -> None:
    """What managers, agents and clients read from each other."""
    for kind in PEER_MESSAGES:
        try:
            read(data, kind)
        except BusError as error:
            error.to_wire()


def transport(data: bytes) -> None:
    """A transport's definition, nested and free-form."""
    try:
        value: Any = parse(data)
    except BusError:
        return
    try:
        plain = check_transport(value, "/transport")
    except BusError as error:
        assert error.code == "invalid_configuration" and error.pointers[0].startswith("/transport")
        return
    port_range(plain.get("endpoint", {}).get("port", UNSET))


def words(data: bytes) -> None:
    """Text: topics, filters, names, URLs, passwords; no longer than MQTT can carry."""
    text = data[:65_535].decode("utf-8", "surrogateescape")
    for take in (TOPICS.parse_request, TOPICS.parse_node, TOPICS.parse_status, TOPICS.parse_manager):
        take(TOPICS.prefix + "/" + text)
        take(text)
    parse_event(text, "busbar")
    parse_event(f"{TOPICS.prefix}/event/{text}", "busbar")
    matches(text, text)
    for kind in (*acl.KINDS, text):
        write = acl.may_publish(kind, "n1", text, "busbar", "lab")
        assert not write or is_valid_topic(text)
        acl.may_subscribe(kind, text, text, "busbar", "lab")
    assert not is_name(text) or text.isascii()
    parse_offer(text)
    try:
        options = parse_urls(text)
        assert all(broker.host and broker.password is None for broker in options.brokers)
    except ValueError:
        pass


def accounts(data: bytes) -> None:
    """A damaged accounts file."""
    path = folder() / "accounts.json"
    path.touch(mode=0o600)
    path.write_bytes(data)
    try:
        Accounts.load(path)
    except ValueError as error:
        assert "damaged" in str(error)


def connect(data: bytes) -> None:
    """The first packet of a connection to the embedded broker, before any password."""
    from amqtt.mqtt.packet import CONNECT, MQTTFixedHeader

    try:
        drive(read_connect(MQTTFixedHeader(CONNECT, 0, len(data)), data))
    except (Refused, *ENDINGS):
        pass


def agent(data: bytes) -> None:
    """An agent's assignments."""
    from busbar.agent.planner import plan

    try:
        assignment = read(data, messages.Assignment)
    except BusError:
        return
    plan.refusal(None, assignment, adopt_store=False)
    plan.refusal(assignment, assignment, adopt_store=False)
    plan.is_redelivery(assignment, assignment)
    plan.desired_workers(assignment)


def manager(data: bytes) -> None:
    """All inputs of a manager: requests, node messages, manager states. They never raise."""
    dispatch, reports, fence = _doors()
    dispatch.handle(Message(TOPICS.request("alice", "create_routercluster"), data))
    for leaf in ("state", "reported", "heartbeat"):
        reports.handle(Message(TOPICS.node("n1", leaf), data))  # type: ignore[arg-type]
    fence.handle(Message(TOPICS.manager_state("m2"), data))


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        request, peer, transport, words, accounts, connect, packets, agent, agent_file, manager
    )
}  # fmt: skip


@cache
def _doors() -> tuple[Any, Any, Any]:
    """A manager's inputs with a store whose writer never gets anything."""
    from busbar.bus.clock import SystemClock
    from busbar.manager.api.requests import Dispatch, Responder
    from busbar.manager.ingest.reports import Reports
    from busbar.manager.leader.fencing import Fence
    from busbar.manager.rate_limit import Limits
    from busbar.manager.state.node_memory import NodeMemory

    class Sink:
        max_packet = 1024 * 1024

        def reply(self, topic: str, payload: bytes, properties: Any) -> None:
            assert topic.startswith(TOPICS.response("alice", "")) and json.loads(payload)["op"]

    clock = SystemClock()
    store, world = _Store(), _World()
    responder = Responder("m1", 1, lambda: None)  # type: ignore[arg-type,return-value]
    limits = Limits(1e9, 10**9, 10**9)
    dispatch = Dispatch(store, Sink(), responder, limits, clock=clock, new_id=lambda: "made")  # type: ignore[arg-type]
    quiet: Any = lambda *_: None  # noqa: E731
    reports = Reports(store, NodeMemory(clock, _timing()), world, clock, wake=quiet, command=quiet)  # type: ignore[arg-type]
    return dispatch, reports, Fence(TOPICS, "m1", "s1", 1)


def _timing() -> Any:
    from busbar.manager.planner.model import LivenessTiming

    return LivenessTiming()


class _Store:
    """The part of a store that is used before anything is written."""

    id, epoch, topics = "s1", 1, TOPICS

    @property
    def reads(self) -> _Store:
        return self

    def principal(self, name: str) -> Any:
        from busbar.manager.store.rows import PrincipalRow

        return PrincipalRow("oid", name, "owner", 0)

    def on_commit(self, listener: Any) -> None:
        """Nothing is committed."""

    def submit(self, fn: Any, done: Any, cause: Any = None) -> None:
        """Writing is not part of this target."""


class _World:
    """One node is known."""

    def on_node_removed(self, listener: Any) -> None:
        pass

    def node_named(self, name: str) -> Any:
        from busbar.bus.states import NodeStatus
        from busbar.manager.store.rows import NodeRow

        return NodeRow(
            "oid", name, None, NodeStatus.ONLINE, None, None, None, False, [], None, [], 0, 0, 0, 0, 1
        )

    def has_unknown(self, oid: str) -> bool:
        return False


# --- inputs ------------------------------------------------------------------------------------------------

SEEDS: tuple[bytes, ...] = (
    b"{}",
    b'{"id":"r1","reply":"box","ttl_ms":1000,"expect":{"version":3},"params":{"routercluster":{"name":"edge",'
    b'"tags":["a"],"transport":{"type":"web","endpoint":{"type":"tcp","port":8080,"shared":true},'
    b'"paths":{"/":{"type":"static","directory":"x"},"ws":{"type":"websocket"}}}}}}',
    b'{"params":{"routercluster_oid":"3eccb1fd-251b-4eda-bee9-06b3d24b1c5e","workergroup":{"scale":2}}}',
    b'{"type":"mqtt","endpoint":{"type":"tcp","port":[25000,25099]}}',
    b'{"store":"s9","epoch":7,"version":42,"heartbeat_ms":5000,"workers":[{"worker":"web-1","oid":"o",'
    b'"cluster":"edge","workergroup":"web","generation":3,"runtime":"amqtt","digest":"sha256:9"}]}',
    b'{"boot":"b-1","conn":2,"store":"s9","applied":{"epoch":7,"version":42},"workers":[{"worker":"web-1",'
    b'"state":"RUNNING","generation":3,"pid":4,"address":"mqtt://n1:1","restarts":0}],"digest":"d"}',
    b'{"boot":"b-1","conn":2,"seq":9,"uptime_ms":1,"applied":{"epoch":1,"version":1},"digest":"d"}',
    b'{"state":"ready","boot":"b-1","conn":17}',
    b'{"state":"online","manager":"m1","store":"s1","epoch":3,"limits":{"rate":1}}',
    b'{"n1":{"kind":"node","salt":"AAAA","hash":"scrypt:4096:AAAA"}}',
    b"busbar/v1/lab/node/n1/state",
    b"mqtts://user@host:8883/path",
    b"join:token:" + b"s" * 43,
    b"\x02\x82\x10\x00\x01\x00\x0bbusbar/v1/#\x01\x32\x12\x00\x0cbusbar/v1/lab\x00\x02{}\x40\x02\x00\x01\xc0\x00",
    b"\x00\xa2\x0f\x00\x03\x00\x0bbusbar/v1/#\x34\x08\x00\x02ab\x00\x05xx\x62\x02\x00\x05\xe0\x00",
    b'[agent]\nhost = "n1"\nmax_workers = 4\nstatic_roots = ["/srv"]\n[agent.labels]\nzone = "a"\n'
    b'[runtimes.web]\nargv = ["/bin/x", "{port}"]\nready = {type = "http", path = "/"}\ngrace = 1\n',
    b"\x00\x04MQTT\x04\xc6\x00\x3c\x00\x01c\x00\x01t\x00\x01w\x00\x01u\x00\x01p",
)
TOKENS: tuple[bytes, ...] = (
    b"null", b"true", b"NaN", b"1e999", b"-0", b"9" * 400, b'"\\ud800"', b"[" * 40, b'{"a":' * 40, b"\x00",
    b"\xff", b"\xc3\x28", b'"a":1,"a":2,', b"..", b"/", b"+", b"#", b"$", b"\n", b"1.5", b"-1", b"[]", b"{}",
    struct.pack("!H", 65535), b"\xef\xbb\xbf", "é".encode(), b"18446744073709551616",
)  # fmt: skip


def mutate(random: Random, data: bytes) -> bytes:
    """One to eight small changes."""
    out = bytearray(data)
    for _ in range(random.randint(1, 8)):
        at = random.randrange(len(out) + 1)
        match random.randrange(6):
            case 0:
                out[at:at] = random.choice(TOKENS)
            case 1:
                out[at : at + random.randint(1, 8)] = b""
            case 2:
                out[at : at + random.randint(0, 4)] = random.choice(TOKENS)
            case 3 if at < len(out):
                out[at] ^= 1 << random.randrange(8)
            case 4:
                end = at + random.randint(1, 40)
                out[at:at] = out[at:end]
            case _:
                out[at:] = random.choice(SEEDS)[at:]
    return bytes(out)


def inputs(seed: int) -> Iterator[bytes]:
    """Mutations of the seeds, and of mutations."""
    random, pool = Random(seed), list(SEEDS)
    while True:
        data = mutate(random, random.choice(pool))
        if len(pool) < 2_000:
            pool.append(data)
        elif len(data) < 4_000:
            pool[random.randrange(len(SEEDS), len(pool))] = data
        yield data


def attack(target: Target, data: bytes) -> None:
    """Run one input. Raises AssertionError with it if the target fails or takes over two CPU seconds."""
    began = time.thread_time()
    try:
        target(data)
    except BaseException as error:  # SystemExit and the like would end atheris silently
        raise AssertionError(f"{target.__name__} failed on {data[:300]!r}: {error!r}") from error
    if (took := time.thread_time() - began) > 2.0 and took > pace.within(2.0):
        raise AssertionError(f"{target.__name__} took {took:.1f} s on {data[:300]!r}")


def blind(names: list[str], count: int, seed: int, seconds: float) -> int:
    """The same without atheris: mutations, in turn."""
    source, began = inputs(seed), time.monotonic()
    targets = [TARGETS[name] for name in names]
    done = 0
    while done < count and time.monotonic() - began < seconds:
        try:
            attack(targets[done % len(targets)], next(source))
        except AssertionError as error:
            print(f"fuzzing: FOUND by input {done:,} (seed {seed}): {error}")
            return 1
        done += 1
    took = time.monotonic() - began
    told = f"{done:,} blind inputs to {len(names)} decoders in {took:.0f} s (seed {seed})"
    print(f"fuzzing: {told}: nothing found")
    return 0


def fuzz_once(names: list[str], arguments: list[str]) -> None:
    """One process of atheris, which exits by itself after a failure or at its bound."""
    import atheris  # type: ignore[import-not-found]

    targets = [TARGETS[name] for name in names]

    def one(data: bytes) -> None:
        if data:
            attack(targets[data[0] % len(targets)], data[1:])

    for target in targets:  # instrument their late imports too
        for seed in SEEDS:
            target(seed)
    atheris.instrument_all()
    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()


def guided(names: list[str], count: int, seed: int, seconds: float) -> int:
    """Run atheris in a process of its own, and check its exit status and output."""
    corpus = folder() / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, data in enumerate(SEEDS):
        for first in range(len(names)):
            (corpus / f"{number}-{first}").write_bytes(bytes([first]) + data)
    options = [f"-atheris_runs={count}", f"-max_total_time={seconds:.0f}", f"-seed={seed}", "-max_len=8192"]
    options += ["-rss_limit_mb=1024", "-timeout=30", f"-artifact_prefix={folder()}/", str(corpus)]
    command = [sys.executable, "-m", "tests.security.fuzz", *names, "--guided", json.dumps(options)]
    env = {**os.environ, FOLDER: str(folder())}
    # It begins to count once everything is instrumented: a minute, on a busy machine many.
    bound = seconds + pace.bound(300)
    ended = subprocess.run(command, capture_output=True, text=True, timeout=bound, check=False, env=env)
    said = (ended.stdout + ended.stderr).strip().splitlines()
    done = [line.removeprefix("INFO: ") for line in said if line.startswith(("Done ", "INFO: Done "))]
    if ended.returncode or not done:
        print("\n".join(line[:2_000] for line in said[-40:]))
        for path in (*folder().glob("crash-*"), *folder().glob("timeout-*")):
            print(f"the input: {path.read_bytes()!r}")
        print(f"fuzzing: FOUND, exit code {ended.returncode}: the input stands above")
        return 1
    told = f"{done[-1]}, led by coverage, to {len(names)} decoders ({_coverage(said)})"
    print(f"fuzzing: {told}: nothing found")
    return 0


def _coverage(said: list[str]) -> str:
    """Edges and features that the inputs reached, as libFuzzer counts them."""
    last = next((line for line in reversed(said) if " cov: " in line), "")
    return " ".join(last.partition("cov: ")[2].split()[:3]).replace("ft:", "edges,") + " features"


def main() -> int:
    parser = argparse.ArgumentParser(description="Throw inputs at every decoder that strangers can reach.")
    parser.add_argument("targets", nargs="*", default=list(TARGETS), metavar="TARGET")
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=float, default=60.0, help="no longer than this")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--blind", action="store_true", help="mutate blindly, even with atheris installed")
    parser.add_argument("--guided", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    unknown = set(asked.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no target {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    logging.disable(logging.CRITICAL)
    if asked.guided:
        fuzz_once(asked.targets, json.loads(asked.guided))
    by_coverage = not asked.blind and importlib.util.find_spec("atheris") is not None
    end_on_sigterm()
    search = guided if by_coverage else blind
    return search(asked.targets, asked.inputs, asked.seed, asked.minutes * 60)


if __name__ == "__main__":
    sys.exit(main())
