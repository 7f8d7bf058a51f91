"""Requests: exactly-once effect, preconditions, deadlines, and every kind of invalid input."""

from __future__ import annotations

import json
import queue
import socket
from typing import Any

import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.contract.conftest import Lab
from tests.pace import bound


@pytest.mark.fault(55, "A")
def test_same_id_same_reply_one_effect(lab: Lab) -> None:
    name = lab.name()
    request = {"id": f"once-{name}", "reply": "box", "params": {"routercluster": {"name": name}}}
    first = lab.alice.send("create_routercluster", request)
    again = lab.alice.send("create_routercluster", request)
    assert first["ok"] and again["result"] == first["result"]
    assert lab.alice.ok("list_routerclusters", {"return_names": True}).count(name) == 1
    other = {**request, "params": {"routercluster": {"name": lab.name()}}}
    assert lab.alice.send("create_routercluster", other)["error"]["code"] == "request_id_reused"
    created = [e for e in lab.alice.events() if e["data"].get("request_id") == request["id"]]
    assert len(created) == 1


def test_ids_belong_to_their_caller(lab: Lab) -> None:
    request_id = f"shared-{lab.name()}"
    for client in (lab.alice, lab.bob):
        params = {"routercluster": {"name": lab.name()}}
        assert client.call("create_routercluster", params, id=request_id)["ok"]


def test_a_refusal_is_idempotent_too(lab: Lab) -> None:
    made = lab.cluster()
    request_id = f"refused-{made['name']}"
    params = {"routercluster": {"name": made["name"]}}
    assert lab.alice.code("create_routercluster", params, id=request_id) == "already_exists"
    lab.alice.ok("delete_routercluster", {"routercluster_oid": made["oid"]})
    assert lab.alice.code("create_routercluster", params, id=request_id) == "already_exists"


def test_without_an_id_the_manager_makes_one(lab: Lab) -> None:
    reply = lab.alice.send("list_routerclusters", {"reply": "box"})
    assert reply["ok"] and reply["id"]


def test_without_an_inbox_the_reply_goes_to_default(lab: Lab) -> None:
    reply = lab.alice.send("list_routerclusters", {"id": "d1"}, inbox="default")
    assert reply["id"] == "d1"


@pytest.mark.fault(54, "A")
def test_expect_version(lab: Lab) -> None:
    cluster = lab.cluster()
    params = {"routercluster_oid": cluster["oid"]}
    wrong = {"version": cluster["version"] + 1}
    assert lab.alice.code("start_routercluster", params, expect=wrong) == "version_conflict"
    started = lab.alice.call("start_routercluster", params, expect={"version": cluster["version"]})
    assert started["ok"]


def test_unknown_operation(lab: Lab) -> None:
    error = lab.alice.call("explode")["error"]
    assert (error["code"], error["status"]) == ("no_such_procedure", 404)


