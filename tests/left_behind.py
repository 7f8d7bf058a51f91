"""Not part of the suite: `test_reaper.py` runs and kills it. It starts a stack, and never comes to an end."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests import reaper
from tests.stack import stack

TOLD = "BUSBAR_TESTS_TOLD"
"""The file that says, once all is running: who runs this, and by which token its processes are found."""


def test_that_never_ends(tmp_path: Path) -> None:
    with stack(tmp_path) as made:
        made.start_manager()
        alice = made.client("alice")
        made.wait_manager(alice)
        node = alice.ok("pair_node", {"node": {"name": "n1"}})["oid"]
        made.start_agent("n1")
        cluster = alice.ok("create_routercluster", {"routercluster": {"name": "c"}})["oid"]
        alice.ok("add_routercluster_node", {"routercluster_oid": cluster, "node_oid": node})
        group = {"name": "web", "scale": 1, "runtime": "amqtt"}
        alice.ok("add_routercluster_workergroup", {"routercluster_oid": cluster, "workergroup": group})
        alice.subscribe("status", "#")
        alice.ok("start_routercluster", {"routercluster_oid": cluster})
        alice.status("c", "routercluster", "c", "RUNNING")
        told = Path(os.environ[TOLD])
        told.with_suffix(".part").write_text(f"{os.getpid()} {reaper.token_of_this_run()}")
        told.with_suffix(".part").rename(told)
        time.sleep(600)
