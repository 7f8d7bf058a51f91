"""Home Assistant's user and discovery prefix: what they may be, and what an ACL grants with them."""

import re

import pytest
from busbar.bus.access import acl
from busbar.bus.access.home_assistant import HomeAssistant, node_id, parse
from busbar.bus.access.nats_access import render_nats
from hypothesis import given
from hypothesis import strategies as st

names = st.text("ab0_-", min_size=1, max_size=6).map("x".__add__)
levels = st.text("aB0_.-", min_size=1, max_size=4)
roots = st.just("busbar") | st.lists(levels, min_size=1, max_size=3).map("/".join)
HOUSE = HomeAssistant("ha")
CONFIG = "homeassistant/sensor/busbar-lab/x-ready/config"


def test_the_option_names_a_user_and_perhaps_a_prefix() -> None:
    assert parse(None) is None
    assert parse("ha") == HomeAssistant("ha", "homeassistant")
    assert parse("ha@home/one") == HomeAssistant("ha", "home/one")


@pytest.mark.parametrize(
    "text", ["", "Ha", "ha@", "ha@a//b", "ha@/a", "ha@a/+", "ha@#", "ha@$SYS", "a b", "@x"]
)
def test_what_is_no_user_or_no_plain_prefix_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)


@pytest.mark.parametrize(("prefix", "root"), [("busbar", "busbar"), ("busbar/x", "busbar"), ("a", "a/b")])
def test_a_prefix_among_the_topics_of_the_contract_is_refused(prefix: str, root: str) -> None:
    with pytest.raises(ValueError, match="must be apart"):
        HomeAssistant("ha", prefix).check_root(root)
    with pytest.raises(ValueError, match="must be apart"):
        acl.render_mosquitto(root, "lab", "manager", [], HomeAssistant("ha", prefix))


@given(roots, names, roots, names)
def test_no_two_realms_share_a_level_and_each_level_is_one_that_discovery_takes(
    root: str, realm: str, other_root: str, other: str
) -> None:
    found = node_id(root, realm)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", found)
    assert (found == node_id(other_root, other)) == ((root, realm) == (other_root, other))


HOME = {
    CONFIG,
    "homeassistant/status",
    "homeassistant/light/x/config",
    "homeassistant/x/busbar-yard/y/config",
}


@pytest.mark.parametrize(
    ("kind", "user", "write", "read"),
    [
        ("manager", "manager", {CONFIG}, {CONFIG, "homeassistant/status"}),
        ("person", "ha", {"homeassistant/status"}, HOME),
        ("person", "alice", set(), set()),
        ("node", "ha", set(), set()),
        ("node", "n1", set(), set()),
    ],
)
def test_the_acl_grants_the_prefix_to_the_manager_and_to_that_user_alone(
    kind: acl.Kind, user: str, write: set[str], read: set[str]
) -> None:
    where = ("busbar", "lab")
    for topic in HOME:
        assert acl.may_publish(kind, user, topic, *where, HOUSE) == (topic in write)
        assert acl.may_read(kind, user, topic, *where, HOUSE) == (topic in read)
        assert not acl.may_publish(kind, user, topic, *where), "only with the option"
        assert not acl.may_read(kind, user, topic, *where), "only with the option"


def test_what_is_printed_for_outside_brokers_has_the_same_rights() -> None:
    text = acl.render_mosquitto("busbar", "lab", "manager", ["admin"], HOUSE)
    manager, admin, ha = (
        text.split(f"user {user}\n")[1].split("\n\n")[0] for user in ("manager", "admin", "ha")
    )
    assert "topic write homeassistant/+/busbar-lab/+/config" in manager
    assert "topic read homeassistant/status" in manager
    assert "homeassistant" not in admin
    assert {"topic read homeassistant/#", "topic write homeassistant/status"} <= set(ha.splitlines())
    assert "topic read busbar/v1/lab/status/#" in ha, "it is a person like any other"
    emqx = acl.render_emqx("busbar", "lab", "manager", ["admin"], HOUSE)
    assert '{allow, {username, "ha"}, publish, ["homeassistant/status"]}.' in emqx
    nats = render_nats("busbar", "lab", "manager", ["admin"], [], house=HOUSE)
    assert "homeassistant.*.busbar-lab.*.config" in nats
    for without in (
        acl.render_mosquitto("busbar", "lab", "manager", ["admin"]),
        acl.render_emqx("busbar", "lab", "manager", ["admin"]),
        render_nats("busbar", "lab", "manager", ["admin"], []),
    ):
        assert "homeassistant" not in without
