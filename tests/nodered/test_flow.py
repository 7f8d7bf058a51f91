"""docs/integrations/node-red.json: what it says is the contract's, and a real Node-RED runs it."""

from __future__ import annotations

import json
import os
import re
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from busbar.bus.contract import OPERATIONS
from busbar.bus.events import EVENTS
from busbar.bus.topics import Topics

from tests.integration.cli.harness import stack, until
from tests.nodered.server import NodeRed, node_red

FILE = Path(__file__).parents[2] / "docs" / "integrations" / "node-red.json"
FLOW: list[dict[str, Any]] = json.loads(FILE.read_text())
NODES = {node["id"]: node for node in FLOW}
CORE = {
    "tab", "mqtt-broker", "mqtt in", "mqtt out", "inject", "function", "debug", "comment", "switch", "change",
    "link in", "link out", "link call",
}  # fmt: skip
MODULES = "BUSBAR_NODE_RED"
"""Environment variable: the folder where `make node-red` has installed Node-RED."""


def named(kind: str, name: str) -> dict[str, Any]:
    """The one node of this type and name."""
    (found,) = (node for node in FLOW if node["type"] == kind and node.get("name") == name)
    return found


def rendered(template: str, **words: str) -> str:
    """What a template of JavaScript gives."""
    return re.sub(r"\$\{(?:env\.get\(\")?(\w+)(?:\"\))?\}", lambda found: words[found[1]], template)


def requests() -> list[tuple[str, str]]:
    """The operations that the flow calls, each with its parameters as JSONata."""
    found = []
    for node in FLOW:
        if node["type"] == "inject" and any(each["p"] == "operation" for each in node["props"]):
            values = {each["p"]: each for each in node["props"]}
            assert (values["operation"]["vt"], values["params"]["vt"]) == ("str", "jsonata")
            found.append((values["operation"]["v"], values["params"]["v"]))
        if node["type"] == "change":
            values = {rule["p"]: rule for rule in node["rules"]}
            assert (values["operation"]["tot"], values["params"]["tot"]) == ("str", "jsonata")
            found.append((values["operation"]["to"], values["params"]["to"]))
    return found


def test_it_is_a_flow_of_core_nodes_whose_wires_lead_somewhere() -> None:
    assert len(NODES) == len(FLOW) > 30
    (tab,) = (node for node in FLOW if node["type"] == "tab")
    for node in FLOW:
        assert node["type"] in CORE and re.fullmatch(r"[0-9a-f]{16}", node["id"]), node
        assert node["type"] == "tab" or node["z"] == tab["id"]
        assert all(target in NODES for output in node.get("wires", []) for target in output), node
        if node["type"] == "link call":
            assert [NODES[link]["type"] for link in node["links"]] == ["link in"]
        if node["type"] == "function":
            assert len(node["wires"]) == node["outputs"]
    reached = Counter(target for node in FLOW for output in node.get("wires", []) for target in output)
    alone = [node for node in FLOW if "wires" in node and node["id"] not in reached]
    assert {node["type"] for node in alone} == {"inject", "comment", "link in"}


def test_it_has_no_secret_and_speaks_mqtt_3_1_1() -> None:
    broker = named("mqtt-broker", "Busbar's broker")
    assert (broker["protocolVersion"], broker["cleansession"]) == ("4", True)
    assert "credentials" not in broker and not any(
        broker[f"{each}Topic"] for each in ("birth", "close", "will")
    )
    assert all(node["broker"] == broker["id"] for node in FLOW if node["type"].startswith("mqtt "))


def test_its_topics_are_the_contracts() -> None:
    topics = Topics("default")
    (env,) = (node["env"] for node in FLOW if node["type"] == "tab")
    words = {each["name"]: each["value"] for each in env}
    code = named("function", "Topics")["func"]
    root = re.search(r"const root = `([^`]+)`", code)
    assert root is not None
    words |= {"root": rendered(root[1], **words), "user": words["BUSBAR_USER"], "inbox": "node-red"}
    assert 'inbox = "node-red"' in code
    subscribed = re.findall(r"subscribe\(`([^`]+)`, (\d)\)", code)
    assert [(rendered(text, **words), qos) for text, qos in subscribed] == [
        (topics.all_status(), "0"),
        (topics.all_events(), "1"),
        (topics.response("node-red", "node-red"), "1"),
    ]
    (request,) = re.findall(r"topic: `([^`]+)`, qos: 1, retain: false", named("function", "Call")["func"])
    assert rendered(request, **words, op="list_nodes") == topics.request("node-red", "list_nodes")


