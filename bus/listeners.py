"""What the workers of a transport listen on: one `endpoint`, or several named `listeners`. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from .decode import convert
from .errors import BusError, pointer_step
from .node_files import PathText, check_reference

Port = Annotated[int, Meta(ge=1, le=65535)]
Kind = Literal["web", "mqtt", "websocket", "rawsocket", "nats", "tcp"]
"""The protocol of a listener, and the type of a transport."""
Serializer = Literal["json", "msgpack", "cbor", "ubjson", "flatbuffers"]
UNIVERSAL: Final = "universal"
"""The type of a listener with several protocols on one port: Crossbar.io looks at a client's first bytes."""
PARTS: Final = ("rawsocket", "mqtt")
"""What such a listener may serve beside the paths of its transport."""
DEFAULT: Final = "default"
"""The name of the listener of a transport with an `endpoint`, or with nothing."""
MAX_LISTENERS: Final = 8
LISTENER_NAME: Final = r"^[a-z][a-z0-9-]{0,31}(?![\s\S])"
_NAME: Final = re.compile(LISTENER_NAME)


class TlsConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """TLS on a listening endpoint: PEM files below the node's `secrets_root`, named and never contained.

    `chain` holds intermediate certificates, `client_ca` the authorities of client certificates.
    """

    certificate: PathText
    key: PathText
    chain: PathText | UnsetType = UNSET
    client_ca: PathText | UnsetType = UNSET
    client_certificates: Literal["none", "optional", "require"] = "none"
    min_version: Literal["1.2", "1.3"] = "1.2"


TLS_FILES: Final = ("certificate", "key", "chain", "client_ca")
"""The members of `TlsConfig` that name a file."""


