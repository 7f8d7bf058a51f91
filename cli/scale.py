"""The scale of `busbar group scale`: a number of workers, or `+1` and `-1` relative to the present one."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from busbar.bus.errors import BusError
from busbar.bus.params import Group

from .errors import usage

ATTEMPTS: Final = 8
"""How often a relative change is computed again when others change the group at the same time."""
PAUSE_S: Final = 0.05
"""Mean pause before the second attempt, seconds; it doubles with each."""
_SCALE: Final = re.compile(r"([+-]?)([0-9]{1,9})")


@dataclass(frozen=True, slots=True)
class ScaleChange:
    """A number of workers, or with `relative` the difference to the present one."""

    amount: int
    relative: bool = False

    def of(self, present: int) -> int:
        """The new scale.

        Raises:
            CliError: it would be below 0.
        """
        scale = present + self.amount if self.relative else self.amount
        if scale < 0:
            raise usage(f"the group is scaled to {present}: {self.amount} would leave {scale} workers")
        return scale


def read_scale(text: str) -> ScaleChange:
    """`4`, `+1` or `-1`, in plain decimal digits.

    Raises:
        CliError: it is none of them.
    """
    found = _SCALE.fullmatch(text)
    if found is None:
        raise usage(f"{text!r} is no scale: give a number of workers, or +N or -N to change it by N")
    return ScaleChange(int(found[0]), relative=bool(found[1]))


async def change_scale(
    change: ScaleChange,
    find: Callable[[], Awaitable[Group]],
    scale: Callable[[Group, int, int | None], Awaitable[Group]],
    expect_version: int | None,
) -> tuple[Group, Group]:
    """Scale a group; return it as it was read, and after the change.

    A relative change is made of the version that was read, and computed again when that one is out of date,
    unless the caller gave the version to expect.

    Raises:
        BusError: `version_conflict`: the version expected is out of date, or others keep changing it.
        CliError: there would be fewer than 0 workers.
    """
    for attempt in range(ATTEMPTS):
        found = await find()
        fence = found.version if change.relative and expect_version is None else expect_version
        try:
            return found, await scale(found, change.of(found.scale), fence)
        except BusError as error:
            last = attempt == ATTEMPTS - 1
            if error.code != "version_conflict" or fence is expect_version or last:
                raise
        await asyncio.sleep(PAUSE_S * 2**attempt * random.uniform(0.5, 1.5))
    raise AssertionError("unreachable")
