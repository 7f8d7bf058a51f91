"""Accounts, revocation, binding, and that a real mosquitto with the printed rules decides alike."""

import asyncio
import json
import os
import socket
import stat
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from busbar.bus.access.acl import render_mosquitto
from busbar.bus.broker import BrokerConfig, EmbeddedBroker
from busbar.bus.broker.accounts import Accounts, ensure_account, new_secret, remove_account

from tests.brokers import mosquitto, need_mosquitto, until
from tests.integration.bus.broker.kit import R, Raw, broker_in, make_accounts, secret
from tests.pace import bound

REVOKED_WITHIN_S = 2.0


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[EmbeddedBroker]:
    async with broker_in(tmp_path) as running:
        yield running


def accounts_file(folder: Path) -> Path:
    return folder / "private" / "accounts.json"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example", ""])
def test_a_non_loopback_address_is_refused_with_the_reason(tmp_path: Path, host: str) -> None:
    with pytest.raises(ValueError, match=r"loopback only.*mosquitto"):
        EmbeddedBroker(BrokerConfig(tmp_path / "accounts.json", host=host))


async def test_port_0_is_told_and_freed(tmp_path: Path) -> None:
    async with broker_in(tmp_path) as broker:
        port = broker.port
        assert port > 0
        await (await Raw.connect(port, "alice")).ping()
    with pytest.raises(ConnectionRefusedError):
        await Raw.open(port)
    with pytest.raises(RuntimeError, match="not running"):
        _ = broker.port


async def test_a_stopped_broker_starts_again_on_the_same_port(tmp_path: Path) -> None:
    async with broker_in(tmp_path) as broker:
        port = broker.port
        held = await Raw.connect(port, "alice")
        await held.ping()
    async with EmbeddedBroker(BrokerConfig(accounts_file(tmp_path), port=port)) as again:
        assert again.port == port


async def test_a_taken_port_says_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port} .* is taken: .* choose another port"):
            await EmbeddedBroker(BrokerConfig(tmp_path / "accounts.json", port=port)).start()


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("alice", "wrong" * 10),
        ("alice", ""),
        ("mallory", "x" * 40),
        ("", ""),
        ("Alice", "x"),
        ("alice/+", "x"),
    ],
)
async def test_nobody_gets_in_without_an_account(broker: EmbeddedBroker, name: str, password: str) -> None:
    raw = await Raw.connect(broker.port, name, client_id="c", password=password)
    assert raw.code == 5
    await raw.closed()


async def test_a_remembered_password_does_not_let_a_wrong_one_in(broker: EmbeddedBroker) -> None:
    assert (await Raw.connect(broker.port, "alice", client_id="1")).code == 0
    assert (await Raw.connect(broker.port, "alice", client_id="2")).code == 0
    assert (await Raw.connect(broker.port, "alice", client_id="3", password=secret("bob"))).code == 5


async def test_a_new_account_needs_no_restart(broker: EmbeddedBroker, tmp_path: Path) -> None:
    assert (await Raw.connect(broker.port, "carol")).code == 5
    await asyncio.to_thread(ensure_account, accounts_file(tmp_path), "carol", "person", secret("carol"))
    assert (await Raw.connect(broker.port, "carol")).code == 0


async def test_a_removed_account_is_cut_off_and_its_will_stays_unsaid(
    broker: EmbeddedBroker, tmp_path: Path
) -> None:
    from tests.integration.bus.broker.kit import Will

    manager = await Raw.connect(broker.port, "manager")
    await manager.subscribe(f"{R}/#")
    node = await Raw.connect(broker.port, "n1", will=Will(f"{R}/node/n1/state"))
    other = await Raw.connect(broker.port, "n2")
    await asyncio.to_thread(remove_account, accounts_file(tmp_path), "n1")
    await node.closed(within=REVOKED_WITHIN_S)
    assert (await Raw.connect(broker.port, "n1")).code == 5
    await other.ping()
    await manager.ping()
    assert manager.got == []


async def test_a_changed_password_cuts_off_the_old_link(broker: EmbeddedBroker, tmp_path: Path) -> None:
    node = await Raw.connect(broker.port, "n1")
    fresh = new_secret()
    await asyncio.to_thread(ensure_account, accounts_file(tmp_path), "n1", "node", fresh)
    await node.closed(within=REVOKED_WITHIN_S)
    assert (await Raw.connect(broker.port, "n1")).code == 5
    assert (await Raw.connect(broker.port, "n1", password=fresh)).code == 0


async def test_an_unchanged_account_keeps_its_link(broker: EmbeddedBroker, tmp_path: Path) -> None:
    node = await Raw.connect(broker.port, "n1")
    assert not await asyncio.to_thread(ensure_account, accounts_file(tmp_path), "n1", "node", secret("n1"))
    with pytest.raises(TimeoutError):
        await node.hear(within=1.5)
    await node.ping()


async def test_a_damaged_accounts_file_locks_nobody_out(broker: EmbeddedBroker, tmp_path: Path) -> None:
    node = await Raw.connect(broker.port, "n1")
    accounts_file(tmp_path).write_bytes(b"{")
    assert (await Raw.connect(broker.port, "alice")).code == 0
    await node.ping()