class _Socket(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`port` is one port, `[low, high]`, or `"low-high"`; none: any free port."""

    port: Port | Annotated[list[Port], Meta(min_length=2, max_length=2)] | PathText | UnsetType = UNSET
    interface: Annotated[str, Meta(pattern=r"^[0-9A-Za-z.:_-]{1,255}(?![\s\S])")] | UnsetType = UNSET
    shared: bool = False
    backlog: Annotated[int, Meta(ge=1, le=65535)] | UnsetType = UNSET
    tls: TlsConfig | UnsetType = UNSET


class EndpointConfig(_Socket, frozen=True, kw_only=True):
    """A listening endpoint. `port` is one port, `[low, high]`, or `"low-high"`; none: any free port."""

    type: Literal["tcp"] = "tcp"


class RawSocketPart(Struct, frozen=True, forbid_unknown_fields=True):
    """WAMP-RawSocket on a listener of type `universal`, as on a listener of its own."""

    auth: dict[str, Any] | UnsetType = UNSET
    serializers: Annotated[list[Serializer], Meta(min_length=1, max_length=5)] | UnsetType = UNSET


class MqttPart(Struct, frozen=True, forbid_unknown_fields=True):
    """MQTT on a listener of type `universal`, as on a listener of its own."""

    auth: dict[str, Any] | UnsetType = UNSET
    options: dict[str, Any] | UnsetType = UNSET


class ListenerConfig(_Socket, frozen=True, kw_only=True):
    """One of several listeners: an endpoint with a protocol of its own (none: that of its transport).

    `anonymous` is the transport's where it has none. `auth` is that of WAMP-RawSocket, and of MQTT where the
    transport is of type web; `serializers` are those of WAMP-RawSocket. One of type `universal` serves the
    paths (unless `web` is false) and what it has of `rawsocket` and `mqtt` on the same port.
    """

    type: Kind | Literal["cluster", "universal"] | UnsetType = UNSET
    anonymous: bool | UnsetType = UNSET
    auth: dict[str, Any] | UnsetType = UNSET
    serializers: Annotated[list[Serializer], Meta(min_length=1, max_length=5)] | UnsetType = UNSET
    web: bool | UnsetType = UNSET
    rawsocket: RawSocketPart | UnsetType = UNSET
    mqtt: MqttPart | UnsetType = UNSET
    options: dict[str, Any] | UnsetType = UNSET
    """Those of the transport that its runtime can have for each listener; they win over the transport's."""


class Listener(Struct, frozen=True):
    """A listener of a transport. `at` leads from the transport to it: `/endpoint`, or `/listeners/NAME`."""

    name: str
    kind: str
    config: Mapping[str, Any]
    at: str
    anonymous: bool | None = None
    """What it says itself, or else its transport."""

    @property
    def is_named(self) -> bool:
        """Whether it is one of `listeners`."""
        return self.at != "/endpoint"

    @property
    def interface(self) -> str:
        """The address that it names; `localhost` where it names none."""
        return str(self.config.get("interface") or "localhost")

    @property
    def tls(self) -> Mapping[str, Any] | None:
        """Its `tls`, None without."""
        found = self.config.get("tls")
        return found if isinstance(found, Mapping) else None


def listeners_of(transport: Mapping[str, Any] | None) -> dict[str, Listener]:
    """The listeners of a transport in plain form by name, in their order: the first is the primary one.

    Also of one that is not checked: what has not the shape of a listener counts as an empty one.
    """
    found = transport or {}
    kind, said = str(found.get("type", "")), _flag(found.get("anonymous"))
    given = found.get("listeners")
    if not isinstance(given, Mapping) or not given:
        endpoint = found.get("endpoint")
        config = endpoint if isinstance(endpoint, Mapping) else {}
        return {DEFAULT: Listener(DEFAULT, kind, config, "/endpoint", said)}
    listeners = {}
    for name, each in given.items():
        config = each if isinstance(each, Mapping) else {}
        own = _flag(config.get("anonymous"))
        listeners[name] = Listener(
            name,
            str(config.get("type", kind)),
            config,
            f"/listeners/{pointer_step(str(name))}",
            said if own is None else own,
        )
    return listeners


def parts_of(listener: Listener) -> list[Listener]:
    """The protocols of a listener, each as one of its own: several where it is of type `universal`."""
    if listener.kind != UNIVERSAL:
        return [listener]
    config = {name: value for name, value in listener.config.items() if name not in ("web", *PARTS)}
    name, said = listener.name, listener.anonymous
    web = [] if listener.config.get("web") is False else [Listener(name, "web", config, listener.at, said)]
    return web + [
        Listener(name, kind, {**config, **own}, f"{listener.at}/{kind}", said)
        for kind in PARTS
        if isinstance(own := listener.config.get(kind), Mapping)
    ]


def served(transport: Mapping[str, Any] | None) -> list[Listener]:
    """What a transport serves: the parts of its listeners, in their order."""
    return [part for each in listeners_of(transport).values() for part in parts_of(each)]


def primary(transport: Mapping[str, Any] | None) -> Listener:
    """The first listener, whose URL is a worker's address."""
    return next(iter(listeners_of(transport).values()))


def check_listeners(given: Mapping[str, Any] | UnsetType, pointer: str) -> None:
    """Check the `listeners` of a transport, each by itself and that no two want the same port.

    Raises:
        BusError: `invalid_configuration` with the pointer to the invalid member.
    """
    if isinstance(given, UnsetType):
        return
    checked: list[tuple[str, ListenerConfig]] = []
    for name, value in given.items():
        at = f"{pointer}/{pointer_step(name)}"
        if not _NAME.fullmatch(name):
            raise _wrong("a listener's name has the form [a-z][a-z0-9-]{0,31}", at)
        config = convert(value, ListenerConfig, at, "invalid_configuration")
        check_socket(config, at)
        _check_parts(config, at)
        for other, before in checked:
            if _collide(config, before):
                raise _wrong(f"listener '{other}' has the same port on that interface", f"{at}/port")
        checked.append((name, config))


def _check_parts(config: ListenerConfig, pointer: str) -> None:
    given = [name for name in PARTS if getattr(config, name) is not UNSET]
    if config.type == UNIVERSAL:
        if config.web is False and not given:
            raise _wrong(f"without the paths it serves {' or '.join(PARTS)}, or nothing", f"{pointer}/web")
        return
    for name in ("web", *PARTS):
        if getattr(config, name) is not UNSET:
            raise _wrong(f"only a listener of type '{UNIVERSAL}' has '{name}'", f"{pointer}/{name}")


def check_not_universal(kind: object, pointer: str) -> None:
    """Refuse `universal` as the type of a whole transport, with what to write instead.

    Raises:
        BusError: `invalid_configuration` with `pointer`.
    """
    if kind == UNIVERSAL:
        detail = (
            "it is the type of a listener: in a transport of type 'web', give one of 'listeners' this type"
        )
        raise _wrong(detail, pointer)


def check_socket(config: EndpointConfig | ListenerConfig, pointer: str) -> None:
    """Check ports and TLS of a listener.

    Raises:
        BusError: `invalid_configuration` with the pointer to the invalid member.
    """
    port_range(config.port, f"{pointer}/port")
    if config.tls is not UNSET:
        _check_tls(config.tls, f"{pointer}/tls")


def port_range(port: int | list[int] | str | UnsetType, pointer: str = "") -> tuple[int, int] | None:
    """Parse a port or port range as (lowest, highest), inclusive; None for any free port.

    Raises:
        BusError: `invalid_configuration` for what is neither a port nor a range of ports.
    """
    if port is UNSET or isinstance(port, UnsetType):
        return None
    if isinstance(port, int):
        return port, port
    parts = port.split("-") if isinstance(port, str) else port
    try:
        low, high = (int(part) for part in parts)
    except ValueError:
        raise _wrong(f"'{port}' is not a port range such as '8080-8090'", pointer) from None
    if not 1 <= low <= high <= 65535:
        raise _wrong(f"port range {low}-{high} is not within 1 to 65535 and rising", pointer)
    return low, high


def overlap(one: str, other: str) -> bool:
    """Whether one port can't be listened on at both interfaces: they are the same, or one is a wildcard."""
    names = {_normal(one), _normal(other)}
    if len(names) == 1 or "::" in names:
        return True  # a program on `::` may take IPv4 as well
    return "0.0.0.0" in names and not any(":" in name for name in names)


def _collide(one: ListenerConfig, other: ListenerConfig) -> bool:
    fixed = port_range(one.port)
    if fixed is None or fixed[0] != fixed[1] or port_range(other.port) != fixed:
        return False
    return overlap(one.interface or "localhost", other.interface or "localhost")


def _normal(interface: str) -> str:
    if interface == "localhost":
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(interface))
    except ValueError:
        return interface


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _check_tls(tls: TlsConfig, pointer: str) -> None:
    for member in TLS_FILES:
        reference = getattr(tls, member)
        if reference is not UNSET:
            check_reference(reference, f"{pointer}/{member}")
    asked = tls.client_certificates
    if asked != "none" and tls.client_ca is UNSET:
        raise _wrong(f"client_certificates '{asked}' needs the CA that signs them", f"{pointer}/client_ca")
    if asked == "none" and tls.client_ca is not UNSET:
        raise _wrong(
            "'client_ca' is given, and no certificates are asked for", f"{pointer}/client_certificates"
        )


def _wrong(detail: str, pointer: str) -> BusError:
    return BusError("invalid_configuration", detail, [pointer])
