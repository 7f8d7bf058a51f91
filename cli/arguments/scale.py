"""The scale of `busbar group scale`: a number of workers, or `+1` and `-1` relative to the present one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ..errors import usage

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
