"""The `options` of a transport: one type per built-in runtime, which decodes and describes them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from ..addresses import is_loopback
from ..decode import convert
from ..errors import BusError, pointer_step
from ..listeners import Listener, listeners_of, served
from ..node_files import PathText, check_reference
from .wamp import ANONYMOUS, RealmName, Realms, UriPattern, check_realm, check_realms, check_role

T = TypeVar("T", bound=Struct)
_Count = Annotated[int, Meta(ge=1, le=10_000_000)]


class AmqttOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Files below the node's `secrets_root`; `acl_file` in mosquitto's syntax."""

    password_file: PathText | UnsetType = UNSET
    acl_file: PathText | UnsetType = UNSET


class MosquittoOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """As mosquitto.conf(5) has them; the files are below the node's `secrets_root`.

    `use_identity_as_username`: a client is called by the common name of its certificate, without a password.
    """

    password_file: PathText | UnsetType = UNSET
    acl_file: PathText | UnsetType = UNSET
    use_identity_as_username: bool = False
    persistence: bool = False
    max_connections: _Count | UnsetType = UNSET
    max_inflight_messages: Annotated[int, Meta(ge=1, le=65535)] | UnsetType = UNSET
    max_queued_messages: _Count | UnsetType = UNSET
    max_queued_bytes: Annotated[int, Meta(ge=1, le=2**40)] | UnsetType = UNSET
    max_packet_size: Annotated[int, Meta(ge=20, le=268_435_455)] | UnsetType = UNSET
    persistent_client_expiration: (
        Annotated[str, Meta(pattern=r"^[1-9][0-9]{0,5}[hdwmy](?![\s\S])")] | UnsetType
    ) = UNSET
    sys_interval: Annotated[int, Meta(ge=0, le=65535)] | UnsetType = UNSET


class MosquittoListenerOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Those of `MosquittoOptions` that one of several listeners may have of its own."""

    password_file: PathText | UnsetType = UNSET
    acl_file: PathText | UnsetType = UNSET
    use_identity_as_username: bool | UnsetType = UNSET
    max_connections: _Count | UnsetType = UNSET


class NatsOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """As nats-server's configuration has them; `auth_file` is below the node's `secrets_root`.

    `auth_file` is included as it is (`accounts`, `authorization`, `no_auth_user`). `replicas`: how many of
    the workers of a cluster have each of MQTT's sessions and messages; `members`: how many workers the
    cluster begins with. `max_memory` and `max_file` are bytes.
    """

    auth_file: PathText | UnsetType = UNSET
    replicas: Annotated[int, Meta(ge=1, le=5)] = 3
    members: Annotated[int, Meta(ge=2, le=64)] = 3
    max_connections: _Count | UnsetType = UNSET
    max_payload: Annotated[int, Meta(ge=1024, le=8 * 2**20)] | UnsetType = UNSET
    max_ack_pending: Annotated[int, Meta(ge=1, le=65535)] | UnsetType = UNSET
    max_memory: Annotated[int, Meta(ge=2**20, le=2**50)] | UnsetType = UNSET
    max_file: Annotated[int, Meta(ge=2**20, le=2**50)] | UnsetType = UNSET


class CrossbarOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """None: crossbar's are those of the services on its paths, and of its MQTT listeners."""


class PayloadMapping(Struct, frozen=True, forbid_unknown_fields=True):
    """`passthrough`: any bytes, for MQTT clients. `native`: an object with `args` and `kwargs`, as WAMP's."""

    type: Literal["passthrough", "native"]
    serializer: Literal["json", "msgpack", "cbor", "ubjson"] | UnsetType = UNSET


class CrossbarMqttOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Options of a crossbar's MQTT listener: the realm that its clients join, and what their payloads are.

    `payload_mapping` is by the beginnings of WAMP topics, of which the longest counts.
    """

    realm: RealmName | UnsetType = UNSET
    payload_mapping: (
        Annotated[dict[UriPattern, PayloadMapping], Meta(min_length=1, max_length=256)] | UnsetType
    ) = UNSET


OPTIONS_OF: Final[Mapping[str, type[Struct]]] = {
    "amqtt": AmqttOptions,
    "crossbar": CrossbarOptions,
    "mosquitto": MosquittoOptions,
    "nats": NatsOptions,
}
_FILES: Final = ("password_file", "acl_file", "auth_file")


def options_schema(runtime: str) -> dict[str, Any]:
    """The JSON Schema of a runtime's options. Raises `KeyError` for a runtime that has no type of its own."""
    return msgspec.json.schema(OPTIONS_OF[runtime])


