"""`python -m tests.upgrade`: the main job with every pair of releases, and `busbar up` there and back."""

from __future__ import annotations

import itertools
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests import reaper
from tests.integration.cli.harness import stack, until
from tests.upgrade.realm import main_job, realm, wait
from tests.upgrade.releases import NEW, Missing, Release, previous

PARTS = ("broker", "manager", "agents", "cli")


def pairs(old: Release, folder: Path) -> None:
    """The main job for each choice of releases."""
    for number, chosen in enumerate(itertools.product((old, NEW), repeat=len(PARTS))):
        began, releases = time.monotonic(), dict(zip(PARTS, chosen, strict=True))
        with realm(folder / f"pair-{number}", **releases) as here:
            main_job(here, "edge")
        told(" ".join(f"{part} {release.name}" for part, release in releases.items()), began)


READS = ("status", "why more", "cluster stat more", "group show more/web", "node show n2", "export", "audit")


def beyond(old: Release, folder: Path) -> None:
    """What only the new manager knows, its members in replies and statuses, is no trouble to old ones."""
    began = time.monotonic()
    with realm(folder / "beyond", broker=old, manager=NEW, agents=old, cli=old) as here:
        here.ok("cluster", "create", "more")
        here.ok("cluster", "add-node", "more", "n1")
        here.ok("cluster", "add-node", "more", "n2")
        here.cli = NEW
        here.ok("node", "label", "n2", "zone=b")
        here.ok("group", "add", "more/web", "--runtime", "serve", "--on", "zone=b", "--spread", "zone")
        here.cli = old
        here.ok("cluster", "start", "more", *wait())
        for words in READS:
            here.ok(*words.split())
        assert {row["node"] for row in here.workers("more").values()} == {"n2"}
        here.ok("group", "scale", "more/web", "3", *wait())
        here.ok("cluster", "delete", "more", "--stop", *wait())
    told("what only the new manager knows, with old agents and the old command line", began)


def up(old: Release, folder: Path) -> None:
    """`busbar up` of the old release, of the new one on its folder, and back by way of a backup."""
    began = time.monotonic()
    folder.mkdir()
    with stack(folder) as here:
        clean = dict(here.env)

        def start(release: Release) -> None:
            here.env = {**clean, **release.env()}
            here.prefix = ("env",)  # a program of its own: a fork would be ours
            here.up("--agents", "2")

        def end() -> None:
            here.signal(signal.SIGTERM)
            assert here.wait() == 0

        start(old)
        here.ready()
        here.ok("cluster", "create", "edge", "--type", "mqtt", "--port", "24000-24099")
        for node in ("n1", "n2"):
            here.ok("cluster", "add-node", "edge", node)
        here.ok("group", "add", "edge/web", "--runtime", "amqtt", "--scale", "2", "--allow-anonymous")
        here.ok("cluster", "start", "edge", "--wait")
        pids = here.pids("edge")
        here.ok("backup", str(folder / "before.db"))
        end()
        for release in (NEW, old):
            if release is old:
                start(old)
                here.hear("the database is of a newer Busbar")
                assert here.wait() != 0
                here.ok("restore", str(folder / "before.db"), "--take-over")
            start(release)
            here.ready()
            until(lambda: here.running("edge", 2), "all workers are ready")
            assert here.pids("edge") == pids, "workers were replaced"
            if release is NEW:
                end()
        here.ok("cluster", "stop", "edge", "--wait")
        end()
    told("busbar up: old, new, old again", began)


def told(what: str, began: float) -> None:
    print(f"ok  {time.monotonic() - began:5.1f} s  {what}", flush=True)


def main() -> int:
    end_all = reaper.guard()
    try:
        with tempfile.TemporaryDirectory(prefix="busbar-upgrade-") as name:
            folder = Path(name)
            old = previous(folder / "previous")
            up(old, folder / "up")
            beyond(old, folder)
            pairs(old, folder)
    except Missing as missing:
        print(f"nothing was tested: {missing}")
        return 1
    finally:
        end_all()
    return 0


if __name__ == "__main__":
    sys.exit(main())
