"""The limits of the embedded broker: one table, and the accounting that enforces it. Pure.

Each limit is checked before the work or the memory that it bounds is spent. What belongs to an account is
charged to it and returned when the account goes, so no account can use what others need. A `source` is the
address a connection comes from (see `source_of`).
"""

import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from typing import Final, NamedTuple

from ..access.acl import MANAGER, NODE, PERSON
from ..buckets import Buckets

_KIB: Final = 1024
_MIB: Final = 1024 * 1024
_PER_LEVEL: Final = 400
"""Bytes that one level of a filter or topic takes in a tree."""


USE_FILE: Final = "use.json"
"""Beside the accounts file: `report`, written by a running broker every 5 s."""
_MAX_CAUSES: Final = 4096


def _limit(default: int, why: str) -> int:
    # dataclasses.field is typed as returning the default's type.
    return field(default=default, metadata={"why": why})


@dataclass(frozen=True, slots=True)
class Limits:
    """The table: every limit with its unit, in the metadata, and its default."""

    # One packet
    topic_bytes: int = _limit(1024, "bytes of a topic, will topic or filter")
    topic_levels: int = _limit(32, "levels of a topic, will topic or filter")
    will_bytes: int = _limit(16 * _KIB, "payload bytes of a will")
    packet_bytes: int = _limit(_MIB, "bytes of a PUBLISH; the bus allows payloads of 256 KiB")
    connect_bytes: int = _limit(128 * _KIB, "bytes of a CONNECT, whose sender is not yet authenticated")
    filter_packet_bytes: int = _limit(64 * _KIB, "bytes of a SUBSCRIBE or UNSUBSCRIBE")
    packet_fragments: int = _limit(1024, "fragments of WebSocket messages in which a packet comes")
    control_frames: int = _limit(64, "pings and pongs of a WebSocket at once; one more each second")
    packet_filters: int = _limit(256, "filters in a SUBSCRIBE or UNSUBSCRIBE")
    # One client
    session_filters: int = _limit(1000, "filters per session")
    session_narrowed: int = _limit(32, "filters per session that match more than the account may read")
    queued_bytes: int = _limit(16 * _MIB, "bytes queued for a connection that does not read")
    session_bytes: int = _limit(16 * _MIB, "bytes of QoS 1 messages per session, until acknowledged")
    away: int = _limit(64, "sessions kept for clients that are away; the one away longest goes first")
    account_away: int = _limit(16, "the same per account")
    # Connections
    connections: int = _limit(4096, "connections, lowered to the descriptors that the process may open")
    spare_descriptors: int = _limit(128, "descriptors kept for files, listeners and the manager's connection")
    silent_connections: int = _limit(512, "connections not logged in; a quarter of `connections` at most")
    silent_per_source: int = _limit(256, "the same per source; beyond it the oldest one is closed")
    account_connections: int = _limit(128, "connections per account; an eighth of `connections` at most")
    # One account
    account_bytes: int = _limit(16 * _MIB, "bytes queued, unacknowledged or partly received, per account")
    manager_bytes: int = _limit(32 * _MIB, "the same per manager")
    held_bytes: int = _limit(256 * _MIB, "the same of all accounts")
    account_filters: int = _limit(4096, "filters per account")
    account_filter_bytes: int = _limit(4 * _MIB, "bytes of filters per account, 400 per level included")
    filter_bytes: int = _limit(64 * _MIB, "the same of all accounts but the managers'")
    account_work: int = _limit(2000, "packets and filters per node or person at once; 5 deliveries are one")
    account_work_per_s: int = _limit(1000, "the same per second; beyond it its packets wait")
    manager_backlog_bytes: int = _limit(64 * _KIB, "bytes a manager has yet to take; beyond it others wait")
    # Retained messages: those of one kind of account never take the place of another kind's
    account_retained: int = _limit(64, "retained messages per node or person")
    account_retained_bytes: int = _limit(4 * _MIB, "bytes of retained messages per node or person")
    manager_retained: int = _limit(100_000, "retained messages of all managers")
    manager_retained_bytes: int = _limit(128 * _MIB, "bytes of retained messages of all managers")
    node_retained_bytes: int = _limit(64 * _MIB, "bytes of retained messages of all nodes")
    person_retained_bytes: int = _limit(8 * _MIB, "bytes of retained messages of all persons")
    # Logins
    account_logins: int = _limit(256, "logins per account at once, with a password that was right before")
    account_logins_per_s: int = _limit(16, "the same per second; further ones count with the others")
    other_logins: int = _limit(256, "other connections served at once: by name in turn, the rest waits")
    other_logins_per_s: int = _limit(200, "the same per second")
    name_guesses: int = _limit(10, "wrong passwords for one name at once")
    name_guess_s: int = _limit(2, "seconds until one more is allowed")
    source_guesses: int = _limit(256, "wrong passwords of one source at once; right ones cost nothing")
    source_guesses_per_s: int = _limit(8, "further ones per second")
    waiting_logins: int = _limit(256, "passwords that wait for a thread, and as many that wait unhashed")
    login_threads: int = _limit(1, "threads that hash chosen passwords, and as many for generated ones")
    # The log
    log_lines: int = _limit(20, "log lines that one account, or one source without, can cause at once")
    log_line_s: int = _limit(5, "seconds until one more; what was left out is counted in the next")