def amqtt_options(transport: Mapping[str, Any], pointer: str) -> AmqttOptions:
    """The options of a checked transport at `pointer`.

    Raises:
        BusError: `invalid_configuration` with the pointer to the option at fault.
    """
    return _decoded(transport, AmqttOptions, pointer)


def crossbar_options(transport: Mapping[str, Any], pointer: str) -> CrossbarOptions:
    """As `amqtt_options`; also refuses MQTT listeners that Crossbar.io can't have as they are written."""
    options = _decoded(transport, CrossbarOptions, pointer)
    for each in served(transport):
        if each.kind == "mqtt":
            _check_crossbar_mqtt(transport, each, pointer)
        elif "options" in each.config:
            detail = "of crossbar's listeners those of type mqtt alone have options"
            raise _wrong(detail, f"{pointer}{each.at}/options")
    return options


def realm_of_mqtt(transport: Mapping[str, Any], listener: Listener, pointer: str) -> str:
    """The realm that the clients of a crossbar's MQTT listener join; `pointer` leads to the transport.

    Raises:
        BusError: `invalid_configuration`: it names none, and there are several, or one that is not there.
    """
    own = _mqtt_options(listener, pointer)
    realms, at = _realms(transport, pointer), f"{pointer}{listener.at}/options/realm"
    if own.realm is not UNSET:
        check_realm(own.realm, realms, at)
        return own.realm
    if len(realms) > 1:
        raise _wrong("is needed where there are several realms: MQTT clients name none", at)
    return next(iter(realms))


def _mqtt_options(listener: Listener, pointer: str) -> CrossbarMqttOptions:
    options = listener.config.get("options", {})
    mappings = options.get("payload_mapping") if isinstance(options, Mapping) else None
    for prefix, each in mappings.items() if isinstance(mappings, Mapping) else ():
        # One by one: an error in a whole mapping does not say where.
        at = f"{pointer}{listener.at}/options/payload_mapping/{pointer_step(prefix)}"
        convert(prefix, UriPattern, at, "invalid_configuration")
        mapping = convert(each, PayloadMapping, at, "invalid_configuration")
        if (mapping.type == "native") != (mapping.serializer is not UNSET):
            word = "needs" if mapping.type == "native" else "has no"
            raise _wrong(f"'{mapping.type}' {word} 'serializer'", f"{at}/serializer")
    return _decoded(listener.config, CrossbarMqttOptions, f"{pointer}{listener.at}")


def _realms(transport: Mapping[str, Any], pointer: str) -> Realms:
    return check_realms(transport.get("realms", UNSET), f"{pointer}/realms")


_OF_MQTT: Final = ("anonymous", "ticket", "tls")


def _check_crossbar_mqtt(transport: Mapping[str, Any], listener: Listener, pointer: str) -> None:
    at, realm = f"{pointer}{listener.at}", realm_of_mqtt(transport, listener, pointer)
    auth = listener.config.get("auth", {"anonymous": {}})
    for method in auth:
        if method not in _OF_MQTT:
            detail = (
                "MQTT clients have a user name and a password ('ticket'), a certificate ('tls') or neither "
                "('anonymous')"
            )
            raise _wrong(detail, f"{at}/auth/{method}")
    guest = auth.get("anonymous")
    if guest is not None and guest.get("type", "static") == "static" and "realm" not in guest:
        place = f"{at}/auth/anonymous/role" if "auth" in listener.config else f"{at}/auth"
        check_role(guest.get("role", ANONYMOUS), realm, _realms(transport, pointer), place)


def mosquitto_options(transport: Mapping[str, Any], pointer: str) -> MosquittoOptions:
    """As `amqtt_options`; also refuses what mosquitto can't do for a listener as it is written."""
    options = _decoded(transport, MosquittoOptions, pointer)
    for at, detail in _not_for_mosquitto(transport, options, pointer):
        raise _wrong(detail, f"{pointer}{at}")
    return options


def nats_options(transport: Mapping[str, Any], pointer: str) -> NatsOptions:
    """As `amqtt_options`; also refuses listeners that nats-server can't have as they are written."""
    options = _decoded(transport, NatsOptions, pointer)
    for at, detail in _not_for_nats(transport, options):
        raise _wrong(detail, f"{pointer}{at}")
    return options


def options_of_listener(options: MosquittoOptions, listener: Listener, pointer: str) -> MosquittoOptions:
    """The options of the transport at `pointer` as they hold for one of its listeners."""
    own = _decoded(listener.config, MosquittoListenerOptions, f"{pointer}{listener.at}")
    given = {name: getattr(own, name) for name in own.__struct_fields__}
    return msgspec.structs.replace(options, **{n: v for n, v in given.items() if v is not UNSET})


