"""What is sent again, and when: after a new connection, to a slow subscriber, and over faults."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from tests.mesh.clients import Publisher, Subscriber
from tests.mesh.lab import Lab, lab

BACKLOG = 1000
SLOW_MS = (5, 20, 50)
FAULTS = ("kill_worker", "renew_worker", "freeze_worker")
BOUND_S = 60.0
Got = Callable[[mqtt.MQTTMessage], None]


def sent_again(folder: Path, count: int) -> Iterator[str]:
    """Of a group of three workers on three nodes; `count`: faults."""
    with lab(folder, 3, 3) as made:
        yield f"not acknowledged, then a new connection: again after {_reconnected(made):.1f} s"
        for slow in SLOW_MS:
            twice, took = _slowly(made, slow)
            yield f"{slow} ms for each of {BACKLOG} that wait: {twice} twice, in {took:.0f} s"
        yield from _faults(made, count)


def _client(name: str, port: int, got: Got | None = None, *, manual: bool = False) -> mqtt.Client:
    client = mqtt.Client(CallbackAPIVersion.VERSION2, name, clean_session=False, manual_ack=manual)
    connected = threading.Event()
    client.on_connect = lambda *_: connected.set()
    if got is not None:
        client.on_message = lambda _c, _d, message: got(message)
    client.connect("127.0.0.1", port, 60)
    client.loop_start()
    assert connected.wait(BOUND_S), f"{name}: no connection"
    return client


def _subscribe(client: mqtt.Client, wanted: str) -> None:
    granted = threading.Event()
    client.on_subscribe = lambda *_: granted.set()
    client.subscribe(wanted, 1)
    assert granted.wait(BOUND_S), "no SUBACK"


def _leave(*clients: mqtt.Client) -> None:
    for client in clients:
        client.disconnect()
        client.loop_stop()


def _until(condition: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)


def _publish(made: Lab, topic: str, count: int) -> None:
    publisher = _client("sends", made.ports()[1])
    for each in [publisher.publish(topic, str(number), 1) for number in range(count)]:
        each.wait_for_publish(BOUND_S)
    _leave(publisher)


def _reconnected(made: Lab) -> float:
    """Seconds until a message that was not acknowledged comes again on a new connection."""
    port, came = made.ports()[0], list[float]()

    def note(_message: mqtt.MQTTMessage) -> None:
        came.append(time.monotonic())

    first = _client("forgets", port, note, manual=True)
    _subscribe(first, "forgotten/x")
    _publish(made, "forgotten/x", 1)
    _until(lambda: came, BOUND_S)
    _leave(first)
    begun = time.monotonic()
    second = _client("forgets", port, note)
    _until(lambda: len(came) > 1, BOUND_S)
    _leave(second)
    return came[-1] - begun


def _slowly(made: Lab, slow_ms: int) -> tuple[int, float]:
    """How many of a backlog a subscriber gets twice that takes so long for each, and seconds for all."""
    name, port, got = f"slow{slow_ms}", made.ports()[0], Counter[bytes]()
    absent = _client(name, port)
    _subscribe(absent, f"{name}/x")
    _leave(absent)
    _publish(made, f"{name}/x", BACKLOG)

    def take(message: mqtt.MQTTMessage) -> None:
        time.sleep(slow_ms / 1000)
        got[message.payload] += 1

    begun = last = time.monotonic()
    client, seen = _client(name, port, take), -1
    while (len(got) < BACKLOG or time.monotonic() - last < 5) and time.monotonic() - begun < 10 * BOUND_S:
        if got.total() != seen:
            seen, last = got.total(), time.monotonic()
        time.sleep(0.1)
    _leave(client)
    return got.total() - len(got), last - begun


def _faults(made: Lab, count: int) -> Iterator[str]:
    """A subscriber and a publisher each at their own worker; one fault after the other."""
    numbers = range(1, made.scale + 1)
    subscribers = [Subscriber(f"s{n}", made.ports, n - 1) for n in numbers]
    publishers = [Publisher(f"p{n}", made.ports, 60.0, n - 1) for n in numbers]
    for each in (*subscribers, *publishers):
        each.start()
    for number in range(count):
        getattr(made, FAULTS[number % len(FAULTS)])(1 + number % made.scale)
        time.sleep(1.0)
        made.whole(180)
        time.sleep(2.0)
    for each in publishers:
        each.stop()
    acked = set[bytes]().union(*(each.acked for each in publishers))
    _until(lambda: not any(acked - set(each.received) for each in subscribers), BOUND_S)
    time.sleep(15.0)
    yield f"{count} faults: {len(acked)} acknowledged, to each of {len(subscribers)} subscribers"
    for each in subscribers:
        each.stop()
        lost = len(acked - set(each.received))
        gaps = ", ".join(f"{times} after {gap} s" for gap, times in sorted(each.gaps.items()))
        yield f"{each.name}: lost {lost}, again {each.gaps.total()}, {each.unmarked} without DUP ({gaps})"
