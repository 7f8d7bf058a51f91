"""Passwords that were verified before: their clients never wait behind strangers, also not after a restart.

Kept as hashes under a key. Those of generated secrets (256 random bits, which no cost of hashing makes
harder to guess) are written to a private file beside the accounts. Those of what people chose would help
whoever gets hold of a disk or a backup to guess: they are written to a file in memory alone, where the
system has such a folder, and are gone when the machine ends.
"""

import base64
import hashlib
import hmac
import json
import os
import re
import secrets
import stat
from collections.abc import Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from ..system.files import read_private, write_atomically
from .accounts import Account

FILE: Final = "known_logins.json"
IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
_GENERATED: Final = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
"""What `accounts.new_secret` makes."""
_KEY_BYTES: Final = 32
MAX_LOOKED_AT: Final = 100
"""Files of other brokers that are looked at, each time one is written."""


class _Known(NamedTuple):
    account: Account
    digest: bytes
    generated: bool


class KnownLogins:
    """By name, the account and the password that was verified for it.

    `in_memory`: the folder for what people chose, made where it is missing; None: this process
    keeps it.
    """

    def __init__(self, path: Path, in_memory: Path | None = None) -> None:
        self._path = path
        self._in_memory = in_memory
        self._key = secrets.token_bytes(_KEY_BYTES)
        self._known: dict[str, _Known] = {}
        self._stored: dict[str, tuple[str, bytes]] = {}  # hash of the account, digest
        self._stored_chosen: dict[str, tuple[str, bytes]] = {}
        self.changed = False
        """Whether there is something to write."""

    def read(self) -> None:
        """Take over what a former broker has written; `keep` then drops what no longer holds.

        A file that is not private, or damaged, is as none.
        """
        disk, memory = _rows(self._path), None
        if self._in_memory is not None and _is_private(self._in_memory):
            memory = _rows(self._memory_file(self._in_memory))
        if disk is not None:
            self._key, self._stored = disk
        if memory is not None and (disk is None or disk[0] == memory[0]):
            self._key, self._stored_chosen = memory

    def _memory_file(self, folder: Path) -> Path:
        """One of several brokers' of a user."""
        return folder / f"{hashlib.sha256(os.fsencode(self._path.absolute())).hexdigest()[:32]}.json"

    def digest(self, password: str) -> bytes:
        """The password as it is remembered."""
        return hashlib.blake2b(password.encode("utf-8", "surrogatepass"), key=self._key).digest()

    def has(self, name: str, account: Account, digest: bytes) -> bool:
        """Whether this password was verified for the account as it is now."""
        known = self._known.get(name)
        if known is not None and known.account == account:
            return hmac.compare_digest(known.digest, digest)
        of, stored = self._stored.get(name) or self._stored_chosen.get(name) or ("", b"")
        return of == account.hash and hmac.compare_digest(stored, digest)

    def add(self, name: str, account: Account, password: str) -> None:
        """It was verified."""
        generated = _GENERATED.fullmatch(password) is not None
        known = _Known(account, self.digest(password), generated)
        self.changed |= (generated or self._in_memory is not None) and self._known.get(name) != known
        self._known[name] = known
        self._stored.pop(name, None)
        self._stored_chosen.pop(name, None)

    def keep(self, table: Mapping[str, Account]) -> None:
        """Forget those whose accounts changed or are gone."""
        gone = {n: known for n, known in self._known.items() if table.get(n) != known.account}
        self._known = {n: known for n, known in self._known.items() if n not in gone}
        self._stored = _current(self._stored, table)
        chosen, self._stored_chosen = self._stored_chosen, _current(self._stored_chosen, table)
        self.changed |= chosen.keys() != self._stored_chosen.keys()
        self.changed |= any(not known.generated for known in gone.values())

    def texts(self) -> tuple[str, str]:
        """The content of the file on disk and of that in memory (empty: none), with what was read and
        not seen again yet."""
        self.changed = False
        return self._text(True, self._stored), self._text(False, self._stored_chosen)

    def _text(self, generated: bool, stored: Mapping[str, tuple[str, bytes]]) -> str:
        now = {n: (k.account.hash, k.digest) for n, k in self._known.items() if k.generated == generated}
        rows = {n: [of, _text(digest)] for n, (of, digest) in sorted({**stored, **now}.items())}
        if not generated and not rows:
            return ""
        return json.dumps(
            {"key": _text(self._key), "names": rows, "folder": str(self._path.parent.absolute())}
        )

    def write(self, disk: str, memory: str) -> None:
        """Replace the files. Raises OSError."""
        write_atomically(self._path, disk, durable=False)
        if self._in_memory is None:
            return
        if memory:
            with suppress(FileExistsError):
                self._in_memory.mkdir(mode=0o700)
        if _is_private(self._in_memory):
            _drop_orphans(self._in_memory)
            file = self._memory_file(self._in_memory)
            if memory:
                write_atomically(file, memory, durable=False)
            else:
                file.unlink(missing_ok=True)


def folder_in_memory(environ: Mapping[str, str] = os.environ) -> Path | None:
    """A folder of this user that is gone with the machine, not made yet; None where the system has none."""
    user = os.geteuid()
    bases = [environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{user}", "/dev/shm"]
    for base in map(Path, filter(None, bases)):
        if _is_in_memory(base) and os.access(base, os.W_OK | os.X_OK):
            return base / f"busbar-{user}"
    return None


def _is_in_memory(folder: Path) -> bool:
    """Whether a mount of such a kind holds it. The last line of a mount point counts."""
    try:
        mounts = Path("/proc/self/mounts").read_text(errors="surrogateescape").splitlines()
        where = folder.resolve(strict=True)
    except OSError:
        return False
    kinds = {Path(fields[1]): fields[2] for fields in map(str.split, mounts) if len(fields) > 2}
    return next((kinds[each] for each in (where, *where.parents) if each in kinds), "") in IN_MEMORY


def _is_private(folder: Path) -> bool:
    """Whether it is a folder of this user alone: another may have made one of that name."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def _drop_orphans(folder: Path) -> None:
    """Delete the files of brokers whose own folder is gone."""
    for file in islice(folder.glob("*.json"), MAX_LOOKED_AT):
        with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
            of = json.loads(read_private(file) or "")["folder"]
            if not Path(of).exists():
                file.unlink(missing_ok=True)


def _rows(path: Path) -> tuple[bytes, dict[str, tuple[str, bytes]]] | None:
    """The key, and by name the hash of the account and the digest."""
    try:
        rows = json.loads(read_private(path) or "{}")
        key, names = base64.b64decode(rows["key"]), rows["names"]
        stored = {str(n): (str(row[0]), base64.b64decode(row[1])) for n, row in names.items()}
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return None
    return (key, stored) if len(key) == _KEY_BYTES else None


def _current(
    stored: Mapping[str, tuple[str, bytes]], table: Mapping[str, Account]
) -> dict[str, tuple[str, bytes]]:
    return {name: row for name, row in stored.items() if name in table and table[name].hash == row[0]}


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
