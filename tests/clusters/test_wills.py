"""Whether a cluster tells the wills of clients whose broker node was killed: of these, only aedes does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from tests.stack import Stack, cluster


@pytest.mark.timeout(120)
@pytest.mark.skipif("aedes" not in os.environ.get("BUSBAR_CLUSTERS", ""), reason="part of make scale")
def test_the_others_tell_the_wills_of_a_killed_nodes_clients(tmp_path: Path) -> None:
    made = Stack(tmp_path, 1.0)
    try:
        with cluster(made, "aedes") as brokers:
            watcher = made.client("alice")
            watcher.subscribe("node", "+", "state")
            mortal = paho.Client(CallbackAPIVersion.VERSION2)
            mortal.username_pw_set("n1", made.secrets["n1"])
            topic = watcher.topic("node", "n1", "state")
            mortal.will_set(topic, b'{"state":"lost"}', 1, True)
            mortal.connect("127.0.0.1", brokers.ports[-1])
            mortal.loop_start()
            mortal.publish(topic, b'{"state":"ready"}', 1, True).wait_for_publish(10)
            watcher.wait_retained(topic, lambda value: value == {"state": "ready"})
            brokers.nodes[-1].kill()
            mortal.loop_stop()
            watcher.wait_retained(topic, lambda value: value == {"state": "lost"}, 60)
            late = made.client("bob")
            late.subscribe("node", "+", "state")
            late.wait_retained(topic, lambda value: value == {"state": "lost"})
    finally:
        made.close()
