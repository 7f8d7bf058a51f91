"""A Crossbar.io node's configuration, read as a definition of Busbar. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from busbar.bus.errors import pointer_step
from busbar.bus.listeners import LISTENER_NAME, MAX_LISTENERS, PARTS, UNIVERSAL

from .definition import Imported, NotImportedError, finish

_STATIC: Final = {
    "ticket": "principals",
    "wampcra": "users",
    "scram": "principals",
    "cryptosign": "principals",
    "tls": "principals",
}
_OWN: Final = ("id", "type")


@dataclass(slots=True)
class _Taken:
    """A transport of the file that becomes a listener; `paths` are those that are served there."""

    at: str
    kind: str
    id: str
    config: dict[str, Any]
    paths: Mapping[str, Any] | None
    """None where it serves none."""


_ONE: Final = "make another group or cluster for it"


def import_crossbar(config: Mapping[str, Any]) -> Imported:
    """The definition of the transports of the first router in a node's configuration.

    Raises:
        NotImportedError: there is none, or it would let in more clients than the file.
    """
    found = Imported("crossbar")
    for name in config:
        if name not in ("$schema", "version", "controller", "workers"):
            found.leave(f"/{pointer_step(name)}", "not known")
    controller = config.get("controller")
    for name in controller if isinstance(controller, Mapping) else ():
        if name != "id":
            found.leave(f"/controller/{pointer_step(name)}", "the agent runs the node")
    workers = config.get("workers")
    taken = False
    for index, worker in enumerate(workers if isinstance(workers, list) else ()):
        at = f"/workers/{index}"
        if not isinstance(worker, Mapping) or worker.get("type") != "router":
            found.leave(at, "not a router: run it beside Busbar, or as an exec runtime")
        elif taken:
            found.leave(at, f"a group has one router: {_ONE}")
        else:
            taken = True
            _router(found, worker, at)
    if "type" not in found.transport:
        told = "; ".join(f"{where}: {why}" for where, why in found.left)
        raise NotImportedError(
            f"no router with a Web, RawSocket or MQTT transport among its workers: {told}"[:2000]
        )
    return finish(found)


def _router(found: Imported, worker: Mapping[str, Any], at: str) -> None:
    for name in worker:
        if name not in (*_OWN, "realms", "transports"):
            found.leave(
                f"{at}/{pointer_step(name)}", "runs code, or belongs to the process: not part of a definition"
            )
    realms = worker.get("realms")
    if not isinstance(realms, list) or not realms:
        raise NotImportedError(f"{at}/realms: none, so no client could join")
    found.transport["realms"] = [_noted(found, each, f"{at}/realms/{i}") for i, each in enumerate(realms)]
    transports = worker.get("transports")
    taken: list[_Taken] = []
    for index, each in enumerate(transports if isinstance(transports, list) else ()):
        where = f"{at}/transports/{index}"
        kind = each.get("type") if isinstance(each, Mapping) else None
        if kind == "web":
            _web(found, taken, each, where)
        elif kind == "websocket":
            _web(found, taken, _with_a_path(each), where)
        elif kind == UNIVERSAL:
            _universal(found, taken, each, where)
        elif kind == "rawsocket":
            _rawsocket(found, taken, each, where)
        elif kind == "mqtt":
            _mqtt(found, taken, each, where)
        else:
            found.leave(where, f"transports of type '{str(kind)[:40]}' are not taken over")
    if taken:
        _add(found, taken)


def _add(found: Imported, taken: list[_Taken]) -> None:
    """The listeners, as one endpoint where that says it all."""
    found.transport["type"] = "web"
    for each in taken[MAX_LISTENERS:]:
        found.leave(each.at, f"a worker has {MAX_LISTENERS} listeners at most: make another group for it")
    del taken[MAX_LISTENERS:]
    if len(taken) == 1 and taken[0].kind == "web":
        found.transport |= {"endpoint": {"type": "tcp", **taken[0].config}} if taken[0].config else {}
        found.sources[id(found.transport.get("endpoint"))] = f"{taken[0].at}/endpoint"
        return
    listeners = found.transport["listeners"] = dict[str, Any]()
    for each in taken:
        config = each.config if each.kind == "web" else {"type": each.kind, **each.config}
        found.sources[id(config)] = each.at if each.kind == UNIVERSAL else f"{each.at}/endpoint"
        listeners[_name(each, listeners)] = config


def _name(taken: _Taken, known: Mapping[str, Any]) -> str:
    name = taken.id.lower().replace("_", "-")
    if not re.fullmatch(LISTENER_NAME, name):
        name = taken.kind + ("-tls" if "tls" in taken.config else "")
    base, number = name[:28], 2
    while name in known:
        name, number = f"{base}-{number}", number + 1
    return name


def _noted(found: Imported, value: Any, source: str) -> Any:
    """A copy without Crossbar's own ids, in which every object knows where it stood."""
    if isinstance(value, Mapping):
        copy: Any = {
            n: _noted(found, v, f"{source}/{pointer_step(n)}") for n, v in value.items() if n != "id"
        }
    elif isinstance(value, list):
        copy = [_noted(found, each, f"{source}/{index}") for index, each in enumerate(value)]
    else:
        return value
    found.sources[id(copy)] = source
    return copy


