"""A Crossbar.io node's configuration, read as a definition of Busbar. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from busbar.bus.errors import pointer_step

from .import_definition import Imported, NotImportedError, finish

_STATIC: Final = {
    "ticket": "principals",
    "wampcra": "users",
    "scram": "principals",
    "cryptosign": "principals",
    "tls": "principals",
}
_OWN: Final = ("id", "type")
_ONE: Final = "a group has one: make another group or cluster for it"


def import_crossbar(config: Mapping[str, Any]) -> Imported:
    """The definition of the first Web transport of the first router in a node's configuration.

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
            found.leave(at, _ONE)
        else:
            taken = True
            _router(found, worker, at)
    if "type" not in found.transport:
        told = "; ".join(f"{where}: {why}" for where, why in found.left)
        raise NotImportedError(f"no router with a Web transport among its workers: {told}"[:2000])
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
    for index, each in enumerate(transports if isinstance(transports, list) else ()):
        where = f"{at}/transports/{index}"
        kind = each.get("type") if isinstance(each, Mapping) else None
        if "type" in found.transport:
            found.leave(where, _ONE)
        elif kind == "web":
            _web(found, each, where)
        elif kind == "universal" and isinstance(each.get("web"), Mapping):
            for name in each:
                if name not in (*_OWN, "web", "endpoint"):
                    found.leave(
                        f"{where}/{pointer_step(name)}", "of a universal transport only 'web' is taken over"
                    )
            _web(found, {**each["web"], "endpoint": each.get("endpoint")}, where, f"{where}/web")
        else:
            found.leave(where, f"transports of type '{str(kind)[:40]}' are not taken over")


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


def _web(found: Imported, given: Mapping[str, Any], at: str, inner: str | None = None) -> None:
    found.transport["type"] = "web"
    for name in given:
        if name not in (*_OWN, "endpoint", "paths"):
            found.leave(
                f"{inner or at}/{pointer_step(name)}", "options of the Web transport are not taken over"
            )
    endpoint = given.get("endpoint")
    if isinstance(endpoint, Mapping) and endpoint.get("type", "tcp") == "tcp":
        _endpoint(found, endpoint, f"{at}/endpoint")
    else:
        found.leave(f"{at}/endpoint", "only TCP is taken over")
    paths, source = given.get("paths"), f"{inner or at}/paths"
    if not isinstance(paths, Mapping) or not paths:
        raise NotImportedError(f"{source}: none, so nothing would be served")
    found.transport["paths"] = _paths(found, paths, source, "")
    found.sources[id(found.transport["paths"])] = source


def _endpoint(found: Imported, given: Mapping[str, Any], at: str) -> None:
    endpoint: dict[str, Any] = {"type": "tcp", "interface": given.get("interface") or "0.0.0.0"}
    found.sources[id(endpoint)] = at
    found.transport["endpoint"] = endpoint
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
            tls[member] = found.need(f"tls/{member}.pem", f"{named}{' in one file' if several else ''}"[:500])
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
    if isinstance(given.get("auth"), Mapping):
        auth = {method: _method(found, method, config, f"{at}/auth/{pointer_step(method)}", file)
                for method, config in given["auth"].items()}  # fmt: skip
        service["auth"] = auth
        found.sources[id(auth)] = f"{at}/auth"
    elif "auth" in given:
        service["auth"] = {}  # refused, so that the path is left out rather than opened
    return service


def _method(found: Imported, method: str, given: Any, at: str, file: str) -> Any:
    if not isinstance(given, Mapping):
        return given
    secrets = _STATIC.get(method)
    config: dict[str, Any] = _noted(found, {n: v for n, v in given.items() if n != secrets}, at)
    if secrets in given and given.get("type") == "static":
        name = f"auth/{file}-{method}.json"
        config["principals_file"] = found.need(name, f"the object {at}/{secrets}")
    return config
