"""A plain MQTT router for user traffic: `python -m busbar.agent.routers.amqtt_router --config FILE`.

The file is JSON: `{"type": "tcp" | "ws", "bind": "host:port", "password_file": null | path,
"acl_file": null | path}`; a listener with `"anonymous": true` also lets in clients that give no username, and
`more` has further listeners. It knows nothing of Busbar. Exit codes: 0 after SIGTERM or SIGINT, 1 if it can't
listen, 2 for a wrong command or file.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from amqtt.adapters import StreamWriterAdapter, WebSocketsWriter
from amqtt.broker import Broker
from amqtt.contexts import ListenerType
from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import Session
from busbar.bus.broker.connect import Connect
from busbar.bus.broker.packet_stream import PacketStream, tcp_read, websocket_read
from busbar.bus.system.log_lines import LineFormatter
from msgspec import Struct

from .amqtt_acl import AclError, AclFile, Rights, read
from .amqtt_connection import Connection
from .amqtt_sessions import LIMITS, Exchange

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

SHUTDOWN_S: Final = 2.0
"""Bound of a clean shutdown, seconds: amqtt itself waits for a slow consumer without limit."""


class Router(Broker):  # type: ignore[misc]  # amqtt is not typed
    """amqtt with its listeners and plugins; what is between a connection and a delivered message is ours."""

    def __init__(self, options: Options, acl: AclFile | None) -> None:
        super().__init__(broker_config(options))
        for name, each in options.listeners().items():
            # amqtt gives what equals its own default the value of the first listener.
            found = self.listeners_config[name]
            found.type, found.bind = ListenerType(each.type), each.address
        self._anonymous = {name for name, each in options.listeners().items() if each.anonymous}
        self._acl = acl
        # Without verified user names, every client has anonymous rights.
        self._names = options.password_file is not None
        self._exchange = Exchange()
        self._connections: set[Connection] = set()

    async def stream_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str
    ) -> None:
        """A TCP connection was accepted."""
        stream = PacketStream(tcp_read(reader), StreamWriterAdapter(writer), writer.transport, LIMITS)
        await self._serve(stream, listener_name)

    async def ws_connected(self, websocket: ServerConnection, listener_name: str) -> None:
        """A WebSocket was opened."""
        read = websocket_read(websocket)
        stream = PacketStream(read, WebSocketsWriter(websocket), websocket.transport, LIMITS)
        await self._serve(stream, listener_name)

    async def shutdown(self) -> None:
        """End all connections without their wills, then the listeners."""
        for connection in list(self._connections):
            connection.end()
        await super().shutdown()

    async def _serve(self, stream: PacketStream, listener_name: str) -> None:
        authenticate = partial(self._authenticated, anonymous=listener_name in self._anonymous)
        connection = Connection(stream, self._exchange, authenticate, self._rights_of, verified=self._names)
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)

    def _rights_of(self, connect: Connect) -> Rights | None:
        if self._acl is None:
            return None
        return self._acl.rights((connect.username or None) if self._names else None, connect.client_id)

    async def _authenticated(self, connect: Connect, *, anonymous: bool) -> bool:
        if anonymous and not connect.username:
            return True
        session = Session()
        session.client_id = connect.client_id
        session.username, session.password = connect.username or None, connect.password
        answers = await self.plugins_manager.map_plugin_auth(session=session)
        given = [answer for answer in answers.values() if answer is not None]
        return bool(given) and all(given)


class Anyone(BaseAuthPlugin):  # type: ignore[misc]  # amqtt is not typed
    """Accepts every client. amqtt's own plugin for this also imports its password hashers."""

    async def authenticate(self, *, session: Session) -> bool:
        session.is_anonymous = session.username is None
        return True

    @dataclass
    class Config:
        """No options."""


class Bind(Struct, frozen=True):
    """A listener."""

    type: Literal["tcp", "ws"]
    bind: str
    anonymous: bool = False

    @property
    def address(self) -> str:
        """As amqtt has it: it takes brackets for part of the address, and the last colon for the port's."""
        return self.bind.replace("[", "").replace("]", "")


class Options(Struct, frozen=True):
    """The configuration file."""

    type: Literal["tcp", "ws"]
    bind: str
    password_file: str | None = None
    acl_file: str | None = None
    anonymous: bool = False
    more: tuple[Bind, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Options:
        """Raises `OSError`, `TypeError` or `ValueError` for a file that is none."""
        given = json.loads(path.read_bytes())
        return cls(**{**given, "more": tuple(Bind(**each) for each in given.get("more", ()))})

    def listeners(self) -> dict[str, Bind]:
        """All of them, by the name that amqtt knows them by."""
        more = {f"more{index}": each for index, each in enumerate(self.more)}
        return {"default": Bind(self.type, self.bind, self.anonymous), **more}


def broker_config(options: Options) -> dict[str, object]:
    """The router's options as amqtt's configuration."""
    auth: dict[str, dict[str, str]] = {f"{__name__}.Anyone": {}}
    if options.password_file:
        auth = {"busbar.agent.routers.amqtt_users.Users": {"password_file": options.password_file}}
    listeners = {name: {"type": each.type, "bind": each.address}
                 for name, each in options.listeners().items()}  # fmt: skip
    return {"listeners": listeners, "plugins": auth}


async def run(options: Options, acl: AclFile | None) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        BrokerError: it can't listen.
        PluginError: the password file can't be read.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    broker = Router(options, acl)
    await broker.start()
    for each in options.listeners().values():
        print(f"listening on {each.bind} ({each.type})", flush=True)
    await stop.wait()
    await shut_down(broker)
    sys.stdout.flush()
    # Whatever amqtt leaves running must not block the exit.
    os._exit(0)


async def shut_down(broker: Router) -> None:
    """Within `SHUTDOWN_S`, whatever it does: not `wait_for`, which waits for one that does not end when it is
    cancelled."""
    ending = asyncio.create_task(broker.shutdown())
    await asyncio.wait({ending}, timeout=SHUTDOWN_S)
    error = TimeoutError() if not ending.done() else ending.exception()
    if error is not None:
        print(f"shutdown cut short: {error!r}", flush=True)


def main(arguments: list[str]) -> int:
    """Run the router; see the module for the exit codes."""
    # At level INFO every connection, probes included, is a line.
    lines = logging.StreamHandler()
    lines.setFormatter(LineFormatter("%(levelname)s %(name)s: %(message)s"))  # amqtt logs what clients chose
    logging.basicConfig(level=logging.WARNING, handlers=[lines])
    try:
        if len(arguments) != 2 or arguments[0] != "--config":
            raise ValueError("usage: --config FILE")
        options = Options.read(Path(arguments[1]))
        acl = read(Path(options.acl_file)) if options.acl_file else None
    except (AclError, OSError, TypeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    # amqtt logs a traceback of a failed start; our one line is enough.
    logging.getLogger("amqtt.broker").addFilter(lambda entry: entry.exc_info is None)
    try:
        asyncio.run(run(options, acl))
    except Exception as error:  # the log's last line gives the cause
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    # amqtt imports the plugin by module name: that must be this module, not a second copy.
    sys.modules["busbar.agent.routers.amqtt_router"] = sys.modules["__main__"]
    sys.exit(main(sys.argv[1:]))
