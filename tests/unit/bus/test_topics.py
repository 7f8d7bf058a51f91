"""Topics are built and parsed in one place, and a name can't smuggle a level in."""

from __future__ import annotations

import pytest
from busbar.bus.topics import Topics, is_name, matches
from hypothesis import given
from hypothesis import strategies as st

NAMES = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,63}", fullmatch=True)
TOPICS = Topics("lab")


@given(NAMES, NAMES)
def test_request_round_trip(caller: str, operation: str) -> None:
    assert TOPICS.parse_request(TOPICS.request(caller, operation)) == (caller, operation)


@given(NAMES, st.sampled_from(["assignment", "command", "state", "reported", "heartbeat"]))
def test_node_round_trip(node: str, leaf: str) -> None:
    assert TOPICS.parse_node(TOPICS.node(node, leaf)) == (node, leaf)  # type: ignore[arg-type]


@given(NAMES, st.sampled_from(["routercluster", "node", "workergroup", "worker"]), NAMES)
def test_status_round_trip(cluster: str, kind: str, name: str) -> None:
    assert TOPICS.parse_status(TOPICS.status(cluster, kind, name)) == (cluster, kind, name)


@given(NAMES)
def test_manager_round_trip(manager: str) -> None:
    assert TOPICS.parse_manager(TOPICS.manager_state(manager)) == manager


@pytest.mark.parametrize(
    "topic",
    [
        "busbar/v1/lab/request/alice",
        "busbar/v1/lab/request/alice/op/more",
        "busbar/v2/lab/request/alice/op",
        "busbar/v1/other/request/alice/op",
        "busbar/v1/lab",
        "",
    ],
)
def test_foreign_topics_are_no_requests(topic: str) -> None:
    assert TOPICS.parse_request(topic) is None
    assert TOPICS.parse_node(topic) is None
    assert TOPICS.parse_status(topic) is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        "A",
        "-a",
        "_a",
        "a.b",
        "a b",
        "a/b",
        "a+",
        "a#",
        "$a",
        "a\n",
        "a\0",
        "..",
        "ä",
        "a" * 65,
        "a" * 10_000,
    ],
)
def test_bad_names(name: str) -> None:
    assert not is_name(name)


@pytest.mark.parametrize("name", ["a", "0", "edge-1", "a_b", "a" * 64])
def test_good_names(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize("realm", ["", "Lab", "a/b", "+"])
def test_a_realm_is_a_name(realm: str) -> None:
    with pytest.raises(ValueError, match="realm"):
        Topics(realm)


@pytest.mark.parametrize("root", ["", "$SYS", "/x", "a/+", "a#", "a\0"])
def test_a_root_is_plain(root: str) -> None:
    with pytest.raises(ValueError, match="root"):
        Topics("lab", root)


@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [
        ("a/b", "a/b", True),
        ("a/+", "a/b", True),
        ("a/+", "a/b/c", False),
        ("a/+", "a", False),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("#", "a/b", True),
        ("#", "$SYS/x", False),
        ("+/x", "$SYS/x", False),
        ("a/+/c", "a//c", True),
        ("a/b", "a/b/", False),
    ],
)
def test_matching_as_mqtt_has_it(pattern: str, topic: str, expected: bool) -> None:
    assert matches(pattern, topic) is expected