LIMITS: Final = Limits()


def table(limits: Limits = LIMITS) -> list[tuple[str, int, str]]:
    """Name, value, and meaning with unit of every limit."""
    return [(f.name, getattr(limits, f.name), f.metadata["why"]) for f in fields(limits)]


class Owner(NamedTuple):
    """The account that something is charged to, and its kind of bus.access.acl."""

    name: str
    kind: str


@dataclass(slots=True)
class Use:
    """What one account uses now."""

    filters: int = 0
    filter_bytes: int = 0
    retained: int = 0
    retained_bytes: int = 0
    connections: int = 0
    held_bytes: int = 0


class Accounting:
    """What the accounts use, per account and in all."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.limits = limits
        self._uses: dict[Owner, Use] = {}
        self._filter_bytes = 0
        self._retained: dict[str, Use] = {}  # by kind of account
        self._held = 0
        self._connections = 0
        self.lines = LineRate(limits)

    def uses(self) -> Mapping[Owner, Use]:
        """What each account that uses anything uses now."""
        return self._uses

    def take_filter(self, owner: Owner, wanted: str) -> bool:
        """Charge a filter; False, and nothing charged, when it is above a limit."""
        use, cost, limits = self._of(owner), path_cost(wanted), self.limits
        mine = use.filter_bytes + cost
        if use.filters >= limits.account_filters or mine > limits.account_filter_bytes:
            return False
        if owner.kind != MANAGER:
            if self._filter_bytes + cost > limits.filter_bytes:
                return False
            self._filter_bytes += cost
        use.filters, use.filter_bytes = use.filters + 1, mine
        return True

    def return_filter(self, owner: Owner, wanted: str) -> None:
        """Undo `take_filter`."""
        use, cost = self._of(owner), path_cost(wanted)
        use.filters, use.filter_bytes = use.filters - 1, use.filter_bytes - cost
        if owner.kind != MANAGER:
            self._filter_bytes -= cost
        self._tidy(owner)

    def take_connection(self, owner: Owner) -> bool:
        """Charge a connection; False, and nothing charged, when the account or the broker has too many.

        Managers may also use the spare descriptors, so that others can't keep them out.
        """
        use, limits = self._of(owner), self.limits
        most = limits.connections - limits.silent_connections - 2 * limits.waiting_logins
        full = self._connections >= most and owner.kind != MANAGER
        if full or use.connections >= limits.account_connections:
            self._tidy(owner)
            return False
        self._connections += 1
        use.connections += 1
        return True

    def return_connection(self, owner: Owner) -> None:
        """Undo `take_connection`."""
        self._connections -= 1
        self._of(owner).connections -= 1
        self._tidy(owner)

    def hold(self, owner: Owner, count: int) -> bool:
        """Charge bytes held in memory; False, and nothing charged, beyond the limits of account or broker."""
        use, limits = self._of(owner), self.limits
        if use.held_bytes + count > self._most(owner) or self._held + count > limits.held_bytes:
            self._tidy(owner)
            return False
        use.held_bytes += count
        self._held += count
        if not count:
            self._tidy(owner)
        return True

    def _most(self, owner: Owner) -> int:
        return self.limits.manager_bytes if owner.kind == MANAGER else self.limits.account_bytes

    def release(self, owner: Owner, count: int) -> None:
        """Undo `hold`."""
        self._of(owner).held_bytes -= count
        self._held -= count
        self._tidy(owner)

    def crowd(self, owner: Owner, count: int) -> Owner:
        """The account to take bytes from for so many more of `owner`: itself, or the one that has most."""
        mine = self._uses.get(owner, Use()).held_bytes
        if mine + count > self._most(owner) or not self._uses:
            return owner
        return max(self._uses, key=lambda owner: self._uses[owner].held_bytes)

    def take_retained(self, owner: Owner, cost: int) -> bool:
        """Charge a retained message; False, and nothing charged, when it is above a limit."""
        limits, use, all_of = self.limits, self._of(owner), self._retained.setdefault(owner.kind, Use())
        totals: dict[str, int] = {
            MANAGER: limits.manager_retained_bytes,
            NODE: limits.node_retained_bytes,
            PERSON: limits.person_retained_bytes,
        }
        if owner.kind == MANAGER:
            full = all_of.retained >= limits.manager_retained
        else:
            full = use.retained >= limits.account_retained
            full = full or use.retained_bytes + cost > limits.account_retained_bytes
        if full or all_of.retained_bytes + cost > totals.get(owner.kind, 0):
            self._tidy(owner)
            return False
        self._retain(owner, 1, cost)
        return True

    def return_retained(self, owner: Owner, cost: int) -> None:
        """Undo `take_retained`."""
        self._retain(owner, -1, -cost)
        self._tidy(owner)

    def _retain(self, owner: Owner, count: int, cost: int) -> None:
        for use in (self._of(owner), self._retained[owner.kind]):
            use.retained += count
            use.retained_bytes += cost

    def _of(self, owner: Owner) -> Use:
        return self._uses.setdefault(owner, Use())

    def _tidy(self, owner: Owner) -> None:
        if self._uses.get(owner) == Use():
            del self._uses[owner]


class Meter:
    """Charges bytes to one account. `make_room` ends what holds most; False when there is nothing to end."""

    def __init__(
        self,
        accounting: Accounting,
        owner: Owner,
        make_room: Callable[[Owner, int], bool] = lambda _, __: False,
    ) -> None:
        self._accounting, self._owner, self._make_room = accounting, owner, make_room

    def take(self, count: int) -> bool:
        """Charge bytes; False when there is no room for them."""
        while not self._accounting.hold(self._owner, count):
            if not self._make_room(self._owner, count):
                return False
        return True

    def give_back(self, count: int) -> None:
        """Undo `take`."""
        self._accounting.release(self._owner, count)


class Gate:
    """The connections that are not logged in. Of too many the oldest is closed: a client that logs in takes
    a moment, so strangers that say nothing close each other's connections."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self._limits = limits
        self._silent: OrderedDict[Hashable, str] = OrderedDict()
        self._per_source: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._silent)

    def arrived(self, key: Hashable, source: str) -> Hashable | None:
        """A connection was accepted: the one to close for it, if any."""
        self.left(key)
        self._silent[key] = source
        self._per_source[source] += 1
        if self._per_source[source] > self._limits.silent_per_source:
            crowd = source
        elif len(self._silent) > self._limits.silent_connections:
            crowd = self._per_source.most_common(1)[0][0]
        else:
            return None
        oldest = next(key for key, where in self._silent.items() if where == crowd)
        self.left(oldest)
        return oldest

    def left(self, key: Hashable) -> None:
        """It is logged in, being verified, or gone."""
        source = self._silent.pop(key, None)
        if source is not None:
            self._per_source[source] -= 1
            if not self._per_source[source]:
                del self._per_source[source]


