"""The JSON Schema of what a built-in runtime's transport may say, made of the types that decode it. Pure.

It says less than the checks do (which references go together, say), and never refuses what they accept.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import msgspec

from ..decode import digest
from ..listeners import LISTENER_NAME, ListenerConfig
from .router_options import OPTIONS_OF, CrossbarMqttOptions, MosquittoListenerOptions
from .runtimes import BUILT_IN, LISTENER_TYPES, PATH_OPTIONS, SHARING, SPEAK_TLS
from .transport import PathService, Transport
from .wamp import Auth, Cookie, Realm

TYPES: Final[Mapping[str, tuple[str, ...]]] = {
    "amqtt": ("mqtt", "websocket"),
    "crossbar": ("web",),
    "mosquitto": ("mqtt",),
    "nats": ("mqtt", "websocket", "nats"),
}
"""The types of transport that each built-in runtime serves."""
_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
_NAMES: Final = {bool: "boolean", int: "integer", str: "string", list: "array"}


@cache
def runtime_schema(runtime: str) -> dict[str, Any]:
    """The schema of a built-in runtime's transport. Raises `KeyError` for another one."""
    of_listener = CrossbarMqttOptions if runtime == "crossbar" else MosquittoListenerOptions
    kinds: list[Any] = [Transport, OPTIONS_OF[runtime], ListenerConfig, of_listener]
    if runtime == "crossbar":
        kinds += [PathService, Realm, Auth, Cookie]
    (root, options, listener, listener_options, *more), parts = msgspec.json.schema_components(
        kinds, ref_template="#/$defs/{name}"
    )
    members = parts["Transport"]["properties"]
    members["type"] = {"enum": list(TYPES[runtime])}
    members["options"] = options
    members["listeners"]["additionalProperties"] = listener
    members["listeners"]["propertyNames"] = {"pattern": LISTENER_NAME}
    _describe_listener(parts["ListenerConfig"], runtime, listener_options)
    if runtime == "crossbar":
        path, realm, auth, cookie = more
        members["paths"]["additionalProperties"] = path
        members["realms"]["items"] = {"anyOf": [{"type": "string"}, realm]}
        _describe_paths(parts["PathService"], path, auth, cookie)
        for name in ("ListenerConfig", "RawSocketPart", "MqttPart"):
            parts[name]["properties"]["auth"] = auth
        parts["MqttPart"]["properties"]["options"] = listener_options
    else:
        del members["paths"]
    if runtime not in SPEAK_TLS:
        _replace(parts, "tls", False)
    if runtime not in SHARING:
        _replace(parts, "shared", {"const": False})
    return {"$schema": _DRAFT, "title": f"Transport of runtime {runtime}", **root, "$defs": parts}


def _describe_listener(listener: dict[str, Any], runtime: str, options: Any) -> None:
    members = listener["properties"]
    members["type"] = {"enum": list(LISTENER_TYPES[runtime])}
    members["options"] = options if runtime in ("mosquitto", "crossbar") else False
    if runtime != "crossbar":
        for name in ("auth", "serializers", "web", "rawsocket", "mqtt"):
            members[name] = False


def _describe_paths(service: dict[str, Any], path: Any, auth: Any, cookie: Any) -> None:
    members = service["properties"]
    members["paths"]["additionalProperties"] = path
    members["auth"], members["cookie"] = auth, cookie
    service["allOf"] = [
        {
            "if": {"properties": {"type": {"const": kind}}},
            "then": {"properties": {"options": _options(PATH_OPTIONS.get(kind, {}))}},
        }
        for kind in members["type"]["enum"]
    ]


def _options(known: Mapping[str, type]) -> dict[str, Any]:
    properties = {name: {"type": _NAMES[kind]} for name, kind in known.items()}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _replace(parts: dict[str, Any], member: str, schema: Any) -> None:
    """Give a member of every kind of endpoint another schema."""
    for part in parts.values():
        if "interface" in part.get("properties", {}) and member in part["properties"]:
            part["properties"][member] = schema


@cache
def known_schemas() -> Mapping[str, str]:
    """The digest of each built-in runtime's schema, by runtime."""
    return {name: digest(runtime_schema(name)) for name in BUILT_IN}
