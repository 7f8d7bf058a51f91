"""Reads /proc: a process's identity, and which processes carry our token. Linux only.

Fields of /proc/PID/stat: see proc_pid_stat(5).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from . import cgroups, proc_files

PROC: Final = Path("/proc")
DEAD: Final = frozenset("ZXx")
"""States of a process that has exited: a zombie only waits to be reaped."""
SUSPENDED: Final = "T"
"""State of a process that was stopped by a signal; one that a debugger has stopped is in state t."""
TOKEN: Final = "BUSBAR_WORKER_TOKEN"
WORKER: Final = "BUSBAR_WORKER"
SCOPE: Final = "BUSBAR_NODE"
"""Environment variables that identify a worker's process."""
_users = {os.getuid(), os.geteuid()}
"""Of workers: the agent's own, and those of runtimes."""
_LISTEN: Final = "0A"
"""TCP_LISTEN in /proc/net/tcp."""
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class Stat(Struct, frozen=True):
    """One process. Its pid, boot id and `start_ticks` (since boot) are unique for ever."""

    pid: int
    state: str
    ppid: int
    pgid: int
    sid: int
    start_ticks: int
    cpu_s: float
    rss_bytes: int
    threads: int = 1

    @property
    def dead(self) -> bool:
        """Exited, though it may still be listed: not one whose first thread alone has ended."""
        return self.state in DEAD and self.threads <= 1


class ProcessRecord(Struct, frozen=True):
    """The identity of a process, kept so that a later agent recognises it.

    `log_from`: size of its log when it started, bytes; its own output comes after. `pid_namespace`: the one
    (its inode) in which `pid` is its number; 0: the reader's own.
    """

    worker: str
    pid: int
    boot_id: str
    start_ticks: int
    token: str
    log_from: int = 0
    pid_namespace: int = 0


class Usage(Struct, frozen=True):
    """Sums over a worker's processes: CPU seconds so far, resident bytes, and their number."""

    cpu_s: float = 0.0
    rss_bytes: int = 0
    processes: int = 0


class TokenGroup(Struct, frozen=True):
    """Living processes with one token. `leader` is None when only descendants are left: kill those."""

    token: str
    worker: str
    leader: ProcessRecord | None
    pids: tuple[int, ...]
    marks: Mapping[str, str]


@cache
def boot_id() -> str:
    """This boot's id: a pid of another boot is meaningless."""
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


@cache
def pid_namespace() -> int:
    """The inode of our PID namespace; 0 where it can't be read. Another has it only after the end of ours."""
    try:
        return os.stat(PROC / "self/ns/pid").st_ino
    except OSError:
        return 0


def uptime_s() -> float:
    """Seconds since boot."""
    return float((PROC / "uptime").read_text().split()[0])


def age_s(stat: Stat) -> float:
    """Seconds since a process started, adopted ones included."""
    return max(0.0, uptime_s() - stat.start_ticks / _TICKS_PER_S)


