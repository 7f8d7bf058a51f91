"""The access matrix, actor × action × topic, written by hand from the contract, checked against the embedded
broker and against mosquitto with the generated ACL file. Both must agree on every cell.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from busbar.bus.access import acl
from busbar.bus.access.acl import render_mosquitto
from busbar.bus.broker import BrokerConfig, EmbeddedBroker
from busbar.bus.broker.accounts import ensure_account
from busbar.bus.topics import is_log, matches
from hypothesis import given
from hypothesis import strategies as st

from tests.brokers import mosquitto
from tests.clusters.engines import Account, engine
from tests.integration.bus.broker.kit import R, Raw, Will, packet, secret, text

pytestmark = pytest.mark.timeout(120)

PERSONS = ("alice", "bob", "vic")  # an owner, an operator and a viewer: the manager checks roles
NODES = ("n1", "n2")
KINDS = {"manager": "manager", **dict.fromkeys(PERSONS, "person"), **dict.fromkeys(NODES, "node")}
ACTORS = tuple(KINDS)
OBSERVER = "manager"

NAMES = ("alice", "bob", "n1", "n2", "manager", "mallory")
TOPICS = (
    *(f"{R}/request/{name}/create_routercluster" for name in NAMES),
    *(f"{R}/response/{name}/box" for name in NAMES),
    *(f"{R}/node/{name}/{leaf}" for name in ("n1", "n2", "alice", "mallory")
      for leaf in ("assignment", "command", "state", "reported", "heartbeat", "log/web-1")),
    *(f"{R}/{tail}" for tail in (
        "request/alice", "request/alice/a/b", "response/alice", "response/alice/a/b", "node/n1",
        "node/n1/other", "node/n1/log", "node/n1/log/a/b", "event/edge/worker/web-1/ready",
        "event/_/node/n1/online",
        "status/edge/routercluster/edge", "status/_/node/n1", "manager/m1/state", "manager/evil/state",
        "manager/m1", "other", "")),
)  # fmt: skip
OWN_LEAVES = ("state", "reported", "heartbeat", "log/+")


def may_write(actor: str, topic: str) -> bool:
    """Sections 2 and 9 of the contract, restated independently."""
    own = [f"{R}/request/{actor}/+", *(f"{R}/node/{actor}/{leaf}" for leaf in OWN_LEAVES)]
    return actor == "manager" or any(matches(pattern, topic) for pattern in own)


def may_read(actor: str, topic: str) -> bool:
    own = [f"{R}/response/{actor}/+", f"{R}/manager/+/state"]
    own += [f"{R}/node/{actor}/{leaf}" for leaf in ("state", "assignment", "command")]
    if actor in PERSONS:
        own += [
            f"{R}/{tail}"
            for tail in ("status/#", "event/#", "node/+/state", "node/+/reported", "node/+/log/+")
        ]
    return actor == "manager" or any(matches(pattern, topic) for pattern in own)


@dataclass
class Lab:
    """A broker with an account for every actor."""

    broker: str
    port: int
    clients: list[Raw] = field(default_factory=list)

    def takes(self, topic: str, retain: bool = True) -> bool:
        """The embedded broker rejects retained requests; mosquitto can't be configured to (decision 7)."""
        return not (retain and self.broker == "embedded" and topic.startswith(f"{R}/request/"))

    def keeps(self, topic: str) -> bool:
        """The embedded broker delivers retained logs and keeps none."""
        return self.takes(topic) and not (self.broker == "embedded" and is_log(topic, "busbar"))

    async def client(self, actor: str, client_id: str = "", **more: object) -> Raw:
        number = len(Raw.opened)
        return await Raw.connect(self.port, actor, client_id=client_id or f"{actor}-{number}", **more)

    async def write(self, writer: Raw, actor: str, topic: str, payload: bytes, retain: bool = False) -> Raw:
        """Publish, once more after a disconnect: mosquitto 2.0.11 disconnects after a forbidden publish."""
        try:
            await writer.publish(topic, payload, retain)
        except EOFError:
            writer = await self.client(actor)
            await writer.publish(topic, payload, retain)
        return writer


