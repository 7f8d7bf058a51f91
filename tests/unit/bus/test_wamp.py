"""Realms, roles and authentication of a transport: what is accepted, and what is refused with a pointer."""

from __future__ import annotations

from typing import Any

import pytest
from busbar.bus.errors import BusError
from busbar.bus.transport import check_transport
from busbar.bus.wamp import check_realms
from hypothesis import given
from hypothesis import strategies as st

BACKEND: dict[str, Any] = {
    "name": "backend",
    "permissions": [
        {
            "uri": "com.example.",
            "match": "prefix",
            "allow": {"call": True, "register": True, "publish": False, "subscribe": True},
            "disclose": {"caller": True, "publisher": False},
            "cache": True,
        },
        {"uri": "com.example.*", "allow": {"call": True}},
    ],
}
SHOP: dict[str, Any] = {
    "name": "com.example.shop",
    "roles": [BACKEND, {"name": "guest", "authorizer": "com.example.authorize"}, {"name": "nobody"}],
    "options": {"enable_meta_api": False, "uri_check": "loose"},
}


def realms(*given: Any) -> dict[str, Any]:
    return {"type": "web", "realms": list(given)}


def refused(transport: dict[str, Any]) -> tuple[str, str]:
    """The pointer and the detail."""
    with pytest.raises(BusError) as caught:
        check_transport(transport, "/t")
    assert caught.value.code == "invalid_configuration"
    (pointer,) = caught.value.pointers
    return pointer, caught.value.detail


def with_role(**changes: Any) -> dict[str, Any]:
    return realms({"name": "shop", "roles": [{**BACKEND, **changes}]})


def with_permission(**changes: Any) -> dict[str, Any]:
    return with_role(permissions=[{"uri": "a.b", **changes}])


def test_realms_in_the_shape_of_crossbar_come_back_as_given() -> None:
    transport = realms("plain", SHOP)
    assert check_transport(transport, "/t") == transport
    assert check_realms(transport["realms"], "") == {
        "plain": {"anonymous"},
        "com.example.shop": {"backend", "guest", "nobody"},
    }


@pytest.mark.parametrize(
    ("transport", "pointer"),
    [
        (realms("a b"), "/t/realms/0"),
        (realms("shop", "shop"), "/t/realms/1"),
        (realms("shop", {**SHOP, "name": "shop"}), "/t/realms/1/name"),
        (realms(7), "/t/realms/0"),
        (realms({"roles": [BACKEND]}), "/t/realms/0/name"),
        (realms({"name": "shop"}), "/t/realms/0/roles"),
        (realms({"name": "shop", "roles": []}), "/t/realms/0/roles"),
        (realms({**SHOP, "store": {}}), "/t/realms/0/store"),
        (realms({**SHOP, "options": {"x": 1}}), "/t/realms/0/options/x"),
        (realms({"name": "shop", "roles": [BACKEND, BACKEND]}), "/t/realms/0/roles/1/name"),
        (with_role(name="trusted"), "/t/realms/0/roles/0/name"),
        (with_role(name=""), "/t/realms/0/roles/0/name"),
        (with_role(authorizer="com.example.x"), "/t/realms/0/roles/0/authorizer"),
        (with_role(id="x"), "/t/realms/0/roles/0/id"),
        (with_role(permissions=7), "/t/realms/0/roles/0/permissions"),
        (with_permission(match="regex"), "/t/realms/0/roles/0/permissions/0/match"),
        (with_permission(uri="a b"), "/t/realms/0/roles/0/permissions/0/uri"),
        (with_permission(uri="a#b"), "/t/realms/0/roles/0/permissions/0/uri"),
        (with_permission(allow={"call": 1}), "/t/realms/0/roles/0/permissions/0/allow/call"),
        (with_permission(allow={"everything": True}), "/t/realms/0/roles/0/permissions/0/allow/everything"),
        (with_permission(disclose={"callee": True}), "/t/realms/0/roles/0/permissions/0/disclose/callee"),
        (with_permission(validate={"call": "x"}), "/t/realms/0/roles/0/permissions/0/validate"),
    ],
)  # fmt: skip
def test_refused_with_a_pointer(transport: dict[str, Any], pointer: str) -> None:
    assert refused(transport)[0] == pointer


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(JSON | st.fixed_dictionaries({"name": st.text(max_size=5), "roles": JSON}), max_size=3))
def test_whatever_realms_are_given_the_answer_has_a_pointer(given: list[Any]) -> None:
    try:
        check_transport(realms(*given), "/t")
    except BusError as error:
        assert len(error.pointers) == 1 and error.pointers[0].startswith("/t/realms")
