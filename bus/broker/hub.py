"""amqtt's Broker, hardened: it keeps the listeners, the life cycle, the plugins and the codecs, and
replaces everything between an accepted connection and a delivered message.

Stock amqtt 0.12.1 was seen to fail in each of the points listed in section 9 of the bus contract; the
tests of the broker have one test per point.
"""

import asyncio
import logging
import socket
from functools import partial
from typing import Any, Final, cast

import websockets.asyncio.server
from amqtt.adapters import StreamWriterAdapter, WebSocketsWriter
from amqtt.broker import Broker
from amqtt.contexts import BrokerConfig as AmqttConfig
from amqtt.contexts import ListenerType

from .conversation import Conversation
from .plugin import AccessPlugin
from .revoking import revoked
from .router import Router
from .session import Message
from .wire import MAX_PACKET, Wire, encode, tcp_read, websocket_read

MAX_CONNECTIONS: Final = 4096
"""A further connection is closed at once."""
_BACKLOG: Final = 1024
"""Connections that may wait to be accepted: all agents come back at the same moment."""
_TICK_S: Final = 1.0
"""How often the accounts file is looked at; a revoked account is cut off within twice this time."""
_STOP_S: Final = 1.0

log = logging.getLogger(__name__)


class HardenedBroker(Broker):  # type: ignore[misc]  # amqtt ships no types
    """Serves on sockets that are bound already, one per listener name."""

    def __init__(self, config: AmqttConfig, sockets: dict[str, socket.socket]) -> None:
        super().__init__(config)
        self._sockets = sockets
        self._access = next(p for p in self.plugins_manager.plugins if isinstance(p, AccessPlugin))
        self._router = Router(encode)
        self._talks: dict[Conversation, asyncio.Task[Any]] = {}
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Read the accounts, then listen."""
        await self._access.refresh()
        await super().start()

    async def shutdown(self) -> None:
        """Close listeners and connections in about two seconds, whatever the clients do; no will is sent."""
        self._stopping.set()
        for server in self._servers.values():
            server.instance.close()
        await self._end_talks()
        await super().shutdown()

    async def stream_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str
    ) -> None:
        """A TCP connection was accepted."""
        await self._converse(Wire(tcp_read(reader), StreamWriterAdapter(writer), writer.transport))

    async def ws_connected(self, websocket: Any, listener_name: str) -> None:
        """A WebSocket was opened."""
        writer = WebSocketsWriter(websocket)
        await self._converse(Wire(websocket_read(websocket), writer, websocket.transport))

    async def _converse(self, wire: Wire) -> None:
        if len(self._talks) >= MAX_CONNECTIONS or self._stopping.is_set():
            wire.abort("too many connections")
            return
        talk = Conversation(
            wire,
            self._router,
            self._access,
            authenticate=self._login,
            allow_subscribe=self._topic_filtering,
            heed=self._heed,
        )
        self._talks[talk] = cast("asyncio.Task[Any]", asyncio.current_task())
        try:
            await talk.run()
        except asyncio.CancelledError:
            if not self._stopping.is_set():
                raise
        finally:
            del self._talks[talk]

    async def _heed(self, message: Message) -> None:
        """A manager has published this: some of its events take an account away."""
        gone = revoked(message.topic, message.payload, self._access.root)
        if gone is not None:
            await self._access.revoke(gone)
            self._revoke()

    async def _login(self, peer: Any) -> bool:
        return cast(bool, await self._authenticate(peer, None))

    async def _create_server_instance(
        self, listener_name: str, listener_type: ListenerType, address: str, port: int, ssl_context: None
    ) -> Any:
        sock = self._sockets[listener_name]
        if listener_type == ListenerType.WS:
            return await websockets.asyncio.server.serve(
                partial(self.ws_connected, listener_name=listener_name),
                sock=sock,
                subprotocols=[websockets.Subprotocol("mqtt")],
                max_size=MAX_PACKET + 8,
                compression=None,
                close_timeout=_STOP_S,
                backlog=_BACKLOG,
            )
        handle = partial(self.stream_connected, listener_name=listener_name)
        return await asyncio.start_server(handle, sock=sock, backlog=_BACKLOG)

    async def _broadcast_loop(self) -> None:
        """Unused here: messages go straight from the router to the connections."""
        await self._broadcast_shutdown_waiter

    async def _session_monitor(self) -> None:
        """Follow the accounts file and cut off who is no longer in it."""
        while not self._stopping.is_set():
            try:
                await self._access.refresh()
                self._revoke()
                self._access.enforce()
            except Exception:
                log.exception("the accounts could not be followed; trying again")
            try:
                async with asyncio.timeout(_TICK_S):
                    await self._stopping.wait()
            except TimeoutError:
                continue

    def _revoke(self) -> None:
        for talk in list(self._talks):
            if talk.peer.account is not None and not self._access.may_stay(talk.peer):
                talk.drop("the account was removed or changed")
        for session in self._router.away():
            if not self._access.has_account(session.owner):
                self._router.forget(session)

    async def _end_talks(self) -> None:
        tasks = set(self._talks.values())
        for talk in self._talks:
            talk.end()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_STOP_S)
            for talk in self._talks:
                talk.drop("the broker ends")
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=_STOP_S)
