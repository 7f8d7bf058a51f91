"""Read /proc: who a process is, and which processes bear our token. Linux alone; only reads.

Fields of /proc/PID/stat and the meaning of their numbers: proc_pid_stat(5).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

PROC: Final = Path("/proc")
DEAD: Final = frozenset("ZXx")
"""States in which a process has ended: a zombie waits only to be reaped."""
TOKEN: Final = "BUSBAR_WORKER_TOKEN"
WORKER: Final = "BUSBAR_WORKER"
SCOPE: Final = "BUSBAR_NODE"
"""Names of the variables that mark a worker's process."""
_LISTEN: Final = "0A"
"""TCP_LISTEN as /proc/net/tcp has it."""
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Stat:
    """One process. `start_ticks` (since boot) with pid and boot id names it for ever."""

    pid: int
    state: str
    ppid: int
    pgid: int
    sid: int
    start_ticks: int
    cpu_s: float
    rss_bytes: int

    @property
    def dead(self) -> bool:
        """Ended, though it may still be listed."""
        return self.state in DEAD


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """What is written down of a process so that it can be known again. Plain data, see `to_dict`.

    `log_from`: size of its log when it started, bytes; what it says itself comes after.
    """

    worker: str
    pid: int
    boot_id: str
    start_ticks: int
    token: str
    log_from: int = 0

    def to_dict(self) -> dict[str, Any]:
        """For a state file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ProcessRecord:
        """From a state file.

        Raises:
            ValueError: a member is missing or of the wrong type.
        """
        try:
            texts = {name: str(data[name]) for name in ("worker", "boot_id", "token")}
            numbers = {name: int(data[name]) for name in ("pid", "start_ticks")}
            return cls(**texts, **numbers, log_from=int(data.get("log_from", 0)))  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a process record: {error}") from error


@dataclass(frozen=True, slots=True)
class Usage:
    """Of all processes of one worker together: CPU seconds so far, resident bytes, how many they are."""

    cpu_s: float = 0.0
    rss_bytes: int = 0
    processes: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """Living processes that bear one token. `leader` is None when only descendants are left: sweep those."""

    token: str
    worker: str
    leader: ProcessRecord | None
    pids: tuple[int, ...]
    marks: Mapping[str, str]


@cache
def boot_id() -> str:
    """This boot's id: a pid of another boot means nothing."""
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def uptime_s() -> float:
    """Seconds since boot."""
    return float((PROC / "uptime").read_text().split()[0])


def age_s(stat: Stat) -> float:
    """Seconds a process has been there: works for adopted ones too."""
    return max(0.0, uptime_s() - stat.start_ticks / _TICKS_PER_S)


def parse_stat(text: str) -> Stat:
    """Read the text of /proc/PID/stat; the program's name, in brackets, may hold brackets and spaces itself.

    CPU seconds include those of the children it has waited for (fields 14 to 17).
    """
    pid, _, rest = text.partition(" ")
    fields = rest[rest.rindex(")") + 2 :].split()
    return Stat(
        pid=int(pid),
        state=fields[0],
        ppid=int(fields[1]),
        pgid=int(fields[2]),
        sid=int(fields[3]),
        start_ticks=int(fields[19]),
        cpu_s=sum(int(ticks) for ticks in fields[11:15]) / _TICKS_PER_S,
        rss_bytes=max(0, int(fields[21])) * _PAGE_BYTES,
    )


def read(pid: int) -> Stat | None:
    """The process with this pid now, zombies included; None when there is none.

    Raises:
        OSError: it can't be told (such as no descriptor left): never to be read as "it is gone".
    """
    try:
        return parse_stat((PROC / str(pid) / "stat").read_text(errors="replace"))
    except (FileNotFoundError, ProcessLookupError):
        return None


