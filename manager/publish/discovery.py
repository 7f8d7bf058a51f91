"""Keeps Home Assistant's discovery messages at the broker as they are to be, and removes what is left over.

What the broker holds is read back from it, never assumed: messages of an earlier manager, of objects that are
gone, and of another discovery prefix are found and removed.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from typing import Final

from busbar.bus.access.home_assistant import HomeAssistant
from busbar.bus.clock import Clock
from busbar.bus.connection.link import Link, Message
from busbar.bus.errors import BusOfflineError, MessageTooLargeError, MissingRightError
from busbar.bus.system.version import version

from ..store import Changes, Store
from ..store.meta import DISCOVERY_KEY
from ..store.reads import Queries
from ..store.tx import Tx
from . import home_assistant as ha
from .retained import read_retained

log = logging.getLogger("busbar.home_assistant")

PAUSE_S: Final = 1.0
"""Between two passes: changes and births that come meanwhile share one."""


class HomeAssistantDiscovery:
    """`run` lasts until cancelled and never fails. Without `options` it only removes what an
    earlier start has published; `needed` is false where there is nothing to do at all."""

    def __init__(
        self,
        store: Store,
        link: Link,
        clock: Clock,
        options: HomeAssistant | None,
        manager: str,
        active: Callable[[], bool],
    ) -> None:
        self._store, self._link, self._clock, self._active = store, link, clock, active
        self._options = options
        self._make = ha.Discovery(options, store.topics, manager, version()) if options else None
        self._used = _prefixes(store.reads.meta(DISCOVERY_KEY))
        self._wake = asyncio.Event()
        self._held: dict[str, bytes] = {}
        self._wanted: dict[str, bytes] = {}
        self._given_up: set[str] = set()
        """Topics that this connection may not write, or whose message is too large."""
        self._locked: set[str] = set()
        """Former prefixes below which it may not write."""
        self._last: ha.Realm | None = None
        self._again = True

    @property
    def needed(self) -> bool:
        return self._options is not None or bool(self._used)

    def attach(self) -> None:
        """Subscribe, before the connection is made."""
        if self._options is None:
            return
        topics = self._store.topics
        self._link.subscribe(self._options.configs(topics.root, topics.realm), self._on_config)
        self._link.subscribe(self._options.birth, self._on_birth)
        self._store.on_commit(self._on_commit)

    def connected(self) -> None:
        """There is a new connection, and this manager may publish on it."""
        self._held.clear()
        self._given_up.clear()
        self._locked.clear()
        self._again = True
        self._wake.set()

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                if self._active():
                    await self._publish()
                    await self._remove_former()
            except BusOfflineError as error:
                log.debug("discovery was interrupted: %s", error)
                self._again = True
                self._wake.set()
            except Exception:
                log.exception("discovery failed; trying again")
                self._again = True
                self._wake.set()
            await self._clock.sleep(PAUSE_S)

    # --- what is wanted

    async def _publish(self) -> None:
        if self._make is None or self._options is None:
            return
        if self._options.prefix not in self._used:
            await self._note(self._used | {self._options.prefix})
        now = realm_now(self._store.reads, self._options.user)
        if now != self._last:
            self._tell_missing_role(now)
            self._last, self._wanted = now, self._make.messages(now)
        again, self._again = self._again, False
        await self._send(dict(ha.difference(self._held, self._wanted)) | (self._wanted if again else {}))

    def _tell_missing_role(self, now: ha.Realm) -> None:
        if self._options and now.principal is None and (self._last is None or self._last.principal):
            log.warning("Home Assistant's user '%s' has no role: it gets no buttons", self._options.user)

    async def _send(self, messages: Mapping[str, bytes]) -> None:
        """Raises BusOfflineError when the connection breaks; the next one sends all again."""
        for topic, payload in messages.items():
            if not self._active():
                return
            if topic in self._given_up:
                continue
            try:
                await self._link.publish(topic, payload, retain=True)
            except (MessageTooLargeError, MissingRightError) as error:
                log.warning("%s", error)
                self._given_up.add(topic)
                continue
            if payload:
                self._held[topic] = payload
            else:
                self._held.pop(topic, None)

    def _on_commit(self, changes: Changes) -> None:
        if changes.nodes or changes.clusters or changes.groups or changes.principals:
            self._wake.set()

    def _on_birth(self, message: Message) -> None:
        if message.payload == b"online" and not message.retain:
            self._again = True
            self._wake.set()

    def _on_config(self, message: Message) -> None:
        """A message of an earlier manager, an echo of our own, or somebody else's: then it is replaced."""
        if message.payload:
            self._held[message.topic] = message.payload
        else:
            self._held.pop(message.topic, None)
        if self._wanted.get(message.topic, b"") != message.payload:
            self._wake.set()

    # --- what is not wanted any more

    async def _remove_former(self) -> None:
        """Of other prefixes than the present one: remove all, and forget the prefix once that was done."""
        kept = self._options.prefix if self._options else None
        for prefix in sorted(self._used - {kept} - self._locked):
            try:
                await self._remove(prefix)
            except MissingRightError as error:
                log.warning("what Home Assistant was told below %s/ stays for now: %s", prefix, error)
                self._locked.add(prefix)
                continue
            await self._note(self._used - {prefix})
            log.info("removed what Home Assistant was told below %s/", prefix)

    async def _remove(self, prefix: str) -> None:
        """Raises BusOfflineError, and MissingRightError where the broker tells."""
        topics = self._store.topics
        pattern = HomeAssistant("any", prefix).configs(topics.root, topics.realm)
        for topic in sorted(await read_retained(self._link, self._clock, [pattern])):
            await self._link.publish(topic, b"", retain=True)
        if not self._active():
            raise BusOfflineError("the connection broke meanwhile")

    async def _note(self, prefixes: frozenset[str]) -> None:
        def write(tx: Tx) -> None:
            tx.set_meta(DISCOVERY_KEY, json.dumps(sorted(prefixes)))

        await self._store.write(write)
        self._used = frozenset(prefixes)


def realm_now(reads: Queries, user: str) -> ha.Realm:
    """The nodes, clusters and groups that Home Assistant is to see."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for oid, cluster, name in reads.group_keys():
        groups.setdefault(cluster, []).append((oid, name))
    principal = reads.principal(user)
    return ha.Realm(
        tuple(ha.Device(oid, name) for oid, name, status in reads.node_keys() if status != "unpaired"),
        tuple(
            ha.Device(oid, name, tuple(groups.get(oid, ())), owner)
            for oid, name, owner in reads.cluster_owners()
        ),
        principal.oid if principal else None,
        principal.role if principal else "",
    )


def _prefixes(value: str | None) -> frozenset[str]:
    return frozenset(json.loads(value)) if value else frozenset()
