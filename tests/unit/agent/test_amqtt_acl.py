"""The ACL file of the amqtt router: its syntax, and what it allows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from busbar.agent.routers.amqtt_acl import MAX_BYTES, REFUSES, AclError, AclFile, main, parse, read
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("topic", 1, "no topic"),
        ("user", 1, "a user without a name"),
        ("# fine\n\ntopic read a/#/b", 3, "no topic filter"),
        ("topic a b", 1, "the access is none of"),
        ("user alice\ntopic readwrit a", 2, "the access is none of"),
        ("pattern deny", 1, None),
        ("topic read a\ntopics read b", 2, "none of user, topic, pattern"),
        ("alice:$7$101$secret", 1, "none of user, topic, pattern"),
    ],
)
def test_a_line_at_fault_is_told_by_its_number_and_not_repeated(
    text: str, line: int, why: str | None
) -> None:
    if why is None:
        assert parse(text).patterns[0] == ("readwrite", "deny")  # as mosquitto reads it: a topic of that name
        return
    with pytest.raises(AclError, match=f"^line {line}: .*{why}") as caught:
        parse(text)
    assert "secret" not in str(caught.value)


def test_what_mosquitto_takes_is_taken() -> None:
    found = parse(
        " # a comment\r\n\ttopic  read\ta/b \nuser  alice bob\ntopic readwrite with space/x y\nuser u\n"
        "topic t\nuser alice bob\ntopic deny z\npattern own/%u/#\n"
    )
    assert found.anonymous == [("read", "a/b")]
    assert found.users == {
        "alice bob": [("readwrite", "with space/x y"), ("deny", "z")],
        "u": [("readwrite", "t")],
    }
    assert found.patterns == [("readwrite", "own/%u/#")]


def test_patterns_stand_for_the_user_and_the_client_id() -> None:
    acl = parse("pattern own/%u/%c/#\npattern read by/%c")
    assert acl.rights("alice", "c1").may_publish("own/alice/c1/x")
    assert not acl.rights("alice", "c1").may_publish("own/bob/c1/x")
    assert not acl.rights("%c", "c1").may_publish("own/c1/c1/x"), "what is put in is not a pattern itself"
    assert acl.rights(None, "c1").may_read("by/c1") and not acl.rights(None, "c1").may_read("own//c1/x")
    for user, client_id in (("+", "c"), ("#", "c"), ("a", "+"), ("a", "x#")):
        assert not acl.rights(user, client_id).may_read(f"by/{client_id}")
    assert not parse("pattern x%uy/#").rights("a", "+").may_read("xay/z")


def test_denials_come_first_and_a_users_rules_before_patterns() -> None:
    acl = parse("user a\ntopic #\ntopic deny x/#\ntopic y\npattern deny y\npattern x/1\npattern z")
    rights = acl.rights("a", "c")
    assert [topic for topic in ("x/1", "x", "y", "z", "$SYS/z") if rights.may_read(topic)] == ["y", "z"]
    assert not acl.rights("b", "c").may_read("y") and acl.rights("b", "c").may_read("x/1")


def test_a_subscription_is_refused_where_nothing_that_it_matches_may_be_read() -> None:
    rights = parse("topic read a/+/c\ntopic write w\ntopic deny a/x/#").rights(None, "c")
    granted = [
        f for f in ("#", "+/+/+", "a/b/c", "a/#", "a/x/c", "a/x/#", "w", "b/#") if rights.may_subscribe(f)
    ]
    assert granted == ["#", "+/+/+", "a/b/c", "a/#"]


def test_nothing_is_allowed_by_an_empty_file() -> None:
    rights = AclFile().rights("a", "c")
    assert not (rights.may_read("x") or rights.may_publish("x") or rights.may_subscribe("#"))


LEVEL = st.sampled_from(["a", "b", "$SYS", ""])
TOPIC = st.lists(LEVEL, min_size=1, max_size=3).map("/".join).filter(bool)
FILTER = st.lists(st.sampled_from(["a", "b", "+", "$SYS"]), min_size=1, max_size=3).map("/".join)
FILTER |= FILTER.map(lambda text: f"{text}/#") | st.just("#")
RULE = st.tuples(st.sampled_from(["topic", "pattern"]), st.sampled_from(["read", "write", "deny"]), FILTER)


@given(st.lists(RULE, max_size=5), TOPIC)
def test_whoever_may_read_a_topic_may_subscribe_to_it(rules: list[tuple[str, str, str]], topic: str) -> None:
    rights = parse("".join(f"{' '.join(rule)}\n" for rule in rules)).rights(None, "c")
    assert not rights.may_read(topic) or rights.may_subscribe(topic)
    denied = [f for kind, access, f in rules if kind == "topic" and access == "deny"]
    assert not denied or not parse(f"topic {topic}\ntopic deny {topic}").rights(None, "c").may_read(topic)


def test_a_file_is_checked_before_it_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "acl"
    assert main([str(path)]) == REFUSES
    path.write_text("topic read a\n")
    assert main([str(path)]) == 0
    path.write_bytes(b"topic read \xff\n")
    assert main([str(path)]) == REFUSES and "not UTF-8" in capsys.readouterr().out
    path.write_bytes(b"#" * MAX_BYTES)
    assert main([str(path)]) == 0
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(AclError, match="larger"):
        read(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match="no regular file"):
        read(path)