def _web(found: Imported, taken: list[_Taken], given: Mapping[str, Any], at: str) -> None:
    """Take over a Web transport; a second one shares the paths of the first, or is left out."""
    own = _Taken(at, "web", _id(given), {}, given.get("paths"))
    if not _can_serve(found, taken, own, f"{at}/paths"):
        return
    own.config = _listener(found, given, at)
    if not _shares(found, taken, own):
        return
    _leave_options(found, given, at)
    _serve(found, taken, own, f"{at}/paths")
    taken.append(own)


def _with_a_path(given: Mapping[str, Any]) -> dict[str, Any]:
    """A WebSocket transport as a Web transport: one that serves WebSocket on `/`, and so on every path."""
    service = {
        name: value for name, value in given.items() if name not in ("id", "endpoint", "max_connections")
    }
    kept = {name: given[name] for name in ("id", "endpoint", "max_connections") if name in given}
    return {**kept, "type": "web", "paths": {"/": service}}


def _id(given: Mapping[str, Any]) -> str:
    return str(given.get("id") or "")


def _can_serve(found: Imported, taken: list[_Taken], own: _Taken, source: str) -> bool:
    if isinstance(own.paths, Mapping) and own.paths:
        return True
    if any(each.paths is not None for each in taken):
        found.leave(source, "none, so nothing would be served")
        return False
    raise NotImportedError(f"{source}: none, so nothing would be served")


def _leave_options(found: Imported, given: Mapping[str, Any], at: str) -> None:
    for name in given:
        if name not in (*_OWN, "endpoint", "paths"):
            found.leave(f"{at}/{pointer_step(name)}", "options of the Web transport are not taken over")


def _shares(found: Imported, taken: list[_Taken], own: _Taken) -> bool:
    """Whether its paths may be served by all that serve some; told where not."""
    first = next((each for each in taken if each.paths is not None), None)
    if first is None or own.paths == first.paths or _may_share(own, first):
        return True
    found.leave(own.at, "its paths differ from those of the first, and would be served there too: " + _ONE)
    return False


def _serve(found: Imported, taken: list[_Taken], own: _Taken, source: str) -> None:
    """Its paths join those of the others."""
    assert own.paths is not None
    first = next((each for each in taken if each.paths is not None), None)
    before = first.paths if first is not None and first.paths is not None else {}
    new = {name: each for name, each in own.paths.items() if name not in before}
    known = found.transport.setdefault("paths", {})
    known |= _paths(found, new, source, "")
    found.sources.setdefault(id(known), source)
    if first is not None:
        first.paths = own.paths = {**before, **own.paths}


def _universal(found: Imported, taken: list[_Taken], given: Mapping[str, Any], at: str) -> None:
    """Take over a transport with several protocols on one port."""
    web, sockets = given.get("web"), given.get("websocket")
    paths = dict(web["paths"]) if isinstance(web, Mapping) and isinstance(web.get("paths"), Mapping) else {}
    for name, each in sockets.items() if isinstance(sockets, Mapping) else ():
        if name in paths:
            found.leave(f"{at}/web/paths/{pointer_step(name)}", "'websocket' answers there")
        paths[name] = {"type": "websocket", **each} if isinstance(each, Mapping) else each
    config = _listener(found, given, at)
    if not config:
        return found.leave(at, "only TCP is taken over")
    own = _Taken(at, UNIVERSAL, _id(given), config, paths or None)
    if paths and not _shares(found, taken, own):
        return None
    for name in given:
        if name not in (*_OWN, "endpoint", "web", "websocket", *PARTS):
            found.leave(f"{at}/{pointer_step(name)}", "options of the transport are not taken over")
    if isinstance(web, Mapping):
        _leave_options(found, web, f"{at}/web")
    if not paths:
        config["web"] = False
    else:
        _serve(found, taken, own, f"{at}/web/paths")
    for name, part in ("rawsocket", _rawsocket_part), ("mqtt", _mqtt_part):
        if isinstance(given.get(name), Mapping):
            taken_over = part(found, given[name], f"{at}/{name}", f"{name}/{len(taken)}")
            if taken_over is not None:
                config[name] = taken_over
    if not paths and not any(name in config for name in PARTS):
        return found.leave(at, "nothing of it is left")
    taken.append(own)
    return None