BROKERS = (
    "embedded",
    pytest.param("mosquitto", marks=pytest.mark.mosquitto),
    pytest.param("nats", marks=pytest.mark.nats),
)


@pytest.fixture(params=BROKERS)
async def lab(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Lab]:
    try:
        if request.param == "mosquitto":
            with mosquitto(tmp_path, *outside(tmp_path)) as port:
                yield Lab("mosquitto", port)
        elif request.param == "nats":
            accounts = {name: Account(kind, secret(name)) for name, kind in KINDS.items()}
            with engine("nats-server", tmp_path, accounts) as running:
                yield Lab("nats", running.ports[0])
        else:
            path = tmp_path / "private" / "accounts.json"
            for name, kind in KINDS.items():
                ensure_account(path, name, kind, secret(name))
            async with EmbeddedBroker(BrokerConfig(path, realm="lab")) as broker:
                yield Lab("embedded", broker.port)
    finally:
        while Raw.opened:
            Raw.opened.pop().leave()


def outside(folder: Path) -> tuple[str, ...]:
    """An operator's mosquitto: passwords, and the rules that `busbar acl` prints."""
    rules, passwords = folder / "acl", folder / "passwords"
    rules.write_text(render_mosquitto("busbar", "lab", "manager", PERSONS))
    passwords.write_text("".join(f"{name}:{secret(name)}\n" for name in ACTORS))
    rules.chmod(0o600)
    passwords.chmod(0o600)
    subprocess.run(["mosquitto_passwd", "-U", str(passwords)], check=True)
    return ("allow_anonymous false", f"password_file {passwords}", f"acl_file {rules}")


async def observer(lab: Lab) -> Raw:
    found = await lab.client(OBSERVER, "observer")
    assert (await found.subscribe(f"{R}/#", qos=0))[0] < 0x80
    return found


def heard(client: Raw) -> set[tuple[str, bytes]]:
    return {(topic, payload) for topic, payload, _ in client.got}


# --- publishing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("retain", [False, True], ids=["live", "retained"])
async def test_publishing(lab: Lab, retain: bool) -> None:
    watching = await observer(lab)
    expected = set()
    for actor in ACTORS:
        writer = await lab.client(actor)
        for topic in TOPICS:
            writer = await lab.write(writer, actor, topic, actor.encode(), retain)
            if may_write(actor, topic) and lab.takes(topic, retain):
                expected.add((topic, actor.encode()))
        await watching.ping()
    assert heard(watching) == expected
    if not retain:
        return
    late = await observer(lab)  # takes the id over; the last allowed message stays retained
    await late.ping()
    assert heard(late) == {
        (topic, b"n2" if may_write("n2", topic) else _last(topic)) for topic in TOPICS if lab.keeps(topic)
    }


def _last(topic: str) -> bytes:
    return [actor for actor in ACTORS if may_write(actor, topic)][-1].encode()


async def test_wills(lab: Lab) -> None:
    """A will is a publish: the broker must not publish what the client may not."""
    watching = await observer(lab)
    expected = set()
    for actor in ACTORS:
        for number, topic in enumerate(TOPICS):
            payload = f"{actor}'s".encode()
            dying = await lab.client(actor, f"{actor}-will-{number}", will=Will(topic, payload, retain=True))
            dying.leave()
            if may_write(actor, topic) and lab.takes(topic):
                expected.add((topic, payload))
        last = Will(f"{R}/request/{actor}/last", b"last")
        dying = await lab.client(actor, f"{actor}-last", will=last)
        await dying.ping()
        dying.leave()
        expected.add((last.topic, last.payload))
        await _hear(watching, (last.topic, last.payload))
        await watching.ping()
    assert heard(watching) == expected


async def _hear(client: Raw, wanted: tuple[str, bytes]) -> None:
    """Wait until the client has received this message."""
    kept, client.got = client.got, []
    while wanted not in {message[:2] for message in kept}:
        kept.append(await client.message())
    client.got = kept + client.got


