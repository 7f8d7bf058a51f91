"""The `options` of a transport: one type per built-in runtime, which decodes and describes them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from .decode import convert
from .errors import BusError
from .node_files import PathText, check_reference

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


class CrossbarOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """None: crossbar's are those of the services on its paths."""


OPTIONS_OF: Final[Mapping[str, type[Struct]]] = {
    "amqtt": AmqttOptions,
    "crossbar": CrossbarOptions,
    "mosquitto": MosquittoOptions,
}
_FILES: Final = ("password_file", "acl_file")


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
    """As `amqtt_options`."""
    return _decoded(transport, CrossbarOptions, pointer)


def mosquitto_options(transport: Mapping[str, Any], pointer: str) -> MosquittoOptions:
    """As `amqtt_options`; also refuses a `tls` that mosquitto can't serve as it is written."""
    options = _decoded(transport, MosquittoOptions, pointer)
    for at, detail in _not_for_mosquitto(transport.get("endpoint", {}).get("tls"), options):
        raise _wrong(detail, f"{pointer}/{at}")
    return options


def _decoded(transport: Mapping[str, Any], kind: type[T], pointer: str) -> T:
    at = f"{pointer}/options"
    given = transport.get("options", {})
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
}
"""What decodes the options of each built-in runtime."""


def _not_for_mosquitto(tls: Mapping[str, Any] | None, options: MosquittoOptions) -> Iterator[tuple[str, str]]:
    asked = (tls or {}).get("client_certificates", "none")
    if asked == "optional":
        detail = "mosquitto asks every client for a certificate or none: 'require' or 'none'"
        yield "endpoint/tls/client_certificates", detail
    if tls is not None and "chain" in tls:
        yield "endpoint/tls/chain", "mosquitto has no file for it: append the chain to the certificate's file"
    if options.use_identity_as_username and asked != "require":
        detail = "needs a certificate of every client: endpoint.tls.client_certificates 'require'"
        yield "options/use_identity_as_username", detail


def _wrong(detail: str, pointer: str) -> BusError:
    return BusError("invalid_configuration", detail, [pointer])
