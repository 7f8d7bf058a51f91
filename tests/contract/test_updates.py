"""Rolling updates from a plain MQTT client: requests, events, statuses and assignments."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.conftest import Lab


def transport(port: int) -> dict[str, Any]:
    return {"type": "mqtt", "endpoint": {"type": "tcp", "port": port}}


def assigned(lab: Lab, cluster: str) -> dict[str, Any]:
    """The workers of a cluster in the nodes' assignments, by name."""
    held = (node.assignment["workers"] for node in lab.nodes.values() if node.assignment)
    return {w["worker"]: w for workers in held for w in workers if w["cluster"] == cluster}


def test_a_group_is_updated_worker_by_worker(lab: Lab) -> None:
    cluster, group = lab.running(scale=4)
    name = cluster["name"]
    before = assigned(lab, name)
    both = {"routercluster_oid": cluster["oid"], "workergroup_oid": group["oid"]}
    mark = len(lab.alice.messages)
    made = lab.alice.ok(
        "update_routercluster_workergroup", {**both, "workergroup": {"transport": transport(5000)}}
    )
    assert (made["revision"], made["updated"], made["name"]) == (2, 0, "web")
    assert (made["max_unavailable"], made["max_surge"]) == (1, 0)
    begun = lab.alice.wait_event("on_workergroup_updating", since=mark, oid=group["oid"])
    assert begun["data"]["revision"] == 2 and begun["data"]["who"]["authid"] == "alice"
    done = lab.alice.wait_event("on_workergroup_updated", since=mark, oid=group["oid"])
    assert (done["data"]["revision"], done["data"]["scale"]) == (2, 4)
    assert done["data"]["who"]["authid"] == "manager" and done["data"]["reason"]
    status = lab.alice.wait_retained(
        lab.alice.topic("status", name, "workergroup", "web"),
        lambda value: value["status"] == "RUNNING" and "updated" not in value,
    )
    assert (status["revision"], status["ready"], status["scale"]) == (2, 4, 4)
    after = assigned(lab, name)
    assert set(after) == set(before)
    for worker, held in after.items():
        assert held["transport"]["endpoint"]["port"] == 5000
        assert held["generation"] == before[worker]["generation"] + 1
        assert held["digest"] != before[worker]["digest"] and held["oid"] == before[worker]["oid"]
    found = lab.alice.ok("get_routercluster_workergroup", both)
    assert (found["revision"], found["updated"], found["transport"]["endpoint"]["port"]) == (2, 4, 5000)
    lab.stop(cluster)


def test_a_clusters_transport_is_rolled_out_to_the_groups_that_have_none(lab: Lab) -> None:
    cluster, group = lab.running(scale=2)
    ref = {"routercluster_oid": cluster["oid"]}
    own = lab.alice.ok(
        "add_routercluster_workergroup",
        {**ref, "workergroup": {"name": "own", "scale": 1, "transport": transport(7000)}},
    )
    lab.alice.status(cluster["name"], "workergroup", "own", "RUNNING")
    before = assigned(lab, cluster["name"])
    mark = len(lab.alice.messages)
    limits = {"max_unavailable": 0, "max_surge": 1}
    params = {**ref, "routercluster": {"transport": transport(5001), "label": "new"}, **limits}
    changed = lab.alice.ok("update_routercluster", params)
    assert (changed["transport"], changed["label"]) == (transport(5001), "new")
    assert changed["version"] > cluster["version"]
    lab.alice.wait_event("on_routercluster_updated", since=mark, oid=cluster["oid"])
    done = lab.alice.wait_event("on_workergroup_updated", since=mark, oid=group["oid"])
    assert done["data"]["revision"] == 2
    found = lab.alice.ok("get_routercluster_workergroup", {**ref, "workergroup_oid": group["oid"]})
    assert (found["max_unavailable"], found["max_surge"], found["transport"]) == (0, 1, None)
    after = assigned(lab, cluster["name"])
    ports = {name: after[name]["transport"]["endpoint"]["port"] for name in before}
    assert ports == {name: 7000 if name.startswith("own") else 5001 for name in before}
    assert after["own-1"] == before["own-1"], "a group with its own transport is not touched"
    revision = lab.alice.ok("get_routercluster_workergroup", {**ref, "workergroup_oid": own["oid"]})[
        "revision"
    ]
    assert revision == 1
    lab.alice.ok("update_routercluster", {**ref, "routercluster": {"label": None, "tags": ["a"]}})
    again = lab.alice.ok("get_routercluster_workergroup", {**ref, "workergroup_oid": group["oid"]})
    assert again["revision"] == 2, "words about a cluster renew no worker"
    lab.stop(cluster)


