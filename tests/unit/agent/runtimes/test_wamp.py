"""Realms and authentication in a crossbar worker's configuration, with secrets that only the node has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from busbar.agent.runtimes import (
    HttpProbe,
    LaunchSpec,
    RuntimeConfigError,
    TcpProbe,
    WorkerSpec,
    load_runtimes,
)
from busbar.agent.runtimes.crossbar import CrossbarRuntime
from busbar.agent.runtimes.principals import MAX_FILE, read_secrets
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

OID = "3eccb1fd-251b-4eda-bee9-06b3d24b1c5e"
ONE = {"default": 4711}
ROOT = Path("/etc/busbar/secrets")
ROLE: dict[str, Any] = {
    "name": "backend",
    "permissions": [{"uri": "com.", "match": "prefix", "allow": {"call": True}}],
}
REALM: dict[str, Any] = {"name": "com.example.shop", "roles": [ROLE, {"name": "guest"}]}
SHA1 = ":".join(["AB"] * 20)
GOOD: dict[str, dict[str, Any]] = {
    "ticket": {"ticket": "geheim", "role": "backend"},
    "wampcra": {"secret": "geheim", "role": "backend", "salt": "s", "iterations": 100, "keylen": 32},
    "scram": {
        "kdf": "pbkdf2",
        "iterations": 100,
        "memory": 0,
        "salt": "00ff",
        "stored-key": "aa" * 32,
        "server-key": "bb" * 32,
        "role": "backend",
    },
    "cryptosign": {"authorized_keys": ["ab" * 32], "role": "backend"},
    "tls": {"certificate-sha1": SHA1, "role": "backend"},
}


CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
PEM = {
    "c": CERTIFICATE,
    "k": b"-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\n",
    "a": CERTIFICATE,
}


def runtime(files: Mapping[str, bytes]) -> CrossbarRuntime:
    found = load_runtimes({"crossbar": {"secrets_root": str(ROOT), "program": "/opt/crossbar"}})["crossbar"]
    assert isinstance(found, CrossbarRuntime)

    def read(path: Path) -> bytes:
        try:
            return {**PEM, **files}[str(path.relative_to(ROOT))]
        except KeyError:
            raise FileNotFoundError(2, "No such file or directory") from None

    return replace(found, read=read)


def render(auth: dict[str, Any], files: Mapping[str, bytes], *realms: Any) -> LaunchSpec:
    transport = {
        "type": "web",
        "realms": list(realms or (REALM,)),
        "paths": {"ws": {"type": "websocket", "auth": auth}},
    }
    if "tls" in auth:
        tls = {"certificate": "c", "key": "k", "client_ca": "a", "client_certificates": "require"}
        transport["endpoint"] = {"tls": tls}
    spec = WorkerSpec("web-1", OID, "edge", "web", 1, transport)
    return runtime(files).render(spec, "n1", ONE, Path("/w"))


def path_of(launch: LaunchSpec) -> dict[str, Any]:
    (router,) = json.loads(launch.files[".crossbar/config.json"])["workers"]
    found: dict[str, Any] = router["transports"][0]["paths"]["ws"]
    return found


def static(method: str) -> dict[str, Any]:
    return {method: {"type": "static", "principals_file": "shop/p.json"}}


def refusal(method: str, content: bytes | None, **more: Any) -> str:
    files = {} if content is None else {"shop/p.json": content}
    with pytest.raises(RuntimeConfigError) as caught:
        render({method: {**static(method)[method], **more}}, files)
    assert caught.value.pointer == f"/transport/paths/ws/auth/{method}/principals_file"
    assert "geheim" not in str(caught.value)
    return caught.value.detail


def test_realms_are_rendered_as_given_and_a_name_stands_for_everything() -> None:
    launch = render({"anonymous": {}}, {}, REALM, "plain")
    (router,) = json.loads(launch.files[".crossbar/config.json"])["workers"]
    shop, plain = router["realms"]
    assert shop == {**REALM, "roles": [ROLE, {"name": "guest", "permissions": []}]}
    assert plain["roles"][0]["name"] == "anonymous" and plain["roles"][0]["permissions"][0]["allow"]["call"]


@pytest.mark.parametrize("method", GOOD)
def test_principals_come_from_a_file_of_the_node(method: str) -> None:
    launch = render(static(method), {"shop/p.json": json.dumps({"joe": GOOD[method]}).encode()})
    member = "users" if method == "wampcra" else "principals"
    assert path_of(launch)["auth"] == {method: {"type": "static", member: {"joe": GOOD[method]}}}
    changed = render(static(method), {"shop/p.json": json.dumps({"jane": GOOD[method]}).encode()})
    assert launch.digest != changed.digest, "a worker with the old principals is outdated"


def test_what_needs_no_file_is_rendered_as_crossbar_has_it() -> None:
    dynamic = {"type": "dynamic", "authenticator": "com.example.auth"}
    launch = render({"anonymous": {"role": "guest"}, "scram": dynamic}, {})
    wanted = {"anonymous": {"type": "static", "role": "guest"}, "scram": dynamic}
    assert path_of(launch)["auth"] == wanted


@pytest.mark.parametrize("method", GOOD)
@pytest.mark.parametrize(
    "principal",
    [
        7,
        {},
        {"role": "backend"},
        {"role": "trusted"},
        {"role": "boss"},
        {"role": None},
        {"more": "geheim"},
        {
            "ticket": ["geheim"],
            "secret": ["geheim"],
            "kdf": 1,
            "authorized_keys": "geheim",
            "certificate-sha1": 7,
        },
        {
            "ticket": "${GEHEIM}",
            "secret": "${GEHEIM}",
            "salt": "${GEHEIM}",
            "authorized_keys": ["${GEHEIM}"],
            "certificate-sha1": "${GEHEIM}",
        },
    ],
)
def test_a_bad_principal_is_named_without_its_secret(method: str, principal: Any) -> None:
    if isinstance(principal, dict) and set(principal) != {"role"} and principal:
        principal = {**GOOD[method], **principal}
    if principal == {"role": "trusted"} or principal == {"role": "boss"}:
        principal = {**GOOD[method], **principal}
    detail = refusal(method, json.dumps({"joe": principal}).encode())
    assert "joe" in detail or "${...}" in detail


def test_a_principal_without_a_role_needs_the_default_one() -> None:
    content = b'{"joe": {"ticket": "geheim"}}'
    assert "default-role" in refusal("ticket", content)
    auth = {"ticket": {**static("ticket")["ticket"], "default-role": "guest"}}
    assert path_of(render(auth, {"shop/p.json": content}))["auth"]["ticket"]["default-role"] == "guest"


def test_a_missing_or_malformed_file_is_the_reason() -> None:
    assert "No such file" in refusal("ticket", None)
    for content in (b"", b"[]", b"geheim", b'{"a": 1, "a": 2}', b"\xff"):
        assert "this node's file" in refusal("ticket", content)
    with pytest.raises(RuntimeConfigError, match="names no 'secrets_root'"):
        bare = load_runtimes({}, environ={})["crossbar"]
        paths = {"ws": {"type": "websocket", "auth": static("ticket")}}
        bare.render(WorkerSpec("w", OID, "e", "w", 1, {"type": "web", "paths": paths}), "h", ONE, Path("/w"))


_OBJECTS = st.recursive(
    st.text(max_size=5) | st.integers(),
    lambda inner: st.dictionaries(st.sampled_from(["joe", "ticket", "role", "backend"]), inner, max_size=3),
)


@given(st.binary(max_size=60) | _OBJECTS.map(lambda value: json.dumps(value).encode()))
def test_whatever_the_file_holds_it_is_rendered_or_refused(content: bytes) -> None:
    try:
        launch = render(static("ticket"), {"shop/p.json": content})
    except RuntimeConfigError as error:
        assert error.pointer.endswith("/ticket/principals_file")
    else:
        assert path_of(launch)["auth"]["ticket"]["principals"] == json.loads(content)


def test_only_a_regular_file_of_bounded_size_is_read(tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    file.write_bytes(b"x" * MAX_FILE)
    assert len(read_secrets(file)) == MAX_FILE
    file.write_bytes(b"x" * (MAX_FILE + 1))
    with pytest.raises(OSError, match="more than"):
        read_secrets(file)
    with pytest.raises(OSError, match="no regular file"):
        read_secrets(tmp_path)


def over_tls(files: Mapping[str, bytes], **more: Any) -> LaunchSpec:
    tls = {"certificate": "c", "key": "k", **more}
    transport = {"type": "web", "endpoint": {"tls": tls}, "paths": {"ws": {"type": "websocket"}}}
    return runtime(files).render(WorkerSpec("w", OID, "e", "w", 1, transport), "n1", ONE, Path("/w"))


def test_tls_of_the_endpoint_is_rendered_one_certificate_a_file() -> None:
    second, third = (CERTIFICATE.replace(b"MIIB", name) for name in (b"MIIC", b"MIID"))
    launch = over_tls({"c": b"text\n" + CERTIFICATE + second, "chain": third}, chain="chain")
    (router,) = json.loads(launch.files[".crossbar/config.json"])["workers"]
    tls = router["transports"][0]["endpoint"]["tls"]
    assert tls["key"] == f"{ROOT}/k" and "ca_certificates" not in tls
    named = [tls["certificate"], *tls["chain_certificates"]]
    assert [launch.files[f".crossbar/{name}"].encode() for name in named] == [CERTIFICATE, second, third]
    assert launch.address == "wss://127.0.0.1:4711/ws"
    assert launch.live == HttpProbe("/ws", (200, 302, 400, 403, 405, 426), tls=True)
    assert launch.references["/transport/endpoint/tls/key"] == ROOT / "k"
    assert not [each for each in launch.files.values() if "PRIVATE KEY" in each]


def test_with_client_certificates_the_agent_sees_the_router_s_certificate_alone() -> None:
    launch = over_tls({"a": CERTIFICATE + CERTIFICATE}, client_ca="a", client_certificates="require")
    (router,) = json.loads(launch.files[".crossbar/config.json"])["workers"]
    assert len(router["transports"][0]["endpoint"]["tls"]["ca_certificates"]) == 2
    assert launch.live == TcpProbe(tls=True)


@pytest.mark.parametrize(
    ("files", "more", "pointer"),
    [
        ({"c": b"x"}, {}, "certificate"),
        ({"c": PEM["k"]}, {}, "certificate"),
        ({"k": CERTIFICATE}, {}, "key"),
        ({"k": b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n"}, {}, "key"),
        ({}, {"key": "none"}, "key"),
        ({}, {"chain": "none"}, "chain"),
        ({}, {"key": "../k"}, "key"),
        ({"a": b""}, {"client_ca": "a", "client_certificates": "require"}, "client_ca"),
        ({}, {"client_ca": "a", "client_certificates": "optional"}, "client_certificates"),
    ],
)
def test_tls_that_crossbar_could_not_serve_is_refused(
    files: dict[str, bytes], more: dict[str, str], pointer: str
) -> None:
    with pytest.raises(RuntimeConfigError) as caught:
        over_tls(files, **more)
    assert caught.value.pointer == f"/transport/endpoint/tls/{pointer}"


@pytest.mark.parametrize(
    ("content", "good"),
    [
        (b'{"key": "k", "secret": "geheim"}', True),
        (b'{"key": "k"}', False),
        (b'{"key": "k", "secret": 7}', False),
        (b'{"key": "k", "secret": "geheim", "more": "geheim"}', False),
        (b'{"github_secret": "geheim"}', False),
        (b'{"key": "k", "secret": "${GEHEIM}"}', False),
    ],
)
def test_requests_are_signed_with_what_a_file_of_the_node_says(content: bytes, good: bool) -> None:
    call = {"type": "caller", "realm": "com.example.shop", "role": "backend", "credentials_file": "b.json"}
    transport = {"type": "web", "realms": [REALM], "paths": {"ws": call}}
    spec = WorkerSpec("w", OID, "e", "w", 1, transport)
    try:
        launch = runtime({"b.json": content}).render(spec, "n1", ONE, Path("/w"))
    except RuntimeConfigError as error:
        assert not good and error.pointer == "/transport/paths/ws/credentials_file"
        assert "geheim" not in str(error)
    else:
        assert good and path_of(launch)["options"] == json.loads(content)


def test_files_whose_contents_are_embedded_are_watched() -> None:
    """Crossbar has copies of them: what changes on the node makes a worker outdated."""
    files = {"tickets.json": json.dumps({"joe": GOOD["ticket"]}).encode(), **PEM}
    auth = {"ticket": {"type": "static", "principals_file": "tickets.json"}}
    transport = {
        "type": "web",
        "endpoint": {"type": "tcp", "tls": {"certificate": "c", "key": "k"}},
        "realms": [REALM],
        "paths": {"ws": {"type": "websocket", "auth": auth}},
    }
    worker = WorkerSpec("web-1", OID, "edge", "web", transport=transport)
    found = runtime(files).render(worker, "127.0.0.1", {"default": 8080}, Path("/run/w"))
    assert found.watched == {
        "/transport/endpoint/tls/certificate": ROOT / "c",
        "/transport/endpoint/tls/key": ROOT / "k",
        "/transport/paths/ws/auth/ticket/principals_file": ROOT / "tickets.json",
    }
    assert found.reloads == () and "/transport/paths/ws/auth/ticket/principals_file" not in found.references
