"""Renders the endpoints of a group for load balancers and name servers. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from busbar.bus.endpoint_url import EndpointUrl, endpoint_url, ip_address
from busbar.bus.messages import Endpoint

DEFAULT_PORTS: Final[Mapping[str, int]] = {
    "mqtt": 1883, "mqtts": 8883, "ws": 8080, "wss": 8443, "http": 8080, "https": 8443, "nats": 4222,
    "rs": 8081, "rss": 8444,
}  # fmt: skip
"""Where a load balancer listens unless it is told: the port that clients of the protocol expect."""
TTL_S: Final = 30
"""Of DNS records: how long resolvers keep a worker that has gone."""

# A CONNECT of MQTT 3.1.1 without a client id, and the first two bytes of whatever CONNACK: a router that
# refuses the login is well.
_MQTT_CONNECT: Final = "100c00044d5154540402000a0000"
_MQTT_CONNACK: Final = "2002"
_UPGRADE: Final = (
    "hdr Connection Upgrade hdr Upgrade websocket hdr Sec-WebSocket-Version 13 "
    "hdr Sec-WebSocket-Key dGhlIHNhbXBsZSBub25jZQ== hdr Sec-WebSocket-Protocol {}"
)


class NoRenderingError(ValueError):
    """These endpoints can't be rendered like that; the text says why."""


@dataclass(frozen=True, slots=True)
class Server:
    """One listener of a ready worker."""

    worker: str
    listener: str
    url: EndpointUrl


@dataclass(frozen=True, slots=True)
class Service:
    """What clients see as one: a listener of all ready workers of a group. `bind`: where it listens."""

    cluster: str
    group: str
    listener: str
    bind: str
    servers: tuple[Server, ...]

    @property
    def name(self) -> str:
        return f"{self.cluster}-{self.group}-{self.listener}"

    @property
    def scheme(self) -> str:
        return self.servers[0].url.scheme


def servers(endpoints: Iterable[Endpoint]) -> list[Server]:
    """The endpoints with plain URLs: the others would stand in the configuration of a proxy."""
    found = ((each, endpoint_url(each.url)) for each in endpoints)
    return [Server(each.worker, each.name, url) for each, url in found if url is not None]


def service(
    cluster: str, group: str, found: Sequence[Server], listener: str | None, bind: str | None
) -> Service:
    """The service of one listener.

    Raises:
        NoRenderingError: the group has several and none is named, or none of that name, or no plain URL.
    """
    if not found:
        raise NoRenderingError("the group's workers announce no address: give its listeners a plain URL")
    names = list(dict.fromkeys(each.listener for each in found))
    if listener is None and len(names) > 1:
        raise NoRenderingError(f"the group has several listeners: say --listener {' or '.join(names)}")
    name = listener or names[0]
    mine = tuple(each for each in found if each.listener == name)
    if not mine:
        raise NoRenderingError(f"no listener '{name}' (it has: {', '.join(names)})")
    where = bind or _default_bind(mine[0].url.scheme)
    if where.strip() != where or endpoint_url(f"tcp://{where}") is None or "/" in where:
        raise NoRenderingError(f"--bind is HOST:PORT, not {bind!r}")
    return Service(cluster, group, name, where, mine)


def haproxy(of: Service) -> str:
    """A whole proxy for `haproxy -f`, beside a file with the `global` section.

    Workers that are hung are found by a real question in their protocol; their clients are then moved.
    """
    name, mode = of.name, "http" if of.scheme in ("ws", "http", "https") else "tcp"
    lines = [
        f"defaults {name}",
        f"  mode {mode}",
        "  timeout connect 2s",
        "  timeout client 1h",
        "  timeout server 1h",
        "  timeout tunnel 1h",
        "  timeout check 1s",
        "",
        f"frontend {name} from {name}",
        f"  bind {of.bind}",
        *(f"  {line}" for line in _FRONTENDS.get(of.scheme, ())),
        f"  default_backend {name}",
        "",
        f"backend {name} from {name}",
        "  balance leastconn",
        "  option redispatch",
        "  retries 3",
        *(f"  {line}" for line in _check(of)),
        f"  default-server check inter 500ms fall 2 rise 1 on-marked-down shutdown-sessions{_server_tls(of)}",
        *(f"  server {each.worker} {each.url.netloc}" for each in of.servers),
    ]
    return "\n".join([*lines, ""])


