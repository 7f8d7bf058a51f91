"""What is wrong with an installation, from what was tried: facts in, checks out. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Literal

from busbar.bus.clock import rfc3339
from busbar.bus.params import ManagerInfo, Node
from busbar.bus.system.x509 import SOON_S
from msgspec import Struct

Status = Literal["ok", "warning", "failed"]

DELAY_MS: Final = 35.0
"""What a call may take at best beyond two connections: an acknowledgement that waits for more takes 40 ms."""
SKEW_S, BAD_SKEW_S = 5.0, 60.0
LITTLE_DISK, NO_DISK = 1024**3, 100 * 1024**2
SHOWN: Final = 8
INSTALL: Final = {
    "amqtt": "it comes with Busbar: install Busbar anew there",
    "crossbar": "install Busbar with the extra crossbar there",
    "mosquitto": "install mosquitto there (apt install mosquitto)",
    "nats": "install nats-server 2.15 or newer there (docs/howto/nats.md)",
}


class Check(Struct, frozen=True):
    """One check: what was found, and what to do where it is not ok."""

    name: str
    status: Status
    text: str
    do: str = ""


class Wanted(Struct, frozen=True):
    """A worker group, the runtime that it needs, and the nodes of its cluster."""

    group: str
    runtime: str
    nodes: Sequence[str]


class Facts(Struct):
    """What was tried. What could not be tried is None; times are seconds since 1970, or as named."""

    version: str
    now: float
    broker: str = ""
    connect_error: str | None = None
    tcp_ms: float | None = None
    tls: bool = False
    certificate_end: float | None = None
    certificate_error: str | None = None
    files: Mapping[str, float] = {}
    """When the certificates of this machine's settings end, by path."""
    manager: ManagerInfo | None = None
    manager_error: str | None = None
    call_ms: Sequence[float] = ()
    manager_states: Mapping[str, str] | None = None
    statuses: tuple[int, int] | None = None
    """How many retained statuses came, and how many there should be."""
    packet: int | None = None
    """Bytes of the largest request that was tried."""
    packet_error: str | None = None
    overhears: bool | None = None
    nodes: Sequence[Node] | None = None
    wanted: Sequence[Wanted] = ()
    ports: Mapping[str, str | None] = {}
    """Endpoints of workers that were tried from here, each with what went wrong."""
    disk: tuple[str, int, int] | None = None
    """A folder of this machine, bytes free, bytes in all."""
    manager_time: float | None = None
    commit: str | None = None
    """Of this command line."""


def checks(facts: Facts) -> list[Check]:
    """All checks, in the order in which to mend what they find."""
    return [check for each in _CHECKS for check in each(facts)]


def worst(found: Sequence[Check]) -> Status:
    """The worst status among them."""
    statuses = {check.status for check in found}
    return "failed" if "failed" in statuses else "warning" if "warning" in statuses else "ok"


def _broker(facts: Facts) -> Iterator[Check]:
    if facts.connect_error is not None:
        yield Check("broker", "failed", facts.connect_error, "check the URL, the user, and that it runs")
    else:
        yield Check("broker", "ok", f"{facts.broker} lets this user in")


def _tls(facts: Facts) -> Iterator[Check]:
    if facts.certificate_error is not None:
        do = "give its authority with --tls-ca, or have it name the host of the URL"
        if "expired" in facts.certificate_error or "not yet valid" in facts.certificate_error:
            do = f"renew it, or set this machine's clock: it says {_day(facts.now)}"
        yield Check("certificate", "failed", f"the broker's certificate: {facts.certificate_error}", do)
    elif facts.certificate_end is not None:
        yield _ending("certificate", "the broker's certificate", facts.certificate_end, facts.now)
    elif facts.broker and not facts.tls and not _is_here(facts.broker):
        text = "passwords and definitions go to the broker in the clear"
        yield Check("certificate", "warning", text, "use mqtts:// (docs/howto/several-machines.md)")
    for path, end in facts.files.items():
        yield _ending("certificate", path, end, facts.now)


