"""What counts as different in schedules, and that those are kept which show the most of it."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tests.simulation.corpus import Feature, choose, corpus_seeds, features

SHOWN = st.dictionaries(st.integers(1, 40), st.frozensets(st.sampled_from("abcdefgh").map(lambda x: (x,))))


def test_names_numbers_and_what_always_happens_do_not_count() -> None:
    trace = [
        "0.1 manager starts",
        "0.2 commit 0w 1o",
        "0.3 fault op ('alice', 'drain_node', 'n2')",
        "0.4 bob drain_node ('n1',) -> ok",
        "0.5 n1 busbar/v1/sim/node/n1/heartbeat 171 a3db3c97",
        "0.6 fault broker_kill ('old', True, 0.3)",
        "0.7 m1 busbar/v1/sim/event/c1/worker/g1-1/moved 470 4f5c93fa",
        "0.8 n2 process 101 ended: asked to stop",
    ]
    kinds = ["manager starts", "op drain_node", "drain_node: ok", "broker_kill old", "worker moved"]
    kinds.append("process ended: asked to stop")
    assert features(trace) == {(kind,) for kind in kinds} | set(pairwise(kinds))


@given(SHOWN, st.integers(0, 20))
def test_the_first_shows_the_most_and_none_is_taken_twice(shown: dict[int, set[Feature]], take: int) -> None:
    chosen = choose(shown, take)
    assert len(chosen) == len(set(chosen)) == min(take, len(shown))
    if chosen:
        assert len(shown[chosen[0]]) == max(map(len, shown.values()))


@given(SHOWN)
def test_all_that_is_shown_is_shown_before_anything_is_shown_again(shown: dict[int, set[Feature]]) -> None:
    seen: set[Feature] = set()
    every = set[Feature]().union(*shown.values())
    for seed in choose(shown, len(shown)):
        assert shown[seed] - seen or every <= seen
        seen |= shown[seed]


def test_the_corpus_is_there() -> None:
    assert len(set(corpus_seeds())) == len(corpus_seeds()) >= 500
