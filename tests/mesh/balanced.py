"""How long a client behind HAProxy has no router: killed, frozen, or stopped by Busbar."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

from tests.brokers import free_port
from tests.mesh.clients import Publisher
from tests.mesh.lab import Lab, lab
from tests.stack import ROOT

HOW = ("killed", "frozen", "renewed")


def outages(folder: Path, count: int) -> dict[str, list[float]]:
    """By how the client's worker went: the seconds in which nothing was acknowledged, so many times each."""
    haproxy = shutil.which("haproxy", path=os.pathsep.join([os.environ["PATH"], "/usr/sbin"]))
    if haproxy is None:
        raise SystemExit("haproxy is not installed")
    found: dict[str, list[float]] = {how: [] for how in HOW}
    with lab(folder, 3, 3) as made:
        port = free_port()
        base, config = folder / "base.cfg", folder / "edge.cfg"
        base.write_text("global\n  log stderr local0 err\n")
        command = [str(ROOT / ".venv/bin/busbar"), *_connection(made), "endpoints", "edge/web"]
        command += ["--listener", "mqtt", "-f", "haproxy", "--bind", f"127.0.0.1:{port}"]
        config.write_text(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        arguments = [haproxy, "-db", "-f", str(base), "-f", str(config)]
        proxy = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        client = Publisher("device", lambda: [port], 50.0)
        try:
            client.start()
            for how in random.sample(HOW * count, len(HOW) * count):
                found[how].append(_outage(made, client, how))
        finally:
            client.stop()
            proxy.kill()
            proxy.wait()
    return found


def _connection(made: Lab) -> list[str]:
    return made.made.connection("alice")


def _outage(made: Lab, client: Publisher, how: str) -> float:
    time.sleep(2.0)
    number = _home(made)
    client.silence = 0.0
    if how == "killed":
        made.kill_worker(number)
    elif how == "renewed":
        made.renew_worker(number)
    else:
        pid = made.running(number)["pid"]
        os.kill(pid, signal.SIGSTOP)
        acked, end = len(client.acked), time.monotonic() + 60
        time.sleep(0.5)
        while len(client.acked) <= acked + 30 and time.monotonic() < end:
            time.sleep(0.05)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    time.sleep(1.0)
    made.whole(180)
    time.sleep(1.0)
    return client.silence


def _home(made: Lab) -> int:
    """The worker that the client is connected to."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for number in range(1, made.scale + 1):
            url = made.running(number)["listeners"]["monitoring"]
            with suppress(OSError), urllib.request.urlopen(f"{url}/connz?limit=100", timeout=3) as answer:
                if any(each.get("mqtt_client") == "device" for each in json.load(answer)["connections"]):
                    return number
        time.sleep(0.2)
    raise AssertionError("the client is at no worker")
