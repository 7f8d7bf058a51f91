"""Limits of a worker's processes, set by util-linux and coreutils before the program starts. Pure.

They are inherited, so they hold for each process of the worker by itself. `prlimit`, `nice` and `taskset`
replace themselves by the program: the worker's process id, session and token are the program's own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile
from typing import Final

from msgspec import Struct

_SIZE: Final = re.compile(r"([0-9]{1,15})([KMGT]?)(?:i?B)?", re.IGNORECASE)
_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SMALLEST: Final = 1 << 20


class ProcessLimits(Struct, frozen=True):
    """`nofile`: open files; `cpus`: where it may run; `memory`: bytes of the worker, by its cgroup, or else
    of the data of one process (RLIMIT_DATA).

    `nice`: added to the agent's own; below 0 for root alone. None and an empty tuple: as the agent has them.
    """

    nofile: int | None = None
    memory: int | None = None
    nice: int | None = None
    cpus: tuple[int, ...] = ()

    def wrapped(self, argv: tuple[str, ...], *, cgroup: bool = False) -> tuple[str, ...]:
        """The command line that starts `argv` with these limits; `cgroup`: one limits its memory."""
        rlimits = [("--nofile", self.nofile), ("--data", None if cgroup else self.memory)]
        given = [f"{option}={value}:{value}" for option, value in rlimits if value is not None]
        before = ["prlimit", *given] if given else []
        if self.nice is not None:
            before += ["nice", "-n", str(self.nice)]
        if self.cpus:
            before += ["taskset", "-c", ",".join(map(str, self.cpus))]
        return (*before, *argv)

    @property
    def programs(self) -> tuple[str, ...]:
        """The programs that set them."""
        return tuple(part for part in self.wrapped(()) if part in ("prlimit", "nice", "taskset"))


NO_LIMITS: Final = ProcessLimits()


def data_limit(argv: Sequence[str]) -> int | None:
    """The bytes of data that a command line of `wrapped` grants; None: as many as the agent has."""
    options = takewhile(lambda part: part.startswith("--"), argv[1:]) if argv[:1] == ("prlimit",) else ()
    found = (part.removeprefix("--data=").partition(":")[0] for part in options if part.startswith("--data="))
    return next(map(int, found), None)


def as_bytes(text: str) -> int:
    """Bytes of a size such as `512M`, `2GiB` or `1048576` (powers of 1,024), from 1 MiB on.

    Raises:
        ValueError: it is none.
    """
    found = _SIZE.fullmatch(text.strip())
    size = int(found[1]) * _UNITS[found[2].upper()] if found else 0
    if size < _SMALLEST:
        raise ValueError(f"'{text[:40]}' is not a size of 1M or more, such as 512M or 2G")
    return size
