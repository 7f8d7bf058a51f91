"""The contract as an AsyncAPI 3 document, from the code's own tables: channels, messages, JSON Schemas.

Described is what a client does: it sends requests, and receives replies, statuses, events and what nodes say.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from busbar.bus.contract import CHANGE_ERRORS, COMMON_ERRORS, OPERATIONS, Operation
from busbar.bus.errors import ERRORS
from busbar.bus.events import EVENT_KINDS, EVENTS
from busbar.bus.messages import (
    Assignment,
    Command,
    Event,
    Heartbeat,
    LogChunk,
    ManagerState,
    NodeState,
    Reported,
    Request,
    Response,
    Status,
)

JSON = "application/json"
LEVELS = {
    "realm": "The management realm.",
    "caller": "The user who asks; the broker lets nobody ask in another's name.",
    "inbox": "The caller's inbox, as the request's `reply` names it; `default` without one.",
    "cluster": "The cluster; `_` for objects that belong to none.",
    "name": "The object's name.",
    "node": "The node, which is also its agent's user.",
    "manager": "The manager's id.",
    "worker": "The worker's name.",
}
"""The variable levels of topics."""
STATUSES = ("routercluster", "workergroup", "worker", "node")
NODE_LEAVES: dict[str, tuple[type, str, bool]] = {
    "state": (NodeState, "What the agent last said of its connection, or its will.", True),
    "reported": (Reported, "The node's workers and what it offers.", True),
    "heartbeat": (Heartbeat, "A sign of life, with the digest of the last report.", False),
    "assignment": (Assignment, "What the node is to run, from the manager.", True),
    "command": (Command, "What the manager asks once.", False),
}
"""The last level of a node's topics: payload, what it is, whether it is retained."""
ERROR = {
    "type": "object",
    "description": "RFC 9457 members and a stable code.",
    "required": ["code", "uri", "status", "title", "detail", "errors", "retryable"],
    "properties": {
        "code": {"enum": list(ERRORS)},
        "uri": {"type": "string"},
        "status": {"type": "integer"},
        "title": {"type": "string"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {"type": "object", "properties": {"pointer": {"type": "string"}}},
        },
        "retryable": {"type": "boolean"},
        "retry_after_ms": {"type": "integer", "minimum": 0},
        "correlation": {"type": "string"},
    },
}


def document() -> dict[str, Any]:
    """The whole document."""
    own = [Event, LogChunk, ManagerState, Request, Response, Status]
    types: list[Any] = [*own, *(row[0] for row in NODE_LEAVES.values())]
    types += [each for row in OPERATIONS.values() for each in (row.params, row.result)]
    found, schemas = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    named = dict(zip(map(str, types), found, strict=True))
    channels, operations, messages = {}, {}, {}
    for parts in (_requests(named), [_events(named)], _statuses(named), _nodes(named), [_managers(named)]):
        for made_channels, made_operations, made_messages in parts:
            channels |= made_channels
            operations |= made_operations
            messages |= made_messages
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Busbar",
            "version": "v1",
            "description": "Clusters of routers over MQTT. The rules behind it: contract.md. The first topic "
            "level, `busbar`, may be configured.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": JSON,
        "servers": {
            "broker": {
                "host": "localhost:1883",
                "protocol": "mqtt",
                "description": "MQTT 3.1.1 or 5, over TCP, TLS or WebSocket. User name and password, or a "
                "client certificate.",
            }
        },
        "channels": channels,
        "operations": operations,
        "components": {"schemas": {**schemas, "Error": ERROR}, "messages": messages},
    }


Parts = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]
"""Channels, operations and messages, by their keys."""


def _channel(address: str, description: str, messages: Iterable[str]) -> dict[str, Any]:
    levels = [level[1:-1] for level in address.split("/") if level.startswith("{")]
    return {
        "address": f"busbar/v1/{{realm}}/{address}",
        "description": description,
        "parameters": {name: {"description": LEVELS[name]} for name in ("realm", *levels)},
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
    }


def _message(name: str, payload: Any, summary: str) -> dict[str, Any]:
    return {"name": name, "summary": summary, "contentType": JSON, "payload": payload}