def _may_share(one: _Taken, other: _Taken) -> bool:
    """Whether each may serve the other's paths too: the same clients reach both, in the same way."""
    assert one.paths is not None and other.paths is not None
    if any(_type_of(each.paths.get("/")) == "websocket" for each in (one, other) if each.paths):
        return False  # it would answer for all the others
    same = all(one.paths[name] == other.paths[name] for name in one.paths if name in other.paths)
    tls, others = one.config.get("tls"), other.config.get("tls")
    alike = (tls is None) == (others is None) and ("client_ca" in (tls or {})) == (
        "client_ca" in (others or {})
    )
    return same and alike and one.config.get("interface") == other.config.get("interface")


def _type_of(service: Any) -> Any:
    return service.get("type") if isinstance(service, Mapping) else None


def _rawsocket(found: Imported, taken: list[_Taken], given: Mapping[str, Any], at: str) -> None:
    config = _listener(found, given, at)
    if not config:
        return found.leave(at, "only TCP is taken over")
    config |= _rawsocket_part(found, given, at, f"rawsocket/{len(taken)}")
    taken.append(_Taken(at, "rawsocket", _id(given), config, None))
    return None


def _rawsocket_part(found: Imported, given: Mapping[str, Any], at: str, file: str) -> dict[str, Any]:
    part: dict[str, Any] = {}
    for name, value in given.items():
        if name == "serializers":
            part[name] = value
        elif name == "auth":
            part[name] = _auth(found, value, f"{at}/auth", file)
        elif name not in (*_OWN, "endpoint"):
            found.leave(f"{at}/{pointer_step(name)}", "options of the transport are not taken over")
    found.sources[id(part)] = at
    return part


def _mqtt(found: Imported, taken: list[_Taken], given: Mapping[str, Any], at: str) -> None:
    config = _listener(found, given, at)
    if not config:
        return found.leave(at, "only TCP is taken over")
    part = _mqtt_part(found, given, at, f"mqtt/{len(taken)}")
    if part is not None:
        taken.append(_Taken(at, "mqtt", _id(given), config | part, None))
    return None


def _mqtt_part(found: Imported, given: Mapping[str, Any], at: str, file: str) -> dict[str, Any] | None:
    """What it says beside where it listens; None where no client could join."""
    options, part = given.get("options"), dict[str, Any]()
    if not isinstance(options, Mapping):
        found.leave(f"{at}/options", "not an object, so no client could join")
        return None
    for name in given:
        if name not in (*_OWN, "endpoint", "options"):
            found.leave(f"{at}/{pointer_step(name)}", "options of the transport are not taken over")
    if "role" in options:
        found.leave(f"{at}/options/role", "Crossbar.io 26.10 ignores it: 'auth' decides")
    if "auth" in options:
        part["auth"] = _auth(found, options["auth"], f"{at}/options/auth", file)
    rest = {name: value for name, value in options.items() if name not in ("auth", "role")}
    part["options"] = _noted(found, rest, f"{at}/options")
    found.sources[id(part)] = at
    return part


def _listener(found: Imported, given: Mapping[str, Any], at: str) -> dict[str, Any]:
    """Where a transport listens; empty where that is not TCP."""
    endpoint = given.get("endpoint")
    if isinstance(endpoint, Mapping) and endpoint.get("type", "tcp") == "tcp":
        return _endpoint(found, endpoint, f"{at}/endpoint")
    if given.get("type") == "web":
        found.leave(f"{at}/endpoint", "only TCP is taken over")
    return {}


