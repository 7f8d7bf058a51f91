"""The topic trees and the session's bookkeeping, checked against the plain rules."""

import struct

from busbar.bus.broker.limits import LIMITS, Owner
from busbar.bus.broker.router import MAX_PERSISTENT, Router
from busbar.bus.broker.session import MAX_AWAY, MAX_IN_FLIGHT, Publication, Session
from busbar.bus.broker.topic_tree import SubscriptionTree, TopicTree
from busbar.bus.topics import matches
from hypothesis import given
from hypothesis import strategies as st

ALICE = Owner("alice", "person")
TOPICS = st.lists(st.sampled_from(["a", "b", "$s", ""]), min_size=1, max_size=4).map("/".join)
FILTERS = st.tuples(
    st.lists(st.sampled_from(["a", "b", "$s", "+", ""]), max_size=3), st.sampled_from(["a", "+", "#"])
).map(lambda parts: "/".join([*parts[0], parts[1]]))


@given(st.lists(st.tuples(FILTERS, st.integers(0, 3), st.integers(0, 1)), max_size=12), TOPICS)
def test_subscriptions_match_as_the_plain_rule(rows: list[tuple[str, int, int]], topic: str) -> None:
    tree: SubscriptionTree[int] = SubscriptionTree()
    granted = {(wanted, key): qos for wanted, key, qos in rows}
    for (wanted, key), qos in granted.items():
        tree.add(wanted, key, qos)
    expected: dict[int, int] = {}
    for (wanted, key), qos in granted.items():
        if matches(wanted, topic):
            expected[key] = max(qos, expected.get(key, 0))
    assert tree.match(topic) == expected
    for wanted, key in granted:
        tree.remove(wanted, key)
        tree.remove(wanted, key)
    assert tree.match(topic) == {}
    assert not tree._root.children


@given(st.lists(TOPICS, max_size=12), FILTERS)
def test_topics_are_found_by_filter_as_the_plain_rule(topics: list[str], wanted: str) -> None:
    tree: TopicTree[str] = TopicTree()
    for topic in topics:
        tree.put(topic, topic)
    assert len(tree) == len(set(topics))
    assert sorted(tree.match(wanted)) == sorted(t for t in set(topics) if matches(wanted, t))
    for topic in topics:
        tree.pop(topic)
    assert (len(tree), tree._root.children) == (0, {})


class Pen:
    """A sink that writes down what it is told."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.ended = ""

    def send(self, data: bytes) -> None:
        self.sent.append(data)

    def abort(self, reason: str) -> None:
        self.ended = reason

    def supersede(self) -> None:
        self.ended = "superseded"


def encode(message: Publication, packet_id: int | None, dup: bool) -> bytes:
    return struct.pack("!H?", packet_id or 0, dup) + message.payload


def test_further_messages_wait_in_order_for_acknowledgements() -> None:
    session, pen = Session(ALICE, "c", False, encode), Pen()
    session.attach(pen)
    for n in range(MAX_IN_FLIGHT + 2):
        session.deliver(Publication("t", b"%d" % n, 1), 1)
    assert len(pen.sent) == MAX_IN_FLIGHT
    session.acknowledge(1)
    session.acknowledge(1)
    assert pen.sent[MAX_IN_FLIGHT:] == [encode(Publication("t", b"1000"), MAX_IN_FLIGHT + 1, False)]


def test_packet_ids_go_round_and_skip_those_in_flight() -> None:
    session, pen = Session(ALICE, "c", False, encode), Pen()
    session.attach(pen)
    session.deliver(Publication("t", b"held", 1), 1)
    for n in range(2, 65537):
        session.deliver(Publication("t", b"", 1), 1)
        session.acknowledge(n if n < 65536 else 2)
    assert (pen.sent[-2][:2], pen.sent[-1][:2]) == (b"\xff\xff", b"\0\2")
    assert session.held_bytes == Publication("t", b"held", 1).cost


def test_an_absent_client_is_kept_a_bounded_number_of_messages() -> None:
    session, pen = Session(ALICE, "c", True, encode), Pen()
    for n in range(MAX_AWAY + 5):
        session.deliver(Publication("t", b"%d" % n, 1), 1)
        session.deliver(Publication("t", b"qos 0"), 0)
    session.attach(pen)
    assert len(pen.sent) == MAX_AWAY
    assert pen.sent[0].endswith(b"0")


def test_too_many_bytes_unacknowledged_end_the_connection() -> None:
    session, pen = Session(ALICE, "c", False, encode), Pen()
    session.attach(pen)
    for _ in range(17):
        session.deliver(Publication("t", bytes(LIMITS.session_bytes // 16), 1), 1)
    assert pen.ended
    assert session.held_bytes <= LIMITS.session_bytes


def test_persistent_sessions_are_bounded_and_the_longest_away_goes_first() -> None:
    router = Router(encode)
    for n in range(MAX_PERSISTENT + 3):
        session, _ = router.open(ALICE, f"c{n}", True)
        session.attach(Pen())
        router.subscribe(session, "t", 1)
        router.close(session)
    assert [s.client_id for s in router.away()] == [f"c{n}" for n in range(3, MAX_PERSISTENT + 3)]


def test_a_full_retained_store_still_delivers(monkeypatch: object) -> None:
    router, pen = Router(encode), Pen()
    session, _ = router.open(ALICE, "c", False)
    session.attach(pen)
    router.subscribe(session, "#", 0)
    from busbar.bus.broker import router as module

    monkeypatch.setattr(module, "MAX_RETAINED", 1)  # type: ignore[attr-defined]
    router.publish(Publication("a", b"1"), retain=True)
    router.publish(Publication("b", b"1"), retain=True)
    router.publish(Publication("a", b"2"), retain=True)
    assert len(pen.sent) == 3
    router.send_retained(session, "#", 0)
    assert pen.sent[3:] == [encode(Publication("a", b"2", 0, True), None, False)]
