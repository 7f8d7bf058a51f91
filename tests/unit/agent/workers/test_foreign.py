"""Workers of others on this host: counted again while there are any."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from busbar.agent.workers import identity
from busbar.agent.workers.adoption import Adoption


@pytest.mark.fault(70, "U")
async def test_foreign_workers_that_ended_are_no_longer_counted() -> None:
    found = [SimpleNamespace(token=token, marks={}) for token in ("a", "b", "own")]
    processes = SimpleNamespace(scan=lambda: found)
    runner: Any = SimpleNamespace(state=None, host=None, processes=processes)
    adoption = Adoption(SimpleNamespace(registry=None, runner=runner))  # type: ignore[arg-type]
    adoption._note_foreign((found[0], found[1]), set(), "s1")  # type: ignore[arg-type]
    await adoption.recount_foreign()
    assert adoption.foreign == 2
    del found[1]
    await adoption.recount_foreign()
    assert adoption.foreign == 1
    found.clear()
    await adoption.recount_foreign()
    assert adoption.foreign == 0


@pytest.mark.fault(70, "U")
def test_workers_of_another_stack_on_this_host_are_no_problem_while_its_agent_lives() -> None:
    def group(token: str, store: str) -> Any:
        marks = {identity.STORE: store, identity.OID: token, identity.STATE: "/elsewhere"}
        return SimpleNamespace(token=token, marks=marks)

    runner: Any = SimpleNamespace(state=None, host=None, processes=None)
    adoption = Adoption(SimpleNamespace(registry=None, runner=runner))  # type: ignore[arg-type]
    neighbour, orphan, double = group("a", "s2"), group("b", "s2"), group("c", "s1")
    adoption._note_foreign((neighbour, orphan, double), {"a", "c"}, "s1")
    assert adoption.foreign == 2
    assert set(adoption.held_elsewhere) == {"c"}