MALFORMED = {
    "empty": b"",
    "not json": b"hello",
    "array": b"[]",
    "truncated utf-8": b'{"id": "\xc3',
    "nan": b'{"id": "x", "params": {"a": NaN}}',
    "twice": b'{"id": "x", "id": "y"}',
    "deep": b'{"params":' * 10_000,
    "digits": b'{"ttl_ms": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("payload", MALFORMED.values(), ids=MALFORMED.keys())
@pytest.mark.fault(0, "L")
def test_malformed_requests_are_answered_in_the_default_inbox(lab: Lab, payload: bytes) -> None:
    reply = lab.alice.send("list_routerclusters", payload, inbox="default")
    assert (reply["ok"], reply["error"]["code"]) == (False, "malformed_request")
    assert "Traceback" not in json.dumps(reply)
    assert lab.alice.call("list_routerclusters")["ok"]


@pytest.mark.fault(0, "L")
def test_too_large(lab: Lab) -> None:
    payload = b'{"id": "x", "params": {"a": "' + b"x" * (256 * 1024) + b'"}}'
    reply = lab.alice.send("list_routerclusters", payload, inbox="default")
    assert (reply["error"]["code"], reply["error"]["status"]) == ("payload_too_large", 413)


@pytest.mark.parametrize(
    ("envelope", "pointer"),
    [
        ({"id": 7}, "/id"),
        ({"id": ""}, "/id"),
        ({"id": "x" * 65}, "/id"),
        ({"reply": "a/b"}, "/reply"),
        ({"reply": "../x"}, "/reply"),
        ({"reply": "#"}, "/reply"),
        ({"params": []}, "/params"),
        ({"ttl_ms": -1}, "/ttl_ms"),
        ({"expect": {"version": "1"}}, "/expect/version"),
    ],
)
@pytest.mark.fault(0, "L")
def test_a_bad_envelope(lab: Lab, envelope: dict[str, Any], pointer: str) -> None:
    inbox = "default"
    reply = lab.alice.send("list_routerclusters", envelope, inbox=inbox)
    assert reply["error"]["code"] == "invalid_argument"
    assert reply["error"]["errors"] == [{"pointer": pointer}]


@pytest.mark.parametrize(
    "name", ["", "A", "a/b", "a+", "a#", "$a", "a.b", "a\0", "a\n", "..", "x" * 10_000, 7, None, ["a"]]
)
@pytest.mark.fault(0, "L")
def test_bad_names(lab: Lab, name: Any) -> None:
    reply = lab.alice.call("create_routercluster", {"routercluster": {"name": name}})
    assert reply["error"]["code"] == "invalid_argument"
    assert reply["error"]["errors"] == [{"pointer": "/params/routercluster/name"}]


@pytest.mark.fault(0, "L")
def test_a_bad_transport(lab: Lab) -> None:
    paths = {"x": {"type": "static", "directory": "../../etc"}}
    transport = {"type": "web", "paths": paths}
    reply = lab.alice.call(
        "create_routercluster", {"routercluster": {"name": lab.name(), "transport": transport}}
    )
    assert (reply["error"]["code"], reply["error"]["status"]) == ("invalid_configuration", 422)
    assert reply["error"]["errors"][0]["pointer"].startswith("/params/routercluster/transport/paths/x")


@pytest.mark.fault(0, "A")
def test_a_retained_request_is_never_executed(lab: Lab) -> None:
    """Neither when it is published nor when the manager restarts."""
    if lab.stack.broker in ("nats-server", "nats", "aedes"):
        pytest.skip(
            "only MQTT 5 shows the RETAIN flag of a live message (decision 15); this broker has 3.1.1"
        )
    name = lab.name()
    topic = lab.alice.topic("request", "alice", "create_routercluster")
    body = {"id": f"kept-{name}", "reply": "box", "params": {"routercluster": {"name": name}}}
    try:
        lab.alice.publish(topic, body, retain=True)
        # The manager executes requests in order: the next one is answered after it.
        assert name not in lab.alice.ok("list_routerclusters", {"return_names": True})
        epoch = lab.alice.call("list_nodes", {})["epoch"]
        lab.stack.kill("manager")
        lab.stack.start_manager()
        lab.alice.wait_retained(
            lab.alice.topic("manager", "m1", "state"),
            lambda value: value["state"] == "online" and value["epoch"] > epoch,
        )
        assert name not in lab.alice.ok("list_routerclusters", {"return_names": True})
    finally:
        lab.alice.publish(topic, b"", retain=True)


def test_the_mqtt_5_mirror(lab: Lab) -> None:
    """A client that uses MQTT 5 properties only, with the manager's default settings."""
    own = lab.alice.topic("response", "alice", "five")
    asked = Properties(PacketTypes.PUBLISH)
    asked.ResponseTopic, asked.CorrelationData = own, b"\x00\xff"
    got: queue.Queue[Any] = queue.Queue()
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5, reconnect_on_failure=False)
    client.username_pw_set("alice", lab.stack.secrets["alice"])
    client.on_connect = lambda *found: got.put(str(found[3]))
    client.on_subscribe = lambda *_: got.put("subscribed")
    client.on_message = lambda *found: got.put(found[2].properties)
    client.connect("127.0.0.1", lab.stack.port, 30)
    client.loop_start()
    try:
        if (said := got.get(timeout=bound(10))) == "Unsupported protocol version":
            pytest.skip("this broker speaks MQTT 3.1.1 alone")
        assert said == "Success"
        client.subscribe(own, 1)
        assert got.get(timeout=bound(10)) == "subscribed"
        body = b'{"params": {"routercluster_name": "absent"}}'
        client.publish(
            lab.alice.topic("request", "alice", "get_routercluster_by_name"), body, 1, False, asked
        )
        told = got.get(timeout=bound(10))
    finally:
        client.disconnect()
        client.loop_stop()
    assert (told.CorrelationData, told.ContentType) == (b"\x00\xff", "application/json")
    assert dict(told.UserProperty) == {"status": "404", "code": "no_such_object"}


@pytest.mark.fault(0, "A")
def test_a_request_on_another_callers_topic_does_not_arrive(lab: Lab) -> None:
    name = lab.name()
    lab.bob.client.publish(
        lab.bob.topic("request", "alice", "create_routercluster"),
        json.dumps({"id": "forged", "params": {"routercluster": {"name": name}}}),
        0,
    )
    bob = lab.stack.client("bob")
    assert name not in bob.ok("list_routerclusters", {"return_names": True})