def _requests(named: dict[str, Any]) -> Iterable[Parts]:
    replies = {f"{name}_reply": _reply(row, named) for name, row in OPERATIONS.items()}
    channel = _channel("response/{caller}/{inbox}", "Replies, at QoS 1.", replies)
    yield {"response": channel}, {}, replies
    for name, row in OPERATIONS.items():
        key = f"request_{name}"
        kind = "A change" if row.change else "A read"
        text = f"{kind}; roles: {', '.join(sorted(row.roles))}. Never retained."
        operation = {
            "action": "send",
            "summary": row.help,
            "channel": {"$ref": f"#/channels/{key}"},
            "messages": [{"$ref": f"#/channels/{key}/messages/{name}"}],
            "reply": {
                "channel": {"$ref": "#/channels/response"},
                "messages": [{"$ref": f"#/channels/response/messages/{name}_reply"}],
            },
            "bindings": {"mqtt": {"qos": 1, "retain": False}},
        }
        yield (
            {key: _channel(f"request/{{caller}}/{name}", text, [name])},
            {name: operation},
            {name: _message(name, _request(row, named), row.help)},
        )


def _request(row: Operation, named: dict[str, Any]) -> dict[str, Any]:
    return {
        "allOf": [
            named[str(Request)],
            {"type": "object", "properties": {"params": named[str(row.params)]}},
        ]
    }


def _reply(row: Operation, named: dict[str, Any]) -> dict[str, Any]:
    codes = sorted({*COMMON_ERRORS, *(CHANGE_ERRORS if row.change else ()), *row.errors})
    good = {
        "type": "object",
        "required": ["result"],
        "properties": {"ok": {"const": True}, "op": {"const": row.name}, "result": named[str(row.result)]},
    }
    bad = {
        "type": "object",
        "required": ["error"],
        "properties": {"ok": {"const": False}, "error": {"$ref": "#/components/schemas/Error"}},
    }
    payload = {"allOf": [named[str(Response)], {"oneOf": [good, bad]}]}
    return _message(f"{row.name}_reply", payload, f"Answers {row.name}; errors: {', '.join(codes)}.")


def _events(named: dict[str, Any]) -> Parts:
    channels, operations = {}, {}
    for kind, verbs in EVENTS.items():
        for verb in verbs:
            key = f"event_{kind}_{verb}"
            address = f"event/{{cluster}}/{EVENT_KINDS[kind]}/{{name}}/{verb}"
            channels[key] = _channel(address, "Not retained; numbered without gaps.", ["event"])
            operations[key] = _receive(key, "event", f"A {kind} is {verb}.", retain=False)
    text = "A lifecycle event: CloudEvents 1.0, structured mode."
    return channels, operations, {"event": _message("event", named[str(Event)], text)}


def _receive(channel: str, message: str, summary: str, *, retain: bool) -> dict[str, Any]:
    return {
        "action": "receive",
        "summary": summary,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{message}"}],
        "bindings": {"mqtt": {"qos": 1, "retain": retain}},
    }


def _statuses(named: dict[str, Any]) -> Iterable[Parts]:
    for kind in STATUSES:
        key = f"status_{kind}"
        channel = _channel(
            f"status/{{cluster}}/{kind}/{{name}}", "Retained; empty once it is gone.", ["status"]
        )
        operation = _receive(key, "status", f"The present status of a {kind}.", retain=True)
        message = _message("status", named[str(Status)], "The present status of one object.")
        yield {key: channel}, {key: operation}, {"status": message}


def _nodes(named: dict[str, Any]) -> Iterable[Parts]:
    for leaf, (payload, text, retain) in NODE_LEAVES.items():
        key = f"node_{leaf}"
        channel = _channel(f"node/{{node}}/{leaf}", text, [key])
        message = _message(key, named[str(payload)], text)
        yield {key: channel}, {key: _receive(key, key, text, retain=retain)}, {key: message}
    text = "A piece of a worker's output, while somebody follows it."
    channel = _channel("node/{node}/log/{worker}", text, ["log"])
    message = _message("log", named[str(LogChunk)], text)
    yield (
        {"node_log": channel},
        {"node_log": _receive("node_log", "log", text, retain=False)},
        {"log": message},
    )


def _managers(named: dict[str, Any]) -> Parts:
    text = "A manager's own state: which store it serves, since when, its limits."
    channel = _channel("manager/{manager}/state", text, ["manager"])
    operation = _receive("manager_state", "manager", text, retain=True)
    return (
        {"manager_state": channel},
        {"manager_state": operation},
        {"manager": _message("manager", named[str(ManagerState)], text)},
    )
