"""How fast the packets of nodes and persons are handled: each account within its share, one packet at a time.

Where an account has more to do, its connections wait in turn, and their clients by TCP's flow control; others
are not held up by it, however many connections and packets it has. Managers, which all others wait for, are
never held back; who publishes faster than they read waits for them instead.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol
from weakref import WeakValueDictionary

from ..buckets import Buckets
from ..clock import Clock
from .limits import LIMITS, Limits, Owner

_LOOK_S: Final = 0.25
"""A connection that waits notices so soon that it was ended."""
_SHORTEST_S: Final = 0.001
_DRAIN_S: Final = 0.005
_HUNG_S: Final = 5.0
"""A manager that takes nothing for so long is not waited for."""
_PER_UNIT: Final = 16 * 1024
_DELIVERY: Final = 0.2
_FRAGMENT: Final = 0.1


class Taker(Protocol):
    """A manager's connection."""

    @property
    def untaken_bytes(self) -> int:
        """What was sent to it and has not been written or acknowledged yet."""
        ...


class Turn(asyncio.Lock):
    """Held while a packet of the account is handled; its connections follow first come, first served."""


class Pace:
    """The accounts' turns and what they may still do; `spend` says what was done."""

    def __init__(self, clock: Clock, limits: Limits = LIMITS) -> None:
        self._clock = clock
        self._work = Buckets(limits.account_work, limits.account_work_per_s)
        self._backlog = limits.manager_backlog_bytes
        self._turns: WeakValueDictionary[Owner, Turn] = WeakValueDictionary()
        self._takers: dict[Taker, float | None] = {}  # since when it has had too much, if it has

    def turn(self, owner: Owner) -> Turn:
        """The account's turn, for its connections to keep while they are served."""
        found = self._turns.get(owner)
        if found is None:
            found = self._turns[owner] = Turn()
        return found

    def spend(self, owner: Owner, units: float) -> None:
        """So much was done for the account: 1 per packet and filter, and `delivery` for each message sent."""
        self._work.spend(owner, units, self._clock.monotonic())

    async def wait(self, owner: Owner, publishes: bool, ended: Callable[[], bool]) -> None:
        """Until a packet of the account may be handled, or its connection has ended."""
        while (pause := self._pause(owner, publishes)) and not ended():
            await self._clock.sleep(min(pause, _LOOK_S))

    def add(self, taker: Taker) -> None:
        """A manager has connected."""
        self._takers[taker] = None

    def remove(self, taker: Taker) -> None:
        """It is gone."""
        self._takers.pop(taker, None)

    def _pause(self, owner: Owner, publishes: bool) -> float:
        now = self._clock.monotonic()
        short = self._work.short(owner, now)
        if short:
            return max(short, _SHORTEST_S)
        return _DRAIN_S if publishes and self._must_drain(now) else 0.0

    def _must_drain(self, now: float) -> bool:
        late = False
        for taker, since in self._takers.items():
            if taker.untaken_bytes <= self._backlog:
                self._takers[taker] = None
            elif since is None:
                self._takers[taker], late = now, True
            else:
                late = late or now - since < _HUNG_S
        return late


def weight(size: int) -> float:
    """What bytes sent or received cost, besides the packet itself."""
    return size / _PER_UNIT


def fragments(count: int) -> float:
    """What the fragments cost in which a packet came."""
    return count * _FRAGMENT


def delivery(size: int) -> float:
    """What it costs to send a message of so many bytes to one subscriber."""
    return _DELIVERY + weight(size)
