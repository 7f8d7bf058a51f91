"""The topic trees and the session's bookkeeping, checked against the plain rules."""

import struct
from dataclasses import replace

import pytest
from busbar.bus.broker.limits import LIMITS, Accounting, Meter, Owner
from busbar.bus.broker.router import Router
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


def session_of(persistent: bool) -> Session:
    return Session(ALICE, "c", persistent, encode, LIMITS, Meter(Accounting(), ALICE))


def test_further_messages_wait_in_order_for_acknowledgements() -> None:
    session, pen = session_of(False), Pen()
    session.attach(pen)
    for n in range(MAX_IN_FLIGHT + 2):
        session.deliver(Publication("t", b"%d" % n, 1), 1)
    assert len(pen.sent) == MAX_IN_FLIGHT
    session.acknowledge(1)
    session.acknowledge(1)
    assert pen.sent[MAX_IN_FLIGHT:] == [encode(Publication("t", b"1000"), MAX_IN_FLIGHT + 1, False)]


def test_packet_ids_go_round_and_skip_those_in_flight() -> None:
    session, pen = session_of(False), Pen()
    session.attach(pen)
    session.deliver(Publication("t", b"held", 1), 1)
    for n in range(2, 65537):
        session.deliver(Publication("t", b"", 1), 1)
        session.acknowledge(n if n < 65536 else 2)
    assert (pen.sent[-2][:2], pen.sent[-1][:2]) == (b"\xff\xff", b"\0\2")
    assert session.held_bytes == Publication("t", b"held", 1).cost


def test_an_absent_client_is_kept_a_bounded_number_of_messages() -> None:
    session, pen = session_of(True), Pen()
    for n in range(MAX_AWAY + 5):
        session.deliver(Publication("t", b"%d" % n, 1), 1)
        session.deliver(Publication("t", b"qos 0"), 0)
    session.attach(pen)
    assert len(pen.sent) == MAX_AWAY
    assert pen.sent[0].endswith(b"0")


def test_too_many_bytes_unacknowledged_end_the_connection() -> None:
    session, pen = session_of(False), Pen()
    session.attach(pen)
    for _ in range(17):
        session.deliver(Publication("t", bytes(LIMITS.session_bytes // 16), 1), 1)
    assert pen.ended
    assert session.held_bytes <= LIMITS.session_bytes


def test_persistent_sessions_are_bounded_and_the_longest_away_goes_first() -> None:
    router = Router(encode)
    for n in range(LIMITS.account_away + 3):
        session, _ = router.open(ALICE, f"c{n}", True)
        session.attach(Pen())
        router.subscribe(session, "t", 1)
        router.close(session)
    assert [s.client_id for s in router.away()] == [f"c{n}" for n in range(3, LIMITS.account_away + 3)]


MANAGER = Owner("manager", "manager")
N1, N2 = Owner("n1", "node"), Owner("n2", "node")


def reader(router: Router) -> tuple[Session, Pen]:
    session, _ = router.open(MANAGER, "reader", False)
    pen = Pen()
    session.attach(pen)
    router.subscribe(session, "#", 0)
    return session, pen


def retained(router: Router) -> list[bytes]:
    """The payloads that a new subscriber of everything gets."""
    session, pen = reader(router)
    list(router.send_retained(session, "#", 0))
    return sorted(data[3:] for data in pen.sent)


def test_a_full_retained_store_still_delivers() -> None:
    router = Router(encode, Accounting(replace(LIMITS, account_retained=1)))
    _, pen = reader(router)
    router.publish(Publication("a", b"1"), True, N1)
    router.publish(Publication("b", b"1"), True, N1)
    router.publish(Publication("a", b"2"), True, N1)
    assert len(pen.sent) == 3
    assert retained(router) == [b"2"]


@pytest.mark.fault(78, "S")
@pytest.mark.parametrize("greedy", [ALICE, N1])
def test_nobody_fills_the_place_of_other_accounts(greedy: Owner) -> None:
    """Neither with few large messages nor with many small ones, nor under many names of one kind."""
    limits = replace(LIMITS, node_retained_bytes=100_000, person_retained_bytes=100_000)
    limits = replace(limits, account_retained_bytes=30_000)
    router = Router(encode, Accounting(limits))
    for size in (20_000, 1):
        for name in range(20):
            for n in range(10):
                owner = Owner(f"{greedy.name}{name}", greedy.kind)
                router.publish(Publication(f"{name}/{n}", bytes(size)), True, owner)
    assert 0 < sum(map(len, retained(router))) <= 100_000
    other = Owner("x", "node" if greedy == ALICE else "person")
    router.publish(Publication("other", b"o"), True, other)
    router.publish(Publication("assignment", bytes(1_000_000)), True, MANAGER)
    assert {b"o", bytes(1_000_000)} <= set(retained(router))


@pytest.mark.fault(78, "S")
def test_a_retained_message_belongs_to_its_last_publisher_and_goes_with_the_account() -> None:
    accounting = Accounting()
    router = Router(encode, accounting)
    router.publish(Publication("a", b"n1"), True, N1)
    router.publish(Publication("a", b"n2"), True, N2)
    router.publish(Publication("b", b"n1"), True, N1)
    router.forget_owner(N1)
    assert retained(router) == [b"n2"]
    assert N1 not in router.owners()
    router.publish(Publication("a", b""), True, MANAGER)
    assert (retained(router), N2 in accounting.uses()) == ([], False)


@given(st.lists(st.tuples(st.sampled_from([N1, N2, ALICE]), TOPICS, st.integers(0, 3)), max_size=30))
def test_what_is_charged_is_what_is_kept(rows: list[tuple[Owner, str, int]]) -> None:
    """Filters and retained messages taken, replaced, refused and removed: the accounts balance."""
    accounting = Accounting(replace(LIMITS, account_retained=2, account_filters=2))
    router = Router(encode, accounting)
    for owner, topic, what in rows:
        session, _ = router.open(owner, "c", True)
        if what < 2:
            router.publish(Publication(topic, b"x" * what), True, owner)
        elif what == 2:
            router.subscribe(session, topic, 1)
        else:
            router.unsubscribe(session, topic)
    for owner in (N1, N2, ALICE):
        router.forget_owner(owner)
    assert not accounting.uses()
    assert not router.owners()
    assert not any(use.retained or use.retained_bytes for use in accounting._retained.values())