def test_an_update_of_a_cluster_is_refused_whole_where_one_group_could_not_run_it(lab: Lab) -> None:
    cluster, group = lab.running(scale=1)
    ref, at = {"routercluster_oid": cluster["oid"]}, "/params/routercluster/transport"
    before = assigned(lab, cluster["name"])

    def refused(routercluster: dict[str, Any], **more: Any) -> tuple[str, list[str]]:
        params = {**ref, "routercluster": routercluster, **more}
        error = lab.alice.call("update_routercluster", params)["error"]
        return error["code"], [each["pointer"] for each in error["errors"]]

    outside = {"type": "mqtt", "endpoint": {"type": "tcp", "interface": "0.0.0.0"}}
    odd = {"type": "mqtt", "options": {"nonsense": 1}}
    both = {"max_unavailable": 0, "max_surge": 0}
    assert refused({"transport": {"type": "web"}}) == ("invalid_configuration", [f"{at}/type"])
    assert refused({"transport": odd}) == ("invalid_configuration", [f"{at}/options/nonsense"])
    assert refused({"transport": outside}) == ("invalid_configuration", [f"{at}/anonymous"])
    assert refused({"transport": transport(5002)}, **both) == (
        "invalid_argument",
        ["/params/max_unavailable"],
    )
    assert refused({"transport": 5}) == ("invalid_argument", [at])
    assert refused({"name": "other"}) == ("invalid_argument", ["/params/routercluster/name"])
    for client in (lab.carol, lab.vic):
        assert (
            client.code("update_routercluster", {**ref, "routercluster": {"label": "x"}}) == "not_authorized"
        )
    assert assigned(lab, cluster["name"]) == before
    now = lab.alice.ok("get_routercluster", ref)
    assert (now["transport"], now["label"]) == (cluster["transport"], cluster["label"])
    assert (
        lab.alice.ok("get_routercluster_workergroup", {**ref, "workergroup_oid": group["oid"]})["revision"]
        == 1
    )
    lab.stop(cluster)


def test_a_failing_update_halts_with_its_reason_and_can_be_rolled_back(lab: Lab) -> None:
    cluster, group = lab.running(scale=2)
    name = cluster["name"]
    both = {"routercluster_oid": cluster["oid"], "workergroup_oid": group["oid"]}

    def behave(worker: dict[str, Any]) -> dict[str, Any]:
        broken = worker["cluster"] == name and (worker["transport"] or {}).get("endpoint", {}).get("port")
        return {"state": "BACKOFF", "reason": "exit code 1"} if broken == 6666 else {"state": "RUNNING"}

    for node in lab.nodes.values():
        node.behave = behave
    before = assigned(lab, name)
    lab.alice.ok("update_routercluster_workergroup", {**both, "workergroup": {"transport": transport(6666)}})
    halted = lab.alice.wait_retained(
        lab.alice.topic("status", name, "workergroup", "web"),
        lambda value: "web-1 is BACKOFF" in (value.get("reason") or "") and value["status"] == "DEGRADED",
    )
    assert halted["reason"] == "update to revision 2: 1 of 2 workers; web-1 is BACKOFF: exit code 1"
    assert halted["conditions"][0] == halted["reason"] and (halted["revision"], halted["updated"]) == (2, 1)
    assert (halted["status"], halted["ready"]) == ("DEGRADED", 1)
    stat = lab.alice.ok("stat_routercluster_workergroup", both)
    assert stat["conditions"][0] == halted["reason"]
    assert assigned(lab, name)["web-2"] == before["web-2"], "the other one is unchanged"
    back = lab.alice.ok("update_routercluster_workergroup", {**both, "workergroup": {"transport": None}})
    assert back["revision"] == 3
    lab.alice.wait_event("on_workergroup_updated", oid=group["oid"], revision=3)
    after = assigned(lab, name)
    assert after["web-2"] == before["web-2"] and after["web-1"]["digest"] == before["web-1"]["digest"]
    assert after["web-1"]["generation"] == before["web-1"]["generation"] + 2
    lab.alice.status(name, "workergroup", "web", "RUNNING")
    lab.stop(cluster)