def _ending(name: str, what: str, end: float, now: float) -> Check:
    if end <= now:
        return Check(name, "failed", f"{what} has ended on {_day(end)}", "renew it")
    if end - now <= SOON_S:
        days = int((end - now) // 86_400)
        return Check(name, "warning", f"{what} ends on {_day(end)}, in {days} days", "renew it")
    return Check(name, "ok", f"{what} ends on {_day(end)}")


def _manager(facts: Facts) -> Iterator[Check]:
    if facts.manager is None:
        if facts.manager_error is not None:
            yield Check("manager", "failed", facts.manager_error, "start it: busbar manager, or busbar up")
        return
    if facts.manager.brake:
        yield Check("manager", "failed", facts.manager.brake, "look at the network between nodes and broker")
    for text in facts.manager.conditions:
        if text != facts.manager.brake:
            yield Check("manager", "failed", text, "see the manager's log")
    if not facts.manager.conditions and not facts.manager.brake:
        yield Check("manager", "ok", f"manager {facts.manager.manager} answers, epoch {facts.manager.epoch}")


def _delay(facts: Facts) -> Iterator[Check]:
    if not facts.call_ms:
        return
    best, tcp = min(facts.call_ms), facts.tcp_ms or 0.0
    if best >= DELAY_MS + 2 * tcp:
        text = f"a call takes {best:.0f} ms at best, a connection {tcp:.0f} ms"
        yield Check(
            "delay", "warning", text, "switch Nagle's algorithm off at the broker: set_tcp_nodelay true"
        )
    else:
        yield Check("delay", "ok", f"a call takes {best:.1f} ms at best")


def _retained(facts: Facts) -> Iterator[Check]:
    if facts.manager is None or facts.manager_states is None:
        return
    if "online" not in facts.manager_states.values():
        text = "the manager answers, and its retained state does not come"
        do = "let the broker keep retained messages, and this user read them (busbar acl)"
        yield Check("retained", "failed", text, do)
        return
    came, wanted = facts.statuses or (0, 0)
    if came < wanted:
        text = f"{came} of {wanted} retained statuses came: the broker drops messages, or has lost them"
        yield Check("queues", "failed", text, "raise its queue: max_queued_messages 100000")
    else:
        yield Check("retained", "ok", f"all {wanted} retained statuses came at once")


def _packet(facts: Facts) -> Iterator[Check]:
    if facts.packet_error is not None:
        text = f"a request of {facts.packet} bytes was not answered: {facts.packet_error}"
        yield Check("packet size", "failed", text, "raise the broker's limit: max_packet_size 1100000")
    elif facts.packet is not None:
        yield Check("packet size", "ok", f"a request of {facts.packet} bytes is answered")


def _acl(facts: Facts) -> Iterator[Check]:
    if facts.overhears:
        text = (
            "this user may read requests, which are for managers alone: the broker has no ACL, or a wrong one"
        )
        yield Check("acl", "failed", text, "give it the ACL that 'busbar acl' prints")
    elif facts.overhears is not None:
        yield Check("acl", "ok", "this user may not read the requests of others")


def _clock(facts: Facts) -> Iterator[Check]:
    if facts.manager_time is None:
        return
    skew = facts.manager_time - facts.now
    text = f"the manager's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this machine's"
    if abs(skew) >= SKEW_S:
        status: Status = "failed" if abs(skew) >= BAD_SKEW_S else "warning"
        yield Check("clock", status, text, "certificates are judged by it: synchronise both (NTP)")
    else:
        yield Check("clock", "ok", "this machine's clock and the manager's agree")


def _versions(facts: Facts) -> Iterator[Check]:
    known = {"this command line": facts.version}
    if facts.manager is not None:
        known["the manager"] = facts.manager.version
    for node in facts.nodes or ():
        version = (node.capacity or {}).get("version")
        if isinstance(version, str):
            known[f"the agent of {node.name}"] = version
    if len(set(known.values())) > 1:
        text = "; ".join(f"{name}: {version}" for name, version in list(known.items())[:SHOWN])
        yield Check("versions", "warning", text, "install one version everywhere, the manager first")
    elif facts.manager is not None:
        commits = f"command line {facts.commit or 'unknown'}, manager {facts.manager.commit or 'unknown'}"
        yield Check("versions", "ok", f"all that is known runs {facts.version} (commits: {commits})")


def _nodes(facts: Facts) -> Iterator[Check]:
    if facts.nodes is None:
        return
    troubled = 0
    for node in facts.nodes:
        texts = [text for text in node.conditions if not text.startswith("runtime ")]
        if node.status in ("online", "offline") and not texts:
            continue
        troubled += 1
        why = texts[0].removeprefix(f"{node.status}: ") if texts else ""
        text = f"node {node.name} is {node.status}{f': {why}' if why else ''}"
        yield Check("nodes", "warning", text, f"busbar why {node.name}")
    if not facts.nodes:
        yield Check("nodes", "warning", "there are no nodes", "busbar node pair prints what to run there")
    elif not troubled:
        yield Check("nodes", "ok", f"{len(facts.nodes)} nodes, and none of them has a problem")


def _runtimes(facts: Facts) -> Iterator[Check]:
    known = {node.name: node for node in facts.nodes or ()}
    lacking: dict[str, list[str]] = {}
    for each in facts.wanted:
        missing = [name for name in each.nodes if name in known and each.runtime not in known[name].runtimes]
        if missing:
            lacking.setdefault(each.runtime, []).extend(name for name in missing)
            status: Status = "failed" if len(missing) == len(each.nodes) else "warning"
            why = _unavailable(known[missing[0]], each.runtime)
            text = f"group {each.group} needs runtime {each.runtime}, which {_some(missing)} lacks{why}"
            yield Check("runtimes", status, text, INSTALL.get(each.runtime, "configure it at the agent"))
    if facts.nodes and not lacking:
        yield Check("runtimes", "ok", "every node has the runtimes of its clusters' groups")


def _unavailable(node: Node, runtime: str) -> str:
    detail = (node.runtime_details or {}).get(runtime)
    return f": {detail.unavailable}" if detail is not None and detail.unavailable else ""


def _ports(facts: Facts) -> Iterator[Check]:
    bad = {url: error for url, error in facts.ports.items() if error is not None}
    for url, error in list(bad.items())[:SHOWN]:
        text = f"{url} can't be reached from here: {error}"
        yield Check("ports", "warning", text, "look at the firewall, and the agent's --host")
    if facts.ports and not bad:
        yield Check("ports", "ok", f"{len(facts.ports)} endpoints of workers can be reached from here")


def _disk(facts: Facts) -> Iterator[Check]:
    if facts.disk is None:
        return
    folder, free, _ = facts.disk
    text = f"{folder} has {free / 1024**2:,.0f} MiB free"
    if free < LITTLE_DISK:
        yield Check("disk", "failed" if free < NO_DISK else "warning", text, "make room")
    else:
        yield Check("disk", "ok", text)


_CHECKS: Final[tuple[Callable[[Facts], Iterator[Check]], ...]] = (
    _broker,
    _tls,
    _clock,
    _manager,
    _acl,
    _retained,
    _packet,
    _delay,
    _versions,
    _nodes,
    _runtimes,
    _ports,
    _disk,
)


def _is_here(url: str) -> bool:
    return any(f"//{host}" in url for host in ("127.", "localhost", "[::1]"))


def _day(seconds: float) -> str:
    return rfc3339(int(seconds) * 10**9)[:10]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"