def nginx(of: Service) -> str:
    """For the `stream` block. nginx asks no worker how it is: a hung one is found by its clients."""
    name = of.name
    lines = [
        f"upstream {name} {{",
        "    least_conn;",
        *(f"    server {each.url.netloc} max_fails=1 fail_timeout=5s;" for each in of.servers),
        "}",
        "server {",
        f"    listen {of.bind};",
        f"    proxy_pass {name};",
        "    proxy_connect_timeout 2s;",
        "    proxy_timeout 1h;",
        "    proxy_socket_keepalive on;",
        "}",
    ]
    return "\n".join([*lines, ""])


def srv(of: Service) -> str:
    """DNS records (RFC 2782), relative to the zone's origin. A worker at an IP address gets a name."""
    owner = f"{of.group}.{of.cluster}"
    lines = []
    for each in of.servers:
        address = ip_address(each.url.host)
        target = f"{each.worker}.{owner}" if address is not None else f"{each.url.host.rstrip('.')}."
        lines.append(f"_{of.scheme}._tcp.{owner} {TTL_S} IN SRV 0 0 {each.url.port} {target}")
        if address is not None:
            lines.append(f"{target} {TTL_S} IN {'A' if address.version == 4 else 'AAAA'} {address}")
    return "\n".join([*lines, ""])


RENDERINGS: Final[Mapping[str, Callable[[Service], str]]] = {"haproxy": haproxy, "nginx": nginx, "srv": srv}


_FRONTENDS: Final[Mapping[str, Sequence[str]]] = {
    "mqtt": (
        "tcp-request inspect-delay 3s",
        "tcp-request content reject unless { req.payload(0,0),mqtt_is_valid }",
    ),
}
_STICKY: Final = (
    # The same client comes back to the worker that has its session, for as long as that is well.
    "stick-table type string len 64 size 100k expire 1h",
    "stick on req.payload(0,0),mqtt_field_value(connect,client_identifier)",
)


def _check(of: Service) -> list[str]:
    match of.scheme:
        case "mqtt":
            question = f"tcp-check send-binary {_MQTT_CONNECT}"
            answer = f"tcp-check expect binary {_MQTT_CONNACK}"
            return [*_STICKY, "option tcp-check", "tcp-check connect", question, answer]
        case "ws":
            speaks = "mqtt" if of.servers[0].url.path.rstrip("/") == "/mqtt" else "wamp.2.json"
            asked = (
                f"http-check send meth GET uri {of.servers[0].url.path or '/'} ver HTTP/1.1 hdr Host busbar"
            )
            # Any answer but an error of the server's own: one that wants a login is well.
            expected = "http-check expect rstatus ^(101|[234])"
            return ["option httpchk", f"{asked} {_UPGRADE.format(speaks)}", expected]
        case "http" | "https":
            path = of.servers[0].url.path or "/"
            return [
                "option httpchk",
                f"http-check send meth GET uri {path}",
                "http-check expect rstatus ^[234]",
            ]
        case "nats":
            return ["option tcp-check", "tcp-check connect", "tcp-check expect rstring ^INFO"]
        case _:
            return []


def _server_tls(of: Service) -> str:
    """TLS goes through to the worker; the check ends with the handshake, for which no client is needed."""
    if of.scheme == "https":
        return " ssl verify none"
    return " check-ssl verify none" if of.scheme in ("mqtts", "wss", "rss") else ""


def _default_bind(scheme: str) -> str:
    port = DEFAULT_PORTS.get(scheme)
    if port is None:
        raise NoRenderingError(f"where is it to listen? '{scheme}' has no usual port: say --bind HOST:PORT")
    return f"127.0.0.1:{port}"