@pytest.mark.fault(71, "C K")
def test_an_update_that_names_the_same_runtime_renews_workers_with_an_outdated_start(lab: Lab) -> None:
    cluster, group = lab.running(scale=3)
    name = cluster["name"]
    both = {"routercluster_oid": cluster["oid"], "workergroup_oid": group["oid"]}

    def behave(worker: dict[str, Any]) -> dict[str, Any]:
        old = worker["cluster"] == name and worker["worker"] == "web-2" and worker["generation"] == 1
        return {"state": "RUNNING", "reason": "outdated start: it has changed since" if old else None}

    before = assigned(lab, name)
    for node in lab.nodes.values():
        node.behave = behave
        node.report()
    topic = lab.alice.topic("status", name, "worker", "web-2")
    lab.alice.wait_retained(topic, lambda value: value["reason"] == "outdated start: it has changed since")
    op = "update_routercluster_workergroup"
    labelled = lab.alice.ok(op, {**both, "workergroup": {"label": "x"}})
    assert labelled["revision"] == 1, "an update that does not name the runtime renews nothing"
    made = lab.alice.ok(op, {**both, "workergroup": {"runtime": group["runtime"]}})
    assert made["revision"] == 2
    lab.alice.wait_event("on_workergroup_updated", oid=group["oid"], revision=2)
    after = assigned(lab, name)
    assert {worker for worker in after if after[worker] != before[worker]} == {"web-2"}
    assert after["web-2"]["generation"] == 2 and after["web-2"]["digest"] == before["web-2"]["digest"]
    lab.alice.wait_retained(topic, lambda value: value["status"] == "RUNNING" and value["reason"] is None)
    again = lab.alice.ok(op, {**both, "workergroup": {"runtime": group["runtime"]}})
    assert again["revision"] == 2, "nothing is outdated any more"
    lab.stop(cluster)


def test_updates_that_are_refused(lab: Lab) -> None:
    bob = lab.stack.client(
        "bob"
    )  # mosquitto disconnects a client that was refused something, as other tests do
    cluster = lab.cluster(bob)
    group = bob.ok(
        "add_routercluster_workergroup", {"routercluster_oid": cluster["oid"], "workergroup": {"scale": 1}}
    )
    both = {"routercluster_oid": cluster["oid"], "workergroup_oid": group["oid"]}
    op = "update_routercluster_workergroup"

    def error(params: dict[str, Any], **more: Any) -> tuple[str, list[str]]:
        reply = bob.call(op, {**both, "workergroup": {}, **params}, **more)
        found = reply["error"]
        return found["code"], [each["pointer"] for each in found.get("errors", [])]

    at = "/params/workergroup"
    assert error({"max_unavailable": 0, "max_surge": 0}) == ("invalid_argument", ["/params/max_unavailable"])
    assert error({"max_unavailable": -1}) == ("invalid_argument", ["/params/max_unavailable"])
    assert error({"workergroup": {"scale": 3}})[0] == "invalid_argument", "that is another operation"
    assert error({"workergroup": {"runtime": None}}) == ("invalid_argument", [f"{at}/runtime"])
    assert error({"workergroup": {"runtime": "crossbar"}}) == ("invalid_configuration", [f"{at}/runtime"])
    assert error({"workergroup": {"transport": {"type": "web"}}})[0] == "invalid_configuration"
    assert error({"workergroup": {"label": "x"}}, expect={"version": 99})[0] == "version_conflict"
    assert lab.carol.code(op, {**both, "workergroup": {"label": "x"}}) == "not_authorized"
    assert lab.vic.code(op, {**both, "workergroup": {"label": "x"}}) == "not_authorized"
    params = {**both, "workergroup": {"label": "x", "tags": ["a"]}}
    made = bob.ok(op, params, expect={"version": group["version"]})
    assert (made["label"], made["tags"], made["revision"], made["status"]) == ("x", ["a"], 1, "STOPPED")