# --- reading -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("retain", [False, True], ids=["live", "retained"])
async def test_subscribing(lab: Lab, retain: bool) -> None:
    speaking = await lab.client("manager", "speaker")
    readers: dict[str, Raw] = {}

    async def listen() -> None:
        for actor in ACTORS:
            readers[actor] = await lab.client(actor)
            for topic in TOPICS:
                await readers[actor].subscribe(topic, qos=0)

    async def speak() -> None:
        for topic in TOPICS:
            await speaking.publish(topic, b"secret", retain)

    for step in (speak, listen) if retain else (listen, speak):
        await step()
    for actor, reader in readers.items():
        await reader.ping()
        expected = {
            (topic, b"secret")
            for topic in TOPICS
            if may_read(actor, topic) and (lab.keeps(topic) if retain else lab.takes(topic, False))
        }
        assert heard(reader) == expected, actor


FILTERS = (
    "#", "+/#", "+/+/+/#", "$SYS/#", "$share/g/" + R + "/#", f"{R}/#", f"{R}/+/+/+", "busbar/#",
    f"{R}/request/#", f"{R}/request/+/+", f"{R}/response/#", f"{R}/response/+/+", f"{R}/response/{{self}}/+",
    f"{R}/response/{{self}}/#", f"{R}/status/#", f"{R}/status/+/+/+", f"{R}/event/#",
    f"{R}/event/+/worker/+/+", f"{R}/node/#", f"{R}/node/+/state", f"{R}/node/+/assignment",
    f"{R}/node/+/reported", f"{R}/node/+/log/+",
    f"{R}/node/{{self}}/+", f"{R}/node/{{self}}/#", f"{R}/manager/+/state", f"{R}/manager/#",
    "busbar/v1/+/manager/+/state", "busbar/v1/+/status/#", "busbar/v1/+/node/+/state",
    "busbar/+/lab/status/#",
)  # fmt: skip
STRAY = "busbar/v1/other/node/n1/state"
WITHIN = {  # filters entirely within an actor's rights: both brokers must deliver the same
    **{actor: {f"{R}/response/{{self}}/+", f"{R}/manager/+/state", "busbar/v1/+/manager/+/state"}
       for actor in ACTORS},
}  # fmt: skip
for _person in PERSONS:
    WITHIN[_person] |= {
        f"{R}/{tail}"
        for tail in (
            "status/#",
            "status/+/+/+",
            "event/#",
            "event/+/worker/+/+",
            "node/+/state",
            "node/+/reported",
            "node/+/log/+",
        )
    } | {"busbar/v1/+/status/#", "busbar/v1/+/node/+/state"}
WITHIN["manager"] = {wanted for wanted in FILTERS if wanted.startswith((R, "busbar/v1/+"))}


@pytest.mark.parametrize("retain", [False, True], ids=["live", "retained"])
async def test_wildcards_deliver_nothing_that_may_not_be_read(lab: Lab, retain: bool) -> None:
    """A filter wider than the rights is narrowed; the embedded broker refuses one that nothing is left of.

    Neither broker delivers anything forbidden.
    """
    speaking = await lab.client("manager", "speaker")
    readers: dict[tuple[str, str], Raw] = {}
    granted: dict[tuple[str, str], bool] = {}

    async def listen() -> None:
        for actor in ACTORS:
            for wanted in FILTERS:
                reader = readers[actor, wanted] = await lab.client(actor)
                codes = await reader.subscribe(wanted.replace("{self}", actor), qos=0)
                granted[actor, wanted] = codes[0] < 0x80

    async def speak() -> None:
        for topic in TOPICS:
            await speaking.publish(topic, b"secret", retain)

    for step in (speak, listen) if retain else (listen, speak):
        await step()
    stray = await lab.client("n1")  # a node may write below its name in every realm
    await stray.publish(STRAY, b"secret", retain)
    for (actor, wanted), reader in readers.items():
        await reader.ping()
        topics = {topic for topic, payload in heard(reader) if payload == b"secret"}
        pattern = wanted.replace("{self}", actor).removeprefix("$share/g/")
        readable = {
            topic
            for topic in TOPICS
            if may_read(actor, topic)
            and matches(pattern, topic)
            and (lab.keeps(topic) if retain else lab.takes(topic, False))
        }
        own = {STRAY} if actor == "n1" else set()
        assert topics <= readable | own, (actor, wanted, topics - readable)
        if lab.broker == "nats" and wanted.startswith("busbar/v1/+/") and "manager" not in wanted:
            assert not granted[actor, wanted], "nats-server refuses what is wider, and narrows nothing"
        elif wanted in WITHIN[actor]:
            assert granted[actor, wanted] and topics == readable, (actor, wanted)
        elif lab.broker == "embedded":
            shared = wanted.startswith("$share/")  # which MQTT 3.1.1 has not
            assert topics - {STRAY} == (set() if shared else readable), (actor, wanted)
            assert granted[actor, wanted] or not topics, (actor, wanted)


