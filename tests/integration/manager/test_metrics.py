"""What manager and agent serve while a worker starts, dies and comes back; alert rules and dashboard."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.pace import bound
from tests.plain import Plain
from tests.stack import Stack, stack

MONITORING = Path(__file__).parents[3] / "docs" / "monitoring"
REFERENCE = MONITORING.parent / "reference" / "metrics.md"
SUFFIX = re.compile(r"_(bucket|count|sum|created)$")


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=bound(10)) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


class Served:
    """A service's pages; its port is read from its log."""

    def __init__(self, made: Stack, name: str) -> None:
        log = made.folder / f"{name}.log"
        found: list[str] = []

        def announced() -> bool:
            found[:] = re.findall(r"metrics on (http://[^/]+)/metrics", log.read_text())
            return bool(found)

        until(announced)
        self.url = found[-1]

    def samples(self) -> dict[str, float]:
        families = text_string_to_metric_families(get(f"{self.url}/metrics")[1])
        return {
            f"{sample.name}{','.join(f'{k}={v}' for k, v in sorted(sample.labels.items()))}": sample.value
            for family in families
            for sample in family.samples
        }

    def until(self, name: str, value: float) -> dict[str, float]:
        found: dict[str, float] = {}

        def is_so() -> bool:
            found.clear()
            found.update(self.samples())
            return found.get(name) == value

        until(is_so, lambda: f"{name} is {found.get(name)}")
        return found


def until(wanted: Any, what: Any = str, seconds: float = 20.0) -> None:
    end = time.monotonic() + bound(seconds)
    while not wanted():
        assert time.monotonic() < end, what()
        time.sleep(0.05)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack(tmp_path_factory.mktemp("metrics")) as made:
        made.start_manager("manager", "--metrics", "0")
        made.start_agent("n1", "--metrics", "127.0.0.1:0", "--stop-workers")
        yield made


@pytest.fixture(scope="module")
def alice(made: Stack) -> Plain:
    client = made.client()
    made.wait_manager(client)
    return client


@pytest.fixture(scope="module")
def manager(made: Stack) -> Served:
    return Served(made, "manager")


@pytest.fixture(scope="module")
def found(alice: Plain, manager: Served) -> dict[str, float]:
    """The manager's metrics once a group of one worker is ready."""
    node = alice.ok("pair_node", {"node": {"name": "n1"}})["oid"]
    cluster = alice.ok("create_routercluster", {"routercluster": {"name": "edge"}})["oid"]
    alice.ok("add_routercluster_node", {"routercluster_oid": cluster, "node_oid": node})
    group = {"name": "web", "scale": 1, "runtime": "amqtt", "transport": {"type": "mqtt"}}
    alice.ok("add_routercluster_workergroup", {"routercluster_oid": cluster, "workergroup": group})
    alice.ok("start_routercluster", {"routercluster_oid": cluster})
    return manager.until("busbar_group_workers_readycluster=edge,group=web", 1)


def test_a_worker_starts_dies_and_comes_back(
    made: Stack, alice: Plain, manager: Served, found: dict[str, float]
) -> None:
    assert found["busbar_group_workers_desiredcluster=edge,group=web"] == 1
    assert found["busbar_node_upnode=n1"] == 1
    assert 0 <= found["busbar_node_heartbeat_age_secondsnode=n1"] < 60
    assert found["busbar_worker_time_to_ready_seconds_countcause=start"] == 1
    assert found["busbar_requests_totalcode=ok,operation=start_routercluster"] == 1
    assert found["busbar_request_duration_seconds_countoperation=start_routercluster"] == 1
    assert found["busbar_store_commit_duration_seconds_count"] >= 5
    own = Served(made, "n1").until("busbar_agent_worker_readycluster=edge,worker=web-1", 1)
    assert own["busbar_agent_workersstate=running"] == 1

    assert not alice.call("start_routercluster", {"routercluster_oid": str(uuid4())})["ok"]
    alice.call("no_such_operation_at_all")
    found = manager.samples()
    assert found["busbar_requests_totalcode=no_such_object,operation=start_routercluster"] == 1
    assert found["busbar_requests_totalcode=no_such_procedure,operation=other"] == 1

    worker = alice.ok("get_worker", {"worker_oid": alice.ok("list_workers")[0]})
    os.kill(worker["pid"], signal.SIGKILL)
    found = manager.until("busbar_worker_time_to_ready_seconds_countcause=restart", 1)
    assert found["busbar_group_worker_restartscluster=edge,group=web"] == 1
    # Measured every ten seconds.
    until(lambda: any(name.startswith("busbar_worker_cpu_seconds_total") for name in manager.samples()))