def test_reports_of_unpaired_nodes_change_nothing(lab: Lab) -> None:
    stranger = lab.stack.client("n3")
    body = {"state": "ready", "boot": "b-x", "conn": 1}
    stranger.publish(stranger.topic("node", "n3", "state"), body, retain=True)
    report = {"boot": "b-x", "conn": 1, "workers": [{"worker": "web-1", "state": "RUNNING"}], "digest": ""}
    for payload in (report, b"", b"{", {"workers": 1}, b"\xff", b"[" * 10_000):
        stranger.publish(stranger.topic("node", "n3", "reported"), payload)
    assert "n3" not in lab.alice.ok("list_nodes", {"return_names": True})
    lab.alice.status("_", "node", "n1", "online")


@pytest.mark.fault(0, "A")
def test_a_node_reports_for_itself_alone(lab: Lab) -> None:
    cluster, _ = lab.running(scale=2)
    workers = lab.alice.ok("stat_routercluster", {"routercluster_oid": cluster["oid"]})["workers"]
    others = next(w for w in workers if w["node"] == "n2")
    node = lab.nodes["n1"]
    lie = {"worker": others["name"], "state": "BACKOFF", "reason": "a lie", "cluster": cluster["name"]}
    body = {
        "boot": node.boot,
        "conn": node.conn,
        "workers": [lie],
        "digest": "lie",
        "applied": node.applied(),
    }
    node.client.publish(node.client.topic("node", "n1", "reported"), body)
    node.report()
    assert lab.alice.ok("get_worker", {"worker_oid": others["oid"]})["state"] == "RUNNING"
    lab.alice.status(cluster["name"], "routercluster", cluster["name"], "RUNNING")
    lab.stop(cluster)


def test_a_dashboard_may_subscribe_to_the_statuses_of_every_realm(lab: Lab) -> None:
    """As `mosquitto_sub -t 'busbar/v1/+/status/#'` does; it gets the retained ones at once."""
    if lab.stack.broker in ("nats-server", "nats"):
        pytest.skip("NATS refuses a filter that is wider than the user's rights; a dashboard names its realm")
    cluster = lab.cluster()
    lab.alice.status(
        cluster["name"], "routercluster", cluster["name"], "STOPPED"
    )  # may arrive after the reply
    late = lab.stack.client("vic")
    late.client.subscribe("busbar/v1/+/status/#", 1)
    found = late.status(cluster["name"], "routercluster", cluster["name"], "STOPPED")
    assert found["name"] == cluster["name"]
    topic = late.topic("status", cluster["name"], "routercluster", cluster["name"])
    assert next(message for message in late.messages if message[0] == topic)[2], "it is retained"


def test_what_is_retained_is_there_for_a_filter_until_it_is_cleared(lab: Lab) -> None:
    clusters = [lab.cluster() for _ in range(3)]
    for made in clusters:
        lab.alice.status(made["name"], "routercluster", made["name"], "STOPPED")
    topics = {lab.alice.topic("status", one["name"], "routercluster", one["name"]) for one in clusters}
    gone = clusters[0]["name"]
    lab.alice.ok("delete_routercluster", {"routercluster_oid": clusters[0]["oid"]})
    lab.alice.wait_retained(lab.alice.topic("status", gone, "routercluster", gone), lambda value: not value)
    late = lab.stack.client("vic")
    late.subscribe("status", "+", "routercluster", "+")
    for made in clusters[1:]:
        late.status(made["name"], "routercluster", made["name"], "STOPPED")
    kept = {topic for topic, _, retained in late.messages if retained} & topics
    assert kept == topics - {lab.alice.topic("status", gone, "routercluster", gone)}


def test_the_will_of_a_node_is_retained(lab: Lab) -> None:
    """By the broker, once the node's connection breaks: n3 is not paired, so that nothing follows from it."""
    topic, mortal = lab.alice.topic("node", "n3", "state"), paho.Client(CallbackAPIVersion.VERSION2)
    mortal.username_pw_set("n3", lab.stack.secrets["n3"])
    mortal.will_set(topic, b'{"state": "lost"}', 1, True)
    mortal.connect("127.0.0.1", lab.stack.port_of("n3"), 30)
    mortal.loop_start()
    mortal.publish(topic, b'{"state": "ready"}', 1, True).wait_for_publish(bound(10))
    watcher = lab.stack.client("alice")
    watcher.subscribe("node", "+", "state")
    watcher.wait_retained(topic, lambda value: value == {"state": "ready"})
    broken = mortal.socket()
    assert broken is not None
    mortal.on_disconnect = lambda *_: mortal.disconnect()
    broken.shutdown(socket.SHUT_RDWR)
    watcher.wait_retained(topic, lambda value: value == {"state": "lost"}, 20)
    mortal.loop_stop()
    late = lab.stack.client("vic")
    late.subscribe("node", "+", "state")
    late.wait_retained(topic, lambda value: value == {"state": "lost"})
