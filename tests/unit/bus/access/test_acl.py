"""The table of access: what each kind may do, that coverage is sound, and what the generators print."""

import json
import re

import pytest
from busbar.bus.access import acl, nats_access
from busbar.bus.topics import matches
from hypothesis import given
from hypothesis import strategies as st

R = "busbar/v1/lab"


@pytest.mark.parametrize(
    ("kind", "user", "topic", "allowed"),
    [
        ("person", "alice", f"{R}/request/alice/create_routercluster", True),
        ("person", "alice", f"{R}/request/bob/create_routercluster", False),
        ("person", "alice", f"{R}/request/alice", False),
        ("person", "alice", f"{R}/request/alice/a/b", False),
        ("person", "alice", f"{R}/response/alice/cli", False),
        ("person", "alice", f"{R}/node/alice/state", True),
        ("person", "alice", f"{R}/node/alice/assignment", False),
        ("person", "alice", f"{R}/node/n1/state", False),
        ("person", "alice", f"{R}/status/edge/worker/w", False),
        ("node", "n1", f"{R}/node/n1/state", True),
        ("node", "n1", f"{R}/node/n1/log/web-1", True),
        ("node", "n1", f"{R}/node/n1/assignment", False),
        ("node", "n1", f"{R}/node/n2/state", False),
        ("node", "n1", f"{R}/request/n1/x", True),
        ("manager", "m", f"{R}/node/n1/assignment", True),
        ("manager", "m", "busbar/v2/lab/x", False),
        ("manager", "m", "$SYS/x", False),
        ("manager", "m", f"{R}/#", False),
        ("manager", "m", "", False),
        ("nobody", "alice", f"{R}/request/alice/x", False),
        ("node", "+", f"{R}/node/+/state", False),
        ("node", "N1", f"{R}/node/N1/state", False),
        ("node", "n1\n", f"{R}/node/n1\n/state", False),
        ("manager", "../m", f"{R}/x", False),
    ],
)
def test_may_publish(kind: str, user: str, topic: str, allowed: bool) -> None:
    assert acl.may_publish(kind, user, topic) is allowed


@pytest.mark.parametrize(
    ("kind", "user", "wanted", "allowed"),
    [
        ("person", "alice", f"{R}/response/alice/+", True),
        ("person", "alice", f"{R}/response/alice/#", True),
        ("person", "alice", f"{R}/response/+/cli", True),
        ("person", "alice", f"{R}/status/#", True),
        ("person", "alice", "busbar/v1/+/event/+/worker/+/+", True),
        ("person", "alice", f"{R}/node/+/state", True),
        ("person", "alice", f"{R}/node/n1/log/web-1", True),
        ("person", "alice", f"{R}/node/+/reported", True),
        ("person", "alice", f"{R}/node/n1/assignment", False),
        ("person", "alice", f"{R}/#", True),
        ("person", "alice", "#", True),
        ("node", "n1", f"{R}/node/n1/assignment", True),
        ("node", "n1", f"{R}/node/n1/+", True),
        ("node", "n1", f"{R}/node/n2/assignment", False),
        ("node", "n1", f"{R}/status/#", False),
        ("node", "n1", f"{R}/manager/+/state", True),
        ("manager", "m", f"{R}/#", True),
        ("manager", "m", "#", True),
        ("manager", "m", "$SYS/#", True),
    ],
)
def test_may_subscribe(kind: str, user: str, wanted: str, allowed: bool) -> None:
    assert acl.may_subscribe(kind, user, wanted) is allowed


