"""Passwords that were verified before: their clients never wait behind strangers, also not after a restart.

Kept as hashes under a key. Those of generated secrets (256 random bits, which no cost of hashing makes
harder to guess) are written to a private file beside the accounts; what people chose is kept in memory alone.
"""

import base64
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from ..files import read_private, write_atomically
from .accounts import Account

FILE: Final = "known_logins.json"
_GENERATED: Final = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
"""What `accounts.new_secret` makes."""


class _Known(NamedTuple):
    account: Account
    digest: bytes
    generated: bool


class KnownLogins:
    """By name, the account and the password that was verified for it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key = secrets.token_bytes(32)
        self._known: dict[str, _Known] = {}
        self._stored: dict[str, tuple[str, bytes]] = {}  # hash of the account, digest
        self.changed = False
        """Whether there is something to write."""

    def read(self) -> None:
        """Take over what a former broker has written; `keep` then drops what no longer holds.

        A file that is not private, or damaged, is as none.
        """
        try:
            rows = json.loads(read_private(self._path) or "{}")
            key, names = base64.b64decode(rows["key"]), rows["names"]
            stored = {str(n): (str(row[0]), base64.b64decode(row[1])) for n, row in names.items()}
        except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            return
        if len(key) == len(self._key):
            self._key, self._stored = key, stored

    def digest(self, password: str) -> bytes:
        """The password as it is remembered."""
        return hashlib.blake2b(password.encode("utf-8", "surrogatepass"), key=self._key).digest()

    def has(self, name: str, account: Account, digest: bytes) -> bool:
        """Whether this password was verified for the account as it is now."""
        known = self._known.get(name)
        if known is not None and known.account == account:
            return hmac.compare_digest(known.digest, digest)
        of, stored = self._stored.get(name, ("", b""))
        return of == account.hash and hmac.compare_digest(stored, digest)

    def add(self, name: str, account: Account, password: str) -> None:
        """It was verified."""
        generated = _GENERATED.fullmatch(password) is not None
        known = _Known(account, self.digest(password), generated)
        self.changed |= generated and self._known.get(name) != known
        self._known[name] = known
        self._stored.pop(name, None)

    def keep(self, table: Mapping[str, Account]) -> None:
        """Forget those whose accounts changed or are gone."""
        self._known = {n: known for n, known in self._known.items() if table.get(n) == known.account}
        self._stored = {n: row for n, row in self._stored.items() if n in table and table[n].hash == row[0]}

    def text(self) -> str:
        """The content of the file, with what was read and not seen again yet."""
        self.changed = False
        now = {n: (k.account.hash, k.digest) for n, k in self._known.items() if k.generated}
        rows = {n: [of, _text(digest)] for n, (of, digest) in sorted({**self._stored, **now}.items())}
        return json.dumps({"key": _text(self._key), "names": rows})

    def write(self, text: str) -> None:
        """Replace the file. Raises OSError."""
        write_atomically(self._path, text, durable=False)


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
