"""The accounts of the embedded broker: one JSON file of names, kinds and salted password hashes.

The file is private (mode 0600, in a folder made with 0700), is replaced whole, and is changed only under a
lock file, so that processes working at the same time don't lose each other's accounts. Secrets are never
stored.
"""

import base64
import hashlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from msgspec import Struct, field

from ..access.acl import KINDS
from ..system.files import FileLock, write_atomically
from ..topics import NAME_PATTERN, is_name

# scrypt's cost: a secret of 32 characters or more is assumed to come from `new_secret` (256 random bits),
# which no cost makes harder to guess; 4 MiB and some 10 ms let a hundred agents reconnect to a restarted
# broker within a second or two. A shorter one was chosen by a person and gets 32 MiB.
_MACHINE_MADE: Final = 32
_COST_MACHINE: Final = 2**12
_COST_HUMAN: Final = 2**15
_BLOCK: Final = 8
_NO_SALT: Final = bytes(16)
_MEMORY: Final = 64 * 1024 * 1024


class Account(Struct, frozen=True):
    """One account as stored: `kind` of bus.access.acl, and salt and hash in base64."""

    kind: str
    salt: str
    hash: str


class Accounts(Struct, frozen=True):
    """A snapshot of the accounts file. Immutable, so threads may share it."""

    table: Mapping[str, Account] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> "Accounts":
        """The accounts in `path`; none when there is no such file.

        Raises ValueError for a malformed file, PermissionError for one that others can read.
        """
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return cls()
        with os.fdopen(descriptor, "rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise PermissionError(f"accounts file {path} can be read by others: chmod 600 it")
            return cls(_parse(file.read(), path))

    def verify(self, name: str, password: str) -> str | None:
        """The account's kind when the password is right, else None. Costs 10 to 100 ms of CPU, except for a
        password that cannot be right by its length: `_make` chose the cost by it."""
        account = self.table.get(name)
        if account is None or not self.is_hashed(name, password):
            return None
        return account.kind if _matches(account, password) else None

    def is_hashed(self, name: str, password: str) -> bool:
        """Whether `verify` hashes this password. Who sees how long it takes must not learn that."""
        account = self.table.get(name)
        return account is not None and _cost_of(account) == _cost_for(password)


def new_secret(token: Callable[[], str] = secrets.token_urlsafe) -> str:
    """A fresh secret for an account: 256 random bits unless another source is given."""
    return token()


def ensure_account(path: Path, name: str, kind: str, secret: str) -> bool:
    """Create the account or change its kind and secret; False when it already was exactly so.

    An unchanged account keeps its hash, so its connections are not dropped. Raises ValueError for a
    malformed name, kind, secret or file, TimeoutError when another process holds the lock for 10 s.
    """
    if not is_name(name):
        raise ValueError(f"account name {name!r} must match {NAME_PATTERN}")
    if kind not in KINDS:
        raise ValueError(f"account kind {kind!r} must be one of {', '.join(KINDS)}")
    if not secret:
        raise ValueError("an account's secret can't be empty: nobody is anonymous")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(path):
        return put_account(path, name, kind, secret)


def put_account(path: Path, name: str, kind: str, secret: str) -> bool:
    """`ensure_account` for a caller that holds the lock and has validated the arguments."""
    accounts = Accounts.load(path)
    if accounts.verify(name, secret) == kind:
        return False
    write_accounts(path, {**accounts.table, name: _make(kind, secret)})
    return True


def remove_account(path: Path, name: str) -> bool:
    """Remove the account; False when there was none. Raises as `ensure_account` does."""
    if not path.exists():
        return False
    with locked(path):
        table = dict(Accounts.load(path).table)
        if table.pop(name, None) is None:
            return False
        write_accounts(path, table)
    return True


def cost_of(password: str) -> int:
    """The cost that an account with this password has: how long hashing it takes depends on this alone."""
    return _cost_for(password)


def hash_in_vain(cost: int) -> None:
    """Takes as long as hashing a password of this cost."""
    _scrypt("", _NO_SALT, cost)


def _make(kind: str, secret: str) -> Account:
    salt = secrets.token_bytes(16)
    cost = _cost_for(secret)
    digest = _scrypt(secret, salt, cost)
    return Account(kind, _text(salt), f"scrypt:{cost}:{_text(digest)}")


def is_chosen(secret: str) -> bool:
    """True for what a person has chosen, by its length, and False for a generated secret."""
    return len(secret) < _MACHINE_MADE


def _cost_for(secret: str) -> int:
    return _COST_HUMAN if is_chosen(secret) else _COST_MACHINE


def _cost_of(account: Account) -> int:
    return int(account.hash.split(":")[1])


def _matches(account: Account, password: str) -> bool:
    digest = account.hash.split(":")[2]
    found = _scrypt(password, base64.b64decode(account.salt), _cost_of(account))
    return hmac.compare_digest(found, base64.b64decode(digest))


def _scrypt(secret: str, salt: bytes, cost: int) -> bytes:
    raw = secret.encode("utf-8", "surrogatepass")
    return hashlib.scrypt(raw, salt=salt, n=cost, r=_BLOCK, p=1, maxmem=_MEMORY, dklen=32)


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _parse(raw: bytes, path: Path) -> dict[str, Account]:
    try:
        return {name: _account(name, row) for name, row in json.loads(raw).items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"accounts file {path} is damaged ({error!r}): restore it or remove it") from error


def _account(name: str, row: Mapping[str, str]) -> Account:
    account = Account(row["kind"], row["salt"], row["hash"])
    scheme, cost, digest = account.hash.split(":")
    base64.b64decode(account.salt, validate=True)
    base64.b64decode(digest, validate=True)
    known = scheme == "scrypt" and int(cost) in (_COST_MACHINE, _COST_HUMAN)
    if not is_name(name) or account.kind not in KINDS or not known:
        raise ValueError(f"account {name!r}")
    return account


def write_accounts(path: Path, table: Mapping[str, Account]) -> None:
    """Replace the accounts, for a caller that holds the lock."""
    rows = {name: {"kind": row.kind, "salt": row.salt, "hash": row.hash} for name, row in table.items()}
    replace_json(path, rows)


def replace_json(path: Path, rows: Mapping[str, Mapping[str, object]]) -> None:
    """Replace a private file (0600) whole and durably. Raises OSError."""
    write_atomically(path, json.dumps(rows, indent=1, sort_keys=True))


def locked(path: Path) -> FileLock:
    """The lock to hold while changing `path`; entering it raises TimeoutError after 10 s."""
    return FileLock(Path(f"{path}.lock"))
