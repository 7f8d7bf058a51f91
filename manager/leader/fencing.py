"""One active manager per store: a file lock on one machine, epochs (fencing tokens) between machines."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from busbar.bus.clock import Clock
from busbar.bus.connection.link import Message
from busbar.bus.decode import read
from busbar.bus.errors import BusError
from busbar.bus.messages import ManagerState
from busbar.bus.system.files import FileLock
from busbar.bus.topics import Topics
from msgspec import UnsetType

log = logging.getLogger("busbar.manager")

LOCK_POLL_S: Final = 0.25
MAX_STATE: Final = 65_536
MAX_OTHERS: Final = 16
"""Other stores that are remembered."""
ONLINE: Final = "online"
OFFLINE: Final = "offline"


class FencedError(Exception):
    """A manager with a higher epoch runs on a copy of this store: this one must not publish any more."""


class Lock(FileLock):
    """The lock file beside the database: its holder is the active manager, others stand by."""

    def take(self) -> bool:
        """As FileLock's, and the folder (0700) is made where it is missing."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return super().take()

    async def wait(self, clock: Clock) -> None:
        """Stand by until the lock is free."""
        if self.take():
            return
        log.warning("another manager holds %s: standing by", self.path)
        while not self.take():
            await clock.sleep(LOCK_POLL_S)
        log.warning("the other manager is gone: taking over")


class Fence:
    """Watches the states of all managers (`manager/+/state`)."""

    def __init__(
        self, topics: Topics, manager: str, store: str, epoch: int, started: str | None = None
    ) -> None:
        self.raised = asyncio.Event()
        self.reason = ""
        self.others: dict[str, ManagerState] = {}
        """By store: the states of managers of other stores, online or offline."""
        self.own_state_overwritten = False
        """Our state topic does not say `online`: the will of an earlier connection, or it was deleted."""
        self._own = topics.manager_state(manager)
        self._store = store
        self._epoch = epoch
        self._started = started

    def handle(self, message: Message) -> None:
        """Process one state; an unreadable one is logged and dropped."""
        if not message.payload:
            self.own_state_overwritten |= message.topic == self._own
            return
        try:
            state = read(message.payload, ManagerState, MAX_STATE)
        except BusError as error:
            log.warning("an unreadable manager state on %.100s was dropped: %s", message.topic, error)
            self.own_state_overwritten |= message.topic == self._own
            return
        if state.store == self._store and (state.epoch > self._epoch or self._is_twin(state)):
            self._raise(state)
        elif state.store != self._store:
            self._note_other(state, message.topic == self._own)
        elif message.topic == self._own and state.state != "online":
            self.own_state_overwritten = True

    def _is_twin(self, state: ManagerState) -> bool:
        """Whether another process has our epoch: each start raises it, so one of the two runs on a copy."""
        differs = not isinstance(state.started, UnsetType) and state.started != self._started
        return state.epoch == self._epoch and self._started is not None and differs

    def _raise(self, state: ManagerState) -> None:
        if not self.raised.is_set():
            self.reason = (
                f"manager '{state.manager}' has epoch {state.epoch} of store {state.store}, this one only "
                f"{self._epoch}: it was restored from an older backup or copied, so it stops. To make it the "
                f"active manager: busbar manager take-over --epoch {state.epoch}"
            )
            log.error("%s", self.reason)
            self.raised.set()

    @property
    def other(self) -> str | None:
        """A condition: managers of other stores are online in this realm; None when there are none."""
        online = (state for state in self.others.values() if state.state == ONLINE)
        return "; ".join(_other(state) for state in online) or None

    def _note_other(self, state: ManagerState, on_own_topic: bool) -> None:
        known = self.others.get(state.store)
        if state.state not in (ONLINE, OFFLINE):
            log.warning(
                "manager '%s' with another store (%s) starts in this realm", state.manager, state.store
            )
            return
        if len(self.others) >= MAX_OTHERS and known is None:
            return
        self.others[state.store] = state
        if state.state == ONLINE and (known is None or known.state != ONLINE):
            log.error("%s", _other(state))
        elif state.state == OFFLINE:
            self.own_state_overwritten |= on_own_topic


def _other(state: ManagerState) -> str:
    return f"manager '{state.manager}' with another store ({state.store}) is online in this realm"