def parse_stat(text: str) -> Stat:
    """Parse /proc/PID/stat; the program's name, in parentheses, may itself have parentheses and spaces.

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
        threads=int(fields[17]),
    )


def read(pid: int) -> Stat | None:
    """The process with this pid now, zombies included; None when there is none.

    Raises:
        OSError: unknown (such as no descriptor left); never to be taken for "it is gone".
    """
    try:
        return parse_stat(proc_files.read_text(pid, "stat"))
    except (FileNotFoundError, ProcessLookupError):
        return None


def environ(pid: int) -> bytes | None:
    """A process's initial environment, NUL-separated; None when it may not be read, or has exited.

    Raises:
        OSError: as `read`.
    """
    try:
        return proc_files.read_bytes(pid, "environ")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        other = _living_thread(pid)
    if other is None:
        return None
    try:
        return (other / "environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def _living_thread(pid: int) -> Path | None:
    """Where /proc shows what a process shares, if its first thread has ended and others have not."""
    stat = read(pid)
    if stat is None or stat.dead or stat.state not in DEAD:
        return None
    try:
        threads = [name for name in os.listdir(PROC / str(pid) / "task") if name != str(pid)]
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    return PROC / str(pid) / "task" / threads[0] if threads else None


def parse_environ(raw: bytes) -> dict[str, str]:
    """An environment block as a dict; the first of two equal names counts, as in getenv(3)."""
    found: dict[str, str] = {}
    for entry in raw.split(b"\0"):
        name, equals, value = entry.partition(b"=")
        if equals:
            found.setdefault(name.decode(errors="replace"), value.decode(errors="replace"))
    return found


def has_variable(raw: bytes, name: str, value: str) -> bool:
    """Whether an environment block sets `name` to `value`."""
    return f"{name}={value}".encode() in raw.split(b"\0")


def pids() -> list[int]:
    """All process ids, newest first, so that a process shorter-lived than a pass is not missed.

    Raises:
        OSError: /proc can't be listed.
    """
    return sorted((int(name) for name in os.listdir(PROC) if name.isdigit()), reverse=True)


def is_alive(record: ProcessRecord) -> bool:
    """Whether the process of this record still lives: boot id, start time and token all match.

    A program may overwrite its environment (some do to set their title). Then a session leader with that pid
    and start time and no environment at all still matches; one whose environment has a PATH but not our
    token never does.

    Raises:
        OSError: /proc can't be read.
    """
    leader = _leader(record)
    return leader is not None and not leader.dead


def _is_number_here(record: ProcessRecord) -> bool:
    """Whether its pid means anything now, in our PID namespace."""
    ours = record.pid_namespace in (0, pid_namespace())
    return ours and record.pid > 0 and record.boot_id == boot_id()


def _leader(record: ProcessRecord) -> Stat | None:
    if not _is_number_here(record):
        return None
    stat = read(record.pid)
    if stat is None or stat.start_ticks != record.start_ticks or stat.sid != record.pid:
        return None
    # A zombie has no environment; its pid and start time identify it, and no signal can harm it. During exec,
    # and after `env -i`, the environment is empty: pid, start time and session are enough then.
    raw = environ(record.pid)
    known = stat.dead or raw == b"" or _has_token(raw, record.token) or _overwritten(raw)
    if known or _in_cgroup(record.pid, record.token):
        return stat
    # It was started by a program that sets another environment, as `env -i`, su and runuser do.
    return stat if _is_marked(record.pid, raw, inherited_mark(record.token)) else None


def _in_cgroup(pid: int, token: str) -> bool:
    return bool(token) and token in cgroups.tokens_of(pid)


def _has_token(raw: bytes | None, token: str) -> bool:
    return bool(token) and raw is not None and has_variable(raw, TOKEN, token)


def _overwritten(raw: bytes | None) -> bool:
    """Unreadable or overwritten: ours all start with a PATH and a token, and neither is left."""
    return raw is None or (raw != b"" and b"PATH=" not in raw and TOKEN.encode() not in raw)


def inherited_mark(token: str) -> int:
    """The soft limit RLIMIT_LOCKS of every process with this token; 0 for none.

    Linux ignores it, every descendant inherits it and no program sets it: it finds those that left their
    session and overwrote their environment.
    """
    return int.from_bytes(hashlib.sha256(token.encode()).digest()[:7]) | 1 if token else 0


def _is_marked(pid: int, raw: bytes | None, mark: int) -> bool:
    """Whether a process has the mark; what has a token of its own goes by that."""
    return bool(mark) and not (raw and TOKEN.encode() in raw) and _has_mark(pid, mark)


def _has_mark(pid: int, mark: int) -> bool:
    try:
        limits = proc_files.read_text(pid, "limits")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    line = next((each for each in limits.splitlines() if each.startswith("Max file locks")), "")
    return line.split()[3:4] == [str(mark)]


def expect_user(uid: int) -> None:
    """Workers run as this user too, from now on or since an earlier agent."""
    _users.add(uid)


def _may_be_ours(pid: int, token: str) -> bool:
    """Whether a process is a worker's as it says: its real user is one that workers have, or it is in the
    cgroup that this agent made for the token.

    Any user of the host can put all marks on processes of its own: cgroups' names show the tokens.
    """
    try:
        status = proc_files.read_text(pid, "status")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    # Not the owner of the folder in /proc: of a process that may not be dumped that is root.
    real = next((line.split()[1] for line in status.splitlines() if line.startswith("Uid:")), "-1")
    return int(real) in _users or cgroups.holds(token, pid)


Unread = tuple[int, int | None]
"""A process that had exited before it was read: its pid and, of a zombie, its start in ticks."""


def members(
    record: ProcessRecord, seen: dict[int, Stat], unread: list[Unread] | None = None
) -> Iterator[Stat]:
    """Living processes of a worker: of its cgroup, of its session (while its leader lives), with its token or
    the mark that goes with it (`inherited_mark`), or in `seen`.

    Yields each as soon as it is seen, and adds it to `seen` (by pid), so that a session member is not lost
    when its leader exits. `unread` gets those that exited before they were read: each may have been a member,
    with a child that is not listed.

    Raises:
        OSError: /proc can't be read.
    """
    leader = _leader(record)
    here = _is_number_here(record)
    mark = inherited_mark(record.token)
    for pid in pids():
        raw = environ(pid)
        stat = read(pid)
        if stat is None or stat.dead:
            older = stat is not None and here and stat.start_ticks < record.start_ticks
            if unread is not None and not older:
                unread.append((pid, None if stat is None else stat.start_ticks))
            continue
        in_session = here and stat.sid == record.pid and stat.start_ticks >= record.start_ticks
        known = pid in seen and seen[pid].start_ticks == stat.start_ticks
        says_so = _has_token(raw, record.token) or _in_cgroup(pid, record.token) or _is_marked(pid, raw, mark)
        if (
            known
            or (in_session and (leader is not None or _overwritten(raw)))
            or (says_so and _may_be_ours(pid, record.token))
        ):
            seen[pid] = stat
            yield stat


def scan(scope: str) -> list[TokenGroup]:
    """Every living process of this scope, by token: in its environment, or of its cgroup.

    Raises:
        OSError: /proc can't be read.
    """
    groups: dict[str, list[tuple[Stat, dict[str, str]]]] = {}
    for pid in pids():
        raw = environ(pid) or b""
        names = parse_environ(raw) if has_variable(raw, SCOPE, scope) else {}
        token = names.get(TOKEN) or cgroups.token_in_scope(pid, scope)
        stat = read(pid) if token and _may_be_ours(pid, token) else None
        if token and stat is not None and not stat.dead:
            groups.setdefault(token, []).append((stat, names))
    return [_token_group(token, group) for token, group in groups.items()]


def with_variable(name: str, value: str) -> list[int]:
    """Pids of the living processes with this variable in their environment.

    Raises:
        OSError: /proc can't be read.
    """
    return [pid for pid in pids() if has_variable(environ(pid) or b"", name, value)]


def _token_group(token: str, group: list[tuple[Stat, dict[str, str]]]) -> TokenGroup:
    group.sort(key=lambda member: (member[0].start_ticks, member[0].pid))
    names = next((names for _, names in group if names), {})
    worker = names.get(WORKER, "")
    # The leader is the oldest: a descendant with a session of its own can't be older.
    first = next((stat for stat, _ in group if stat.sid == stat.pid), None)
    leader = None
    if first is not None and first.start_ticks <= group[0][0].start_ticks:
        leader = ProcessRecord(
            worker, first.pid, boot_id(), first.start_ticks, token, pid_namespace=pid_namespace()
        )
    marks = {name: value for name, value in names.items() if name.startswith("BUSBAR_")}
    return TokenGroup(token, worker, leader, tuple(stat.pid for stat, _ in group), marks)


def listens(record: ProcessRecord, port: int) -> bool | None:
    """Whether one of a worker's processes has a listening TCP socket on `port`; None when no process has one.

    A probe can't tell who answered: another worker on the host may have won the race for the port.

    Raises:
        OSError: /proc can't be read.
    """
    inodes = listening_inodes(port)
    if not inodes:
        return None
    return any(_has_socket(member.pid, inodes) for member in members(record, {}))


def listeners(record: ProcessRecord, port: int) -> tuple[Stat, ...]:
    """Those of a worker's processes that listen on `port`.

    Raises:
        OSError: /proc can't be read.
    """
    inodes = listening_inodes(port)
    return tuple(each for each in members(record, {}) if _has_socket(each.pid, inodes)) if inodes else ()


def suspended(processes: Collection[tuple[int, int]]) -> list[int]:
    """Pids of those of these processes (pid, start ticks) that a signal such as SIGSTOP has stopped.

    Raises:
        OSError: /proc can't be read.
    """
    found = [(read(pid), ticks) for pid, ticks in processes]
    return [s.pid for s, ticks in found if s is not None and s.start_ticks == ticks and s.state == SUSPENDED]


def listening_inodes(port: int) -> set[str]:
    """The listening sockets on a port, in this network namespace, as /proc/PID/fd shows them."""
    return {socket for state, _, socket in _sockets(port) if state == _LISTEN}


def accepted_inodes(port: int, clients: Collection[int]) -> dict[int, str]:
    """By client port, the server's sockets on `port`, once a process has accepted them."""
    return {
        client: socket
        for state, client, socket in _sockets(port)
        if state != _LISTEN and client in clients and socket != "socket:[0]"
    }


