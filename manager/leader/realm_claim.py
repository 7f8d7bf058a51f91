"""One store per realm: the first start of a store in a realm finds out whether another store's is in use.

Two managers with different stores would both serve the requests, and overwrite each other's retained topics.
"""

from __future__ import annotations

import asyncio
from typing import Final

from busbar.bus.connection.link import Link, Message
from busbar.bus.decode import read
from busbar.bus.errors import BusError, BusOfflineError, MissingRightError
from busbar.bus.messages import Assignment

from ..publish.presence import Presence
from ..store import Store, Tx
from ..store.backup import ANY_REALM, REALM
from .fencing import ONLINE, Fence, FencedError

PROBE_S: Final = 5.0
"""Limit for the probe to come back; without it the connection is begun again."""


class RealmInUseError(FencedError):
    """The realm is another store's: this manager has published nothing retained, and must not serve."""


class RealmClaim:
    """`adopt`: claim the realm even though it is another store's."""

    def __init__(
        self, store: Store, fence: Fence, presence: Presence, user: str | None = None, *, adopt: bool
    ) -> None:
        self._store, self._fence, self._presence, self._adopt = store, fence, presence, adopt
        self._user = user
        self._echo = asyncio.Event()
        self._assigner: str | None = None
        self._claimed = store.reads.meta(REALM) in (store.topics.prefix, ANY_REALM)

    def handle(self, message: Message) -> None:
        """Note that the probe has come back: all retained states were received before it."""
        if not self._claimed and message.payload == self._presence.probe:
            self._echo.set()

    async def settle(self, link: Link) -> None:
        """Claim the realm for this store, once; before anything else is published.

        Raises:
            RealmInUseError: it is another store's.
            MissingRightError: the probe was refused, or did not come back.
            BusOfflineError: the connection was lost, or the broker acknowledges nothing.
        """
        if not self._claimed:
            await self._listen(link)
            others = self._others()
            if others and not self._adopt:
                raise RealmInUseError(_refusal(self._store.topics.realm, others[0]))
            if others:
                await self._clear(link)
        if self._store.reads.meta(REALM) != self._store.topics.prefix:
            await self._store.write(self._record)
        self._claimed = True

    async def _listen(self, link: Link) -> None:
        """Until everything retained was received: the probe is published after the subscriptions."""
        pattern = self._store.topics.all_nodes("assignment")
        self._echo.clear()
        taken = False
        link.subscribe(pattern, self._on_assignment, qos=0)
        try:
            async with asyncio.timeout(PROBE_S):
                await self._presence.publish_probe(link)
                taken = True
                await self._echo.wait()
        except TimeoutError:
            if not taken:
                raise BusOfflineError("the broker acknowledges nothing") from None
            # MQTT 5 has told what may not be written; 3.1.1 does not, and neither tells what may not be read.
            topic = self._presence.topic
            raise MissingRightError(self._user, "write or to read", topic, certain=False) from None
        finally:
            link.unsubscribe(pattern)

    def _on_assignment(self, message: Message) -> None:
        if not message.payload:
            return
        try:
            found = read(message.payload, Assignment)
        except BusError:
            return
        if found.store != self._store.id:
            self._assigner = found.store

    def _others(self) -> list[str]:
        """The other stores of which the realm holds something, in words; those whose manager runs first."""
        found = sorted(self._fence.others.values(), key=lambda state: state.state != ONLINE)
        words = [f"manager '{each.manager}' (store {each.store}, {each.state})" for each in found]
        if not words and self._assigner is not None:
            words.append(f"a manager with store {self._assigner}, which left assignments")
        return words

    async def _clear(self, link: Link) -> None:
        """Forget managers that are offline: the realm is no longer theirs."""
        gone = [state for state in self._fence.others.values() if state.state != ONLINE]
        await self._presence.clear(link, {state.manager for state in gone})
        for state in gone:
            self._fence.others.pop(state.store, None)

    def _record(self, tx: Tx) -> None:
        tx.set_meta(REALM, self._store.topics.prefix)


def _refusal(realm: str, other: str) -> str:
    return (
        f"realm '{realm}' is in use by {other}, and this manager's store is new to it: it does not start."
        " Use that manager's state folder or a backup of it, or another --realm; if that store is gone for"
        " good, start once with --adopt-realm"
    )