def _decoded(given_to: Mapping[str, Any], kind: type[T], pointer: str) -> T:
    at = f"{pointer}/options"
    given = given_to.get("options", {})
    known = kind.__struct_fields__
    try:
        options = convert(given, kind, at, "invalid_configuration")
    except BusError as error:
        if error.detail.startswith("object contains unknown field"):
            detail = f"unknown option (known: {', '.join(sorted(known)) or 'none'})"
            raise _wrong(detail, *error.pointers) from None
        raise
    for name in _FILES:
        if given.get(name):
            check_reference(given[name], f"{at}/{name}")
    return options


CHECKS: Final[Mapping[str, Callable[[Mapping[str, Any], str], Struct]]] = {
    "amqtt": amqtt_options,
    "crossbar": crossbar_options,
    "mosquitto": mosquitto_options,
    "nats": nats_options,
}
"""What decodes the options of each built-in runtime."""


def _not_for_mosquitto(
    transport: Mapping[str, Any], options: MosquittoOptions, pointer: str
) -> Iterator[tuple[str, str]]:
    needs = "needs a certificate of every client: tls.client_certificates 'require'"
    certain = False
    for each in listeners_of(transport).values():
        tls = each.tls or {}
        asked = tls.get("client_certificates", "none")
        certain |= asked == "require"
        if asked == "optional":
            detail = "mosquitto asks every client for a certificate or none: 'require' or 'none'"
            yield f"{each.at}/tls/client_certificates", detail
        if "chain" in tls:
            detail = "mosquitto has no file for it: append the chain to the certificate's file"
            yield f"{each.at}/tls/chain", detail
        options_of_listener(options, each, pointer)
        named = each.config.get("options", {}).get("use_identity_as_username")
        if named and asked != "require":
            yield f"{each.at}/options/use_identity_as_username", needs
    if options.use_identity_as_username and not certain:
        yield "/options/use_identity_as_username", needs


NATS_MONITORING: Final = "monitoring"
NATS_CLIENT: Final = "client"
NATS_MQTT: Final = "mqtt-local"
NATS_SYSTEM: Final = "system"
NATS_OWN: Final = (NATS_MONITORING, NATS_CLIENT, NATS_MQTT, NATS_SYSTEM)
"""Listeners that nats workers have besides those that their transport names."""
_CLUSTER: Final = "cluster"


def tail(oid: str) -> str:
    """The end of a worker's oid, which tells it from another one of its name."""
    return oid[-8:]


def joins_cluster(runtime: str, transport: Mapping[str, Any] | None) -> bool:
    """Whether the workers of a group are members of a cluster of nats-servers."""
    return runtime == "nats" and any(each.kind == _CLUSTER for each in listeners_of(transport).values())


def least_scale(transport: Mapping[str, Any]) -> int:
    """How many workers a new cluster of nats-servers needs before it serves MQTT."""
    options = transport.get("options") or {}
    members: int = options.get("members", NatsOptions().members)
    return members // 2 + 1


def _not_for_nats(transport: Mapping[str, Any], options: NatsOptions) -> Iterator[tuple[str, str]]:
    before: dict[str, str] = {}
    for each in listeners_of(transport).values():
        if each.kind in before:
            detail = f"nats-server has one listener of each type, and '{before[each.kind]}' is of this one"
            yield f"{each.at}/type", detail
        before[each.kind] = each.name
        if each.name in NATS_OWN:
            yield each.at, f"'{each.name}' is the name of a listener that workers have anyway"
        if "anonymous" in each.config:
            yield f"{each.at}/anonymous", "nats-server lets the same clients in at all listeners"
        yield from _nats_tls(each)
    if next(iter(before)) == _CLUSTER:
        yield "/listeners", "the first listener is for clients"
    if options.replicas > options.members:
        yield "/options/replicas", f"the cluster begins with {options.members} members"


def _nats_tls(listener: Listener) -> Iterator[tuple[str, str]]:
    tls = listener.tls or {}
    asked = tls.get("client_certificates", "none")
    if asked == "optional":
        detail = "nats-server asks every client for a certificate or none: 'require' or 'none'"
        yield f"{listener.at}/tls/client_certificates", detail
    if "chain" in tls:
        detail = "nats-server has no file for it: append the chain to the certificate's file"
        yield f"{listener.at}/tls/chain", detail
    if listener.kind == _CLUSTER and asked != "require" and not is_loopback(listener.interface):
        detail = "whoever connects here may do everything: tls.client_certificates 'require' is needed"
        yield f"{listener.at}/tls", detail


def _wrong(detail: str, pointer: str) -> BusError:
    return BusError("invalid_configuration", detail, [pointer])
