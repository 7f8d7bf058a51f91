"""Each planted fault, and the check that must name it; nothing is named where nothing is wrong."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from busbar.bus.messages import RuntimeDetail
from busbar.bus.params import ManagerInfo, Node
from busbar.cli.doctor.checks import Facts, Wanted, checks, worst

NOW = 1_800_000_000.0
DAY = 86_400.0


def manager(**more: Any) -> ManagerInfo:
    facts: dict[str, Any] = {
        "manager": "m1", "state": "online", "store": "s1", "epoch": 1, "realm": "lab", "version": "1.0",
        "uptime_ms": 1, "sequence": 1, "nodes": {}, "clusters": {}, "workers": {}, "outbox": 0, "brake": None,
        "limits": {},
    }  # fmt: skip
    return ManagerInfo(**facts | more)


def node(name: str, **more: Any) -> Node:
    facts: dict[str, Any] = {
        "oid": name, "name": name, "labels": None, "status": "online", "changed": 0, "version": 1,
        "runtimes": ["amqtt"], "capacity": {"version": "1.0"},
    }  # fmt: skip
    return Node(**facts | more)


def facts(**more: Any) -> Facts:
    """A healthy installation, but for what is given."""
    healthy = Facts(
        "1.0",
        NOW,
        broker="mqtts://broker.example:8883",
        tcp_ms=1.0,
        tls=True,
        certificate_end=NOW + 300 * DAY,
        files={"/etc/ca.crt": NOW + 3_000 * DAY},
        manager=manager(),
        call_ms=[60.0, 2.0],
        manager_states={"m1": "online"},
        statuses=(3, 3),
        packet=200_000,
        overhears=False,
        nodes=[node("n1")],
        wanted=[Wanted("edge/web", "amqtt", ["n1"])],
        ports={"mqtt://10.0.0.5:24100": None},
        disk=("/var/lib/busbar", 50 * 1024**3, 100 * 1024**3),
        manager_time=NOW + 1,
    )
    return msgspec.structs.replace(healthy, **more)


def test_a_healthy_installation_has_no_problem() -> None:
    found = checks(facts())
    assert worst(found) == "ok" and len(found) >= 12, found
    assert all(not check.do for check in found)


CRASHED = RuntimeDetail(unavailable="the program mosquitto is not installed")

PLANTED: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "closed port": ({"connect_error": "connection refused", "manager": None}, "broker", "failed", "refused"),
    "nobody answers": (
        {"manager": None, "manager_error": "no manager answered"}, "manager", "failed", "no manager answered"
    ),
    "certificate ended": (
        {"certificate_error": "certificate has expired"}, "certificate", "failed", "expired"
    ),
    "not yet valid": (
        {"certificate_error": "certificate is not yet valid"}, "certificate", "failed", "not yet valid"
    ),
    "unknown authority": (
        {"certificate_error": "self-signed certificate in chain"}, "certificate", "failed", "self-signed"
    ),
    "ends soon": ({"certificate_end": NOW + 5 * DAY}, "certificate", "warning", "in 5 days"),
    "own certificate ends soon": ({"files": {"a.crt": NOW + 3 * DAY}}, "certificate", "warning", "a.crt"),
    "own certificate ended": ({"files": {"a.crt": NOW - DAY}}, "certificate", "failed", "a.crt has ended"),
    "no TLS": ({"tls": False, "certificate_end": None}, "certificate", "warning", "in the clear"),
    "clock": ({"manager_time": NOW + 20}, "clock", "warning", "20 s ahead"),
    "clock far off": ({"manager_time": NOW - 4_000}, "clock", "failed", "4000 s behind"),
    "brake": ({"manager": manager(brake="3 of 4 nodes lost")}, "manager", "failed", "3 of 4 nodes lost"),
    "manager's right": (
        {"manager": manager(conditions=["user 'manager' has no right to write x"])},
        "manager",
        "failed",
        "has no right",
    ),
    "Nagle": ({"call_ms": [44.0, 45.0]}, "delay", "warning", "44 ms at best"),
    "nothing retained": ({"manager_states": {}}, "retained", "failed", "does not come"),
    "queue": ({"statuses": (1_000, 2_400)}, "queues", "failed", "1000 of 2400"),
    "packet": ({"packet_error": "connection lost"}, "packet size", "failed", "200000 bytes"),
    "no ACL": ({"overhears": True}, "acl", "failed", "no ACL"),
    "manager's version": ({"manager": manager(version="0.9")}, "versions", "warning", "the manager: 0.9"),
    "agent's version": (
        {"nodes": [node("n1", capacity={"version": "0.8"})]}, "versions", "warning", "agent of n1: 0.8"
    ),
    "node that never came": (
        {"nodes": [node("n1", status="offline", conditions=["offline: not heard since it was paired"])]},
        "nodes",
        "warning",
        "n1 is offline: not heard since it was paired",
    ),
    "lost node": ({"nodes": [node("n1", status="lost")]}, "nodes", "warning", "n1 is lost"),
    "node's condition": (
        {"nodes": [node("n1", conditions=["x.crt ends in 3 days"])]}, "nodes", "warning", "ends in 3 days"
    ),
    "no node": ({"nodes": []}, "nodes", "warning", "no nodes"),
    "runtime": (
        {
            "wanted": [Wanted("edge/web", "mosquitto", ["n1"])],
            "nodes": [node("n1", runtime_details={"mosquitto": CRASHED})],
        },
        "runtimes",
        "failed",
        "the program mosquitto is not installed",
    ),
    "runtime on one": (
        {
            "wanted": [Wanted("edge/web", "nats", ["n1", "n2"])],
            "nodes": [node("n1"), node("n2", runtimes=["nats"])],
        },
        "runtimes",
        "warning",
        "which n1 lacks",
    ),
    "closed endpoint": (
        {"ports": {"mqtt://10.0.0.5:1": "refused"}}, "ports", "warning", "mqtt://10.0.0.5:1 can't be reached"
    ),
    "little disk": ({"disk": ("/x", 500 * 1024**2, 10**12)}, "disk", "warning", "500 MiB free"),
    "no disk": ({"disk": ("/x", 10 * 1024**2, 10**12)}, "disk", "failed", "10 MiB free"),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_named_with_what_to_do(name: str) -> None:
    planted, check, status, text = PLANTED[name]
    found = [each for each in checks(facts(**planted)) if each.status != "ok"]
    assert [each for each in found if (each.name, each.status) == (check, status) and text in each.text], (
        found
    )
    assert all(each.do for each in found)
    assert {each.name for each in found} == {check}


def test_what_installs_a_runtime_is_said() -> None:
    planted, _, _, _ = PLANTED["runtime"]
    assert any("apt install mosquitto" in each.do for each in checks(facts(**planted)))
