"""The retained states of a realm's managers, and whether the connection was made again."""

from __future__ import annotations

import logging
from typing import Final

from msgspec import Struct

from ..connection.link import Message
from ..decode import read
from ..errors import BusError
from ..messages import ManagerState
from ..topics import Topics
from .subscriptions import Subscriptions, Watch

log = logging.getLogger("busbar.client")

MANAGERS: Final = 64
"""Managers whose states were not read yet; those beyond are left out."""


class ManagerUpdate(Struct, frozen=True):
    """A manager's state; None: its retained state is gone."""

    manager: str
    state: ManagerState | None


class ManagerWatch(Watch[ManagerUpdate]):
    """The present state of each manager, then every change; of those not read yet, each one's last.

    `connections` counts how often the connection was made again since: no retained message tells what
    was deleted meanwhile.
    """

    def __init__(self, subscriptions: Subscriptions, topics: Topics) -> None:
        self._topics = topics
        self._waiting: dict[str, ManagerState | None] = {}
        self.connections = 0
        super().__init__(subscriptions, topics.all_managers(), 1)

    def reconnected(self) -> None:
        """Count it."""
        self.connections += 1

    def note(self, message: Message) -> None:
        """Keep a state until it is read."""
        manager = self._topics.parse_manager(message.topic)
        if manager is None or (manager not in self._waiting and len(self._waiting) >= MANAGERS):
            return
        try:
            self._waiting[manager] = read(message.payload, ManagerState) if message.payload else None
        except BusError as error:
            log.warning("a state on %s was not understood: %s", message.topic, error)
            return
        self._news.set()

    def take(self) -> ManagerUpdate | None:
        """The last state of the manager that waits longest."""
        if not self._waiting:
            return None
        manager = next(iter(self._waiting))
        return ManagerUpdate(manager, self._waiting.pop(manager))
