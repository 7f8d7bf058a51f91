"""Logins at the embedded broker while strangers guess passwords: what is hashed, and who has to wait."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from busbar.bus.broker import BrokerConfig, EmbeddedBroker, access_plugin
from busbar.bus.broker.accounts import Account, Accounts, ensure_account, new_secret
from busbar.bus.broker.known_logins import FILE, KnownLogins, folder_in_memory
from busbar.bus.broker.limits import LIMITS, LoginGuard, source_of
from busbar.bus.buckets import Buckets

from tests.brokers import until
from tests.integration.bus.broker.kit import Raw, broker_in, secret
from tests.pace import bound

WRONG, BUSY = 5, 3


class Hashes:
    """Counts the passwords that are hashed, and can hold them up."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self.go_on = threading.Event()
        self.go_on.set()
        real = Accounts.verify

        def verify(accounts: Accounts, name: str, password: str) -> str | None:
            self.names.append(name)
            assert self.go_on.wait(bound(20)), "nobody was served meanwhile"
            return real(accounts, name, password)

        patch.setattr(Accounts, "verify", verify)


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[EmbeddedBroker]:
    async with broker_in(tmp_path) as running:
        yield running


@pytest.fixture
def hashes(broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> Hashes:
    return Hashes(monkeypatch)


async def guess(port: int, name: str, n: int) -> int:
    """The code of a login with a wrong password as long as a right one."""
    raw = await Raw.connect(port, name, client_id=f"guess{n}", password=f"{n:040}")
    raw.leave()
    return raw.code


@pytest.mark.fault(77, "S")
async def test_guesses_at_one_name_are_refused_before_they_are_hashed(
    broker: EmbeddedBroker, hashes: Hashes
) -> None:
    known = await Raw.connect(broker.port, "alice")
    codes = [await guess(broker.port, "alice", n) for n in range(60)]
    assert set(codes) == {WRONG, BUSY}
    assert codes[: LIMITS.name_guesses] == [WRONG] * LIMITS.name_guesses
    assert codes.count(BUSY) > 20
    assert len(hashes.names) == 1 + codes.count(WRONG)
    await known.ping()
    assert (await Raw.connect(broker.port, "alice", client_id="again")).code == 0, (
        "its password is remembered"
    )
    assert (await Raw.connect(broker.port, "bob")).code == 0, "another name of the same source"


@pytest.mark.fault(77, "S")
async def test_a_known_session_does_not_wait_behind_strangers(
    broker: EmbeddedBroker, hashes: Hashes, tmp_path: Path
) -> None:
    assert (await Raw.connect(broker.port, "alice")).code == 0
    before = len(hashes.names)
    hashes.go_on.clear()
    guesses = [
        asyncio.create_task(guess(broker.port, name, n)) for n in range(8) for name in ("bob", "n1", "n2")
    ]
    await until(lambda: len(hashes.names) == before + LIMITS.login_threads)
    again = await Raw.connect(broker.port, "alice", client_id="2")
    assert again.code == 0
    # Nor do the accounts: the change of a file is read, and in force, while every thread hashes.
    await asyncio.to_thread(ensure_account_quick, tmp_path)
    assert (await Raw.connect(broker.port, "carol", password="x" * 39)).code == WRONG
    assert not any(task.done() for task in guesses)
    hashes.go_on.set()
    assert {await task for task in guesses} == {WRONG}


def ensure_account_quick(folder: Path) -> None:
    """A change of the accounts file: removes a person whose connections then end."""
    from busbar.bus.broker.accounts import remove_account

    remove_account(folder / "private" / "accounts.json", "manager")


@pytest.mark.fault(77, "S")
async def test_generated_secrets_are_known_to_the_next_broker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strangers who guess at every name while it is restarted would keep all services out for as long."""
    monkeypatch.setattr(access_plugin, "folder_in_memory", lambda: None)
    path, mine = tmp_path / "private" / "accounts.json", new_secret()
    for name, password in (("m1", mine), ("olga", "chosen"), ("gone", new_secret())):
        ensure_account(path, name, "person", password)
        async with EmbeddedBroker(BrokerConfig(path)) as broker:
            assert (await Raw.connect(broker.port, name, password=password)).code == 0
            known = path.with_name("known_logins.json")
            if name == "m1":
                await until(known.exists)
    assert known.stat().st_mode & 0o777 == 0o600
    async with EmbeddedBroker(BrokerConfig(path)) as broker:
        for name in ("m1", "olga"):
            codes = [await guess(broker.port, name, n) for n in range(40)]
            assert codes[-1] == BUSY
        assert (await Raw.connect(broker.port, "m1", password=mine)).code == 0
        assert (await Raw.connect(broker.port, "olga", password="chosen")).code == BUSY, "not on disk"
        assert "olga" not in known.read_text()
        await asyncio.to_thread(ensure_account, path, "m1", "person", new_secret())
        assert (await Raw.connect(broker.port, "m1", password=mine)).code != 0, "its password changed"
    for spoil in (lambda: known.write_text("[]"), lambda: known.write_text("{"), lambda: known.chmod(0o644)):
        spoil()
        async with EmbeddedBroker(BrokerConfig(path)) as broker:
            assert await guess(broker.port, "m1", 1) == WRONG
    while Raw.opened:
        Raw.opened.pop().leave()


IN_MEMORY = folder_in_memory()


@pytest.mark.fault(77, "S")
@pytest.mark.skipif(IN_MEMORY is None, reason="the system has no folder in memory")
async def test_chosen_passwords_are_known_to_the_next_broker_and_on_no_disk(tmp_path: Path) -> None:
    """Whoever guesses at the name while it is restarted keeps nobody out who has logged in before."""
    assert IN_MEMORY is not None
    path, password = tmp_path / "private" / "accounts.json", "chosen by olga"
    ensure_account(path, "olga", "person", password)
    file = KnownLogins(path.with_name(FILE), IN_MEMORY)._memory_file(IN_MEMORY)
    async with EmbeddedBroker(BrokerConfig(path)) as broker:
        assert (await Raw.connect(broker.port, "olga", password=password)).code == 0
        await until(file.exists)
    assert (file.stat().st_mode & 0o777, IN_MEMORY.stat().st_mode & 0o777) == (0o600, 0o700)
    rows = json.loads(file.read_text())
    assert set(rows["names"]) == {"olga"}
    on_disk = "".join(each.read_text() for each in path.parent.iterdir() if each.is_file())
    assert rows["names"]["olga"][1] not in on_disk
    async with EmbeddedBroker(BrokerConfig(path)) as broker:
        codes = [await guess(broker.port, "olga", n) for n in range(40)]
        assert codes[-1] == BUSY
        assert (await Raw.connect(broker.port, "olga", password=password)).code == 0
        await asyncio.to_thread(ensure_account, path, "olga", "person", "another")
        assert (await Raw.connect(broker.port, "olga", password=password)).code != 0
        await until(lambda: not file.exists())
    while Raw.opened:
        Raw.opened.pop().leave()


def test_what_a_broker_whose_folder_is_gone_has_left_in_memory_is_deleted(tmp_path: Path) -> None:
    account, memory = Account("person", "", "scrypt:1:x"), tmp_path / "memory"
    memory.mkdir(mode=0o700)
    for name in ("gone", "there", "new"):
        (tmp_path / name).mkdir()
        writer = KnownLogins(tmp_path / name / FILE, memory)
        writer.add("olga", account, "chosen")
        writer.write(*writer.texts())
        if name == "gone":
            (tmp_path / name / FILE).unlink()
            (tmp_path / name).rmdir()
    assert len(list(memory.iterdir())) == 2


def test_a_planted_folder_in_memory_is_left_alone(tmp_path: Path) -> None:
    account = Account("person", "", "scrypt:1:x")
    for mode in (0o700, 0o755):
        folder = tmp_path / f"{mode:o}"
        folder.mkdir(mode=mode)
        writer = KnownLogins(tmp_path / FILE, folder)
        writer.add("olga", account, "chosen")
        writer.write(*writer.texts())
        assert bool(list(folder.iterdir())) == (mode == 0o700)
        reader = KnownLogins(tmp_path / FILE, folder)
        reader.read()
        assert reader.has("olga", account, reader.digest("chosen")) == (mode == 0o700)
    planted = tmp_path / "link"
    planted.symlink_to(tmp_path / "700")
    reader = KnownLogins(tmp_path / FILE, planted)
    reader.read()
    assert not reader.has("olga", account, reader.digest("chosen"))


@pytest.mark.fault(77, "S")
async def test_a_client_with_an_old_password_costs_one_hash(broker: EmbeddedBroker, hashes: Hashes) -> None:
    assert [await guess(broker.port, "n1", 7) for _ in range(30)] == [WRONG] * 30
    assert hashes.names == ["n1"]
    assert (await Raw.connect(broker.port, "n1")).code == 0


@pytest.mark.fault(77, "S")
async def test_a_wrong_password_is_forgotten_with_its_account(broker: EmbeddedBroker, tmp_path: Path) -> None:
    assert await guess(broker.port, "n1", 7) == WRONG
    path = tmp_path / "private" / "accounts.json"
    await asyncio.to_thread(ensure_account, path, "n1", "node", f"{7:040}")
    assert await guess(broker.port, "n1", 7) == 0


@pytest.mark.fault(77, "S")
async def test_unknown_names_are_not_hashed(broker: EmbeddedBroker, hashes: Hashes) -> None:
    assert [await guess(broker.port, f"x{n}", n) for n in range(30)] == [WRONG] * 30
    offers = [
        await Raw.connect(broker.port, f"y{n}", password=f"join:{'t' * 43}:{'s' * 43}") for n in range(30)
    ]
    assert [raw.code for raw in offers] == [WRONG] * 30
    assert hashes.names == []


@pytest.mark.fault(77, "S")
async def test_a_source_is_limited_over_all_names_but_untouched_ones(tmp_path: Path) -> None:
    limits = replace(LIMITS, source_guesses=3, source_guesses_per_s=0)
    async with broker_in(tmp_path, limits=limits) as broker:
        codes = [await guess(broker.port, name, n) for n in range(5) for name in ("n1", "n2")]
        assert codes.count(WRONG) in (3, 4)
        assert codes[4:] == [BUSY] * 6
        assert (await Raw.connect(broker.port, "alice")).code == 0


def test_a_short_password_is_no_guess_at_a_machine_made_one(tmp_path: Path) -> None:
    path = tmp_path / "accounts.json"
    ensure_account(path, "n1", "node", secret("n1"))
    ensure_account(path, "p1", "person", "short")
    accounts = Accounts.load(path)
    assert accounts.verify("n1", secret("n1")) == "node"
    assert accounts.verify("p1", "short") == "person"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("busbar.bus.broker.accounts._scrypt", None)
        assert accounts.verify("n1", "short") is None
        assert accounts.verify("p1", "s" * 32) is None


def test_right_passwords_cost_nothing_and_wrong_ones_come_back_with_time() -> None:
    guard = LoginGuard(replace(LIMITS, waiting_logins=2))
    for _ in range(1000):
        assert guard.admit("n1", "s", 0.0)
        guard.ended("n1", "s", 0.0, right=True)
    for _ in range(LIMITS.name_guesses):
        assert guard.admit("n1", "s", 0.0)
        guard.ended("n1", "s", 0.0, right=False)
    assert not guard.admit("n1", "s", LIMITS.name_guess_s * 0.9)
    assert guard.admit("n1", "s", LIMITS.name_guess_s)
    assert guard.admit("n2", "s", 1.0)
    assert not guard.admit("n3", "s", 1.0), "two wait already"


def test_buckets_are_bounded_and_forget_the_full() -> None:
    buckets = Buckets(1, 1, keys=10)
    assert all(buckets.take(n, 0.0) for n in range(100))
    assert len(buckets._rows) == 10
    assert not buckets.take(99, 0.0)
    assert buckets.take(0, 0.0)
    for n in range(100):
        buckets.give_back(n, 5.0)
    assert not buckets._rows


@pytest.mark.parametrize(
    ("address", "source"),
    [
        (("127.0.0.1", 5), "loopback"),
        (("127.9.9.9", 5), "loopback"),
        (("::1", 5, 0, 0), "loopback"),
        (("::ffff:127.0.0.1", 5, 0, 0), "loopback"),
        (("10.1.2.3", 5), "10.1.2.3"),
        (("fe80::1%eth0", 5, 0, 2), "fe80::/64"),
        (("2001:db8:0:1::5", 5, 0, 0), "2001:db8:0:1::/64"),
        (None, "unknown"),
        ("", "unknown"),
    ],
)
def test_the_source_of_an_address(address: object, source: str) -> None:
    assert source_of(address) == source