@pytest.mark.parametrize(("operation", "params"), requests())
def test_its_operations_and_parameters_are_the_contracts(operation: str, params: str) -> None:
    """JSONata with each expression taken for an oid or a name, which is what they stand for."""
    oid = '"3eccb1fd-251b-4eda-bee9-06b3d24b1c5e"'
    text = re.sub(r"payload\.result\.(?:cluster_)?oid", oid, re.sub(r'\$env\("\w+"\)', '"edge"', params))
    msgspec.convert(json.loads(text), OPERATIONS[operation].params, strict=True)


def test_its_alerts_are_events_of_the_contract() -> None:
    """The expression takes some of the contract's events, and each of its words at least one."""
    (rule,) = named("switch", "Is it bad?")["rules"]
    types = [f"busbar.on_{kind}_{verb}" for kind, verbs in EVENTS.items() for verb in verbs]
    taken = {name.rpartition("_")[2] for name in types if re.search(rule["v"], name)}
    assert taken == {"failed", "degraded", "lost"}


@pytest.mark.timeout(240)
def test_node_red_runs_it(tmp_path: Path) -> None:
    modules = os.environ.get(MODULES)
    if modules is None:
        pytest.skip("part of make node-red, which installs Node-RED by npm")
    with stack(tmp_path) as up:
        up.up("--agents", "2", "--stop-workers", "--port", "0")
        up.ready()
        secret = Path(up.ok("broker", "add-account", "node-red", "person").split()[-1]).read_text().strip()
        up.ok("principal", "add", "node-red", "owner")
        up.ok("cluster", "create", "edge", "--type", "mqtt", "--port", f"{20_000}-{20_099}")
        for node in ("n1", "n2"):
            up.ok("cluster", "add-node", "edge", node)
        up.ok("group", "add", "edge/web", "--scale", "1")
        port = up.written()["broker"].rpartition(":")[2]
        with node_red(modules, tmp_path / "node-red") as red:
            assert red.post("/flows", deployed(up.realm, port, secret)) == 204
            drive(red, up)


def deployed(realm: str, port: str, secret: str) -> list[dict[str, Any]]:
    """The flow with what its user fills in."""
    flow = json.loads(FILE.read_text())
    for node in flow:
        if node["type"] == "tab":
            node["env"] = [
                {**each, "value": realm if each["name"] == "BUSBAR_REALM" else each["value"]}
                for each in node["env"]
            ]
        if node["type"] == "mqtt-broker":
            node |= {"port": port, "credentials": {"user": "node-red", "password": secret}}
    return list(flow)


def drive(red: NodeRed, up: Any) -> None:
    """Statuses, events, answers, refusals, changes, and a broker that is away for a while."""
    button = {node["name"]: node["id"] for node in FLOW if node["type"] == "inject"}
    red.shows("status", "n2: new -> online")
    red.press(button["Which nodes?"])
    assert red.shows("result", "n2")
    red.press(button["How is CLUSTER?"])
    assert red.shows("result", "STOPPED")
    up.ok("cluster", "start", "edge", "--wait")
    red.shows("event", "busbar.on_worker_ready")
    red.shows("status", "edge: STARTING -> RUNNING")
    red.press(button["Drain NODE"])
    red.shows("event", "busbar.on_node_draining node/n1")
    until(lambda: up.ask("node", "show", "n1")["draining"] == "drained by Node-RED", "the node is drained")
    red.press(button["Drain NODE"], operation='"get_node_by_name"', params='{"node_name": "n9"}')
    assert red.shows("refused", "no_such_object")
    pid = up.pids("edge")["web-1"]
    red.press(button["Restart CLUSTER/GROUP"])
    until(lambda: up.pids("edge")["web-1"] not in (pid, None, 0), "the worker is another process")
    # What is asked while the broker is away is asked again, with the same id, once Node-RED is connected.
    os.kill(up.pid("broker"), signal.SIGKILL)
    mark = len(red.seen)
    red.press(button["Which nodes?"])
    assert red.shows("result", "n2", mark, timeout=60)