def _endpoint(found: Imported, given: Mapping[str, Any], at: str) -> dict[str, Any]:
    endpoint: dict[str, Any] = {"interface": given.get("interface") or "0.0.0.0"}
    port = given.get("portrange", given.get("port"))
    if isinstance(port, int | list):
        endpoint["port"] = port
    else:
        found.leave(f"{at}/port", "a variable of the environment is not replaced: any free port")
    for name, value in given.items():
        if name in ("shared", "backlog"):
            endpoint[name] = value
        elif name == "tls" and isinstance(value, Mapping):
            endpoint["tls"] = _tls(found, value, f"{at}/tls")
        elif name not in ("type", "interface", "port", "portrange", "version"):
            found.leave(f"{at}/{pointer_step(name)}", "not taken over")
    return endpoint


def _tls(found: Imported, given: Mapping[str, Any], at: str) -> dict[str, Any]:
    tls: dict[str, Any] = {}
    found.sources[id(tls)] = at
    for name, member, several in (
        ("certificate", "certificate", False),
        ("key", "key", False),
        ("chain_certificates", "chain", True),
        ("ca_certificates", "client_ca", True),
    ):
        files = given.get(name)
        if files:
            named = ", ".join(map(str, files)) if isinstance(files, list) else str(files)
            source = f"{named}{' in one file' if several else ''}"[:500]
            tls[member] = found.need(f"tls/{member}.pem", source, several=True)
    if "client_ca" in tls:
        tls["client_certificates"] = "require"
    for name in given:
        if name not in ("certificate", "key", "chain_certificates", "ca_certificates"):
            found.leave(
                f"{at}/{pointer_step(name)}", "Crossbar.io 26.10 speaks TLS 1.3 alone, and ignores it"
            )
    return tls


def _paths(found: Imported, given: Mapping[str, Any], at: str, prefix: str) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for name, service in given.items():
        where = f"{at}/{pointer_step(name)}"
        if not isinstance(service, Mapping):
            found.leave(where, "not an object")
            continue
        file = f"{prefix}{name if name != '/' else 'root'}"
        paths[name] = _service(found, service, where, file)
    return paths


def _service(found: Imported, given: Mapping[str, Any], at: str, file: str) -> dict[str, Any]:
    rest = {n: v for n, v in given.items() if n not in ("auth", "paths", "directory", "debug", "url")}
    service: dict[str, Any] = _noted(found, rest, at)
    if not isinstance(service.get("options", {}), dict):
        found.leave(f"{at}/options", "not an object")
        del service["options"]
    if given.get("type") == "redirect" and "url" in given:
        service["url"] = given["url"]
    elif "url" in given:
        found.leave(f"{at}/url", "the address follows from the endpoint")
    if "debug" in given:
        found.leave(f"{at}/debug", "not taken over")
    secret = [name for name in ("key", "secret", "github_secret") if name in service.get("options", {})]
    if secret:
        service["options"] = {n: v for n, v in service["options"].items() if n not in secret}
        source = f"an object with {', '.join(secret)} of {at}/options"
        service["credentials_file"] = found.need(f"auth/{file}.json", source)
    if given.get("type") == "reverseproxy":
        server = f"{given.get('host')}:{given.get('port')}"[:300]
        found.files.append(f"entry {server} in proxy_to of [runtimes.crossbar] on each node: {at}")
    if isinstance(given.get("directory"), str):
        name = given["directory"].rstrip("/").rpartition("/")[2] or "www"
        service["directory"] = name
        found.files.append(f"folder {name} in the agents' www: {given['directory'][:200]}")
    if isinstance(given.get("paths"), Mapping):
        service["paths"] = _paths(found, given["paths"], f"{at}/paths", f"{file}-")
    if "auth" in given:
        service["auth"] = _auth(found, given["auth"], f"{at}/auth", file)
    return service


def _auth(found: Imported, given: Any, at: str, file: str) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        return {}  # refused, so that what has it is left out rather than opened
    auth = {
        method: _method(found, method, config, f"{at}/{pointer_step(method)}", file)
        for method, config in given.items()
    }
    found.sources[id(auth)] = at
    return auth


def _method(found: Imported, method: str, given: Any, at: str, file: str) -> Any:
    if not isinstance(given, Mapping):
        return given
    secrets = _STATIC.get(method)
    config: dict[str, Any] = _noted(found, {n: v for n, v in given.items() if n != secrets}, at)
    if secrets in given and given.get("type") == "static":
        name = f"auth/{file}-{method}.json"
        config["principals_file"] = found.need(name, f"the object {at}/{secrets}")
    return config
