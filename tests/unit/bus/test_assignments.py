"""Shared definitions: the form for the wire says the same, and is as large as what differs."""

from __future__ import annotations

import pytest
from busbar.bus.assignments import expanded, shared
from busbar.bus.decode import digest, encode, read
from busbar.bus.errors import BusError
from busbar.bus.messages import AssignedWorker, Assignment
from hypothesis import given
from hypothesis import strategies as st

TRANSPORTS = st.one_of(st.none(), st.dictionaries(st.sampled_from("abc"), st.integers(0, 3), min_size=1))


def _worker(number: int, transport: dict[str, int] | None) -> AssignedWorker:
    return AssignedWorker(
        f"w-{number}", f"oid-{number}", "c", "w", 1, "amqtt", digest("amqtt", transport), transport=transport
    )


@given(st.lists(TRANSPORTS, max_size=12))
def test_what_is_shared_and_sent_reads_as_before(transports: list[dict[str, int] | None]) -> None:
    whole = Assignment("s1", 1, 2, [_worker(number, each) for number, each in enumerate(transports)])
    sent = encode(shared(whole))
    assert expanded(read(sent, Assignment)) == whole
    assert expanded(whole) == whole, "an older manager's"
    distinct = {str(each) for each in transports if each}
    assert sent.count(b'"transport":{') == 0
    definitions = shared(whole).definitions
    assert isinstance(definitions, dict) and len(definitions) <= len(distinct)


def test_a_definition_that_is_missing_is_refused() -> None:
    lone = Assignment("s1", 1, 2, [AssignedWorker("w-1", "o", "c", "w", 1, "amqtt", "d", definition="7")])
    with pytest.raises(BusError, match="no definition '7'"):
        expanded(lone)


def test_the_rule_of_sizes_bounds_an_assignment_and_a_report() -> None:
    """The longest names, the most workers and definitions that the rule allows, at any limit."""
    from busbar.bus.messages import Reported, ReportedWorker
    from busbar.manager.planner import sizes

    name, oid = "n" * 64, "0" * 36
    for limit in (4_096, 12_000, 100_000, 1 << 20):
        count = sizes.workers_limit(limit)
        small = "x" * (sizes.SMALL - len('{"a":""}'))
        workers = [
            AssignedWorker(
                f"{name}-{10**10 + n}", oid, name, name, 2**53, name, digest(n), transport={"a": small}
            )
            for n in range(count)
        ]
        whole = encode(shared(Assignment("s" * 64, 2**53, 2**53, workers)))
        assert len(whole) + sizes.definitions_limit(limit) + 128 <= limit, limit
        reported = [
            ReportedWorker(
                each.worker, "STARTING", 2**53, 2**22, "ws://" + "a" * 60, 2**30, "r" * 80, oid, name
            )
            for each in workers
        ]
        report = Reported("b" * 64, 2**53, reported, conditions=["c" * 80] * 4, details=None)
        assert len(encode(report)) + 128 <= limit
