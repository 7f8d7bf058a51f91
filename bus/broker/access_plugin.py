"""The amqtt plugin for authentication and access: answers from the accounts file and bus.access.acl alone."""

import asyncio
import logging
import os
import secrets
from collections import OrderedDict, deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from amqtt.contexts import Action
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
from msgspec import Struct

from ..access import acl
from ..access.acl import NODE
from ..access.home_assistant import HomeAssistant
from ..clock import Clock
from ..topics import is_log, is_request
from .accounts import Account, Accounts, cost_of, hash_in_vain, is_chosen
from .join_tokens import (
    drop_expired,
    is_token_of,
    parse_offer,
    read_hashes,
    read_used,
    redeem,
    revoke,
    tokens_file,
)
from .known_logins import FILE, KnownLogins, folder_in_memory
from .limits import LIMITS, Limits, LoginGuard, Owner, fits
from .revocation import Revocation

_MAX_WRONG: Final = 1024
"""Wrong passwords that are remembered, so that a client with an old one costs one hash."""
_SAMPLES: Final = 32
_NOBODY: Final = Account("nobody", "", "")
"""Stands for the account of a name that has none."""
_WRITE_WITHIN_S: Final = 1.0
"""How long to wait until a revocation, already in force, is on disk."""
_LEARN_S: Final = 1.0
"""How long an unpaired node may stay connected, to receive its last assignment and report what stopped."""

log = logging.getLogger(__name__)


class Peer(Struct, eq=False):
    """The client of a connection; `account` is set once its password was verified."""

    username: str
    password: str
    source: str = "unknown"
    account: Account | None = None
    busy: bool = False
    """Refused unchecked: too many wrong passwords. The client may try again."""
    late: bool = False
    """It offers a join token that was used before."""

    @property
    def kind(self) -> str:
        """The kind of account; `nobody`, which no rule names, without one."""
        return self.account.kind if self.account is not None else "nobody"