# --- authentication -----------------------------------------------------------------------------------------


async def test_nobody_is_anonymous(lab: Lab) -> None:
    watching = await observer(lab)
    will = text(f"{R}/request/alice/x") + text(b"will")
    unnamed = packet(0x10, text("MQTT") + bytes([4, 0x0E]) + b"\0\x3c" + text("anon") + will)
    for name, code, data in (
        ("no name", None, unnamed),
        ("no password", None, packet(0x10, text("MQTT") + b"\4\x82\0\x3c" + text("x") + text("alice"))),
    ):
        raw = await Raw.open(lab.port)
        raw.say(data + packet(0x30, text(f"{R}/request/alice/x") + b"early"))
        first, body = await raw.hear()
        assert (first >> 4, body[1] in (4, 5)) == (2, True), (name, code)
        await raw.closed()
    for name, word in (("alice", secret("bob")), ("mallory", secret("mallory")), ("", ""), ("alice", "")):
        raw = await Raw.open(lab.port)
        refused = await Raw.connect(lab.port, name, client_id="x", password=word)
        assert refused.code in (4, 5), (name, word)
        raw.leave()
    await watching.ping()
    assert heard(watching) == set()


@pytest.mark.parametrize(
    ("attacker", "victim"), [("bob", "n1"), ("n2", "n1"), ("n1", "manager"), ("bob", "alice"), ("vic", "bob")]
)
@pytest.mark.parametrize("clean", [True, False], ids=["clean", "kept session"])
async def test_taking_over_a_client_id_gives_no_access(
    lab: Lab, attacker: str, victim: str, clean: bool
) -> None:
    """An external broker disconnects the victim (which reconnects with a new random id); ours does not."""
    private = f"{R}/response/{victim}/box"
    speaking = await lab.client("manager", "speaker")
    held = await lab.client(victim, "known-id", clean=clean)
    await held.subscribe(private)
    await held.ping()
    taking = await lab.client(attacker, "known-id", clean=clean)
    assert taking.code == 0
    own = f"{R}/response/{attacker}/box"
    await taking.subscribe(own)
    await speaking.publish(private, b"secret")
    await speaking.publish(own, b"mine")
    await _hear(taking, (own, b"mine"))
    await taking.ping()
    assert heard(taking) == {(own, b"mine")}
    taking = await lab.write(taking, attacker, f"{R}/node/{victim}/state", b"forged", True)
    await lab.write(taking, attacker, f"{R}/request/{victim}/x", b"forged")
    late = await observer(lab)
    await late.ping()
    assert heard(late) == set()
    if lab.broker == "embedded":
        await held.ping()
        assert heard(held) == {(private, b"secret")}
    else:
        await held.closed()
        back = await lab.client(victim, "another-id")
        await back.subscribe(private)
        await speaking.publish(private, b"again")
        await _hear(back, (private, b"again"))
        assert heard(back) == {(private, b"again")}


async def test_the_same_account_takes_its_own_id_over(lab: Lab) -> None:
    watching = await observer(lab)
    first = await lab.client("n1", "same", will=Will(f"{R}/node/n1/state", b"taken"))
    second = await lab.client("n1", "same")
    await first.closed()
    await second.ping()
    if lab.broker != "nats":  # which keeps the will of a connection that another one replaces to itself
        assert (await watching.message())[1] == b"taken"