@pytest.mark.parametrize(
    ("kind", "user", "wanted", "parts"),
    [
        ("person", "alice", f"{R}/response/alice/#", {f"{R}/response/alice/+"}),
        ("person", "alice", f"{R}/response/+/cli", {f"{R}/response/alice/cli"}),
        ("person", "alice", f"{R}/status/#", {f"{R}/status/#"}),
        ("person", "alice", f"{R}/node/#", {
            f"{R}/node/{tail}" for tail in (
                "+/state", "+/reported", "+/log/+", "alice/assignment", "alice/command")}),
        ("person", "alice", "+/v1/+/event", {"busbar/v1/lab/event"}),
        ("node", "n1", "#", {
            f"busbar/v1/+/{tail}" for tail in
            ("response/n1/+", "node/n1/state", "manager/+/state", "node/n1/assignment", "node/n1/command")}),
        ("node", "n1", f"{R}/node/n2/#", None),
        ("person", "alice", "$SYS/#", set()),
        ("person", "alice", "$share/g/#", None),
        ("person", "alice", "$SYSTEM/#", None),
        ("nobody", "alice", "#", None),
    ],
)  # fmt: skip
def test_a_filter_is_narrowed_to_what_may_be_read(
    kind: str, user: str, wanted: str, parts: set[str] | None
) -> None:
    found = acl.readable(kind, user, wanted, "busbar", "lab")
    assert (found if found is None else set(found)) == parts


LEVELS = st.sampled_from(["a", "b", "", "+"])
FILTERS = st.tuples(st.lists(LEVELS, max_size=3), st.sampled_from(["a", "+", "#"])).map(
    lambda parts: "/".join([*parts[0], parts[1]])
)
# An empty topic is none (MQTT-4.7.3-1), though `/#` and `+` would both match it.
PLAIN = st.lists(st.sampled_from(["a", "b", "", "$s"]), min_size=1, max_size=5).map("/".join).filter(bool)


@given(FILTERS, st.lists(FILTERS, min_size=1, max_size=4), st.lists(PLAIN, min_size=1, max_size=20))
def test_the_parts_match_what_the_filter_and_a_right_match(
    wanted: str, rights: list[str], topics: list[str]
) -> None:
    parts = acl._parts(wanted, tuple(rights))
    assert len(parts) <= len(rights)
    for topic in topics:
        both = matches(wanted, topic) and any(matches(right, topic) for right in rights)
        assert both == any(matches(part, topic) for part in parts), (topic, parts)


def test_reading_asks_for_one_topic() -> None:
    assert acl.may_read("person", "alice", f"{R}/status/edge/worker/w")
    assert not acl.may_read("person", "alice", f"{R}/status/#")
    assert not acl.may_read("node", "n1", f"{R}/response/alice/cli")


def test_the_root_is_configurable_and_plain() -> None:
    assert acl.may_publish("node", "n1", "plant/v1/lab/node/n1/state", "plant")
    assert not acl.may_publish("node", "n1", f"{R}/node/n1/state", "plant")
    assert acl.may_publish("node", "n1", "a/b/v1/lab/node/n1/state", "a/b")
    assert not acl.may_publish("node", "n1", f"{R}/node/n1/state", "+")


def test_mosquitto_gets_the_patterns_of_the_contract() -> None:
    printed = acl.render_mosquitto("busbar", "lab", "manager", ["alice"])
    patterns = [line.split() for line in printed.splitlines() if line.startswith("pattern")]
    assert patterns == [
        ["pattern", access, f"busbar/v1/+/{tail}"]
        for access, tail in [
            ("write", "request/%u/+"),
            ("read", "response/%u/+"),
            ("write", "node/%u/state"),
            ("write", "node/%u/reported"),
            ("write", "node/%u/heartbeat"),
            ("write", "node/%u/log/+"),
            ("read", "node/%u/state"),
            ("read", "node/%u/assignment"),
            ("read", "node/%u/command"),
            ("read", "manager/+/state"),
        ]
    ]
    assert f"user manager\ntopic readwrite {R}/#\n" in printed
    reads = "".join(
        f"topic read {R}/{t}\n"
        for t in ("status/#", "event/#", "node/+/state", "node/+/reported", "node/+/log/+")
    )
    assert f"user alice\n{reads}" in printed


