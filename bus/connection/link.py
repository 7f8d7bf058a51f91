"""The interface of a broker connection (implemented by `mqtt_link` and `bus.testing`). Pure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from ..errors import BusOfflineError


@dataclass(frozen=True, slots=True)
class Properties:
    """The MQTT 5 properties that Busbar uses (contract, section 8); empty on 3.1.1."""

    response_topic: str | None = None
    correlation: bytes | None = None
    expiry_s: int | None = None
    content_type: str | None = None
    user: tuple[tuple[str, str], ...] = ()


NO_PROPERTIES = Properties()


@dataclass(frozen=True, slots=True)
class Message:
    """One received message. `retain` is true only for messages that the broker had stored."""

    topic: str
    payload: bytes
    retain: bool = False
    qos: int = 0
    properties: Properties = field(default=NO_PROPERTIES)


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes when this connection ends without a DISCONNECT."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = True


Handler = Callable[[Message], None]
ConnectHook = Callable[[], Awaitable[None]]
Done = Callable[[BusOfflineError | None], None]
"""Called with the outcome of a publication: None when it was acknowledged. Must neither block nor raise."""


class Link(Protocol):
    """A connection to the broker that reconnects by itself.

    Handlers run on the event loop, one message at a time, and must not block; what they raise is logged and
    swallowed. Sessions are clean: after every (re)connect all subscriptions are made again, and only when the
    broker has confirmed them do the connect hooks run, so that writers can republish.
    """

    @property
    def connected(self) -> bool:
        """True from the confirmed subscriptions of a connection until its end."""
        ...

    @property
    def conn(self) -> int:
        """Counts this process's connections from 1; 0 before the first."""
        ...

    def subscribe(self, pattern: str, handler: Handler, qos: int = 1) -> None:
        """Subscribe, now and after every reconnect. May be called before `run`."""
        ...

    def unsubscribe(self, pattern: str) -> None:
        """End a subscription."""
        ...

    def on_connect(self, hook: ConnectHook) -> None:
        """Run `hook` after every (re)connect, in the order of registration."""
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
        """Publish; return once the broker has acknowledged it (QoS 1) or it is in the socket's queue (QoS 0).

        Raises:
            BusOfflineError: no connection, it broke before the acknowledgement, or too many are pending.
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
        """As `publish` at QoS 1, for high rates: no task, no future. `done` is called on the loop,
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
        """Publish without waiting; False when it was dropped (no connection, or the queue is full)."""
        ...

    async def wait_connected(self, timeout: float) -> None:
        """Wait until connected.

        Raises:
            BusOfflineError: after `timeout` seconds, with the last reason.
        """
        ...

    def reconnect(self, reason: str) -> None:
        """Drop this connection and make a new one (when nothing is received any more)."""
        ...

    async def run(self) -> None:
        """Keep the connection until cancelled; then disconnect cleanly (no will is published)."""
        ...