def test_the_page_names_every_metric_and_no_other(made: Stack, alice: Plain, manager: Served) -> None:
    named = set(re.findall(r"^\| `(busbar_\w+)`", REFERENCE.read_text(), re.MULTILINE))
    served = set()
    for url in (manager.url, Served(made, "n1").url):
        text = get(f"{url}/metrics")[1]
        served |= set(re.findall(r"^# TYPE (busbar_\w+) ", text, re.MULTILINE))
    assert {name for name in served if not name.endswith("_created")} == named


def test_an_agent_without_a_broker_is_alive_and_not_ready(
    made: Stack, manager: Served, found: dict[str, float]
) -> None:
    agent = Served(made, "n1")
    assert get(f"{agent.url}/readyz") == (200, "ready\n") == get(f"{manager.url}/readyz")
    made.kill("broker")
    until(lambda: get(f"{agent.url}/readyz")[0] == 503 == get(f"{manager.url}/readyz")[0])
    assert get(f"{agent.url}/readyz")[1] == "not connected to the broker; its workers go on\n"
    assert get(f"{agent.url}/healthz") == (200, "ok\n") == get(f"{manager.url}/healthz")
    assert manager.samples()["busbar_bus_connected"] == 0
    assert agent.samples()["busbar_agent_workersstate=running"] == 1


def test_the_alert_rules_fire_when_they_should_and_only_then() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run(
        [promtool, "test", "rules", "alerts_test.yml"], cwd=MONITORING, capture_output=True, text=True,
        timeout=bound(20),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_and_dashboard_ask_for_metrics_that_there_are(tmp_path: Path) -> None:
    named = set(re.findall(r"^\| `(busbar_\w+)`", REFERENCE.read_text(), re.MULTILINE))
    rules = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0]["rules"]
    dashboard = json.loads((MONITORING / "grafana.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    expressions = [*asked, *(rule["expr"] for rule in rules)]
    used = {SUFFIX.sub("", name) for text in expressions for name in re.findall(r"busbar_\w+", text)}
    assert len(expressions) > 20 and used <= named
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    promtool = shutil.which("promtool")
    if promtool is not None:  # it parses them
        records = [{"record": f"x:{i}", "expr": text} for i, text in enumerate(asked)]
        file = tmp_path / "rules.yml"
        file.write_text(yaml.safe_dump({"groups": [{"name": "x", "rules": records}]}))
        done = subprocess.run([promtool, "check", "rules", file], capture_output=True, timeout=bound(20))
        assert done.returncode == 0, done.stdout


def test_rules_and_dashboard_use_the_labels_that_these_metrics_have() -> None:
    """A label that there is not selects nothing, groups all into one, leaves a legend empty."""
    known = labels_of_metrics()
    rules = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0]["rules"]
    panels = json.loads((MONITORING / "grafana.json").read_text())["panels"]
    shown = [(each["expr"], re.findall(r"\$labels\.(\w+)", str(each["annotations"]))) for each in rules]
    shown += [
        (target["expr"], re.findall(r"{{(\w+)}}", target["legendFormat"]))
        for panel in panels
        for target in panel["targets"]
    ]
    assert sum(len(labels) for _, labels in shown) > 30
    for expression, labels in shown:
        metrics = [SUFFIX.sub("", name) for name in re.findall(r"busbar_\w+", expression)]
        grouped = [each for part in re.findall(r"\bby \(([^)]*)\)", expression) for each in part.split(", ")]
        selected = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expression)
        has = set.intersection(*(known[name] for name in metrics)) | {"instance", "job"}
        buckets = {"le"} if "_bucket" in expression else set()
        assert {*grouped, *selected} <= has | buckets, expression
        assert set(labels) <= (set(grouped) if grouped else has), expression


def labels_of_metrics() -> dict[str, set[str]]:
    """What the reference says that each metric has; of a metric in both tables, what both say."""
    known: dict[str, set[str]] = {}
    for name, row in re.findall(r"^\| `(busbar_\w+)` \| ([^|]*) \|", REFERENCE.read_text(), re.MULTILINE):
        labels = set(re.findall(r"`(\w+)`", row))
        known[name] = known.get(name, labels) & labels
    return known