def test_emqx_gets_the_same_rules_and_denies_the_rest() -> None:
    lines = acl.render_emqx("busbar", "lab", "manager", ["alice"]).splitlines()
    assert f'{{allow, {{username, "manager"}}, all, ["{R}/#"]}}.' in lines
    assert any(
        line.startswith('{allow, {username, "alice"}, subscribe, ["busbar/v1/lab/status/#"') for line in lines
    )
    assert any(
        line.startswith('{allow, all, publish, ["busbar/v1/+/request/${username}/+"') for line in lines
    )
    assert lines[-1] == "{deny, all}."


def test_nats_gets_a_list_for_each_user() -> None:
    printed = nats_access.render_nats("busbar", "lab", "manager", ["alice"], ["n-1"])
    users = re.findall(r"# (\w+)\n +\{ user: \"(\S+)\", password: \$(\S+),(.*?)\} \}", printed, re.DOTALL)
    assert [(kind, user, variable) for kind, user, variable, _ in users] == [
        ("manager", "manager", "busbar_password_manager"),
        ("person", "alice", "busbar_password_alice"),
        ("node", "n-1", "busbar_password_n-1"),
    ]
    lists = {
        (user, name): json.loads(found)
        for _, user, _, body in users
        for name, found in re.findall(r"(publish|subscribe): (\[.*\])", body)
    }
    assert all('allowed_connection_types: ["MQTT", "MQTT_WS"]' in body for *_, body in users)
    assert "busbar.v1.*.request.alice.*" in lists["alice", "publish"]
    assert {"busbar.v1.lab.>", "busbar.v1.lab"} <= set(lists["manager", "publish"])
    assert {"busbar.v1.lab.status.>", "busbar.v1.lab.status"} <= set(lists["alice", "subscribe"])
    assert "busbar.v1.*.node.n-1.assignment" in lists["n-1", "subscribe"]
    assert not [subject for subject in lists["n-1", "publish"] if ".assignment" in subject]
    for (user, name), subjects in lists.items():
        assert all("/" not in subject and "#" not in subject for subject in subjects)
        assert ("$MQTT.sub.>" in subjects) == (name == "subscribe"), (user, name)
    assert "store_dir" not in printed, "a member of a cluster says that itself"
    alone = nats_access.render_nats("a.b", "lab", "m", [], [], nats_access.Server("::1", 1883, '/s "x"'))
    assert 'listen: "[::1]:1883"' in alone and r'store_dir: "/s \"x\""' in alone
    assert "a//b.v1.lab.>" in alone, "as nats-server maps a dot of a topic"


def test_nats_gets_text_as_it_is_and_no_control_characters() -> None:
    """It reads no `\\u00e4`, as JSON has it."""
    assert nats_access.render_passwords({"a": 'pä"ss'}) == 'busbar_password_a: "pä\\"ss"\n'
    server = nats_access.Server("127.0.0.1", 1883, "/tmp/ü")
    assert 'store_dir: "/tmp/ü"' in nats_access.render_nats("a", "lab", "m", [], [], server)
    with pytest.raises(ValueError, match="control character"):
        nats_access.render_passwords({"a": "x\x00y"})


def test_nats_knows_each_user_once() -> None:
    with pytest.raises(ValueError, match="'manager' must be named once"):
        nats_access.render_nats("busbar", "lab", "manager", ["manager"], [])


def nats_without_nodes(root: str, realm: str, manager: str, persons: list[str]) -> str:
    return nats_access.render_nats(root, realm, manager, [], persons)


@pytest.mark.parametrize("render", [acl.render_mosquitto, acl.render_emqx, nats_without_nodes])
@pytest.mark.parametrize(
    ("root", "realm", "manager", "persons"),
    [
        ("bus bar", "lab", "m", []),
        ("busbar/", "lab", "m", []),
        ('b"', "lab", "m", []),
        ("#", "lab", "m", []),
        ("busbar", "+", "m", []),
        ("busbar", "lab", 'm"}', []),
        ("busbar", "lab", "m", ["alice\ntopic readwrite #"]),
    ],
)
def test_generators_refuse_names_that_could_say_more(
    render: object, root: str, realm: str, manager: str, persons: list[str]
) -> None:
    with pytest.raises(ValueError, match="must"):
        render(root, realm, manager, persons)  # type: ignore[operator]
