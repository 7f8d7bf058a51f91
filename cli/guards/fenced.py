"""Changes that are computed from what an object is at present."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from busbar.bus.backoff import Backoff
from busbar.bus.clock import SystemClock
from busbar.bus.errors import BusError
from busbar.bus.params import Cluster, Group

Versioned = TypeVar("Versioned", Cluster, Group)
ATTEMPTS: Final = 8
"""How often a change is computed again when others change the object at the same time."""
PAUSE: Final = Backoff(base=0.05, cap=2.0)
"""Pauses between the attempts."""


async def change_fenced(
    find: Callable[[], Awaitable[Versioned]],
    change: Callable[[Versioned, int | None], Awaitable[Versioned]],
    expect_version: int | None,
    *,
    computed: bool,
) -> tuple[Versioned, Versioned]:
    """Find an object and change it; return it as it was found, and after the change.

    `change` gets the object and the version to expect. With `computed` that is the one found, and both are
    repeated when it is out of date, unless the caller gave an `expect_version`.

    Raises:
        BusError: `version_conflict`: the version expected is out of date, or others keep changing it.
    """
    fenced = computed and expect_version is None
    for attempt in range(ATTEMPTS):
        found = await find()
        try:
            return found, await change(found, found.version if fenced else expect_version)
        except BusError as error:
            if error.code != "version_conflict" or not fenced or attempt == ATTEMPTS - 1:
                raise
        await SystemClock().sleep(PAUSE.delay(attempt + 1, random.random()))
    raise AssertionError("unreachable")
