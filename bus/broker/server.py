"""amqtt's Broker, hardened: its life cycle, plugins and codecs are kept; listeners, and everything between an
accepted connection and a delivered message, are replaced.

Stock amqtt 0.12.1 was seen to fail in each of the points listed in section 9 of the bus contract; the
tests of the broker have one test per point. Only public names of amqtt are used, to which these listeners
are external ones (docs/decisions/0017).
"""

import asyncio
import json
import logging
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, cast

import websockets
from amqtt.adapters import StreamWriterAdapter, WebSocketsWriter
from amqtt.broker import Broker
from amqtt.contexts import Action
from amqtt.contexts import BrokerConfig as AmqttConfig
from websockets.asyncio.server import Server as WebSocketServer
from websockets.asyncio.server import ServerConnection, serve

from ..addresses import netloc
from ..buckets import Buckets
from ..clock import Clock
from ..system.files import write_atomically
from .acceptor import Acceptor
from .access_plugin import AccessPlugin, Peer
from .client_connection import ClientConnection
from .counted_websocket import CountedWebSocket
from .doorway import Doorway
from .limits import USE_FILE, Accounting, Gate, Limits, Owner, report, source_of
from .pace import Pace
from .packet_stream import PacketStream, encode, tcp_read, websocket_read
from .revocation import revocation_of
from .router import Router
from .session import Publication, Session

_ACCEPTED: Final = 2
"""WebSockets accepted per turn of the loop: few, so that a client's CONNECT is read, which takes some turns,
before enough strangers were accepted behind it to have it closed as the oldest silent one."""
_ACCEPTED_SHARE: Final = 16
"""The same of TCP, as a part of the silent connections of a source: a CONNECT is read a few turns later."""
_BACKLOG: Final = 4096
"""Connections that may wait to be accepted: all agents come back at the same moment. What does not fit comes
again after seconds."""
_WS_READ: Final = 8 * 1024
"""What the kernel keeps for a WebSocket, doubled: so much is parsed at once, however small its frames are."""
_TICK_S: Final = 1.0
"""How often the accounts file is looked at; a revoked account is cut off within twice this time."""
_REPORT_S: Final = 5.0
"""How often the use of the limits is written to USE_FILE."""
_STOP_S: Final = 1.0

log = logging.getLogger(__name__)


