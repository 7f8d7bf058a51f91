"""The embedded broker: MQTT 3.1.1 on loopback, for `busbar up`, for tests, for one machine.

Light to import: amqtt, on which it is built, is imported when the broker starts. Designed for up to about
100 agents; above that, or for more than one machine, use mosquitto with the generated ACL. Retained messages
are kept in memory only (see bus.broker.router).
"""

import asyncio
import errno
import ipaddress
import logging
import resource
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..access import acl
from ..access.home_assistant import HomeAssistant
from ..clock import Clock, SystemClock
from ..system.loopback import loopback
from ..topics import NAME_PATTERN, is_name
from .limits import LIMITS, Limits, fitted

if TYPE_CHECKING:
    from types import TracebackType

    from .server import HardenedBroker

__all__ = ["BrokerConfig", "EmbeddedBroker"]

_STOP_S: Final = 3.0
"""The bound of `stop`, in seconds."""
_NOISY: Final = {"amqtt": logging.ERROR, "transitions": logging.ERROR, "websockets": logging.CRITICAL}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BrokerConfig:
    """Where the broker listens and who may connect.

    `accounts`: the file of bus.broker.accounts, followed while the broker runs. `port` and `ws_port`: 0
    takes a free one; `ws_port` None means no WebSocket listener. `root`: the first topic level. `realm`: the
    one in which managers and persons have their rights; None: in any. `limits`: see bus.broker.limits.
    `origins`: the web pages that may use the WebSocket listener (`https://host:port`); programs always may.
    `home_assistant`: grant what its discovery takes.
    """

    accounts: Path
    host: str = "127.0.0.1"
    port: int = 0
    ws_port: int | None = None
    root: str = "busbar"
    realm: str | None = None
    limits: Limits = LIMITS
    origins: tuple[str, ...] = ()
    home_assistant: HomeAssistant | None = None


class EmbeddedBroker:
    """`async with EmbeddedBroker(config) as broker:` and clients connect to `broker.port`.

    Raises ValueError when `config.host` isn't a loopback address, `config.root` no plain topic levels, or
    `config.realm` no name.
    """

    def __init__(self, config: BrokerConfig, clock: Clock | None = None) -> None:
        if not acl.is_root(config.root):
            raise ValueError(
                f"topic root {config.root!r} must be plain levels of letters, digits, '_', '.', '-'"
            )
        if config.realm is not None and not is_name(config.realm):
            raise ValueError(f"realm {config.realm!r} must match {NAME_PATTERN}")
        if config.home_assistant is not None:
            config.home_assistant.check_root(config.root)
        self._config = config
        self._clock = clock or SystemClock()
        self._host = _loopback(config.host)
        self._broker: HardenedBroker | None = None
        self._ports: dict[str, int] = {}

    @property
    def port(self) -> int:
        """The TCP port that is bound. Raises RuntimeError while the broker isn't running."""
        if "default" not in self._ports:
            raise RuntimeError("the broker is not running")
        return self._ports["default"]

    @property
    def ws_port(self) -> int | None:
        """The WebSocket port that is bound; None without that listener or while not running."""
        return self._ports.get("ws")

    async def start(self) -> None:
        """Bind and serve. Raises OSError, saying what to do, when a port is taken."""
        if self._broker is not None:
            raise RuntimeError("the broker is running already")
        sockets = self._bind()
        try:
            broker = _make(self._config, sockets, self._clock)
            await broker.start()
        except BaseException:
            for sock in sockets.values():
                sock.close()
            raise
        self._broker = broker
        self._ports = {name: sock.getsockname()[1] for name, sock in sockets.items()}

    async def stop(self) -> None:
        """Disconnect everybody and free the ports, within 3 s. Does nothing when not running."""
        broker, self._broker, self._ports = self._broker, None, {}
        if broker is None:
            return
        try:
            async with asyncio.timeout(_STOP_S):
                await broker.shutdown()
        except TimeoutError:
            log.warning("the broker did not end within %s s; its connections are left to the loop", _STOP_S)

    async def __aenter__(self) -> "EmbeddedBroker":
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: "TracebackType | None",
    ) -> None:
        await self.stop()

    def _bind(self) -> dict[str, socket.socket]:
        ports = {"default": self._config.port}
        if self._config.ws_port is not None:
            ports["ws"] = self._config.ws_port
        sockets: dict[str, socket.socket] = {}
        try:
            for name, port in ports.items():
                sockets[name] = _listen(self._host, port)
        except OSError:
            for sock in sockets.values():
                sock.close()
            raise
        return sockets


def _loopback(host: str) -> str:
    try:
        address = ipaddress.ip_address(loopback() if host == "localhost" else host)
    except ValueError:
        address = None
    if address is None or not address.is_loopback:
        raise ValueError(
            f"the embedded broker listens on loopback only, not on {host!r}: it has no TLS and isn't made for"
            " strangers; for other machines run mosquitto with the output of 'busbar acl --broker mosquitto'"
        )
    return str(address)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise OSError(error.errno, _why(error, host, port)) from error
    sock.setblocking(False)
    return sock


def _why(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is taken: another broker may be running; choose another port, or 0"
    return f"can't listen on port {port} of {host}: {error.strerror}; choose another port, or 0"


def _descriptors() -> int:
    """The descriptors that this process may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def _make(config: BrokerConfig, sockets: dict[str, socket.socket], clock: Clock) -> "HardenedBroker":
    for name, level in _NOISY.items():
        logging.getLogger(name).setLevel(level)
    from amqtt.contexts import BrokerConfig as AmqttConfig

    from .server import HardenedBroker

    # amqtt opens nothing for an external listener: HardenedBroker serves the sockets itself.
    listeners: dict[str, Any] = {name: {"type": "external"} for name in sockets}
    access: dict[str, Any] = {"accounts": str(config.accounts), "root": config.root}
    limits = fitted(config.limits, _descriptors())
    access |= {"realm": config.realm or "+", "clock": clock, "limits": limits}
    access["house"] = config.home_assistant
    plugins = {"busbar.bus.broker.access_plugin.AccessPlugin": access}
    settings = AmqttConfig.from_dict({"listeners": listeners, "plugins": plugins})
    return HardenedBroker(settings, sockets, clock, limits, config.origins)
