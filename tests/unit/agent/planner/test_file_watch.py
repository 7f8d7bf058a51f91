"""Files that change on disk: what is judged when, and what counts as read."""

from __future__ import annotations

from busbar.agent.planner.file_watch import (
    Files,
    FileStep,
    FileWatch,
    changed_files,
    looked,
    stale_files,
    was_reloaded,
)
from hypothesis import given
from hypothesis import strategies as st

CERTIFICATE, KEY, CA = (f"/transport/endpoint/tls/{name}" for name in ("certificate", "key", "client_ca"))
RELOADED = ("certificate", "key")
ONE, TWO, THREE = (1, 10, 100), (2, 10, 200), (3, 10, 300)
BEFORE: Files = {CERTIFICATE: ONE, KEY: ONE, CA: ONE}


def looks(watch: FileWatch, *found: Files) -> tuple[FileWatch, list[FileStep]]:
    steps = []
    for each in found:
        watch, step = looked(watch, each, RELOADED)
        steps.append(step)
    return watch, steps


def test_a_change_counts_once_it_has_settled() -> None:
    half, whole = {**BEFORE, CERTIFICATE: TWO}, {**BEFORE, CERTIFICATE: TWO, KEY: TWO}
    watch, steps = looks(FileWatch(BEFORE), BEFORE, BEFORE, half, whole, whole, whole)
    assert steps == [FileStep.NONE] * 4 + [FileStep.RELOAD, FileStep.NONE]
    assert changed_files(watch) == [CERTIFICATE, KEY]
    watch = was_reloaded(watch, whole, RELOADED)
    assert changed_files(watch) == [] and looks(watch, whole)[1] == [FileStep.NONE]


def test_what_was_refused_is_judged_again_when_it_changes() -> None:
    bad, good = {**BEFORE, KEY: None}, {**BEFORE, KEY: TWO}
    watch, steps = looks(FileWatch(BEFORE), bad, bad, bad)
    assert steps == [FileStep.NONE, FileStep.RELOAD, FileStep.NONE]
    _, steps = looks(watch, good, good)
    assert steps == [FileStep.NONE, FileStep.RELOAD]
    _, steps = looks(watch, BEFORE, BEFORE, BEFORE)
    assert steps == [FileStep.NONE, FileStep.TELL, FileStep.NONE], "the refusal is to be taken back"


def test_what_is_read_at_a_start_alone_is_told() -> None:
    now = {**BEFORE, CA: TWO}
    watch, steps = looks(FileWatch(BEFORE), now, now)
    assert steps[-1] is FileStep.TELL
    assert stale_files(watch, RELOADED) == f"changed on this node since: {CA}"
    both = {**now, KEY: TWO}
    watch, steps = looks(watch, both, both)
    assert steps[-1] is FileStep.RELOAD
    watch = was_reloaded(watch, both, RELOADED)
    assert stale_files(watch, RELOADED) == f"changed on this node since: {CA}", "a reload does not read it"
    assert stale_files(FileWatch(BEFORE), RELOADED) is None


def test_a_worker_of_an_older_agent_counts_as_started_with_what_is_there() -> None:
    watch, steps = looks(FileWatch(), BEFORE, BEFORE)
    assert watch.loaded == BEFORE and steps == [FileStep.NONE] * 2


IDENTITIES = st.sampled_from([None, ONE, TWO, THREE])
LOOKS = st.fixed_dictionaries({CERTIFICATE: IDENTITIES, KEY: IDENTITIES, CA: IDENTITIES})


@given(st.lists(LOOKS, max_size=12), LOOKS, st.booleans())
def test_whatever_came_before_the_last_change_is_acted_on_in_the_end(
    found: list[Files], last: Files, reloads: bool
) -> None:
    watch = FileWatch(BEFORE)
    for each in [*found, last, last]:
        watch, step = looked(watch, each, RELOADED)
        if step is FileStep.RELOAD and reloads:
            watch = was_reloaded(watch, each, RELOADED)
    wrong = {pointer for pointer, identity in last.items() if watch.loaded[pointer] != identity}
    assert set(changed_files(watch)) == wrong
    assert not reloads or wrong <= {CA}
    assert looked(watch, last, RELOADED) == (watch, FileStep.NONE)