class HardenedBroker(Broker):  # type: ignore[misc]  # amqtt ships no types
    """Serves on sockets that are bound already, one per listener name: `ws` is WebSocket, any other TCP."""

    def __init__(
        self,
        config: AmqttConfig,
        sockets: dict[str, socket.socket],
        clock: Clock,
        limits: Limits,
        origins: Sequence[str] = (),
    ) -> None:
        super().__init__(config)
        self._sockets = sockets
        self._clock = clock
        self._access = next(p for p in self.plugins_manager.plugins if isinstance(p, AccessPlugin))
        self._limits = limits
        self._origins = tuple(origins)
        self._accounting = Accounting(limits)
        self._gate = Gate(limits)
        self._pace = Pace(clock, limits)
        self._router = Router(encode, self._accounting, self._make_room)
        self._doorway = Doorway(
            clock, limits, self._access.recognises, self._arrived, self._gate.left, self._begin
        )
        self._listeners: list[Acceptor | WebSocketServer] = []
        self._connections: dict[ClientConnection, asyncio.Task[object]] = {}
        self._follower: asyncio.Task[None] | None = None
        self._letting_in: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._report_at = 0.0
        self._use_file = self._access.accounts_file.with_name(USE_FILE)

    async def start(self) -> None:
        """Read the accounts, then listen. Raises OSError, and amqtt's BrokerError."""
        await self._access.refresh()
        await self._access.read_known_logins()
        await super().start()
        self._letting_in = asyncio.create_task(self._doorway.run(), name="broker-doorway")
        for name, sock in self._sockets.items():
            self._listeners.append(await self._listen(name, sock))
        self._follower = asyncio.create_task(self._follow_accounts(), name="broker-accounts")

    async def shutdown(self) -> None:
        """Close listeners and connections in about two seconds, whatever the clients do; no will is sent."""
        self._stopping.set()
        for listener in self._listeners:
            listener.close()
        if self._letting_in is not None:
            self._letting_in.cancel()
            await asyncio.wait({self._letting_in})
        await self._end_connections()
        if self._follower is not None:
            await self._follower
        for listener in self._listeners:
            await listener.wait_closed()
        await super().shutdown()

    async def stream_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str
    ) -> None:
        """A TCP connection has said who it is, or what can't be understood."""
        try:
            stream = PacketStream(
                tcp_read(reader), StreamWriterAdapter(writer), writer.transport, self._limits
            )
            await self._serve(stream, writer.transport)
        finally:
            self._gate.left(writer.transport)

    async def ws_connected(self, websocket: ServerConnection, listener_name: str) -> None:
        """A WebSocket was opened."""
        counted = cast("CountedWebSocket", websocket)
        stream: PacketStream

        def on_part() -> None:
            stream.part_came()

        read = websocket_read(websocket, on_part)
        stream = PacketStream(read, WebSocketsWriter(websocket), websocket.transport, self._limits)
        stream.count(lambda: counted.held_bytes)
        counted.on_received = stream.recount
        await self._serve(stream, websocket.transport)

    def _arrived(self, transport: asyncio.BaseTransport) -> None:
        """A client that has not said who it is: beyond the limits the oldest such connection is closed."""
        oldest = self._gate.arrived(transport, source_of(transport.get_extra_info("peername")))
        if oldest is not None:
            cast("asyncio.WriteTransport", oldest).abort()

    async def _listen(self, name: str, sock: socket.socket) -> Acceptor | WebSocketServer:
        sock.listen(_BACKLOG)
        listener = await self._start_listener(name, sock)
        # asyncio accepts as many at once as may wait in the kernel; here few at once, and many may wait.
        sock.listen(_BACKLOG)
        return listener

    async def _start_listener(self, name: str, sock: socket.socket) -> Acceptor | WebSocketServer:
        if name == "ws":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _WS_READ)
            counted = partial(CountedWebSocket, self._arrived, self._gate.left, self._rate)
            return await serve(
                partial(self.ws_connected, listener_name=name),
                sock=sock,
                subprotocols=[websockets.Subprotocol("mqtt")],
                # A browser sends its page's origin, whichever page somebody opens. Some libraries name the
                # listener itself, where no page is; its names can't be another's, so no rebinding helps.
                origins=[None, *map(websockets.Origin, (*self._origins, *_own_origins(sock)))],
                max_size=self._limits.packet_bytes + 8,
                max_queue=1,
                compression=None,
                close_timeout=_STOP_S,
                create_connection=cast("type[ServerConnection]", counted),
                backlog=_ACCEPTED,
            )
        accepted = self._limits.silent_per_source // _ACCEPTED_SHARE
        return Acceptor(sock, self._doorway, max(_ACCEPTED, accepted), self._clock)

    def _begin(self, transport: asyncio.Transport, said: bytes) -> None:
        """Serve a TCP connection; asyncio's streams are made for it only now."""
        reader = asyncio.StreamReader()
        serve = partial(self.stream_connected, listener_name="default")
        protocol = asyncio.StreamReaderProtocol(reader, serve)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        transport.resume_reading()
        # Last: with much said already, the reader pauses the transport until that is taken.
        reader.feed_data(said)

    async def _serve(self, stream: PacketStream, transport: asyncio.BaseTransport) -> None:
        if len(self._connections) >= self._limits.connections or self._stopping.is_set():
            stream.abort("too many connections")
            return
        connection = ClientConnection(
            stream,
            self._router,
            self._access,
            self._clock,
            authenticate=self._authenticated,
            may_subscribe=self._may_subscribe,
            on_manager_event=self._on_manager_event,
            on_silence=lambda silent: self._arrived(transport) if silent else self._gate.left(transport),
            accounting=self._accounting,
            pace=self._pace,
        )
        self._connections[connection] = cast("asyncio.Task[object]", asyncio.current_task())
        try:
            await connection.run()
        except asyncio.CancelledError:
            if not self._stopping.is_set():
                raise
        finally:
            del self._connections[connection]

    def _rate(self) -> Callable[[], bool]:
        """Whether one more control frame of a connection is within its limit."""
        frames = Buckets(self._limits.control_frames, 1, keys=1)
        return lambda: frames.take("frames", self._clock.monotonic())

    def _make_room(self, owner: Owner, count: int) -> bool:
        """End the connection or session that holds most bytes of the account in the way."""
        crowd = self._accounting.crowd(owner, count)
        holding: list[ClientConnection | Session] = [c for c in self._connections if c.owner == crowd]
        holding += [session for session in self._router.away() if session.owner == crowd]
        most = max(holding, key=lambda held: held.held_bytes, default=None)
        if most is None or not most.held_bytes:
            return False
        if isinstance(most, Session):
            self._router.forget(most)
        else:
            most.evict()
        return True

    async def _on_manager_event(self, publication: Publication) -> None:
        """A manager has published this: some of its events take an account away."""
        gone = revocation_of(publication.topic, publication.payload, self._access.root)
        if gone is not None:
            await self._access.revoke(gone)
            self._drop_revoked()

    async def _authenticated(self, peer: Peer) -> bool:
        answers = await self.plugins_manager.map_plugin_auth(session=peer)
        return bool(answers) and all(answers.values())

    async def _may_subscribe(self, peer: Peer, pattern: str) -> bool:
        answers = await self.plugins_manager.map_plugin_topic(
            session=peer, topic=pattern, action=Action.SUBSCRIBE
        )
        return bool(answers) and all(answers.values())

    async def _follow_accounts(self) -> None:
        """Read the accounts file again when it changed, and drop connections whose account is gone."""
        while not self._stopping.is_set():
            try:
                await self._access.refresh()
                self._drop_revoked()
                self._access.enforce()
                await self._access.forget_expired_tokens()
                await self._access.write_known_logins()
                await self._report_use()
            except Exception:
                log.exception("the accounts could not be followed; trying again")
            try:
                async with asyncio.timeout(_TICK_S):
                    await self._stopping.wait()
            except TimeoutError:
                continue

    async def _report_use(self) -> None:
        """Tell `busbar broker limits`, every few seconds. A full disk costs the report and nothing else."""
        now = self._clock.monotonic()
        if now < self._report_at:
            return
        self._report_at = now + _REPORT_S
        shown = report(self._accounting, len(self._gate), self._clock.time_ns() / 1e9)
        write = partial(write_atomically, self._use_file, json.dumps(shown), durable=False)
        with suppress(OSError):
            await asyncio.get_running_loop().run_in_executor(None, write)

    def _drop_revoked(self) -> None:
        for connection in list(self._connections):
            if connection.peer.account is not None and not self._access.may_stay(connection.peer):
                connection.drop("the account was removed or changed")
        for owner in self._router.owners():
            if not self._access.has_account(owner):
                self._router.forget_owner(owner)

    async def _end_connections(self) -> None:
        tasks = set(self._connections.values())
        for connection in self._connections:
            connection.end()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_STOP_S)
            for connection in self._connections:
                connection.drop("the broker ends")
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=_STOP_S)


def _own_origins(sock: socket.socket) -> list[str]:
    address, port = sock.getsockname()[:2]
    hosts = {"localhost", netloc(address, port).rpartition(":")[0]}
    return [f"{scheme}://{host}:{port}" for scheme in ("http", "https") for host in sorted(hosts)]
