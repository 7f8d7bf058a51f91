"""What nobody gets: a planted secret, the list of accounts, an expired token, a web page's way in."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import websockets
from busbar.bus.broker import BrokerConfig, EmbeddedBroker
from busbar.bus.broker.accounts import ensure_account, new_secret
from busbar.bus.broker.join_tokens import (
    Offer,
    drop_expired,
    is_token_of,
    issue_token,
    read_hashes,
    redeem,
    tokens_file,
)
from busbar.bus.broker.limits import LIMITS, LoginGuard
from busbar.bus.clock import SystemClock
from busbar.cli.errors import CliError
from busbar.cli.services.up_plan import ensure_secret, private_folder

from tests.brokers import until
from tests.integration.bus.broker.kit import Raw, secret

NOW = 1_000_000.0
HOUR = 3600.0
SECRET = "s" * 43
SOMEBODY = 12_345
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


# --- secrets -----------------------------------------------------------------------------------------------


def _plant_link(path: Path) -> None:
    target = path.parent.parent / "elsewhere"
    target.write_text("known to the attacker")
    target.chmod(0o600)
    path.symlink_to(target)


def _plant_dangling(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


def _plant_open(path: Path) -> None:
    path.write_text("known")
    path.chmod(0o644)


def _plant_hard_link(path: Path) -> None:
    other = path.with_name("other")
    other.write_text("known")
    other.chmod(0o600)
    os.link(other, path)


def _plant_pipe(path: Path) -> None:
    os.mkfifo(path, 0o600)


def _plant_folder(path: Path) -> None:
    path.mkdir(mode=0o700)


def _plant_foreign(path: Path) -> None:
    path.write_text("known")
    path.chmod(0o600)
    os.chown(path, SOMEBODY, -1)


PLANTED = [_plant_link, _plant_dangling, _plant_open, _plant_hard_link, _plant_pipe, _plant_folder]


@pytest.mark.parametrize("plant", [*PLANTED, pytest.param(_plant_foreign, marks=as_root)])
@pytest.mark.fault(92, "P")
def test_a_secret_that_somebody_may_have_planted_is_not_used(tmp_path: Path, plant: Any) -> None:
    path = private_folder(tmp_path / "state" / "secrets") / "admin"
    plant(path)
    with pytest.raises(CliError, match="admin"):
        ensure_secret(tmp_path / "state", "admin")


@as_root
@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.fault(92, "P")
def test_a_foreign_state_folder_is_not_used(tmp_path: Path, linked: bool) -> None:
    folder = tmp_path / "theirs"
    (folder / "secrets").mkdir(parents=True)
    os.chown(folder / "secrets" if not linked else folder, SOMEBODY, -1)
    if linked:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "secrets").symlink_to(folder)
        folder = tmp_path / "mine"
    with pytest.raises(CliError, match="another user"):
        ensure_secret(folder, "admin")


@pytest.mark.fault(92, "P")
def test_ones_own_secrets_and_folders_are_used_also_through_ones_own_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "state").symlink_to(tmp_path / "real")
    made = ensure_secret(tmp_path / "state", "admin")
    assert ensure_secret(tmp_path / "state", "admin") == made
    assert (tmp_path / "real" / "secrets" / "admin").read_text().strip() == made


# --- which names have accounts -----------------------------------------------------------------------------


class Recorder(SystemClock):
    """A clock that notes for how long somebody pretends to be at work."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.mark.fault(92, "P")