@pytest.mark.nats
async def test_nats_lets_nobody_read_how_it_delivers_to_others(tmp_path: Path) -> None:
    """Everybody has the right to read below `$MQTT.sub`, where messages of QoS 1 pass."""
    accounts = {name: Account(kind, secret(name)) for name, kind in KINDS.items()}
    with engine("nats-server", tmp_path, accounts) as running:
        lab = Lab("nats", running.ports[0])
        try:
            victim, speaking = await lab.client("alice"), await lab.client("manager")
            await victim.subscribe(f"{R}/response/alice/box", qos=1)
            bob = await lab.client("bob")
            for wanted in ("$MQTT/sub/#", "$MQTT/#", "$JS/#", "$SYS/#", "+/sub/#"):
                await bob.subscribe(wanted, qos=0)
            await speaking.publish(f"{R}/response/alice/box", b"secret")
            assert (await victim.message())[1] == b"secret"
            await bob.ping()
            assert heard(bob) == set()
        finally:
            while Raw.opened:
                Raw.opened.pop().leave()
        (address,) = re.findall(
            r"Listening for client connections on (\S+)", (tmp_path / "nats.log").read_text()
        )
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        login = {"verbose": True, "user": "bob", "pass": secret("bob")}
        writer.write(f"CONNECT {json.dumps(login)}\r\nPING\r\n".encode())
        answer = await reader.read()
        writer.close()
        assert b"-ERR" in answer and b"PONG" not in answer, "its own protocol is for nobody"


# --- the printed rules, as mosquitto parses them ------------------------------------------------------------


def decides(rules: str, user: str, access: str, topic: str) -> bool:
    """An ACL file as mosquitto reads it: the user's topics, then the patterns with %u replaced."""
    current: str | None = None
    for line in rules.splitlines():
        words = line.split(" ")
        if words[0] == "user":
            current = words[1]
        elif words[0] in ("topic", "pattern"):
            of_user = words[0] == "pattern" or current == user
            wanted = [word for word in words[1:] if word]
            fits = wanted[0] in (access, "readwrite") and matches(wanted[1].replace("%u", user), topic)
            if of_user and fits:
                return True
    return False


RULES = render_mosquitto("busbar", "lab", "manager", PERSONS)
LEVEL = st.sampled_from(
    ["busbar", "v1", "v2", "lab", "other", "request", "response", "node", "status", "event", "manager", "log",
     "state", "assignment", "command", "reported", "heartbeat", "m1", "box", "", "$SYS", *NAMES]
)  # fmt: skip
ANY_TOPIC = st.one_of(
    st.lists(LEVEL, min_size=1, max_size=7).map("/".join),
    st.lists(LEVEL, min_size=1, max_size=4).map(lambda tail: "/".join(["busbar/v1/lab", *tail])),
    st.lists(LEVEL, min_size=1, max_size=4).map(lambda tail: "/".join(["busbar/v1/other", *tail])),
)


@given(st.sampled_from(ACTORS), ANY_TOPIC)
def test_the_embedded_broker_enforces_the_printed_rules(actor: str, topic: str) -> None:
    kind = KINDS[actor]
    write = acl.may_publish(kind, actor, topic, "busbar", "lab")
    read = acl.may_read(kind, actor, topic, "busbar", "lab")
    if not acl.is_valid_topic(topic):
        assert not write and not read
        return
    assert write == decides(RULES, actor, "write", topic)
    assert read == decides(RULES, actor, "read", topic)


def test_every_cell_of_the_matrix_follows_from_the_rules() -> None:
    """The table above was written from the contract, not from the code."""
    for actor in ACTORS:
        for topic in TOPICS:
            assert acl.may_publish(KINDS[actor], actor, topic, "busbar", "lab") == may_write(actor, topic)
            assert acl.may_read(KINDS[actor], actor, topic, "busbar", "lab") == may_read(actor, topic)


async def test_a_hundred_wrong_passwords_lock_nobody_out(lab: Lab) -> None:
    held = await lab.client("n1")
    guesses = await asyncio.gather(
        *(Raw.connect(lab.port, "n1", client_id=f"g{n}", password=f"guess-{n}" * 5) for n in range(100))
    )
    assert {guess.code for guess in guesses} <= {3, 4, 5}
    await held.ping()
    assert (await lab.client("n1")).code == 0
