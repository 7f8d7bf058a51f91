"""How a node joins: a single-use, short-lived token bound to its name; and how it is removed."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from busbar.bus.broker import BrokerConfig, EmbeddedBroker
from busbar.bus.broker.accounts import Accounts, ensure_account, new_secret
from busbar.bus.broker.join_tokens import (
    Offer,
    is_token_of,
    issue_token,
    join_password,
    parse_offer,
    read_hashes,
    read_used,
    redeem,
    revoke,
)
from busbar.bus.clock import SystemClock
from hypothesis import given
from hypothesis import strategies as st

from tests.integration.bus.broker.kit import R, Raw, secret
from tests.pace import bound

NOW = 1_000_000.0
SECRET = "s" * 43


@pytest.fixture
def accounts(tmp_path: Path) -> Path:
    path = tmp_path / "private" / "accounts.json"
    for name, kind in {"alice": "person", "manager": "manager", "n1": "node"}.items():
        ensure_account(path, name, kind, secret(name))
    return path


@pytest.fixture
async def broker(accounts: Path) -> AsyncIterator[EmbeddedBroker]:
    async with EmbeddedBroker(BrokerConfig(accounts)) as running:
        yield running
        while Raw.opened:
            Raw.opened.pop().leave()


def now() -> float:
    return SystemClock().time_ns() / 1e9


async def knock(broker: EmbeddedBroker, name: str, password: str) -> int:
    return (await Raw.connect(broker.port, name, client_id=f"c{len(Raw.opened)}", password=password)).code


# --- the exchange ------------------------------------------------------------------------------------------


async def test_a_token_becomes_an_account_once(broker: EmbeddedBroker, accounts: Path) -> None:
    token, mine = issue_token(accounts, "n9", now()), new_secret()
    assert await knock(broker, "n9", mine) == 5, "no account yet"
    joined = await Raw.connect(broker.port, "n9", client_id="a", password=join_password(token, mine))
    assert joined.code == 0
    await joined.publish(f"{R}/node/n9/state")
    assert await knock(broker, "n9", mine) == 0, "from now on its own secret is valid"
    assert await knock(broker, "n9", join_password(token, new_secret())) == 4, "used: who knows it is told"
    assert await knock(broker, "n9", token) == 5
    assert await knock(broker, "n9", join_password(new_secret(), new_secret())) == 5, "not known"
    await joined.ping()
    assert Accounts.load(accounts).table["n9"].kind == "node"


async def test_a_token_is_bound_to_one_name(broker: EmbeddedBroker, accounts: Path) -> None:
    token = issue_token(accounts, "n9", now())
    for name in ("n8", "n1", "alice", "manager", "", "N9", "n9/x"):
        assert await knock(broker, name, join_password(token, new_secret())) == 5, name
    assert await knock(broker, "n9", join_password(token, new_secret())) == 0


async def test_of_two_clients_with_one_token_one_gets_in(broker: EmbeddedBroker, accounts: Path) -> None:
    token = issue_token(accounts, "n9", now())
    codes = await asyncio.gather(*(knock(broker, "n9", join_password(token, new_secret())) for _ in range(8)))
    assert sorted(codes) == [0] + [4] * 7


async def test_an_expired_token_is_refused(broker: EmbeddedBroker, accounts: Path) -> None:
    token = issue_token(accounts, "n9", now() - 2.0, valid_s=1.0)
    assert await knock(broker, "n9", join_password(token, new_secret())) == 5
    assert "n9" not in Accounts.load(accounts).table


async def test_a_node_that_joins_again_disconnects_its_old_connection(
    broker: EmbeddedBroker, accounts: Path
) -> None:
    old = await Raw.connect(broker.port, "n1", client_id="old")
    token = issue_token(accounts, "n1", now())
    await old.ping()
    assert await knock(broker, "n1", join_password(token, new_secret())) == 0
    await old.closed(within=2.0)
    assert await knock(broker, "n1", secret("n1")) == 5


async def test_guessing_delays_nobody(broker: EmbeddedBroker, accounts: Path) -> None:
    issue_token(accounts, "n9", now())
    held = await Raw.connect(broker.port, "alice")
    guesses = [asyncio.create_task(knock(broker, "n9", join_password("x" * 43, SECRET))) for _ in range(50)]
    while not all(guess.done() for guess in guesses):
        async with asyncio.timeout(bound(1.0)):
            await held.ping()
    codes = {guess.result() for guess in guesses}
    assert 5 in codes and codes <= {5, 3}, "refused, or told to come later without a look"


# --- the rules, without a broker ----------------------------------------------------------------------------


def test_only_the_hash_is_stored_in_a_private_file(accounts: Path) -> None:
    token = issue_token(accounts, "n9", NOW)
    for path in accounts.parent.iterdir():
        assert token not in path.read_text()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads((accounts.parent / "tokens.json").read_text())["n9"]["until"] == NOW + 900


def test_a_second_token_voids_the_first(accounts: Path) -> None:
    first, second = issue_token(accounts, "n9", NOW), issue_token(accounts, "n9", NOW)
    assert not redeem(accounts, "n9", Offer(first, SECRET), NOW)
    assert redeem(accounts, "n9", Offer(second, SECRET), NOW)


def test_a_revocation_voids_the_token_too(accounts: Path) -> None:
    token = issue_token(accounts, "n9", NOW)
    assert not revoke(accounts, "n9", "node", NOW)
    assert not redeem(accounts, "n9", Offer(token, SECRET), NOW)


def test_a_used_token_is_known_until_it_would_have_expired(accounts: Path) -> None:
    token = issue_token(accounts, "n9", NOW)
    assert redeem(accounts, "n9", Offer(token, SECRET), NOW) and not read_hashes(accounts, NOW)
    issue_token(accounts, "n8", NOW)
    used = read_used(accounts, NOW)
    assert set(used) == {"n9"} and is_token_of(used, "n9", Offer(token, SECRET))
    assert not redeem(accounts, "n9", Offer(token, SECRET), NOW), "and never taken again"
    assert not read_used(accounts, NOW + 900.0)
    issue_token(accounts, "n7", NOW + 900.0)
    assert set(json.loads((accounts.parent / "tokens.json").read_text())) == {"n7"}


@pytest.mark.parametrize("late", [900.0, 901.0, 10_000.0])
def test_a_token_expires(accounts: Path, late: float) -> None:
    token = issue_token(accounts, "n9", NOW)
    assert not redeem(accounts, "n9", Offer(token, SECRET), NOW + late)


def test_expired_tokens_are_deleted(accounts: Path) -> None:
    issue_token(accounts, "n7", NOW, 10)
    issue_token(accounts, "n8", NOW + 11)
    assert set(json.loads((accounts.parent / "tokens.json").read_text())) == {"n8"}


@pytest.mark.parametrize(
    ("name", "valid"), [("alice", 900), ("manager", 900), ("N9", 900), ("n9", 0), ("n9", -1), ("n9", 86_401)]
)
def test_invalid_token_parameters_are_refused(accounts: Path, name: str, valid: float) -> None:
    with pytest.raises(ValueError):
        issue_token(accounts, name, NOW, valid)


def test_a_name_that_became_a_person_meanwhile_is_not_changed(accounts: Path) -> None:
    token = issue_token(accounts, "n9", NOW)
    ensure_account(accounts, "n9", "person", secret("n9"))
    assert not redeem(accounts, "n9", Offer(token, SECRET), NOW)
    assert Accounts.load(accounts).table["n9"].kind == "person"


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"n9": 1}', b'{"n9": {"hash": 1}}', b"\xff"])
def test_a_damaged_file_lets_nobody_in_and_is_replaced(accounts: Path, damage: bytes) -> None:
    token = issue_token(accounts, "n9", NOW)
    (accounts.parent / "tokens.json").write_bytes(damage)
    assert not redeem(accounts, "n9", Offer(token, SECRET), NOW)
    again = issue_token(accounts, "n9", NOW)
    assert redeem(accounts, "n9", Offer(again, SECRET), NOW)


@given(st.text(max_size=120))
def test_only_a_join_password_parses_as_one(text: str) -> None:
    offer = parse_offer(text)
    assert offer is None or (join_password(*offer) == text and len(offer.secret) >= 32)


@pytest.mark.parametrize(
    "password", ["join:", "join:a", "join:a:", "join::" + SECRET, "join:a:short", "x" * 60]
)
def test_other_passwords_are_no_join_passwords(password: str) -> None:
    assert parse_offer(password) is None


async def test_a_person_may_have_a_password_that_looks_like_a_join_password(
    broker: EmbeddedBroker, accounts: Path
) -> None:
    odd = join_password("t" * 43, SECRET)
    ensure_account(accounts, "carol", "person", odd)
    assert await knock(broker, "carol", odd) == 0
