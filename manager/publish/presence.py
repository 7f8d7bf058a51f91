"""The manager's own retained state (`manager/{id}/state`) and its will."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from busbar.bus.connection.link import Link, Will
from busbar.bus.decode import encode
from busbar.bus.messages import ManagerState
from busbar.bus.topics import Topics
from msgspec.structs import replace

PROBE: Final = "starting"
"""The state that a probe has: for readers of manager states that is neither online nor offline."""


class Presence:
    """Publishes that this manager is online or offline; `online` is its state while it runs."""

    def __init__(self, topics: Topics, online: ManagerState) -> None:
        self._topics = topics
        self.topic = topics.manager_state(online.manager)
        self._online = encode(online)
        self._offline = encode(replace(online, state="offline"))
        self.probe = encode(replace(online, state=PROBE))
        """Published where the realm is new to this store; see `leader.realm_claim`."""

    def will(self, _conn: int) -> Will:
        """The will of every connection."""
        return Will(self.topic, self._offline)

    async def publish_online(self, link: Link) -> None:
        """Raises BusOfflineError when the broker does not acknowledge it."""
        await link.publish(self.topic, self._online, retain=True)

    async def publish_offline(self, link: Link) -> None:
        """Raises BusOfflineError when the broker does not acknowledge it."""
        await link.publish(self.topic, self._offline, retain=True)

    async def publish_probe(self, link: Link) -> None:
        """Not retained: it is to come back. Raises BusOfflineError when it is not acknowledged."""
        await link.publish(self.topic, self.probe)

    async def clear(self, link: Link, managers: Iterable[str]) -> None:
        """Delete the states of other managers. Raises BusOfflineError when one is not acknowledged."""
        for manager in managers:
            await link.publish(self._topics.manager_state(manager), b"", retain=True)

    def post_online(self, link: Link) -> None:
        """Publish it again without waiting: another state was seen, or it should come back as an echo."""
        link.post(self.topic, self._online, retain=True)
