"""Realms, roles and authentication of a transport: what is accepted, and what is refused with a pointer."""

from __future__ import annotations

from typing import Any

import pytest
from busbar.bus.errors import BusError
from busbar.bus.routers.transport import check_transport
from busbar.bus.routers.wamp import check_realms
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
)
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


ENDPOINT = {
    "endpoint": {"tls": {"certificate": "c", "key": "k", "client_ca": "a", "client_certificates": "require"}}
}
STATIC = {"type": "static", "principals_file": "shop/tickets.json"}
DYNAMIC = {"type": "dynamic", "authenticator": "com.example.auth"}


def path(**members: Any) -> dict[str, Any]:
    """A transport with one WebSocket path, in a realm with the roles backend, guest and nobody."""
    return {"type": "web", "realms": [SHOP], "paths": {"ws": {"type": "websocket", **members}}}


def auth(**methods: Any) -> dict[str, Any]:
    return path(auth=methods)


@pytest.mark.parametrize(
    "transport",
    [
        *(auth(**{method: STATIC}) for method in ("ticket", "wampcra", "scram", "cryptosign")),
        auth(ticket=DYNAMIC),
        auth(ticket={**DYNAMIC, "authenticator-realm": "com.example.shop", "authenticator-role": "backend"}),
        auth(wampcra={**STATIC, "default-role": "guest"}),
        auth(anonymous={"role": "guest"}, ticket=STATIC),
        auth(anonymous={"type": "static", "role": "guest", "realm": "com.example.shop"}),
        auth(anonymous={"type": "dynamic", "authenticator": "com.example.auth"}),
        {**auth(tls=STATIC), **ENDPOINT},
        path(auth={"ticket": STATIC, "cookie": {}}, cookie={"store": {"type": "memory"}, "max_age": 600}),
        path(
            auth={"ticket": STATIC},
            serializers=["json", "cbor"],
            cookie={"store": {"type": "file", "filename": "c"}},
        ),
    ],
)
def test_authentication_in_the_shape_of_crossbar_comes_back_as_given(transport: dict[str, Any]) -> None:
    assert check_transport(transport, "/t") == transport


@pytest.mark.parametrize(
    ("transport", "pointer"),
    [
        (path(), "/auth"),
        (auth(), "/auth"),
        (auth(password=STATIC), "/auth/password"),
        (auth(ticket={}), "/auth/ticket/type"),
        (auth(ticket={"type": "function", "create": "os.system"}), "/auth/ticket/type"),
        (auth(ticket={**STATIC, "create": "os.system"}), "/auth/ticket/create"),
        (auth(ticket={"type": "static"}), "/auth/ticket/principals_file"),
        (
            auth(ticket={"type": "static", "principals": {"joe": {"ticket": "geheim"}}}),
            "/auth/ticket/principals",
        ),
        (auth(wampcra={"type": "static", "users": {"joe": {"secret": "geheim"}}}), "/auth/wampcra/users"),
        (auth(ticket={**STATIC, "principals_file": "../geheim"}), "/auth/ticket/principals_file"),
        (auth(ticket={**STATIC, "principals_file": ""}), "/auth/ticket/principals_file"),
        (auth(ticket={**STATIC, "principals_file": "a\n"}), "/auth/ticket/principals_file"),
        (auth(ticket={**STATIC, "authenticator": "a.b"}), "/auth/ticket/authenticator"),
        (auth(ticket={**STATIC, "default-role": "boss"}), "/auth/ticket/default-role"),
        (auth(ticket={"type": "dynamic"}), "/auth/ticket/authenticator"),
        (auth(ticket={**DYNAMIC, "authenticator": "a b"}), "/auth/ticket/authenticator"),
        (auth(ticket={**DYNAMIC, "principals_file": "x"}), "/auth/ticket/principals_file"),
        (auth(ticket={**DYNAMIC, "authenticator-realm": "other"}), "/auth/ticket/authenticator-realm"),
        (auth(ticket={**DYNAMIC, "authenticator-role": "boss"}), "/auth/ticket/authenticator-role"),
        (auth(cryptosign={"type": "static", "trustroots": {}}), "/auth/cryptosign/trustroots"),
        (auth(anonymous={}), "/auth/anonymous/role"),
        (auth(anonymous={"role": "trusted"}), "/auth/anonymous/role"),
        (auth(anonymous={"role": "backend", "realm": "other"}), "/auth/anonymous/realm"),
        (auth(anonymous={"type": "dynamic"}), "/auth/anonymous/authenticator"),
        (auth(tls=STATIC), "/auth/tls"),
        (auth(ticket=STATIC, cookie={}), "/auth/cookie"),
        (path(auth={"ticket": STATIC}, cookie={}), "/cookie/store"),
        (
            path(auth={"ticket": STATIC}, cookie={"store": {"type": "database", "path": "/etc"}}),
            "/cookie/store/type",
        ),
        (path(auth={"ticket": STATIC}, cookie={"store": {"type": "file"}}), "/cookie/store/filename"),
        (
            path(auth={"ticket": STATIC}, cookie={"store": {"type": "file", "filename": "../x"}}),
            "/cookie/store/filename",
        ),
        (path(auth={"ticket": STATIC}, serializers=["pickle"]), "/serializers/0"),
    ],
)
def test_authentication_is_refused_with_a_pointer(transport: dict[str, Any], pointer: str) -> None:
    found, detail = refused(transport)
    assert found == f"/t/paths/ws{pointer}"
    assert "geheim" not in detail


def test_the_default_path_needs_the_role_anonymous() -> None:
    assert refused(realms(SHOP))[0] == "/t/paths"
    assert check_transport(realms(SHOP, "plain"), "/t")


@given(
    st.dictionaries(st.sampled_from(["anonymous", "ticket", "scram", "cookie", "tls", "x"]), JSON, max_size=3)
)
def test_whatever_auth_is_given_the_answer_has_a_pointer(given: dict[str, Any]) -> None:
    try:
        check_transport(auth(**given), "/t")
    except BusError as error:
        assert len(error.pointers) == 1 and error.pointers[0].startswith("/t/paths/ws/auth")


BRIDGE = {"type": "caller", "realm": "com.example.shop", "role": "backend"}
HOOK = {**BRIDGE, "type": "webhook", "options": {"topic": "com.example.pushed"}}


def bridge(**members: Any) -> dict[str, Any]:
    return {"type": "web", "realms": [SHOP], "paths": {"x": {**BRIDGE, **members}}}


@pytest.mark.parametrize("kind", ["caller", "publisher", "webhook"])
def test_the_http_bridge_comes_back_as_given(kind: str) -> None:
    transport = bridge(**HOOK, credentials_file="shop/bridge.json") | {}
    transport["paths"]["x"]["type"] = kind
    assert check_transport(transport, "/t") == transport


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        ({"realm": "other"}, "/realm"),
        ({"role": "boss"}, "/role"),
        ({"role": "trusted"}, "/role"),
        ({"credentials_file": "../x"}, "/credentials_file"),
        ({"auth": {}}, "/auth"),
        ({**HOOK, "options": {}}, "/options/topic"),
    ],
)
def test_the_http_bridge_is_refused_with_a_pointer(members: dict[str, Any], pointer: str) -> None:
    assert refused(bridge(**members))[0] == f"/t/paths/x{pointer}"