async def test_login_does_not_hold_up_the_loop(
    broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hashing a password takes up to a tenth of a second; others are served meanwhile."""
    manager = await Raw.connect(broker.port, "manager")
    hashing, go_on = threading.Event(), threading.Event()
    real = Accounts.verify

    def long(accounts: Accounts, name: str, password: str) -> str | None:
        hashing.set()
        assert go_on.wait(bound(20)), "nobody else was served"
        return real(accounts, name, password)

    monkeypatch.setattr(Accounts, "verify", long)
    logins = [
        asyncio.create_task(Raw.connect(broker.port, "alice", client_id=str(n), password=f"guess{n}"))
        for n in range(8)
    ]
    await until(hashing.is_set)
    for _ in range(50):
        await manager.ping()
    assert not any(login.done() for login in logins)
    go_on.set()
    assert [(await login).code for login in logins] == [5] * 8


def test_the_file_is_private_and_holds_no_secret(tmp_path: Path) -> None:
    path = make_accounts(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert secret("alice") not in path.read_text()
    rows = json.loads(path.read_text())
    assert len({row["salt"] for row in rows.values()}) == len(rows)
    assert sorted(p.name for p in path.parent.iterdir()) == ["accounts.json", "accounts.json.lock"]


def test_verify_tells_the_kind(tmp_path: Path) -> None:
    accounts = Accounts.load(make_accounts(tmp_path))
    assert accounts.verify("n1", secret("n1")) == "node"
    assert accounts.verify("n1", secret("n2")) is None
    assert accounts.verify("nobody", "") is None


def test_a_file_others_can_read_is_refused(tmp_path: Path) -> None:
    path = make_accounts(tmp_path)
    os.chmod(path, 0o644)
    with pytest.raises(PermissionError, match="chmod 600"):
        Accounts.load(path)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"a": 1}', '{"a": {"kind": "god", "salt": "", "hash": "scrypt:4096:"}}']
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "accounts.json"
    path.touch(mode=0o600)
    path.write_text(text)
    with pytest.raises(ValueError, match="damaged"):
        Accounts.load(path)


@pytest.mark.parametrize(
    ("name", "kind", "password"),
    [("Bad", "node", "s"), ("ok", "root", "s"), ("ok", "node", ""), ("a\n", "node", "s")],
)
def test_impossible_accounts_are_refused(tmp_path: Path, name: str, kind: str, password: str) -> None:
    with pytest.raises(ValueError, match=r"must|can't"):
        ensure_account(tmp_path / "accounts.json", name, kind, password)


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    path = make_accounts(tmp_path)
    before = len(Accounts.load(path).table)
    threads = [
        threading.Thread(target=ensure_account, args=(path, f"x{n}", "node", "s" * 40)) for n in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Accounts.load(path).table) == before + 12


@pytest.fixture
def strict_mosquitto(tmp_path: Path) -> Iterator[int]:
    """The port of a mosquitto with our accounts and the printed rules."""
    need_mosquitto()
    rules, passwords = tmp_path / "acl", tmp_path / "passwords"
    rules.write_text(render_mosquitto("busbar", "lab", "manager", ["alice"]))
    passwords.write_text("".join(f"{name}:{secret(name)}\n" for name in ("manager", "alice", "n1", "n2")))
    subprocess.run(["mosquitto_passwd", "-U", str(passwords)], check=True)
    own = ("allow_anonymous false", f"password_file {passwords}", f"acl_file {rules}")
    with mosquitto(tmp_path, *own) as port:
        yield port


CASES = [
    ("alice", f"{R}/request/alice/op", "manager", True),
    ("alice", f"{R}/request/n1/op", "manager", False),
    ("alice", f"{R}/status/edge/worker/w", "manager", False),
    ("n1", f"{R}/node/n1/reported", "manager", True),
    ("n1", f"{R}/node/n2/reported", "manager", False),
    ("n1", f"{R}/node/n1/assignment", "manager", False),
    ("n1", f"{R}/node/n1/log/web-1", "alice", True),
    ("n1", f"{R}/node/n1/state", "alice", True),
    ("n1", f"{R}/node/n1/reported", "alice", True),
    ("manager", f"{R}/node/n1/assignment", "n1", True),
    ("manager", f"{R}/node/n2/assignment", "n1", False),
    ("manager", f"{R}/response/alice/cli", "alice", True),
    ("manager", f"{R}/response/alice/cli", "n1", False),
    ("manager", f"{R}/status/edge/worker/w", "alice", True),
    ("manager", f"{R}/status/edge/worker/w", "n1", False),
    ("manager", f"{R}/manager/m1/state", "n1", True),
    ("alice", "$SYS/broker/x", "manager", False),
]


async def arrives(port: int, writer: str, topic: str, reader: str) -> bool:
    """Whether what `writer` publishes reaches `reader`, who asks for exactly that topic."""
    listening = await Raw.connect(port, reader, client_id=f"{reader}-in")
    await listening.subscribe(topic)
    speaking = await Raw.connect(port, writer, client_id=f"{writer}-out")
    await speaking.publish(topic, b"probe")
    await listening.ping()
    return (topic, b"probe", 0x32) in listening.got


@pytest.mark.mosquitto
async def test_mosquitto_with_the_printed_rules_decides_alike(
    strict_mosquitto: int, broker: EmbeddedBroker
) -> None:
    for writer, topic, reader, expected in CASES:
        for name, port in (("mosquitto", strict_mosquitto), ("embedded", broker.port)):
            assert await arrives(port, writer, topic, reader) is expected, (name, writer, topic, reader)
