"""Who is signed in: one bus client for each, a bounded number, ended when nobody uses it."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from dataclasses import replace
from typing import Final

from busbar.bus.client.client import CALL_S
from busbar.bus.client.errors import LoginRefusedError
from busbar.bus.clock import Clock
from busbar.bus.errors import BusOfflineError
from busbar.bus.options import ConnectOptions
from busbar.bus.printable import printable
from busbar.bus.topics import Topics, is_name

from .history import History
from .session import Session
from .throttle import Throttle

SESSIONS: Final = 64
"""Persons signed in at once, in all browsers."""
EACH: Final = 8
"""Sessions of one person: one more ends the one that was not used for the longest time."""
IDLE_S: Final = 3600.0
"""Seconds after which a session ends of which no page is looked at: one that is hidden has no connection."""
LASTS_S: Final = 43_200.0
"""Seconds after which any session ends."""
LOOK_S: Final = 0.2
"""How often it is looked whether connections stand, and which sessions are not used."""
PASSWORD: Final = 1024
"""Bytes of a password at most."""
GOODBYE_S: Final = 3.0


class SignInError(Exception):
    """Nobody was signed in: what to tell, an HTTP status, and seconds to wait (0: none)."""

    def __init__(self, text: str, status: int, retry_after: int = 0) -> None:
        super().__init__(text)
        self.status, self.retry_after = status, retry_after


class Sessions:
    """Signs in and out. `options` has no user, `timeout` is a call's; sessions are found by a hash."""

    def __init__(
        self, options: ConnectOptions, topics: Topics, clock: Clock, timeout: float = CALL_S
    ) -> None:
        self.history = History()
        self.topics = topics
        self._options, self._clock, self._timeout = options, clock, timeout
        self._throttle = Throttle()
        self._sessions: dict[bytes, Session] = {}
        self._tasks: dict[bytes, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def sign_in(self, user: str, password: str, address: str) -> str:
        """Connect to the broker as this person; returns the new session's id.

        Raises:
            SignInError: it does not let them in, can't be reached, or there were too many tries.
        """
        keys = (f"from {address}", f"as {user[:64]}")
        if wait := self._throttle.wait(keys, self._clock.monotonic()):
            raise SignInError(f"too many tries: wait {wait} s", 429, wait)
        if not is_name(user) or not password or len(password.encode()) > PASSWORD:
            raise SignInError("the broker does not know this name and password", 403)
        self._check_room(user)
        options = replace(self._options, username=user, password=password, password_file=None)
        session = Session(user, options, self.topics, self._clock, self.history, self._timeout)
        task = asyncio.create_task(session.run(), name="web session")
        try:
            await session.started
            self._make_room(user)
        except LoginRefusedError:
            raise SignInError("the broker does not know this name and password", 403) from None
        except (BusOfflineError, OSError, ValueError) as error:
            task.cancel()
            raise SignInError(printable(str(error)), 503) from None
        except BaseException:
            task.cancel()
            raise
        self._throttle.forgive(keys)
        made = secrets.token_urlsafe(32)
        self._sessions[_hash(made)], self._tasks[_hash(made)] = session, task
        return made

    def _mine(self, user: str) -> list[bytes]:
        return [key for key, session in self._sessions.items() if session.user == user]

    def _check_room(self, user: str) -> None:
        """Raises SignInError: there is none. Ends nothing: whoever asks may not be who they say."""
        if len(self._sessions) >= SESSIONS and len(self._mine(user)) < EACH:
            raise SignInError("too many persons are signed in: try again later", 503, 60)

    def _make_room(self, user: str) -> None:
        self._check_room(user)
        mine = self._mine(user)
        if len(mine) >= EACH:
            self._end(min(mine, key=lambda key: self._sessions[key].used))

    def find(self, made: str | None) -> Session | None:
        """The session of this id, which is used now."""
        session = self._sessions.get(_hash(made)) if made else None
        if session is None or session.ended:
            return None
        session.used = self._clock.monotonic()
        return session

    def sign_out(self, made: str | None) -> None:
        """End the session of this id."""
        if made:
            self._end(_hash(made))

    def _end(self, key: bytes) -> None:
        session = self._sessions.pop(key, None)
        if session is not None:
            session.ended = True
            session.board.wake_all()
            task = self._tasks.pop(key)
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    def end_all(self) -> None:
        """End every session, and with it every stream."""
        for key in tuple(self._sessions):
            self._end(key)

    async def run(self) -> None:
        """End what is not used, and tell the pages whether the broker is there, until cancelled."""
        try:
            while True:
                await self._clock.sleep(LOOK_S)
                self._check(self._clock.monotonic())
        finally:
            self.end_all()
            if self._ending:
                await asyncio.wait(tuple(self._ending), timeout=GOODBYE_S)

    def _check(self, now: float) -> None:
        for key, session in tuple(self._sessions.items()):
            if session.streams:
                session.used = now
            if session.ended or now - session.used > IDLE_S or now - session.began > LASTS_S:
                self._end(key)
            else:
                session.look()


def _hash(made: str) -> bytes:
    return hashlib.sha256(made.encode(errors="replace")).digest()
