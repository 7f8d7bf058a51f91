"""The errors of the contract: code, URI, HTTP-like status; to and from the wire. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple


class ErrorRow(NamedTuple):
    """One row of the contract's error table."""

    uri: str
    status: int
    title: str
    retryable: bool = False


ERRORS: Final[dict[str, ErrorRow]] = {
    "malformed_request": ErrorRow("wamp.error.invalid_payload", 400, "Malformed request"),
    "invalid_argument": ErrorRow("wamp.error.invalid_argument", 400, "Invalid argument"),
    "invalid_configuration": ErrorRow("wamp.error.invalid_configuration", 422, "Invalid configuration"),
    "not_authorized": ErrorRow("wamp.error.not_authorized", 403, "Not authorized"),
    "quota_exceeded": ErrorRow("busbar.error.quota_exceeded", 403, "Quota exceeded"),
    "no_such_principal": ErrorRow("wamp.error.no_such_principal", 403, "No such principal"),
    "no_such_procedure": ErrorRow("wamp.error.no_such_procedure", 404, "No such procedure"),
    "no_such_object": ErrorRow("crossbar.error.no_such_object", 404, "No such object"),
    "already_exists": ErrorRow("crossbar.error.already_exists", 409, "Already exists"),
    "not_stopped": ErrorRow("crossbar.error.not_stopped", 409, "Not stopped"),
    "cannot_start": ErrorRow("crossbar.error.cannot_start", 409, "Cannot start"),
    "cannot_stop": ErrorRow("crossbar.error.cannot_stop", 409, "Cannot stop"),
    "version_conflict": ErrorRow("busbar.error.version_conflict", 409, "Version conflict"),
    "request_id_reused": ErrorRow("busbar.error.request_id_reused", 409, "Request id reused"),
    "expired": ErrorRow("busbar.error.expired", 408, "Expired", retryable=True),
    "payload_too_large": ErrorRow("wamp.error.payload_size_exceeded", 413, "Payload too large"),
    "busy": ErrorRow("busbar.error.busy", 429, "Busy", retryable=True),
    "internal": ErrorRow("wamp.error.runtime_error", 500, "Internal error", retryable=True),
}
"""The contract's error table (section 3), in its order."""


class BusError(Exception):
    """An error that a client sees: a stable code, what is wrong, where, and what to do.

    `pointers` are RFC 6901 JSON pointers into the request, `retry_after_ms` goes with `busy` alone.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        pointers: Sequence[str] = (),
        *,
        retry_after_ms: int | None = None,
        correlation: str | None = None,
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.pointers = tuple(pointers)
        self.retry_after_ms = retry_after_ms
        self.correlation = correlation

    @property
    def row(self) -> ErrorRow:
        """This code's row of the table; an unknown code (a newer peer's) reads as `internal`."""
        return ERRORS.get(self.code, ERRORS["internal"])

    def to_wire(self) -> dict[str, Any]:
        """The `error` member of a response (RFC 9457 members and a stable `code`)."""
        wire: dict[str, Any] = {
            "code": self.code,
            "uri": self.row.uri,
            "status": self.row.status,
            "title": self.row.title,
            "detail": self.detail,
            "errors": [{"pointer": pointer} for pointer in self.pointers],
            "retryable": self.row.retryable,
        }
        if self.retry_after_ms is not None:
            wire["retry_after_ms"] = self.retry_after_ms
        if self.correlation is not None:
            wire["correlation"] = self.correlation
        return wire

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> BusError:
        """Read an `error` member; missing members become their defaults."""
        rows, retry_after_ms = wire.get("errors"), wire.get("retry_after_ms")
        known = rows if isinstance(rows, list) else ()
        return cls(
            str(wire.get("code", "internal")),
            str(wire.get("detail", "")),
            [str(row.get("pointer", "")) for row in known if isinstance(row, Mapping)],
            retry_after_ms=retry_after_ms if type(retry_after_ms) is int and retry_after_ms >= 0 else None,
            correlation=wire.get("correlation"),
        )


LIKELY: Final = 3
"""So many times in a row a broker has not done what it would do for a user with the right: it is missing."""
_UNABLE: Final = "the broker can't do it at present (as a cluster that elects a leader)"


@dataclass
class BusOfflineError(Exception):
    """The broker is out of reach: nothing was sent, or it is not known whether it arrived."""

    detail: str = "no connection to the broker"

    def __str__(self) -> str:
        return self.detail


class MessageTooLargeError(BusOfflineError):
    """A message was not sent: it is above the broker's packet limit. The connection stays; the same message
    fails again."""

    def __init__(self, topic: str, size: int, limit: int) -> None:
        super().__init__(f"a message on {topic} is held back: {size} bytes; the broker takes {limit}")
        self.topic, self.size, self.limit = topic, size, limit


class MissingRightError(BusOfflineError):
    """The broker lets this user not write, or not read, a topic. The connection stays.

    `user` is None where a certificate names it; `right` is a verb or several, for people. `certain`: the
    broker said so; otherwise what was sent did not come, or the refusal may have another cause. `times`: how
    often that was so in a row; a cluster of brokers that elects a leader does the same until it has one.
    """

    def __init__(
        self, user: str | None, right: str, topic: str, *, certain: bool = True, times: int = LIKELY
    ) -> None:
        who = f"user '{user}'" if user else "the user of this certificate"
        has = "has" if certain or times < LIKELY else "probably has"
        perhaps = "" if certain or times >= LIKELY else f"{_UNABLE}, or "
        super().__init__(
            f"{perhaps}{who} {has} no right to {right} {topic}: the broker's ACL must give it, as 'busbar "
            "acl' prints for this realm"
        )
        self.user, self.right, self.topic, self.certain = user, right, topic, certain

    def after(self, times: int) -> MissingRightError:
        """The same, seen so often in a row."""
        return MissingRightError(self.user, self.right, self.topic, certain=self.certain, times=times)


class UnexplainedRefusalError(BusOfflineError):
    """The broker has refused subscriptions to `filters` and gave no reason, as MQTT 3.1.1 has none."""

    def __init__(self, filters: Sequence[str]) -> None:
        super().__init__(f"the broker refuses subscriptions: {', '.join(filters)}")
        self.filters = tuple(filters)


class CallTimeoutError(Exception):
    """No answer came in time; the request may or may not have run.

    `request_id` is the one that was sent: calling again with it finds out, and has no second effect.
    `managers` are the managers that the broker knows, each with its state.
    """

    def __init__(
        self, detail: str = "", *, request_id: str | None = None, managers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.request_id = request_id
        self.managers = dict(managers or {})


def pointer_step(name: str) -> str:
    """A member's name as one step of a JSON pointer (RFC 6901, section 3)."""
    return name.replace("~", "~0").replace("/", "~1")


def no_such(kind: str, oid: str, member: str) -> BusError:
    """`no_such_object` for an object id given as the parameter `member`."""
    return BusError("no_such_object", f"no {kind} with oid {oid}", [f"/params/{member}"])
