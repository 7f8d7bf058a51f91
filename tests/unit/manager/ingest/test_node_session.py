"""A node's session: what its messages mean, in whatever order they come."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from busbar.bus.messages import Applied, Heartbeat, NodeState, Reported
from busbar.bus.states import NodeStatus
from busbar.manager.ingest.node_session import (
    CONFLICT,
    AskForSchemas,
    Effect,
    Facts,
    NodeMessage,
    NodeSession,
    Signal,
)
from busbar.manager.ingest.report_diff import NodeUpdate, Origin
from busbar.manager.store.rows import NodeRow
from hypothesis import given, settings
from hypothesis import strategies as st

ORIGIN = Origin("s1", 3)
BEAT_S = 5.0
HEARD, LOST, WAKE, RESYNC = (
    Signal.HEARD, Signal.CONNECTION_LOST, Signal.WAKE_MONITOR, Signal.REQUEST_RESYNC
)  # fmt: skip


def node_row(**columns: Any) -> NodeRow:
    facts: dict[str, Any] = {
        "oid": "o1", "name": "n1", "labels": None, "status": NodeStatus.ONLINE, "reason": None, "boot": None,
        "conn": None, "goodbye": False, "runtimes": [], "capacity": None, "conditions": [],
        "assignment_version": 7, "applied_epoch": 0, "applied_version": 0, "changed": 0, "version": 1,
    }  # fmt: skip
    return NodeRow(**(facts | columns))


@dataclass
class Node:
    """A session with its row; every update is written at once, unless the store is `busy`."""

    row: NodeRow = field(default_factory=node_row)
    session: NodeSession = field(default_factory=NodeSession)
    now: float = 100.0
    busy: bool = False
    unknown_workers: bool = False
    stored: Reported | None = None
    """The last report that was written as live."""

    def hear(self, message: NodeMessage, *, retained: bool = False, writing: bool = False) -> list[Effect]:
        facts = Facts(self.row, self.now, BEAT_S, ORIGIN, self.unknown_workers, writing)
        self.session, effects = self.session.on(message, facts, retained=retained)
        for effect in effects:
            if isinstance(effect, NodeUpdate):
                self._write(effect)
        return effects

    def _write(self, update: NodeUpdate) -> None:
        if self.busy:
            self.session = self.session.not_written()
            return
        columns = dict(update.columns)
        if update.report is not None:
            columns["conditions"] = list(update.conditions)
        if update.live:
            self.stored = update.report
        self.row = msgspec.structs.replace(self.row, **columns)
        self.session = self.session.written(update)


def state(word: str, boot: str = "b1", conn: int = 1) -> NodeState:
    return NodeState(word, boot, conn)


def beat(boot: str = "b1", conn: int = 1, digest: str = "d1", **more: Any) -> Heartbeat:
    return Heartbeat(boot=boot, conn=conn, digest=digest, **more)


def report(boot: str = "b1", conn: int = 1, digest: str = "d1", **more: Any) -> Reported:
    facts = {"store": "s1", "applied": Applied(3, 7)} | more
    return Reported(boot=boot, conn=conn, workers=[], digest=digest, **facts)  # type: ignore[arg-type]


def updates(effects: list[Effect]) -> list[NodeUpdate]:
    return [effect for effect in effects if isinstance(effect, NodeUpdate)]


def signals(effects: list[Effect]) -> list[Signal]:
    return [effect for effect in effects if isinstance(effect, Signal)]


def at_work(**columns: Any) -> Node:
    """A node that was born and has reported on connection 5."""
    node = Node(node_row(**columns))
    node.hear(state("ready", conn=5))
    node.hear(report(conn=5))
    return node


# --- births, wills, goodbyes


def test_a_first_birth_is_written_and_wakes_the_monitor() -> None:
    node = Node(node_row(status=NodeStatus.OFFLINE, goodbye=True))
    assert node.hear(state("ready")) == [
        NodeUpdate({"boot": "b1", "conn": 1, "goodbye": False}), HEARD, WAKE
    ]  # fmt: skip


def test_a_birth_that_is_known_is_a_sign_of_life_alone() -> None:
    node = at_work()
    assert node.hear(state("ready", conn=5)) == [HEARD]
    assert updates(node.hear(state("ready", conn=5), writing=True)), "a goodbye may be on its way to the row"


def test_a_retained_birth_is_written_but_no_sign_of_life() -> None:
    node = Node()
    assert signals(node.hear(state("ready"), retained=True)) == []
    assert (node.row.boot, node.row.conn) == ("b1", 1)


def test_a_retained_birth_does_not_undo_the_goodbye_of_its_connection() -> None:
    node = at_work()
    node.hear(state("disconnected", conn=5))
    assert node.hear(state("ready", conn=5), retained=True) == []
    assert node.row.goodbye


def test_a_goodbye_is_written_and_wakes_the_monitor() -> None:
    node = at_work()
    effects = node.hear(state("disconnected", conn=5))
    assert effects == [NodeUpdate({"boot": "b1", "conn": 5, "goodbye": True, "leaves": None}), WAKE]


@pytest.mark.fault(116, "B C")
@pytest.mark.parametrize(
    ("word", "stored"), [("running", "running"), ("shutdown", "shutdown"), ("\x1b[2J", None)]
)
def test_a_goodbye_says_what_becomes_of_the_workers(word: str, stored: str | None) -> None:
    node = Node()
    (update, _) = node.hear(NodeState("disconnected", "b1", 5, word))
    assert isinstance(update, NodeUpdate) and update.columns["leaves"] == stored


@pytest.mark.parametrize(
    ("birth", "counts"), [(("b1", 5), True), (("b1", 4), False), (("b0", 5), False), (("b1", 6), False)]
)
@pytest.mark.parametrize("restarted", [False, True], ids=["as heard", "as stored"])
def test_only_the_will_of_the_present_connection_counts(
    birth: tuple[str, int], counts: bool, restarted: bool
) -> None:
    node = Node(node_row(boot="b1", conn=5)) if restarted else at_work()
    assert node.hear(state("lost", *birth)) == ([LOST, WAKE] if counts else [])


@pytest.mark.parametrize("restarted", [False, True], ids=["as heard", "as stored"])
def test_a_will_after_the_goodbye_says_nothing(restarted: bool) -> None:
    node = Node(node_row(boot="b1", conn=5, goodbye=True)) if restarted else at_work()
    if not restarted:
        node.hear(state("disconnected", conn=5))
    assert node.hear(state("lost", conn=5)) == []


def test_the_will_of_the_former_connection_says_nothing_though_the_next_birth_was_missed() -> None:
    node = at_work()
    node.hear(beat(conn=6))
    assert node.hear(state("lost", conn=5)) == []
    node.hear(beat("b2", 1))
    assert node.hear(state("lost", conn=6)) == []
    assert node.hear(state("lost", "b2", 1)) == [LOST, WAKE]


def test_a_late_message_of_a_former_boot_does_not_make_its_connection_the_present_one() -> None:
    node = at_work()
    node.hear(state("ready", "b2", 1))
    node.hear(beat("b1", 5))
    assert node.hear(state("lost", "b1", 5)) == []
    assert node.hear(state("lost", "b2", 1)) == [LOST, WAKE]


@pytest.mark.parametrize("message", [state("disconnected", conn=4), state("ready", conn=4), beat(conn=4),
                                     report(conn=4, digest="old"), state("resting", conn=9)])  # fmt: skip
def test_an_earlier_connection_and_an_unknown_word_change_nothing(message: NodeMessage) -> None:
    node = at_work()
    before = node.session
    assert node.hear(message) == []
    assert node.session is before


@pytest.mark.parametrize("restarted", [False, True], ids=["as heard", "as stored"])
def test_what_comes_after_the_goodbye_of_its_connection_is_no_sign_of_life(restarted: bool) -> None:
    node = Node(node_row(boot="b1", conn=5, goodbye=True)) if restarted else at_work()
    if not restarted:
        node.hear(state("disconnected", conn=5))
    assert node.hear(beat(conn=5)) == []
    (update,) = node.hear(report(conn=5, digest="late"))
    assert isinstance(update, NodeUpdate) and not update.live and update.columns == {}
    assert node.row.goodbye


@pytest.mark.parametrize("restarted", [False, True], ids=["as heard", "as stored"])
@pytest.mark.parametrize("message", [beat(conn=6), report(conn=6), beat("b2", 1)])
def test_the_next_connection_ends_a_goodbye(message: NodeMessage, restarted: bool) -> None:
    node = Node(node_row(boot="b1", conn=5, goodbye=True)) if restarted else at_work()
    if not restarted:
        node.hear(state("disconnected", conn=5))
    assert HEARD in node.hear(message)
    assert (node.row.boot, node.row.conn, node.row.goodbye) == (message.boot, message.conn, False)


# --- reports and heartbeats


def test_a_heartbeat_at_rest_is_a_sign_of_life_and_changes_nothing() -> None:
    node = at_work()
    before = node.session
    assert node.hear(beat(conn=5, applied=Applied(3, 7))) == [HEARD]
    assert node.session is before


def test_a_heartbeat_of_a_node_that_is_not_online_wakes_the_monitor() -> None:
    node = at_work(status=NodeStatus.LATE)
    assert node.hear(beat(conn=5)) == [HEARD, WAKE]


def test_retained_messages_are_no_signs_of_life() -> None:
    node = Node()
    assert node.hear(beat(), retained=True) == []
    (update,) = node.hear(report(), retained=True)
    assert update == NodeUpdate({}, report(), live=False)


def test_a_retained_report_is_applied_once_a_heartbeat_confirms_it() -> None:
    node = at_work()
    node.hear(report(conn=5, digest="kept"), retained=True)
    assert updates(node.hear(beat(conn=5, digest="kept"))) == [
        NodeUpdate({"boot": "b1", "conn": 5}, report(conn=5, digest="kept"), live=True)
    ]
    assert updates(node.hear(beat(conn=5, digest="kept"))) == []


def test_another_digest_asks_for_the_report_once_per_interval() -> None:
    node = at_work()
    assert [RESYNC in node.hear(beat(conn=5, digest="other")) for _ in range(3)] == [True, False, False]
    node.now += BEAT_S
    assert RESYNC in node.hear(beat(conn=5, digest="other"))


def test_a_heartbeat_without_a_known_report_asks_for_it_and_has_the_birth_written() -> None:
    node = Node()
    assert node.hear(beat()) == [HEARD, RESYNC, NodeUpdate({"boot": "b1", "conn": 1})]


def test_a_report_that_the_store_refused_comes_again_with_each_heartbeat_until_it_is_written() -> None:
    node = at_work()
    node.busy = True
    node.hear(report(conn=5, digest="new"))
    assert updates(node.hear(beat(conn=5, digest="new")))
    node.busy = False
    assert updates(node.hear(beat(conn=5, digest="new")))
    assert node.stored == report(conn=5, digest="new")
    assert updates(node.hear(beat(conn=5, digest="new"))) == []


def test_a_write_that_ends_late_does_not_pass_for_that_of_a_later_retained_report() -> None:
    node = at_work()
    session, effects = node.session.on(report(conn=5, digest="a"), Facts(node.row, node.now, BEAT_S, ORIGIN))
    (under_way,) = updates(effects)
    node.session = session
    node.hear(report(conn=5, digest="b"), retained=True)
    node.session = node.session.written(under_way)
    assert [update.report for update in updates(node.hear(beat(conn=5, digest="b")))] == [
        report(conn=5, digest="b")
    ]


def test_workers_that_are_unknown_have_the_report_written_again() -> None:
    node = at_work()
    node.unknown_workers = True
    assert updates(node.hear(beat(conn=5)))
    node.row = msgspec.structs.replace(node.row, status=NodeStatus.UNPAIRED)
    assert updates(node.hear(beat(conn=5))) == []


def test_a_node_that_is_paired_again_is_written_again() -> None:
    node = at_work()
    node.row = msgspec.structs.replace(node.row, boot=None, conn=None, status=NodeStatus.OFFLINE)
    found = updates(node.hear(beat(conn=5)))
    assert found[0].report == report(conn=5)
    assert (node.row.boot, node.row.conn) == ("b1", 5)


# --- whom it follows


FORGED = Applied(50, 1)


@pytest.mark.parametrize(
    ("first", "diverged"),
    [
        (report(conn=5), True),
        (report(conn=5, applied=Applied(2, 1)), True),
        (report(conn=5, applied=Applied()), False),
        (report(conn=5, store="s2"), False),
        (report(conn=5, applied=FORGED), False),
    ],
    ids=["ours", "our older epoch", "nothing yet", "another store", "ahead from the start"],
)
def test_a_node_diverges_only_from_a_manager_that_it_followed(first: Reported, diverged: bool) -> None:
    node = Node()
    node.hear(first)
    (update,) = updates(node.hear(report(conn=5, applied=FORGED)))
    assert update.diverged is diverged


def test_a_node_does_not_diverge_across_a_reconnect() -> None:
    node = at_work()
    node.session = node.session.reconnected()
    (update,) = updates(node.hear(report(conn=5, applied=FORGED)))
    assert not update.diverged


def test_an_epoch_that_was_given_to_the_node_is_ours() -> None:
    node = at_work()
    node.row = msgspec.structs.replace(node.row, assignment_epoch=50)
    (update,) = updates(node.hear(report(conn=5, applied=FORGED)))
    assert not update.diverged


def test_a_heartbeat_tells_of_divergence_too() -> None:
    node = at_work()
    node.unknown_workers = True
    (update,) = updates(node.hear(beat(conn=5, applied=FORGED)))
    assert update.diverged


# --- two agents with one name


def test_two_agents_in_turns_are_a_conflict_and_a_restart_is_none() -> None:
    node = at_work()
    node.hear(state("ready", "b2", 1))
    assert not node.session.in_conflict(node.now, BEAT_S)
    node.hear(beat("b1", 5))
    assert not node.session.in_conflict(node.now, BEAT_S), "one message may be late"
    node.hear(report("b2", 1, digest="d2"))
    assert node.row.conditions == [CONFLICT]
    node.now += 12 * BEAT_S
    node.hear(beat("b2", 1, "d2"))
    assert node.row.conditions == [CONFLICT]
    node.now += BEAT_S
    node.hear(beat("b2", 1, "d2"))
    assert node.row.conditions == []


# --- whatever the order


words = st.sampled_from(["ready", "lost", "disconnected", "beat", "report"])
boots = st.sampled_from(["b1", "b2", "b3"])


@st.composite
def some_message(draw: st.DrawFn) -> tuple[NodeMessage, bool, float]:
    """A message, whether it was retained, and the seconds that passed before it."""
    boot, conn, digest = draw(boots), draw(st.integers(1, 3)), draw(st.sampled_from(["d1", "d2"]))
    word, applied = draw(words), Applied(draw(st.sampled_from([0, 3, 9])), 1)
    message: NodeMessage
    if word == "beat":
        message = beat(boot, conn, digest, applied=applied)
    elif word == "report":
        message = report(boot, conn, digest, applied=applied)
    else:
        message = state(word, boot, conn)
    return message, draw(st.booleans()), draw(st.sampled_from([0.0, 0.5, 5.0, 70.0]))


histories = st.lists(some_message(), max_size=25)


@given(histories, st.data())
def test_messages_are_idempotent(history: Any, data: st.DataObject) -> None:
    once, twice = Node(), Node()
    for message, retained, seconds in history:
        once.now = twice.now = once.now + seconds
        heard = HEARD in once.hear(message, retained=retained)
        assert (HEARD in twice.hear(message, retained=retained)) is heard
        again = twice.hear(message, retained=retained)
        assert RESYNC not in again
        assert twice.session == once.session
        assert twice.row == once.row


@given(histories)
def test_a_retained_message_is_never_a_sign_of_life(history: Any) -> None:
    node = Node()
    for message, _, seconds in history:
        node.now += seconds
        assert not {HEARD, RESYNC} & set(signals(node.hear(message, retained=True)))


@given(histories, st.integers(1, 9))
def test_an_earlier_connection_is_never_taken_after_a_later_one(history: Any, conn: int) -> None:
    node = Node()
    for message, retained, seconds in history:
        node.now += seconds
        node.hear(message, retained=retained)
    node.hear(state("ready", "b1", conn + 1))
    before = node.session
    for late in (state("ready", "b1", conn), state("disconnected", "b1", conn), state("lost", "b1", conn),
                 beat("b1", conn), report("b1", conn)):  # fmt: skip
        assert node.hear(late) == []
    assert node.session is before


@given(histories)
def test_a_connection_that_said_goodbye_is_not_heard_until_another_is(history: Any) -> None:
    node, gone = Node(), None
    for message, retained, seconds in history:
        node.now += seconds
        heard = HEARD in node.hear(message, retained=retained)
        birth = (message.boot, message.conn)
        if isinstance(message, Heartbeat | Reported):
            assert not (heard and birth == gone)
        if node.session.goodbye is None:
            gone = None
        if isinstance(message, NodeState) and message.state == "disconnected":
            gone = node.session.goodbye


@given(histories)
def test_a_report_is_asked_for_at_most_once_per_interval(history: Any) -> None:
    node, asked = Node(), -1000.0
    for message, retained, seconds in history:
        node.now += seconds
        if RESYNC in node.hear(message, retained=retained):
            assert node.now - asked >= BEAT_S
            asked = node.now


@given(histories, st.lists(st.booleans(), max_size=25))
def test_no_report_is_lost_however_often_the_store_refuses(history: Any, busy: list[bool]) -> None:
    node = Node()
    for (message, retained, seconds), node.busy in zip(history, [*busy, *[False] * 25], strict=False):
        node.now += seconds
        node.hear(message, retained=retained)
    node.busy, last = False, node.session.report
    if last is not None:
        birth = node.session.birth or ("b1", 1)
        node.hear(state("ready", *birth))
        node.hear(beat(*birth, last.digest))
        assert node.stored == last


@st.composite
def honest_life(draw: st.DrawFn) -> list[tuple[NodeMessage, bool]]:
    """One agent after the other, each connection after the last; births get lost, and wills come late.

    The second member tells whether the message is the will of a connection that another has followed.
    """
    connections = [
        (f"b{run}", conn)
        for run in range(draw(st.integers(1, 3)))
        for conn in range(1, draw(st.integers(2, 4)))
    ]
    life: list[tuple[NodeMessage, bool]] = []
    for number, birth in enumerate(connections):
        spoken: list[NodeMessage] = draw(
            st.lists(st.sampled_from([state("ready", *birth), beat(*birth), report(*birth)]), min_size=1)
        )
        wills = draw(st.lists(st.sampled_from(connections[:number] or [("b9", 1)]), max_size=3))
        life.append((spoken[0], False))
        rest = [(each, False) for each in spoken[1:]] + [(state("lost", *former), True) for former in wills]
        life += draw(st.permutations(rest))
    return life


@settings(max_examples=300)
@given(honest_life(), st.booleans())
def test_a_late_will_never_takes_down_a_node_that_is_connected(life: Any, known: bool) -> None:
    node = Node(node_row(boot="b0", conn=1) if known else node_row())
    for message, late_will in life:
        effects = node.hear(message)
        if late_will:
            assert effects == []
        else:
            assert HEARD in effects
    last = next(message for message, late_will in reversed(life) if not late_will)
    assert node.hear(state("lost", last.boot, last.conn)) == [LOST, WAKE]


@given(st.lists(st.integers(1, 3), min_size=4, max_size=8))
def test_two_agents_are_told_as_a_conflict_within_four_turns(beats: list[int]) -> None:
    node = Node()
    for turn, count in enumerate(beats):
        for _ in range(count):
            node.now += BEAT_S / 2
            node.hear(beat("b1" if turn % 2 else "b2", 1))
        assert node.session.in_conflict(node.now, BEAT_S) is (turn >= 3)


@given(st.lists(st.integers(1, 3), min_size=1, max_size=12))
def test_restarts_are_never_a_conflict(beats: list[int]) -> None:
    node = Node()
    for run, count in enumerate(beats):
        for _ in range(count):
            node.now += 0.1
            node.hear(beat(f"b{run}", 1))
        assert not node.session.in_conflict(node.now, BEAT_S)


def test_schemas_are_asked_for_once_per_connection() -> None:
    def asked(session: NodeSession, message: Reported) -> tuple[NodeSession, list[AskForSchemas]]:
        facts = Facts(node_row(), 100.0, BEAT_S, ORIGIN, missing_schemas=frozenset({"sha256:b", "sha256:a"}))
        session, effects = session.on(message, facts)
        return session, [effect for effect in effects if isinstance(effect, AskForSchemas)]

    session, first = asked(NodeSession(), report())
    assert first == [AskForSchemas(("sha256:a", "sha256:b"))]
    session, again = asked(session, report(digest="d2"))
    assert again == []
    session, after = asked(session, report(conn=2))
    assert after == first
    _, brought = asked(NodeSession(), report(schemas={"sha256:a": {}, "sha256:b": {}}))
    assert brought == []
