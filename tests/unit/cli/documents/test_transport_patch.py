"""A flag changes what it names in a transport, and nothing else."""

from __future__ import annotations

import random
from typing import Any

import pytest
from busbar.cli.documents.definition import transport_patch
from busbar.cli.documents.transport_patch import TransportChange, diff, merge_patch
from busbar.cli.errors import CliError, ExitCode

CLOSED: dict[str, Any] = {
    "type": "mqtt",
    "endpoint": {"type": "tcp", "port": 24000, "interface": "0.0.0.0", "backlog": 64},
    "options": {"password_file": "users", "persistence": True},
}
OPEN = {"type": "mqtt", "endpoint": {"type": "tcp", "interface": "0.0.0.0"}}


@pytest.mark.parametrize(
    ("target", "patch", "wanted"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_the_examples_of_rfc_7396(target: Any, patch: Any, wanted: Any) -> None:
    assert merge_patch(target, patch) == wanted


LISTENERS: dict[str, Any] = {"type": "mqtt", "listeners": {"mqtt": {"port": 1883}, "ws": {"port": 80}}}


def test_one_listener_is_changed_and_a_single_port_goes_with_an_endpoint_alone() -> None:
    patch = transport_patch('{"listeners": {"ws": {"port": 81}}}', None, None)
    after = TransportChange(patch).of(LISTENERS, "mosquitto", "mosquitto")
    assert after is not None and list(diff(LISTENERS, after)) == ["/listeners/ws/port: 80 -> 81"]
    assert list(after["listeners"]) == ["mqtt", "ws"], "the first is the primary one"
    for given in ((None, None, "99"), ('{"endpoint": {"port": 99}}', None, None)):
        with pytest.raises(CliError, match="it has listeners, and no endpoint beside them"):
            TransportChange(transport_patch(*given)).of(LISTENERS, "mosquitto", "mosquitto")
    with pytest.raises(CliError, match="--port is that of a single endpoint"):
        transport_patch(str(LISTENERS).replace("'", '"'), None, "99")
    outside = transport_patch('{"listeners": {"ws": {"interface": "0.0.0.0"}}}', None, None)
    with pytest.raises(
        CliError, match=r"routers on 0.0.0.0 \(listener ws\) would let everybody in: say --allow"
    ):
        TransportChange(outside).of(LISTENERS, "mosquitto", "mosquitto")
    opened = TransportChange(outside, allow_anonymous=True).of(LISTENERS, "mosquitto", "mosquitto")
    assert opened is not None and opened["anonymous"] is True
    said = {"listeners": {"ws": {"interface": "0.0.0.0", "anonymous": True}}}
    for allowed in (False, True):
        opened = TransportChange(said, allow_anonymous=allowed).of(LISTENERS, "mosquitto", "mosquitto")
        assert opened is not None and "anonymous" not in opened, "it says so itself"
    more: dict[str, Any] = {"listeners": {**said["listeners"], "mqtt": {"interface": "0.0.0.0"}}}
    with pytest.raises(CliError, match="say --allow"):
        TransportChange(more).of(LISTENERS, "mosquitto", "mosquitto")
    back = transport_patch('{"listeners": null}', None, "99")
    assert TransportChange(back).of(LISTENERS, "mosquitto", "mosquitto") == {
        "type": "mqtt",
        "endpoint": {"type": "tcp", "port": 99},
    }


@pytest.mark.fault(114, "U")
@pytest.mark.parametrize(
    ("given", "lines"),
    [
        ((None, None, "25000-25099"), ['/endpoint/port: 24000 -> "25000-25099"']),
        ((None, "websocket", None), ['/type: "mqtt" -> "websocket"']),
        (('{"endpoint": {"backlog": null}}', None, None), ["/endpoint/backlog: 64 -> none"]),
        (
            ('{"options": {"persistence": false}}', None, "1"),
            ["/endpoint/port: 24000 -> 1", "/options/persistence: true -> false"],
        ),
    ],
)
def test_what_is_not_named_stays(given: tuple[Any, Any, Any], lines: list[str]) -> None:
    after = TransportChange(transport_patch(*given)).of(CLOSED, "mosquitto", "mosquitto")
    assert after is not None and list(diff(CLOSED, after)) == lines


@pytest.mark.fault(114, "U")
def test_a_patch_tells_all_that_it_changes() -> None:
    pick = random.Random(114)

    def value(depth: int) -> Any:
        if depth and pick.random() < 0.6:
            return {pick.choice("abc/~"): value(depth - 1) for _ in range(pick.randrange(4))}
        return pick.choice([0, 1, True, "x", [1]])

    for _ in range(500):
        before = {"type": "mqtt", "x": value(3)}
        patch = {"x": value(3)}
        after = merge_patch(before, patch)
        assert bool(list(diff(before, after))) is (repr(before) != repr(after)) or before == after
        assert merge_patch(after, patch) == after, "once more changes nothing"


@pytest.mark.fault(114, "W")
@pytest.mark.parametrize(
    ("present", "patch", "replace"),
    [
        (CLOSED, {"options": {"password_file": None}}, False),
        (CLOSED, {"options": None}, False),
        (CLOSED, {"type": "mqtt"}, True),
        (CLOSED, {"options": {"password_file": None}, "endpoint": {"interface": "127.0.0.1"}}, False),
        ({"type": "mqtt"}, {"endpoint": {"interface": "0.0.0.0"}}, False),
        (None, OPEN, True),
    ],
)
def test_to_let_in_more_clients_has_its_own_option(present: Any, patch: Any, replace: bool) -> None:
    with pytest.raises(CliError, match="--allow-anonymous") as caught:
        TransportChange(patch, replace).of(present, "amqtt", "amqtt")
    assert caught.value.exit_code == ExitCode.USAGE
    after = TransportChange(patch, replace, True).of(present, "amqtt", "amqtt")
    assert after is not None
    local = after.get("endpoint", {}).get("interface", "127.0.0.1") == "127.0.0.1"
    assert after.get("anonymous") is (None if local else True)


@pytest.mark.fault(114, "W")
def test_another_runtime_may_let_in_more_clients_too() -> None:
    with pytest.raises(CliError, match="--allow-anonymous"):
        TransportChange(None).of(CLOSED, "amqtt", "crossbar")
    assert TransportChange(None).of(CLOSED, "amqtt", "mosquitto") is None


def test_what_was_open_before_is_not_asked_again_and_the_option_writes_it_out() -> None:
    assert TransportChange({"endpoint": {"port": 1}}).of(OPEN, "amqtt", "amqtt") is not None
    assert TransportChange(None, allow_anonymous=True).of(OPEN, "amqtt", "amqtt") == {
        **OPEN,
        "anonymous": True,
    }
    assert TransportChange(None, allow_anonymous=True).of(None, None, None) is None


def test_a_port_alone_means_mqtt_where_there_is_no_transport() -> None:
    change = TransportChange(transport_patch(None, None, "80"))
    assert change.of(None, None, None) == {"type": "mqtt", "endpoint": {"type": "tcp", "port": 80}}
    web = {"type": "web", "paths": {"ws": {"type": "websocket"}}}
    assert change.of(web, None, None) == {**web, "endpoint": {"type": "tcp", "port": 80}}
