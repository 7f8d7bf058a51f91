"""Join files: all that a new node needs, from `busbar node pair --join-file` to `busbar agent join`.

A file holds a secret: the node's password, or a join token of the embedded broker.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
from pathlib import Path
from typing import Final, Literal

import msgspec
from busbar.bus.broker.accounts import new_secret
from busbar.bus.system.files import FileLock, write_atomically
from msgspec import Struct, field

from ..context import Settings
from ..errors import CliError, usage
from ..printing import output
from .systemd import systemctl

MAX_BYTES: Final = 1_000_000
JOINED: Final = "joined.json"
SECRET: Final = "secret"
CA: Final = "ca.crt"
"""Files of an agent's state folder that `busbar agent join` writes."""
MOSQUITTO_UNIT: Final = "mosquitto"
_ITERATIONS: Final = 101
"""As `mosquitto_passwd` takes by default; the secrets have 256 random bits, which no guess finds."""


class JoinFile(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a node connects with: `ca` is PEM, and of `password` and `token` there is one.

    `until`: when the token expires, seconds since 1970; only in what `join_token` reads.
    """

    busbar_join: Literal[1]
    node: str
    broker: str
    realm: str
    root: str
    ca: str | None = None
    password: str | None = None
    token: str | None = None
    until: float | None = None


class Joined(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What `busbar agent` reads from the state folder of a node that has joined. No secret."""

    node: str
    broker: str
    realm: str
    root: str
    has_ca: bool = False
    host: str | None = None
    labels: dict[str, str] = field(default_factory=dict)

    def settings(self, folder: Path) -> Settings:
        """The settings of the node's agent; `folder` is its state folder."""
        return Settings(
            broker=self.broker,
            realm=self.realm,
            root=self.root,
            username=self.node,
            password_file=str(folder / SECRET),
            tls_ca=str(folder / CA) if self.has_ca else None,
        )


def read_join_file(path: Path) -> JoinFile:
    """The content of a join file.

    Raises:
        CliError: it can't be read, or is none.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("too large")
        found = msgspec.json.decode(path.read_bytes(), type=JoinFile)
        if (found.password is None) == (found.token is None):
            raise ValueError("it holds no password and no token, or both")
    except OSError as error:
        raise usage(f"join file {path}: {error.strerror}") from None
    except ValueError as error:
        raise usage(f"{path} is no join file: {error}; 'busbar node pair --join-file' writes one") from None
    return found


def read_joined(folder: Path) -> Joined | None:
    """What a state folder's node has joined with; None where it has not.

    Raises:
        CliError: it can't be read.
    """
    path = folder / JOINED
    try:
        return msgspec.json.decode(path.read_bytes(), type=Joined)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise usage(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise usage(f"{path}: {error}") from None


def check_writable(join_file: Path | None, passwords: Path | None) -> None:
    """Raises CliError unless both files can be written, before anything is changed."""
    files = [path for path in (join_file and join_file.absolute(), passwords and passwords.resolve()) if path]
    for folder in (path.parent for path in files):
        if not os.access(folder, os.W_OK):
            raise usage(f"folder {folder} can't be written")
    if passwords is not None and not os.access(passwords, os.R_OK):
        raise usage(f"password file {passwords} can't be read")


def write_join_file(path: Path, made: JoinFile) -> None:
    """Write a node's join file.

    Raises:
        CliError: it can't be written.
    """
    try:
        write_atomically(path, msgspec.json.format(msgspec.json.encode(made), indent=2) + b"\n")
    except OSError as error:
        raise CliError(f"join file {path}: {error.strerror}") from None


def new_join_file(
    settings: Settings, node: str, *, token: str | None, until: float | None = None
) -> JoinFile:
    """What a join file of the node holds, with a token, or with a new password.

    Raises:
        CliError: the certificate authority's file can't be read.
    """
    return JoinFile(
        busbar_join=1,
        node=node,
        broker=str(settings.broker),
        realm=str(settings.realm),
        root=str(settings.root),
        ca=_read_ca(settings.tls_ca) if settings.tls_ca else None,
        password=None if token is not None else new_secret(),
        token=token,
        until=until,
    )


def _read_ca(name: str) -> str:
    path = Path(name).expanduser()
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise usage(f"CA file {path}: {getattr(error, 'strerror', None) or error}") from None


def mosquitto_hash(password: str, salt: bytes) -> str:
    """A password as `mosquitto_passwd` stores it: PBKDF2 with SHA-512."""
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ITERATIONS)
    return f"$7${_ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def put_mosquitto_password(path: Path, user: str, password: str) -> None:
    """Add a user to a password file of mosquitto, or replace its password; owner and mode stay.

    Raises:
        CliError: the file can't be read or written.
    """
    path = path.resolve()
    try:
        with FileLock(path.with_name(f".{path.name}.lock")):
            before, stat = path.read_text(encoding="utf-8").splitlines(), path.stat()
            lines = [line for line in before if not line.startswith(f"{user}:")]
            lines.append(f"{user}:{mosquitto_hash(password, secrets.token_bytes(12))}")
            write_atomically(path, "\n".join(lines) + "\n")
            if os.geteuid() == 0:
                os.chown(path, stat.st_uid, stat.st_gid)
            path.chmod(stat.st_mode & 0o7777)
    except (OSError, ValueError) as error:
        raise CliError(f"password file {path}: {getattr(error, 'strerror', None) or error}") from None


def has_mosquitto_password(path: Path, user: str) -> bool:
    """Whether a password file of mosquitto has this user.

    Raises:
        CliError: it can't be read.
    """
    try:
        return any(line.startswith(f"{user}:") for line in path.read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError) as error:
        raise usage(f"password file {path}: {getattr(error, 'strerror', None) or error}") from None


def reload_mosquitto() -> bool:
    """Have the service `mosquitto` of this machine read its password file again; False where it does not run.

    Raises:
        CliError: it runs, and does not reload.
    """
    try:
        systemctl("is-active", "--quiet", MOSQUITTO_UNIT)
    except (CliError, FileNotFoundError):
        return False
    systemctl("reload", MOSQUITTO_UNIT)
    return True


def tell_reload() -> None:
    """Have mosquitto read its password file again, or say that somebody has to."""
    if not reload_mosquitto():
        output.note("no service 'mosquitto' runs here: have the broker read its password file again")


def tell_join_file(path: Path) -> None:
    """Print what to do with a join file."""
    output.note(
        f"copy {path}, which holds a secret, to the node; there: busbar agent join {path.name}"
        " --host ITS_ADDRESS"
    )
