"""Topics are built and parsed in one place, and a name can't smuggle a level in."""

from __future__ import annotations

import pytest
from busbar.bus.topics import Topics, is_name, is_valid_filter, is_valid_topic, matcher, matches, written_kind
from hypothesis import example, given
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


# --- MQTT's own rules (MQTT 3.1.1, section 4.7)

LEVELS = ["a", "b", "$s", "", "a.c", "a\n"]
ANY_TOPIC = st.lists(st.sampled_from(LEVELS), min_size=1, max_size=4).map("/".join).filter(bool)
ANY_FILTER = st.builds(
    lambda levels, tail: "/".join([*levels, *tail]),
    st.lists(st.sampled_from([*LEVELS, "+"]), max_size=4),
    st.sampled_from([["#"], ["a"], ["+"]]),
)


def oracle(wanted: list[str], levels: list[str], first: bool = True) -> bool:
    """The standard's words, level by level."""
    if not wanted or not levels:
        return not levels and wanted in ([], ["#"])
    if first and levels[0].startswith("$") and wanted[0] in ("+", "#"):
        return False
    if wanted[0] == "#":
        return True
    return wanted[0] in ("+", levels[0]) and oracle(wanted[1:], levels[1:], False)


@given(ANY_FILTER, ANY_TOPIC)
@example("a/#", "a")
@example("+/#", "/")
@example("/#", "/")
@example("a.c", "abc")
def test_a_filter_matches_what_the_standard_says(pattern: str, topic: str) -> None:
    assert matches(pattern, topic) == oracle(pattern.split("/"), topic.split("/"))


@given(ANY_FILTER, ANY_FILTER, ANY_TOPIC)
@example("+/#", "+", "$s")
@example("a/+", "a/#", "a")
@example("a/#", "a", "a")
@example("#", "#", "$s")
def test_what_a_covered_filter_matches_is_matched_by_the_covering_one(a: str, f: str, topic: str) -> None:
    if matcher(a)(f) and oracle(f.split("/"), topic.split("/")):
        assert matches(a, topic)


@given(ANY_FILTER)
def test_a_filter_covers_itself(pattern: str) -> None:
    assert matches(pattern, pattern)


@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [
        ("a/b", "a/b", True),
        ("a/+", "a/b", True),
        ("a/+", "a/b/c", False),
        ("a/+", "a", False),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("a/#", "ab", False),
        ("#", "a/b", True),
        ("#", "/", True),
        ("+/+", "/", True),
        ("/+", "/a", True),
        ("+", "/a", False),
        ("#", "$SYS/x", False),
        ("+/x", "$SYS/x", False),
        ("$SYS/#", "$SYS/x", True),
        ("$SYS/+", "$SYS/x", True),
        ("a/#", "a/$x", True),
        ("a/+/c", "a//c", True),
        ("a/b", "a/b/", False),
        ("a/b", "a/b\n", False),
        ("a.c", "abc", False),
        # of filters: does the first cover the second?
        ("a/+", "a/#", False),
        ("+/#", "#", False),
        ("a/x", "+/x", False),
        ("a/#", "a/+", True),
        ("a/#", "a/#", True),
        ("a/+/c", "a/+/c", True),
        ("#", "+/+", True),
        ("#", "$SYS/#", False),
    ],
)
def test_matching_as_mqtt_has_it(pattern: str, topic: str, expected: bool) -> None:
    assert matches(pattern, topic) is expected


@pytest.mark.parametrize("malformed", ["", "a#", "a/#/b", "a/b+", "+a", "##", "a/\0"])
def test_a_malformed_filter_is_none(malformed: str) -> None:
    assert not is_valid_filter(malformed)


@pytest.mark.parametrize("malformed", ["", "a/+", "a/#", "#", "a\0"])
def test_a_malformed_topic_is_none(malformed: str) -> None:
    assert not is_valid_topic(malformed)


@given(ANY_TOPIC, ANY_FILTER)
def test_what_is_well_formed_is_accepted(topic: str, pattern: str) -> None:
    assert is_valid_topic(topic) and is_valid_filter(topic) and is_valid_filter(pattern)


@pytest.mark.parametrize(
    ("topic", "kind"),
    [
        (TOPICS.event("edge", "routercluster", "edge", "created"), "event"),
        (TOPICS.event("_", "node", "n1", "paired"), "event"),
        (TOPICS.node("n1", "heartbeat"), "node/heartbeat"),
        (TOPICS.node("n1", "state"), "node/state"),
        (TOPICS.response("alice", "default"), "response"),
        ("elsewhere/v1", "elsewhere/v1"),
        ("a/b", "a/b"),
        ("", ""),
    ],
)
def test_the_kind_of_what_is_written(topic: str, kind: str) -> None:
    assert written_kind(topic) == kind
