"""Every channel of the contract is there, every reference leads somewhere, real messages are as it says."""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from busbar.bus.contract import OPERATIONS
from busbar.bus.events import EVENT_KINDS, EVENTS
from busbar.bus.topics import NODE_LEAVES
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from tests.pace import bound
from tests.simulation.faults import schedule
from tests.simulation.invariants import Watch
from tests.simulation.runner import scratch, simulate

FILE = Path(__file__).parents[2] / "docs" / "reference" / "asyncapi.json"
DOCUMENT: dict[str, Any] = json.loads(FILE.read_text())
REGISTRY: Registry[Any] = Registry().with_resource("urn:contract", Resource(DOCUMENT, DRAFT202012))
SCHEDULES = range(1, 9)
EACH = 40
"""Messages of each channel that are held against their schema: they are alike."""


def pointers(found: Any) -> Iterator[str]:
    if isinstance(found, dict):
        yield from (value for key, value in found.items() if key == "$ref")
        found = list(found.values())
    if isinstance(found, list):
        for each in found:
            yield from pointers(each)


def resolved(pointer: str) -> Any:
    found: Any = DOCUMENT
    for step in pointer.removeprefix("#/").split("/"):
        found = found[step.replace("~1", "/").replace("~0", "~")]
    return found


class Channels:
    """Finds a topic's channel, and judges a payload by it."""

    def __init__(self) -> None:
        self._patterns = [
            (re.compile(re.sub(r"\\\{\w+\\\}", "([^/]+)", re.escape(channel["address"]))), key)
            for key, channel in DOCUMENT["channels"].items()
        ]
        self._validators: dict[str, Draft202012Validator] = {}

    def of(self, topic: str) -> str:
        """The key of a topic's channel; the topic itself when it has none."""
        return next((key for pattern, key in self._patterns if pattern.fullmatch(topic)), topic)

    def wrong(self, topic: str, payload: bytes) -> str | None:
        """What is wrong with a message; None when nothing is."""
        value, key = json.loads(payload), self.of(topic)
        name = (
            f"{value['op']}_reply" if key == "response" else next(iter(DOCUMENT["channels"][key]["messages"]))
        )
        if name not in self._validators:
            pointer = f"urn:contract#/components/messages/{name}/payload"
            self._validators[name] = Draft202012Validator({"$ref": pointer}, registry=REGISTRY)
        error = next(self._validators[name].iter_errors(value), None)
        return None if error is None else f"{topic}: {error.message} at {list(error.absolute_path)}"


@pytest.fixture(scope="module")
def said() -> dict[str, bytes]:
    """By topic and number: what managers, agents and clients published in some schedules with faults."""
    found: dict[str, bytes] = {}
    count: Counter[str] = Counter()
    channels = Channels()
    original = Watch.routed

    def routed(self: Watch, client: str, topic: str, payload: bytes, retain: bool) -> None:
        original(self, client, topic, payload, retain)
        if payload and count[key := channels.of(topic)] < EACH:
            count[key] += 1
            found[f"{topic} {count[key]}"] = payload

    folder = scratch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Watch, "routed", routed)
        try:
            for seed in SCHEDULES:
                assert not simulate(schedule(seed), folder).violations
                gc.collect()  # what a killed program leaves is not to be finalised later
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return found


def test_every_operation_event_status_and_node_topic_has_its_channel() -> None:
    channels = {channel["address"] for channel in DOCUMENT["channels"].values()}
    prefix = "busbar/v1/{realm}"
    wanted = {f"{prefix}/request/{{caller}}/{name}" for name in OPERATIONS}
    wanted |= {
        f"{prefix}/event/{{cluster}}/{EVENT_KINDS[kind]}/{{name}}/{verb}"
        for kind, all_ in EVENTS.items()
        for verb in all_
    }
    kinds = ("routercluster", "workergroup", "worker", "node")
    wanted |= {f"{prefix}/status/{{cluster}}/{kind}/{{name}}" for kind in kinds}
    wanted |= {f"{prefix}/node/{{node}}/{leaf}" for leaf in NODE_LEAVES}
    wanted |= {f"{prefix}/response/{{caller}}/{{inbox}}", f"{prefix}/manager/{{manager}}/state"}
    wanted |= {f"{prefix}/node/{{node}}/log/{{worker}}"}
    assert channels == wanted
    assert {name for name, each in DOCUMENT["operations"].items() if each["action"] == "send"} == set(
        OPERATIONS
    )


def test_every_reference_leads_somewhere_and_every_schema_is_one() -> None:
    found = set(pointers(DOCUMENT))
    assert len(found) > 300
    for pointer in found:
        resolved(pointer)
    for name, schema in DOCUMENT["components"]["schemas"].items():
        Draft202012Validator.check_schema(schema)
        assert re.fullmatch(r"[\w.-]+", name)
    for channel in DOCUMENT["channels"].values():
        assert set(channel["parameters"]) == set(re.findall(r"\{(\w+)\}", channel["address"]))


def test_what_programs_say_is_as_it_says(said: dict[str, bytes]) -> None:
    channels = Channels()
    wrong = [
        text for key, payload in said.items() if (text := channels.wrong(key.partition(" ")[0], payload))
    ]
    assert wrong == []
    seen = {channels.of(key.partition(" ")[0]) for key in said}
    assert len(said) > 500
    assert {
        "response",
        "manager_state",
        "node_state",
        "node_reported",
        "node_heartbeat",
        "node_assignment",
    } <= seen
    assert len([key for key in seen if key.startswith("request_")]) > 5
    assert len([key for key in seen if key.startswith("event_")]) > 10
    assert {f"status_{kind}" for kind in ("routercluster", "workergroup", "worker", "node")} <= seen


def test_a_message_that_is_not_so_is_found(said: dict[str, bytes]) -> None:
    """Each required member taken away, in one message of each channel."""
    channels, tried = Channels(), 0
    first = {
        channels.of(key.partition(" ")[0]): (key.partition(" ")[0], payload) for key, payload in said.items()
    }
    for topic, payload in first.values():
        value = json.loads(payload)
        assert channels.wrong(topic, payload) is None
        names = ("state", "status", "digest", "workers", "ok", "id", "epoch")
        member = next((name for name in names if name in value), None)
        if member is not None and "/request/" not in topic:  # whose members may all be left out
            del value[member]
            tried += channels.wrong(topic, json.dumps(value).encode()) is not None
    assert tried >= 8


def test_asyncapis_own_parser_takes_it() -> None:
    folder = os.environ.get("BUSBAR_ASYNCAPI")
    if folder is None:
        pytest.skip("part of make asyncapi, which installs the parser by npm")
    done = subprocess.run(
        ["node", Path(__file__).with_name("parse.mjs"), FILE],
        capture_output=True,
        text=True,
        timeout=bound(60),
        env={**os.environ, "BUSBAR_ASYNCAPI": folder},
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