async def test_a_login_answers_alike_whether_there_is_an_account_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By work or by waiting as long, in order and by number; not by the clock."""
    clock = Recorder()
    hashed: list[int] = []
    real = hashlib.scrypt

    def scrypt(*args: Any, **more: Any) -> bytes:
        hashed.append(more["n"])
        return real(*args, **more)

    path = tmp_path / "private" / "accounts.json"
    ensure_account(path, "alice", "person", secret("alice"))
    ensure_account(path, "olga", "person", "chosen by olga")
    limits = replace(LIMITS, source_guesses=10_000, name_guess_s=10**9)
    monkeypatch.setattr(hashlib, "scrypt", scrypt)
    seen = []
    async with EmbeddedBroker(BrokerConfig(path, limits=limits), clock) as broker:
        for name in ("nobody", "alice", "olga", "no-one"):
            codes, spent = [], []
            for number in range(LIMITS.name_guesses + 3):
                password = f"{number:012}" if number % 2 else f"{number:040}"
                for _ in range(2):
                    clock.slept.clear()
                    hashed.clear()
                    raw = await Raw.connect(broker.port, name, client_id=f"g{number}", password=password)
                    raw.leave()
                    codes.append(raw.code)
                    spent.append(len(hashed) + len(clock.slept))
            seen.append((codes, spent))
    assert seen[0] == seen[1] == seen[2] == seen[3]
    codes, spent = seen[0]
    assert {3, 5} == set(codes) and sum(spent) == LIMITS.name_guesses


@pytest.mark.fault(92, "S")
def test_names_that_do_not_exist_displace_none_that_do() -> None:
    guard = LoginGuard(LIMITS)
    while guard.admit("alice", "there", 0.0):
        guard.ended("alice", "there", 0.0, False)
    for number in range(20_000):
        assert guard.admit_unknown(f"name{number}", "here", 0.0)
    assert not guard.admit("alice", "elsewhere", 0.0)
    assert guard.admit("bob", "here", 0.0)


# --- tokens ------------------------------------------------------------------------------------------------


@pytest.mark.fault(92, "P")
def test_an_expired_token_stays_expired_when_the_clock_is_set_back(tmp_path: Path) -> None:
    accounts = tmp_path / "private" / "accounts.json"
    token = issue_token(accounts, "n1", NOW, 60.0)
    offer = Offer(token, SECRET)
    assert drop_expired(accounts, NOW + 59) is False
    assert drop_expired(accounts, NOW + 60) is True
    assert "n1" not in tokens_file(accounts).read_text()
    assert redeem(accounts, "n1", offer, NOW + 30) is False
    other = issue_token(accounts, "n2", NOW, 60.0)
    assert redeem(accounts, "n2", Offer(other, SECRET), NOW - HOUR) is False
    assert not is_token_of(read_hashes(accounts, NOW - HOUR), "n2", Offer(other, SECRET))
    assert redeem(accounts, "n2", Offer(other, SECRET), NOW - 1) is True
    assert redeem(accounts, "n2", Offer(other, new_secret()), NOW - HOUR) is False


@pytest.mark.fault(92, "P")
async def test_the_broker_forgets_expired_tokens_by_itself(tmp_path: Path) -> None:
    accounts = tmp_path / "private" / "accounts.json"
    ensure_account(accounts, "alice", "person", secret("alice"))
    issue_token(accounts, "n1", NOW, 60.0)  # long ago
    async with EmbeddedBroker(BrokerConfig(accounts)):
        await until(lambda: "n1" not in tokens_file(accounts).read_text())


# --- web pages ---------------------------------------------------------------------------------------------

PAGE = "https://dash.example:8443"


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (None, True),
        (PAGE, True),
        ("https://dash.example", False),
        ("http://evil.example", False),
        ("null", False),
        ("http://127.0.0.1:8080", False),
    ],
)
@pytest.mark.fault(92, "P")
async def test_only_pages_that_are_named_reach_the_websocket_listener(
    tmp_path: Path, origin: str | None, allowed: bool
) -> None:
    accounts = tmp_path / "private" / "accounts.json"
    ensure_account(accounts, "alice", "person", secret("alice"))
    config = BrokerConfig(accounts, ws_port=0, origins=(PAGE,))
    async with EmbeddedBroker(config) as broker:
        url = f"ws://127.0.0.1:{broker.ws_port}/mqtt"
        asked = {"subprotocols": [websockets.Subprotocol("mqtt")], "origin": origin}
        if allowed:
            async with websockets.connect(url, **asked) as socket:
                assert socket.subprotocol == "mqtt"
        else:
            with pytest.raises(websockets.InvalidStatus) as refused:
                await websockets.connect(url, **asked)
            assert refused.value.response.status_code == 403
