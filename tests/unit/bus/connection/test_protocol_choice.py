"""Which MQTT version is tried at which broker."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from busbar.bus.connection.protocol_memory import KEPT_NS, ProtocolChoice, ProtocolMemory
from busbar.bus.options import Address, ConnectOptions
from busbar.bus.testing import FakeClock

OPTIONS = ConnectOptions(port=1, others=(Address("127.0.0.1", 2),), protocol=5, falls_back=True)
HERE, THERE = (broker.url for broker in OPTIONS.brokers)


def test_a_refusal_is_followed_by_3_1_1_once_and_at_that_broker_alone() -> None:
    choice = ProtocolChoice(OPTIONS, FakeClock())
    assert choice.failed(HERE, refused=True), "at once"
    assert choice.tries_3_1_1(HERE) and not choice.tries_3_1_1(THERE)
    assert not choice.failed(HERE, refused=True), "that was not it: the next broker"
    assert not choice.tries_3_1_1(HERE), "and then MQTT 5 again"


def test_a_broker_that_does_not_answer_is_left_and_asked_in_3_1_1_when_it_is_its_turn() -> None:
    choice = ProtocolChoice(OPTIONS, FakeClock())
    assert not choice.failed(HERE, refused=False)
    assert choice.tries_3_1_1(HERE)


@pytest.mark.parametrize("options", [replace(OPTIONS, protocol=4), replace(OPTIONS, falls_back=False)])
def test_a_version_that_is_given_is_kept_to(options: ConnectOptions) -> None:
    choice = ProtocolChoice(options, FakeClock())
    assert not choice.failed(HERE, refused=True)
    assert not choice.tries_3_1_1(HERE)


async def test_what_a_broker_lacks_is_known_for_a_day_through_failures_and_restarts(tmp_path: Path) -> None:
    clock, memory = FakeClock(), ProtocolMemory(tmp_path / "mqtt-version.json")
    choice = ProtocolChoice(OPTIONS, clock, memory)
    choice.failed(HERE, refused=True)
    choice.accepted(HERE)
    choice.failed(HERE, refused=True)
    await clock.advance(KEPT_NS / 2e9)
    for each in (choice, ProtocolChoice(OPTIONS, clock, memory)):
        assert each.tries_3_1_1(HERE) and not each.tries_3_1_1(THERE)
        each.accepted(HERE)
    await clock.advance(KEPT_NS / 2e9)
    again = ProtocolChoice(OPTIONS, clock, memory)
    assert not again.tries_3_1_1(HERE), "the first time counts: MQTT 5 is tried once a day"
    again.accepted(HERE)
    assert memory.read() == {}


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "{", "[" * 100_000, '{"lack_mqtt_5": 1}', '{"lack_mqtt_5": {"u": "x"}}']
)
def test_a_damaged_file_knows_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mqtt-version.json"
    path.write_text(text)
    assert ProtocolMemory(path).read() == {}