def environ(pid: int) -> bytes | None:
    """A process's environment as it was at its start, NUL-separated; None when it may not be read or is gone.

    Raises:
        OSError: as `read`.
    """
    try:
        return (PROC / str(pid) / "environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def variables(raw: bytes) -> dict[str, str]:
    """An environment block as a dict; the first of two equal names counts, as in getenv(3)."""
    found: dict[str, str] = {}
    for entry in raw.split(b"\0"):
        name, equals, value = entry.partition(b"=")
        if equals:
            found.setdefault(name.decode(errors="replace"), value.decode(errors="replace"))
    return found


def holds(raw: bytes, name: str, value: str) -> bool:
    """Whether an environment block sets `name` to `value`."""
    return f"{name}={value}".encode() in raw.split(b"\0")


def pids() -> list[int]:
    """Every process's id, the newest first: one that lives for less than a pass takes is then not missed.

    Raises:
        OSError: /proc can't be listed.
    """
    return sorted((int(name) for name in os.listdir(PROC) if name.isdigit()), reverse=True)


def is_ours(record: ProcessRecord) -> bool:
    """Whether the process of this record still lives: boot id, start time and token all fit.

    A program may overwrite its environment (as some do to set their title). Then a process that has that
    pid and start time, leads its own session, and shows no environment at all still counts; a stranger's
    environment, having a PATH and not our token, never does.

    Raises:
        OSError: /proc can't be read.
    """
    leader = _leader(record)
    return leader is not None and not leader.dead


def _leader(record: ProcessRecord) -> Stat | None:
    if record.pid <= 0 or record.boot_id != boot_id():
        return None
    stat = read(record.pid)
    if stat is None or stat.start_ticks != record.start_ticks or stat.sid != record.pid:
        return None
    # A zombie's environment is gone; that pid and that start time make it ours, and it can't be hurt.
    # It is empty for a moment during exec, and stays so after `env -i`: pid, start time and session decide.
    raw = environ(record.pid)
    return stat if stat.dead or raw == b"" or _marked(raw, record.token) or _wiped(raw) else None


def _marked(raw: bytes | None, token: str) -> bool:
    return bool(token) and raw is not None and holds(raw, TOKEN, token)


def _wiped(raw: bytes | None) -> bool:
    """Unreadable or overwritten: all of ours start with a PATH and a token, so neither is left."""
    return raw is None or (raw != b"" and b"PATH=" not in raw and TOKEN.encode() not in raw)


def members(record: ProcessRecord, seen: dict[int, Stat]) -> Iterator[Stat]:
    """Living processes of a worker: its session while its leader vouches for it, its token, those in `seen`.

    Each is given as soon as it is seen. `seen` (by pid) grows by those found, so that one is not lost when
    the leader that vouched for it goes.

    Raises:
        OSError: /proc can't be read.
    """
    leader = _leader(record)
    here = record.boot_id == boot_id()
    for pid in pids():
        raw = environ(pid)
        stat = read(pid)
        if stat is None or stat.dead:
            continue
        in_session = here and stat.sid == record.pid and stat.start_ticks >= record.start_ticks
        known = pid in seen and seen[pid].start_ticks == stat.start_ticks
        if known or _marked(raw, record.token) or (in_session and (leader is not None or _wiped(raw))):
            seen[pid] = stat
            yield stat


def found(scope: str) -> list[Found]:
    """Every living process whose environment names this scope, by token.

    Raises:
        OSError: /proc can't be read.
    """
    groups: dict[str, list[tuple[Stat, dict[str, str]]]] = {}
    for pid in pids():
        raw = environ(pid)
        if raw is None or not holds(raw, SCOPE, scope):
            continue
        stat, names = read(pid), variables(raw)
        if stat is not None and not stat.dead and TOKEN in names:
            groups.setdefault(names[TOKEN], []).append((stat, names))
    return [_found(token, group) for token, group in groups.items()]


def _found(token: str, group: list[tuple[Stat, dict[str, str]]]) -> Found:
    group.sort(key=lambda member: (member[0].start_ticks, member[0].pid))
    names = group[0][1]
    worker = names.get(WORKER, "")
    # The leader was there first: a descendant that made itself a session can't be older.
    first = next((stat for stat, _ in group if stat.sid == stat.pid), None)
    leader = None
    if first is not None and first.start_ticks <= group[0][0].start_ticks:
        leader = ProcessRecord(worker, first.pid, boot_id(), first.start_ticks, token)
    marks = {name: value for name, value in names.items() if name.startswith("BUSBAR_")}
    return Found(token, worker, leader, tuple(stat.pid for stat, _ in group), marks)


def listens(record: ProcessRecord, port: int) -> bool | None:
    """Whether one of a worker's processes holds a listening TCP socket on `port`; None when nobody's is seen.

    A probe alone can't tell who answered: another worker on the host may have won the race for the port.

    Raises:
        OSError: /proc can't be read.
    """
    inodes = _listening(port)
    if not inodes:
        return None
    return any(_holds_socket(member.pid, inodes) for member in members(record, {}))


def _listening(port: int) -> set[str]:
    """Inodes of the sockets that listen on a port, in this network namespace (proc_net(5), tcp)."""
    found = set()
    for table in ("tcp", "tcp6"):
        path = PROC / "net" / table
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                found.add(f"socket:[{fields[9]}]")
    return found


def _holds_socket(pid: int, inodes: Collection[str]) -> bool:
    folder = PROC / str(pid) / "fd"
    try:
        return any(_link(folder / name) in inodes for name in os.listdir(folder))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False


def _link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def usage(records: Collection[ProcessRecord]) -> dict[str, Usage]:
    """What each worker uses now, by token, in one pass.

    Raises:
        OSError: /proc can't be read.
    """
    by_token = {record.token: Usage() for record in records}
    sessions = {record.pid: record.token for record in records if _leader(record) is not None}
    for pid in pids():
        stat = read(pid)
        if stat is None or stat.dead:
            continue
        token = sessions.get(stat.sid) or variables(environ(pid) or b"").get(TOKEN, "")
        if token in by_token:
            sum_ = by_token[token]
            by_token[token] = Usage(
                sum_.cpu_s + stat.cpu_s, sum_.rss_bytes + stat.rss_bytes, sum_.processes + 1
            )
    return by_token