def fitted(limits: Limits, descriptors: int) -> Limits:
    """The limits with the connections lowered to so many descriptors."""
    most = max(8, min(limits.connections, descriptors - limits.spare_descriptors))
    silent = max(2, min(limits.silent_connections, most // 4))
    per_source = min(limits.silent_per_source, silent)
    waiting = max(2, min(limits.waiting_logins, most // 8))
    per_account = max(2, min(limits.account_connections, most // 8))
    return replace(
        limits,
        connections=most,
        silent_connections=silent,
        silent_per_source=per_source,
        account_connections=per_account,
        waiting_logins=waiting,
    )


class LineRate:
    """Which log lines that clients cause are written, by account or source."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self._buckets = Buckets(limits.log_lines, 1 / limits.log_line_s)
        self._left_out: Counter[str] = Counter()

    def admit(self, cause: str, now: float) -> int | None:
        """None to leave the line out, else how many were left out before it."""
        if self._buckets.take(cause, now):
            return self._left_out.pop(cause, 0)
        if len(self._left_out) < _MAX_CAUSES or cause in self._left_out:
            self._left_out[cause] += 1
        return None


class LoginGuard:
    """Which passwords may be hashed. A wrong one costs its name and its source a token, a right one nothing.

    A name nobody has guessed at lately is exempt from the limit of its source: all clients of one machine
    are one source, and guesses at one name must not keep the others out.
    """

    def __init__(self, limits: Limits = LIMITS) -> None:
        self._names = Buckets(limits.name_guesses, 1 / limits.name_guess_s)
        # Apart, so that made-up names push no account's tokens out.
        self._unknown_names = Buckets(limits.name_guesses, 1 / limits.name_guess_s)
        self._sources = Buckets(limits.source_guesses, limits.source_guesses_per_s)
        self._waiting, self._unhashed, self._full = 0, 0, limits.waiting_logins
        self._burst = limits.name_guesses

    def admit(self, name: str, source: str, now: float) -> bool:
        """Take the tokens of an attempt, which `ended` then ends; False when it must not be hashed."""
        untouched = self._names.level(name, now) >= self._burst
        if self._waiting >= self._full or not self._names.take(name, now):
            return False
        if not self._sources.take(source, now) and not untouched:
            self._names.give_back(name, now)
            return False
        self._waiting += 1
        return True

    def admit_unknown(self, name: str, source: str, now: float) -> bool:
        """The same for a name without an account, so that the answer tells none from one that has. Nothing is
        hashed for it, so `ended` is not called."""
        untouched = self._unknown_names.level(name, now) >= self._burst
        if not self._unknown_names.take(name, now):
            return False
        if not self._sources.take(source, now) and not untouched:
            self._unknown_names.give_back(name, now)
            return False
        return True

    def wait(self) -> bool:
        """Take a place to wait for an answer without hashing, until `waited`; False when too many do."""
        if self._unhashed >= self._full:
            return False
        self._unhashed += 1
        return True

    def waited(self) -> None:
        """Undo `wait`."""
        self._unhashed -= 1

    def ended(self, name: str, source: str, now: float, right: bool) -> None:
        """The password was hashed; a right one returns the tokens."""
        self._waiting -= 1
        if right:
            self._names.give_back(name, now)
            self._sources.give_back(source, now)


def source_of(address: object) -> str:
    """The source that a socket's peer address belongs to: loopback as one, IPv6 by /64, else the address."""
    try:
        return _source(address[0])  # type: ignore[index]
    except (TypeError, ValueError, IndexError, AttributeError):
        return "unknown"


@lru_cache(maxsize=1024)
def _source(address: str) -> str:
    found = ipaddress.ip_address(address.partition("%")[0])
    if found.version == 6 and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    if found.is_loopback:
        return "loopback"
    return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else str(found)


def report(accounting: Accounting, silent: int, now_s: float) -> dict[str, object]:
    """What is in use at `now_s` (seconds since 1970), and how many connections are not logged in."""
    accounts = [
        {"account": owner.name, "kind": owner.kind, **asdict(use)}
        for owner, use in sorted(accounting.uses().items())
    ]
    limits = asdict(accounting.limits)
    return {"at": now_s, "limits": limits, "silent_connections": silent, "accounts": accounts}


def path_cost(path: str) -> int:
    """Bytes that a topic or filter counts for where it is kept in a tree."""
    return len(path) + _PER_LEVEL * (path.count("/") + 1)


def fits(path: str, limits: Limits = LIMITS) -> bool:
    """True for a topic or filter within the limits on its bytes and levels."""
    # The length is compared first: it is known without a walk.
    if len(path) > limits.topic_bytes or path.count("/") >= limits.topic_levels:
        return False
    return path.isascii() or len(path.encode("utf-8", "surrogatepass")) <= limits.topic_bytes


def count_filters(body: bytes, extra: int, limit: int) -> int:
    """Filters in the body of a SUBSCRIBE (`extra` 1: the QoS) or UNSUBSCRIBE (0), counted up to `limit` + 1.

    Counted before anything is decoded. A body that ends inside a filter counts what is whole.
    """
    at, count = 2, 0
    while at + 2 <= len(body) and count <= limit:
        at += 2 + int.from_bytes(body[at : at + 2]) + extra
        count += 1
    return count