class AccessPlugin(BaseAuthPlugin, BaseTopicPlugin):  # type: ignore[misc]  # amqtt ships no types
    """Verifies passwords in its own threads, caches verified ones, and follows the accounts file."""

    @dataclass
    class Config:
        """The accounts file, a Clock, first level of every topic, the realm (`+`: any), whether and how Home
        Assistant is told of it, and limits."""

        accounts: str
        clock: Any
        root: str = "busbar"
        realm: str = "+"
        house: HomeAssistant | None = None
        limits: Limits = LIMITS

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._path = Path(self.config.accounts)
        self._clock: Clock = self.config.clock
        self.root: str = self.config.root
        self._where = (self.root, str(self.config.realm), self.config.house)
        self._limits: Limits = self.config.limits
        self._accounts = Accounts()
        self._seen: tuple[int, ...] = ()
        self._trouble = ""
        self._reading = asyncio.Lock()
        # Files and passwords have threads of their own: a revocation doesn't wait for strangers' logins.
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="broker-files")
        # A chosen password takes 32 MiB and some ten times as long: nodes don't wait behind those.
        threads = self._limits.login_threads
        self._login_pools = {
            chosen: ThreadPoolExecutor(threads, thread_name_prefix="broker-login") for chosen in (True, False)
        }
        self._guard = LoginGuard(self._limits)
        self._tokens: Mapping[str, str] = {}
        self._used: Mapping[str, str] = {}
        self._tokens_seen: tuple[int, ...] = ()
        self._logins: dict[tuple[str, bytes], asyncio.Future[str | None]] = {}
        # A hundred agents that reconnect at once don't cost a hundred scrypts.
        self._known = KnownLogins(self._path.with_name(FILE), folder_in_memory())
        self._wrong: OrderedDict[tuple[str, bytes], Account] = OrderedDict()
        self._took: dict[int, deque[float]] = {}
        """Seconds that hashing took lately, by its cost."""
        self._pretending = {chosen: asyncio.Semaphore(threads) for chosen in (True, False)}
        # In force, but not yet written to the file.
        self._revoked: dict[str, str] = {}
        self._writing: asyncio.Task[None] | None = None
        self._leaving: dict[str, float] = {}

    @property
    def accounts_file(self) -> Path:
        """The file that is followed."""
        return self._path

    async def authenticate(self, *, session: Peer) -> bool:
        """True, and `session.account` set, when name and password are right."""
        await self.refresh()
        await self._join(session)
        account = self._account(session.username)
        if account is None:
            await self._refuse_unknown(session)
            return False
        if session.busy:
            return False
        digest = self._known.digest(session.password)
        if not self._known.has(session.username, account, digest):
            if not await self._verify(session, account, digest):
                return False
            self._known.add(session.username, account, session.password)
        session.account = account
        session.password = ""
        return self.is_current(session)

    def recognises(self, name: str, password: str) -> bool:
        """Whether this password was verified before for the account, as far as is known now."""
        account = self._account(name)
        return account is not None and self._known.has(name, account, self._known.digest(password))

    async def topic_filtering(
        self, *, session: Peer | None = None, topic: str | None = None, action: Action | None = None
    ) -> bool:
        """amqtt's check of one topic or filter; what is unknown is refused."""
        if session is None or topic is None:
            return False
        if not fits(topic, self._limits):
            return False
        if action == Action.SUBSCRIBE:
            return acl.may_subscribe(session.kind, session.username, topic, *self._where)
        if action == Action.PUBLISH:
            return self.may_publish(session, topic)
        return acl.may_read(session.kind, session.username, topic, *self._where)

    def may_publish(self, peer: Peer, topic: str, retain: bool = False) -> bool:
        """The check of a PUBLISH, without a task per message: this is the hot path.

        A request is never retained: on MQTT 3.1.1 the manager can't see that it is, and would run it.
        """
        if not fits(topic, self._limits):
            return False
        if retain and is_request(topic, self._where[0]):
            return False
        return acl.may_publish(peer.kind, peer.username, topic, *self._where)

    def may_retain(self, topic: str) -> bool:
        """False for log topics: a log line is delivered, and never kept."""
        return not is_log(topic, self.root)

    def readable(self, peer: Peer, wanted: str) -> tuple[str, ...]:
        """The filters to subscribe for an allowed one (see bus.access.acl)."""
        return acl.readable(peer.kind, peer.username, wanted, *self._where) or ()

    def is_current(self, peer: Peer) -> bool:
        """False once the account was removed or its password or kind changed."""
        return peer.account is not None and self._account(peer.username) == peer.account

    def has_account(self, owner: Owner) -> bool:
        """True while the name has an account of this kind."""
        account = self._account(owner.name)
        return account is not None and account.kind == owner.kind

    def may_stay(self, peer: Peer) -> bool:
        """True while the connection's account is valid, and for a short time for an unpaired node's."""
        if self.is_current(peer):
            return True
        until = self._leaving.get(peer.username)
        if until is not None and self._clock.monotonic() >= until:
            self._leaving.pop(peer.username)
            return False
        return until is not None

    async def revoke(self, gone: Revocation) -> None:
        """Revoke an account: at once, and durably as soon as the file can be written."""
        account = self._account(gone.name)
        if account is not None and account.kind != gone.kind:
            return
        if gone.kind == NODE and account is not None:
            self._leaving[gone.name] = self._clock.monotonic() + _LEARN_S
        self._revoked[gone.name] = gone.kind
        log.info("account %s is revoked by the manager", gone.name)
        await asyncio.wait({self.enforce()}, timeout=_WRITE_WITHIN_S)

    def enforce(self) -> "asyncio.Task[None]":
        """Write the revocations that are not yet on disk; one such task at a time."""
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_revoked(), name="revocations")
        return self._writing

    async def _write_revoked(self) -> None:
        loop = asyncio.get_running_loop()
        while self._revoked:
            name, kind = next(iter(self._revoked.items()))
            try:
                now_s = self._clock.time_ns() / 1e9
                await loop.run_in_executor(self._pool, revoke, self._path, name, kind, now_s)
            except (OSError, ValueError) as error:  # TimeoutError is an OSError
                self._complain(f"the account of {name} is revoked, but still in the file: {error}")
                return
            await self.refresh()
            self._revoked.pop(name, None)

    async def read_known_logins(self) -> None:
        """Take over the logins that a former broker has verified."""
        await asyncio.get_running_loop().run_in_executor(self._pool, self._known.read)
        self._known.keep(self._accounts.table)

    async def write_known_logins(self) -> None:
        """Write what is new; what can't be written is verified again after a restart."""
        if self._known.changed:
            write = partial(self._known.write, *self._known.texts())
            with suppress(OSError):
                await asyncio.get_running_loop().run_in_executor(self._pool, write)

    async def forget_expired_tokens(self) -> None:
        """Drop expired join tokens from their file; one that can't be written is tried again."""
        loop, now_s = asyncio.get_running_loop(), self._clock.time_ns() / 1e9
        try:
            await loop.run_in_executor(self._pool, drop_expired, self._path, now_s)
        except OSError as error:  # TimeoutError is one
            self._complain(f"expired tokens are still in the file: {error}")

    async def refresh(self) -> None:
        """Reload the accounts file if it was replaced; a damaged one keeps the last good state."""
        async with self._reading:
            found = _signature(self._path)
            if found == self._seen:
                return
            try:
                loop = asyncio.get_running_loop()
                self._accounts = await loop.run_in_executor(self._pool, Accounts.load, self._path)
                self._seen, self._trouble = found, ""
            except (OSError, ValueError) as error:
                self._complain(str(error))
            self._known.keep(self._accounts.table)

    def _account(self, name: str) -> Account | None:
        account = self._accounts.table.get(name)
        return None if account is not None and self._revoked.get(name) == account.kind else account

    async def close(self) -> None:
        """Stop the threads; what they compute now is discarded."""
        for pool in (self._pool, *self._login_pools.values()):
            pool.shutdown(wait=False, cancel_futures=True)

    async def _join(self, peer: Peer) -> None:
        """Give a node that offers a join token and a secret its account, with that secret as password.

        Any other password, and an invalid token, is then checked as a password.
        """
        offer = parse_offer(peer.password)
        if offer is None or peer.username in self._revoked:
            return
        await self._read_tokens()
        if not is_token_of(self._tokens, peer.username, offer):  # guesses end here, before any hashing
            peer.late = is_token_of(self._used, peer.username, offer)
            return
        loop = asyncio.get_running_loop()
        try:
            now_s = self._clock.time_ns() / 1e9
            pool = self._login_pools[is_chosen(offer.secret)]
            made = await loop.run_in_executor(pool, redeem, self._path, peer.username, offer, now_s)
        except (OSError, ValueError) as error:  # TimeoutError is an OSError
            self._complain(f"a node could not join: {error}")
            return
        if made:
            log.info("%s joined with a token", peer.username)
            peer.password = offer.secret
            await self.refresh()
        else:
            await self._read_tokens()  # of two at once, one was first
            peer.late = is_token_of(self._used, peer.username, offer)

    async def _read_tokens(self) -> None:
        """Read the hashes of the join tokens again when the file was replaced."""
        async with self._reading:
            found = _signature(tokens_file(self._path))
            if found != self._tokens_seen:
                loop, now_s = asyncio.get_running_loop(), self._clock.time_ns() / 1e9
                self._tokens = await loop.run_in_executor(self._pool, read_hashes, self._path, now_s)
                self._used = await loop.run_in_executor(self._pool, read_used, self._path, now_s)
                self._tokens_seen = found

    async def _verify(self, peer: Peer, account: Account, digest: bytes) -> bool:
        """Hash in a thread, unless the guard refuses; concurrent connections with one password share it."""
        login = (peer.username, digest)
        if self._wrong.get(login) == account:
            return False
        first = login not in self._logins
        if not self._admit(peer, first):
            peer.busy = True
            return False
        password, hashed = peer.password, self._accounts.is_hashed(peer.username, peer.password)
        if first:
            pool, loop = self._login_pools[is_chosen(password)], asyncio.get_running_loop()
            hashing = loop.run_in_executor(pool, self._accounts.verify, peer.username, password)
            hashing.add_done_callback(partial(self._verified_one, login, peer.source, account))
            self._logins[login] = hashing
        try:
            right = await asyncio.shield(self._logins[login]) is not None
        finally:
            if not first:
                self._guard.waited()
        if not right and not hashed:
            await self._pretend_to_hash(peer, password)
        return right

    def _admit(self, peer: Peer, first: bool) -> bool:
        """Whether a password may be hashed, or waited for where it is being hashed already."""
        if first:
            return self._guard.admit(peer.username, peer.source, self._clock.monotonic())
        return self._guard.wait()

    async def _refuse_unknown(self, peer: Peer) -> None:
        """As a wrong password of an account is refused: nobody finds out which names have one."""
        login = (peer.username, self._known.digest(peer.password))
        if self._wrong.get(login) == _NOBODY:
            return
        if not self._guard.admit_unknown(peer.username, peer.source, self._clock.monotonic()):
            peer.busy = True
            return
        await self._pretend_to_hash(peer, peer.password)
        if not peer.busy:
            self._remember_wrong(login, _NOBODY)

    async def _pretend_to_hash(self, peer: Peer, password: str) -> None:
        """Wait as long as hashing it would take, in a queue as long, without the work: strangers' guesses at
        what does not exist must not cost others their logins, nor their connections."""
        if not self._guard.wait():
            peer.busy = True
            return
        try:
            await self._as_if_hashed(password)
        finally:
            self._guard.waited()

    async def _as_if_hashed(self, password: str) -> None:
        cost = cost_of(password)
        async with self._pretending[is_chosen(password)]:
            if cost not in self._took:
                began = self._clock.monotonic()
                await asyncio.get_running_loop().run_in_executor(None, hash_in_vain, cost)
                self._took[cost] = deque([self._clock.monotonic() - began], _SAMPLES)
            else:
                await self._clock.sleep(secrets.choice(self._took[cost]))

    def _remember_wrong(self, login: tuple[str, bytes], account: Account) -> None:
        self._wrong[login] = account
        if len(self._wrong) > _MAX_WRONG:
            self._wrong.popitem(last=False)

    def _verified_one(
        self,
        login: tuple[str, bytes],
        source: str,
        account: Account,
        hashing: "asyncio.Future[str | None]",
    ) -> None:
        self._logins.pop(login, None)
        failed = hashing.cancelled() or hashing.exception() is not None
        right = not failed and hashing.result() is not None
        self._guard.ended(login[0], source, self._clock.monotonic(), right)
        if not right and not failed:
            self._remember_wrong(login, account)

    def _complain(self, trouble: str) -> None:
        """Log an error once; the next check of the file tries again."""
        if trouble != self._trouble:
            log.error("the accounts stay as they were: %s", trouble)
        self._trouble = trouble


def _signature(path: Path) -> tuple[int, ...]:
    """Changes whenever the file is replaced. One stat: some microseconds, so on the loop."""
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)