@pytest.mark.fault(115, "W")
def test_routers_open_to_other_hosts_are_refused_unless_written_out(lab: Lab) -> None:
    bob = lab.stack.client("bob")
    outside: dict[str, Any] = {"type": "mqtt", "endpoint": {"type": "tcp", "interface": "0.0.0.0"}}
    allowed = {**outside, "anonymous": True}
    create = {"routercluster": {"name": lab.name(), "transport": outside}}
    error = bob.call("create_routercluster", create)["error"]
    assert (error["status"], error["code"]) == (422, "invalid_configuration")
    assert [each["pointer"] for each in error["errors"]] == ["/params/routercluster/transport/anonymous"]
    cluster = lab.cluster(bob)
    params: dict[str, Any] = {
        "routercluster_oid": cluster["oid"],
        "workergroup": {"scale": 0, "transport": outside},
    }
    for runtime in ("amqtt", "mosquitto"):
        params["workergroup"]["runtime"] = runtime
        assert bob.code("add_routercluster_workergroup", params) == "invalid_configuration"
    params["workergroup"] = {"name": "web", "scale": 0, "transport": allowed}
    group = bob.ok("add_routercluster_workergroup", params)
    both = {"routercluster_oid": cluster["oid"], "workergroup_oid": group["oid"]}
    update = "update_routercluster_workergroup"
    assert bob.code(update, {**both, "workergroup": {"transport": outside}}) == "invalid_configuration"
    assert bob.code(update, {**both, "workergroup": {"transport": {**outside, "anonymous": False}}})
    bob.ok("start_routercluster", {"routercluster_oid": cluster["oid"]})
    wanted = "open access: amqtt on 0.0.0.0 without authentication, as defined"
    status = lab.alice.status(cluster["name"], "workergroup", "web", "RUNNING")
    assert status["conditions"] == [wanted]
    assert wanted in bob.ok("stat_routercluster_workergroup", both)["conditions"]
    assert (
        f"group web: {wanted}"
        in bob.ok("stat_routercluster", {"routercluster_oid": cluster["oid"]})["conditions"]
    )
    status = lab.alice.status(cluster["name"], "routercluster", cluster["name"], "RUNNING")
    assert status["conditions"] == [f"group web: {wanted}"]
    password = {**outside, "options": {"password_file": "users"}}
    bob.ok(update, {**both, "workergroup": {"transport": password}})
    for kind, name in (("workergroup", "web"), ("routercluster", cluster["name"])):
        lab.alice.wait_retained(
            lab.alice.topic("status", cluster["name"], kind, name), lambda value: not value["conditions"]
        )
    bob.ok("stop_routercluster", {"routercluster_oid": cluster["oid"]})


def test_a_definition_is_judged_by_what_the_nodes_report(lab: Lab) -> None:
    """Each node says which options it accepts: what none does is refused, with the pointer."""
    cluster = lab.cluster()
    for name in lab.nodes:
        lab.join(cluster, name)
    known = {"type": "mqtt", "options": {"password_file": "p"}}
    group = lab.group(cluster, name="web", scale=0, transport=known)  # before a schema could refuse it
    both = {"routercluster_oid": cluster["oid"], "workergroup_oid": group["oid"]}
    for name, option in zip(lab.nodes, ("threads", "colour"), strict=True):
        lab.nodes[name].schemas = {
            "amqtt": {"properties": {"options": {"properties": {option: {}}, "additionalProperties": False}}}
        }
        lab.nodes[name].report()

    def named(status: Any) -> bool:
        """Both schemas were asked for and have arrived, and refuse what the manager knows."""
        told = "".join(text for text in status["conditions"] if text.startswith("not accepted by "))
        return all(f"{node}: /options/password_file" in told for node in lab.nodes)

    def update(option: str) -> dict[str, Any]:
        transport = {"type": "mqtt", "options": {option: 1}}
        return lab.alice.call(
            "update_routercluster_workergroup", {**both, "workergroup": {"transport": transport}}
        )

    try:
        topic = lab.alice.topic("status", cluster["name"], "workergroup", "web")
        lab.alice.wait_retained(topic, named)
        assert update("threads")["ok"]
        error = update("sound")["error"]
        assert error["code"] == "invalid_configuration"
        assert "unknown option" in error["detail"], "by the manager's own table, as no node accepts it"
        at = "/params/workergroup/transport/options/sound"
        assert [each["pointer"] for each in error["errors"]] == [at]
        assert update("colour")["ok"]
        node = lab.alice.ok("get_node", {"node_oid": lab.oids[next(iter(lab.nodes))]})
        assert node["runtime_details"]["amqtt"]["version"] == "1.2"
        stat = lab.alice.ok("stat_routercluster_workergroup", both)
        (told,) = [text for text in stat["conditions"] if text.startswith("not accepted by ")]
        assert "/options/colour" in told
    finally:
        for node in lab.nodes.values():
            node.schemas = {}
            node.report()
