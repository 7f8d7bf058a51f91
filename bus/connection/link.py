"""The interface of a broker connection (implemented by `mqtt_link` and `bus.testing`). Pure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from msgspec import Struct, field

from ..errors import BusOfflineError


class Properties(Struct, frozen=True):
    """The MQTT 5 properties that Busbar uses (contract, section 8); empty on 3.1.1."""

    response_topic: str | None = None
    correlation: bytes | None = None
    expiry_s: int | None = None
    content_type: str | None = None
    user: tuple[tuple[str, str], ...] = ()


NO_PROPERTIES = Properties()


class Message(Struct, frozen=True):
    """One received message. `retain`: the broker had it stored when we subscribed."""

    topic: str
    payload: bytes
    retain: bool = False
    qos: int = 0
    properties: Properties = field(default=NO_PROPERTIES)


class Will(Struct, frozen=True):
    """What the broker publishes when this connection ends without a DISCONNECT."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = True


Handler = Callable[[Message], None]
ConnectHook = Callable[[], Awaitable[None]]
Done = Callable[[BusOfflineError | None], None]
"""The outcome of a publication: None once the broker acknowledged it. Must neither block nor raise."""


class Link(Protocol):
    """A connection to the broker that reconnects by itself.

    Handlers run on the event loop, one message at a time, and must not block; what they raise is logged and
    swallowed. Sessions are clean: after every (re)connect all subscriptions are made again, and only once the
    broker has confirmed them do the connect hooks run, in which writers republish.
    """

    @property
    def connected(self) -> bool:
        """True from the moment that a connection's subscriptions are confirmed until its end."""
        ...

    @property
    def conn(self) -> int:
        """Number of this process's connection, from 1; 0 before the first."""
        ...

    @property
    def max_packet(self) -> int:
        """Bytes of the largest packet that may be sent now; a larger message is never sent."""
        ...

    def subscribe(self, pattern: str, handler: Handler, qos: int = 1) -> None:
        """Subscribe, now and after every reconnect. May be called before `run`."""
        ...

    def unsubscribe(self, pattern: str) -> None:
        """Unsubscribe."""
        ...

    def on_connect(self, hook: ConnectHook) -> None:
        """Run `hook` after every (re)connect, in order of registration."""
        ...

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        properties: Properties = NO_PROPERTIES,
    ) -> None:
        """Publish; return once the broker acknowledged it (QoS 1) or it was handed to the socket (QoS 0).

        Raises:
            BusOfflineError: there is no connection, it broke before the acknowledgement, or too much waits.
            MessageTooLargeError: it is above `max_packet`; the connection stays.
        """
        ...

    def send(
        self,
        topic: str,
        payload: bytes,
        done: Done,
        *,
        retain: bool = False,
        properties: Properties = NO_PROPERTIES,
    ) -> None:
        """As `publish` at QoS 1, for high rates: no task, no future. `done` is called on the event loop,
        never from within this call, with the error that `publish` would raise."""
        ...

    def post(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        properties: Properties = NO_PROPERTIES,
    ) -> bool:
        """Publish without waiting; False when it was dropped: no connection, too large, or too much is
        pending."""
        ...

    async def wait_connected(self, timeout: float) -> None:
        """Wait until connected.

        Raises:
            BusOfflineError: after `timeout` seconds, with the last reason.
        """
        ...

    def reconnect(self, reason: str) -> None:
        """Drop this connection and make a new one, such as when nothing arrives on it."""
        ...

    async def run(self) -> None:
        """Keep the connection until cancelled; then send DISCONNECT (no will is published)."""
        ...
