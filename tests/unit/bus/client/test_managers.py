"""The managers' states as they change."""

from __future__ import annotations

from busbar.bus.client import managers
from busbar.bus.decode import encode
from busbar.bus.messages import ManagerState
from busbar.bus.testing import settle

from tests.unit.bus.client.harness import TOPICS, World, play


def test_states_come_with_every_change_and_a_new_connection_is_counted() -> None:
    async def work(world: World) -> None:
        def say(name: str, state: str | None) -> None:
            payload = encode(ManagerState(state, name, "s", 1)) if state else b""
            world.manager.post(TOPICS.manager_state(name), payload, retain=True)

        say("m1", "online")
        async with world.bus.watch_managers() as watch:
            first = await anext(watch)
            assert (first.manager, first.state and first.state.state) == ("m1", "online")
            say("m1", "offline")
            say("m1", None)
            await settle()
            assert (await anext(watch)).state is None, "the last one alone"
            world.manager.post(TOPICS.manager_state("m1"), b"no state", retain=False)
            for number in range(managers.MANAGERS + 9):
                say(f"x{number}", "online")
            await settle()
            found = []
            while (update := watch.take()) is not None:
                found.append(update.manager)
            assert len(found) == managers.MANAGERS and watch.connections == 0
            world.broker.drop("alice")
            await world.link.wait_connected(5)
            await settle()
            assert watch.connections == 1

    play(work)
