"""Join tokens: a new node exchanges one for credentials at the embedded broker, once and for a short time.

Whoever owns the accounts' folder issues a token for one name. The node generates a secret and connects with
`join_password(token, secret)`; the broker then discards the token and stores the secret's hash as the node's
account. So only the node knows the secret, no secret ever goes into a topic, and the node, which has stored
its secret before, can connect with it if the exchange was interrupted.

Of a token only its SHA-256 is kept (256 random bits need no slower hash), in a private file beside the
accounts, under the same lock. That of the last one that was used stays until it would have expired, so that
who comes with it again, and knows it, is told so.
"""

import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from ..access.acl import NODE
from ..topics import NAME_PATTERN, is_name
from .accounts import Accounts, locked, put_account, replace_json, write_accounts

VALID_S: Final = 900.0
"""Default validity of a token, in seconds."""
LONGEST_S: Final = 86_400.0
_SKEW_S: Final = 5.0
"""A clock may be corrected by so much."""
_PREFIX: Final = "join:"
_USED: Final = "/used"
"""After a name in the file; no name has a slash."""
_MIN_SECRET: Final = 32
"""Minimum length of a node's secret; those of `new_secret` have 43 characters."""


class Offer(NamedTuple):
    """Token and secret, which a joining node sends as its password."""

    token: str
    secret: str


def join_password(token: str, secret: str) -> str:
    """The password with which a node exchanges its token for an account with this secret."""
    return f"{_PREFIX}{token}:{secret}"


def parse_offer(password: str) -> Offer | None:
    """Token and secret of a `join_password`; None for every other password."""
    if not password.startswith(_PREFIX):
        return None
    token, colon, secret = password.removeprefix(_PREFIX).partition(":")
    return Offer(token, secret) if colon and token and len(secret) >= _MIN_SECRET else None


def issue_token(accounts: Path, name: str, now_s: float, valid_s: float = VALID_S) -> str:
    """A new token for the node `name`; it invalidates an earlier one. `now_s` is seconds since 1970.

    Raises ValueError for a malformed name, a time not above 0 and up to a day, or a name that is a person's
    or a manager's; TimeoutError when another process holds the lock for 10 s.
    """
    if not is_name(name):
        raise ValueError(f"node name {name!r} must match {NAME_PATTERN}")
    if not 0 < valid_s <= LONGEST_S:
        raise ValueError(f"a token is good for up to {LONGEST_S:.0f} seconds, not {valid_s:g}")
    accounts.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    token = secrets.token_urlsafe()
    with locked(accounts):
        account = Accounts.load(accounts).table.get(name)
        if account is not None and account.kind != NODE:
            raise ValueError(f"{name!r} is the account of a {account.kind}, not of a node")
        row = {"hash": _hash(token), "since": now_s, "until": now_s + valid_s}
        replace_json(tokens_file(accounts), {**_kept(accounts, now_s), name: row})
    return token


def redeem(accounts: Path, name: str, offer: Offer, now_s: float) -> bool:
    """Exchange a token for an account; False for an invalid or expired one. Costs some 20 ms of CPU.

    The token is invalidated before the account is created: after a crash in between a new token is needed,
    but none is ever redeemed twice.
    """
    if not _fits(
        accounts, name, offer, now_s
    ):  # first without the lock, for which strangers must not contend
        return False
    with locked(accounts):
        if not _fits(accounts, name, offer, now_s):
            return False
        _void(accounts, name, now_s, used=True)
        account = Accounts.load(accounts).table.get(name)
        if account is not None and account.kind != NODE:
            return False
        put_account(accounts, name, NODE, offer.secret)
    return True


def revoke(accounts: Path, name: str, kind: str, now_s: float) -> bool:
    """Remove an account of this kind, and a node's token; False when there was no such account.

    Raises ValueError for a damaged file, OSError when it can't be written or the lock is held for 10 s.
    """
    if not accounts.exists() and not tokens_file(accounts).exists():
        return False
    with locked(accounts):
        if kind == NODE and tokens_file(accounts).exists():
            _void(accounts, name, now_s)
        table = dict(Accounts.load(accounts).table)
        account = table.get(name)
        if account is None or account.kind != kind:
            return False
        del table[name]
        write_accounts(accounts, table)
    return True


def read_hashes(accounts: Path, now_s: float) -> dict[str, str]:
    """The hash of each name's token, for `is_token_of`."""
    return {name: str(row["hash"]) for name, row in _living(accounts, now_s).items()}


def read_used(accounts: Path, now_s: float) -> dict[str, str]:
    """The hash of the token that each name has used last, for `is_token_of`."""
    return {key.removesuffix(_USED): str(row["used"]) for key, row in _used(accounts, now_s).items()}


def drop_expired(accounts: Path, now_s: float) -> bool:
    """Forget expired tokens for good, so that a clock that is set back revives none; False when none was.

    Raises OSError when the file can't be written or the lock is held for 10 s.
    """
    if not _expired(accounts, now_s):
        return False
    with locked(accounts):
        replace_json(tokens_file(accounts), _kept(accounts, now_s))
    return True


def _expired(accounts: Path, now_s: float) -> bool:
    return len(_rows(accounts)) > len(_kept(accounts, now_s))


def is_token_of(hashes: Mapping[str, str], name: str, offer: Offer) -> bool:
    """True when the token was issued for the name; `redeem` checks that it is still valid."""
    return hmac.compare_digest(hashes.get(name, ""), _hash(offer.token))


def tokens_file(accounts: Path) -> Path:
    """The file of the tokens that belong to these accounts."""
    return accounts.with_name("tokens.json")


def _void(accounts: Path, name: str, now_s: float, used: bool = False) -> None:
    rows = _kept(accounts, now_s)
    row = rows.pop(name, None)
    if used and row is not None:
        rows[name + _USED] = {**row, "hash": "", "used": row["hash"]}
    replace_json(tokens_file(accounts), rows)


def _fits(accounts: Path, name: str, offer: Offer, now_s: float) -> bool:
    row = _living(accounts, now_s).get(name)
    return row is not None and hmac.compare_digest(str(row["hash"]), _hash(offer.token))


def _living(accounts: Path, now_s: float) -> dict[str, Mapping[str, object]]:
    """The tokens that are valid now: neither expired, nor issued later than now (the clock was set back)."""
    rows = _rows(accounts)
    try:
        return {
            name: row
            for name, row in rows.items()
            if row["hash"] and float(row.get("since", now_s)) - _SKEW_S <= now_s < float(row["until"])
        }
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}


def _used(accounts: Path, now_s: float) -> dict[str, Mapping[str, Any]]:
    """Used tokens, until they would have expired. Without a hash, they are none to `_living`."""
    try:
        return {
            key: row
            for key, row in _rows(accounts).items()
            if key.endswith(_USED) and row["used"] and now_s < float(row["until"])
        }
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}


def _kept(accounts: Path, now_s: float) -> dict[str, Mapping[str, object]]:
    """What the next version of the file has of this one."""
    return {**_living(accounts, now_s), **_used(accounts, now_s)}


def _rows(accounts: Path) -> dict[str, Mapping[str, Any]]:
    """All tokens in the file; none when it can't be read."""
    try:
        rows = json.loads(tokens_file(accounts).read_bytes())
    except (OSError, ValueError):
        return {}
    return rows if isinstance(rows, dict) else {}


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
