"""What a report leaves out where the broker, or the manager, takes less."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from busbar.agent.reporting.reporter import NodeSnapshot, fitted, report_of
from busbar.bus.decode import encode
from busbar.bus.messages import Reported, ReportedWorker, RuntimeDetail
from hypothesis import given
from hypothesis import strategies as st

ROOM = 4_000
SCHEMAS = {f"sha256:{n:064}": {"description": "é" * size} for n, size in enumerate((900, 10, 3_000, 700, 1))}


def report(**more: Any) -> Reported:
    return report_of(NodeSnapshot(**{"runtimes": ["amqtt"], **more}), "b1", 1)


def sent(found: Reported, schemas: dict[str, Any], room: int = ROOM) -> Reported:
    payload = fitted(found, schemas, room)
    assert len(payload) <= room
    return msgspec.json.decode(payload, type=Reported)


@pytest.mark.fault(58, "S")
def test_schemas_that_have_no_room_together_are_sent_one_after_the_other() -> None:
    """As the manager asks: again for those that are missing, until none of them comes."""
    missing, came = dict(SCHEMAS), dict[str, Any]()
    while True:
        found = sent(report(), missing).schemas
        if not isinstance(found, dict):
            break
        came |= found
        missing = {name: schema for name, schema in missing.items() if name not in came}
    assert missing == {name: schema for name, schema in SCHEMAS.items() if len(encode(schema)) > ROOM}
    assert came == {name: SCHEMAS[name] for name in came}


@pytest.mark.fault(58, "S")
def test_a_node_with_more_labels_and_runtimes_than_have_room_is_heard_and_says_so() -> None:
    labels = {f"label-{n}": "é" * 200 for n in range(64)}
    runtimes = [f"runtime-{n:03}" + "x" * 40 for n in range(256)]
    details = dict.fromkeys(runtimes, RuntimeDetail(version="1.2.3"))
    worker = ReportedWorker("web-1", "RUNNING", reason="r" * 4_000)
    found = sent(report(labels=labels, runtimes=runtimes, details=details, workers=[worker]), SCHEMAS)
    assert found.workers[0].state == "RUNNING" and found.labels is None and found.details is None
    assert 0 < len(found.runtimes) < 256 and found.runtimes == runtimes[: len(found.runtimes)]
    assert "the broker takes" in found.conditions[0]


@given(
    labels=st.integers(0, 64),
    runtimes=st.integers(0, 256),
    conditions=st.integers(0, 64),
    room=st.integers(1_500, 100_000),
    schemas=st.integers(0, 5),
)
def test_whatever_is_in_it_a_report_has_room(
    labels: int, runtimes: int, conditions: int, room: int, schemas: int
) -> None:
    whole = report(
        labels={f"label-{n}": "v" * 250 for n in range(labels)},
        runtimes=[f"runtime-{n:050}" for n in range(runtimes)],
        conditions=["c" * 4_000] * conditions,
    )
    found = sent(whole, dict(list(SCHEMAS.items())[:schemas]), room)
    assert found.runtimes == whole.runtimes or "the broker takes" in found.conditions[0]