def _sockets(port: int) -> Iterator[tuple[str, int, str]]:
    """State, remote port and socket of each TCP socket with that local port (proc_net(5), tcp)."""
    for table in ("tcp", "tcp6"):
        path = PROC / "net" / table
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[3], int(fields[2].rpartition(":")[2], 16), f"socket:[{fields[9]}]"


def member_pids(record: ProcessRecord) -> list[int]:
    """Pids of a worker's living processes. Raises as `members`."""
    return [stat.pid for stat in members(record, {})]


def any_has_socket(pids: Collection[int], socket: str) -> bool:
    """Whether one of these processes has that socket open."""
    return any(_has_socket(pid, (socket,)) for pid in pids)


def _has_socket(pid: int, inodes: Collection[str]) -> bool:
    folder = (_living_thread(pid) or PROC / str(pid)) / "fd"
    try:
        return any(_link_target(folder / name) in inodes for name in os.listdir(folder))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False


def _link_target(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def usage(records: Collection[ProcessRecord]) -> dict[str, Usage]:
    """Present usage of each worker by token, in one pass; with a cgroup, CPU of processes that are gone too.

    Raises:
        OSError: /proc can't be read.
    """
    by_token = {record.token: Usage() for record in records}
    sessions = {record.pid: record.token for record in records if _leader(record) is not None}
    for pid in pids():
        stat = read(pid)
        if stat is None or stat.dead:
            continue
        token = sessions.get(stat.sid) or parse_environ(environ(pid) or b"").get(TOKEN, "")
        if token not in by_token:
            token = next((each for each in cgroups.tokens_of(pid) if each in by_token), "")
        if token in by_token and (stat.sid in sessions or _may_be_ours(pid, token)):
            so_far = by_token[token]
            by_token[token] = Usage(
                so_far.cpu_s + stat.cpu_s, so_far.rss_bytes + stat.rss_bytes, so_far.processes + 1
            )
    folders = cgroups.by_token()
    return {token: _with_exact_cpu(used, folders.get(token)) for token, used in by_token.items()}


def _with_exact_cpu(used: Usage, folder: Path | None) -> Usage:
    exact = cgroups.cpu_s(folder) if folder is not None and used.processes else None
    return used if exact is None else replace(used, cpu_s=exact)
