"""A WebSocket connection of the embedded broker, which counts from its socket on, with what it holds."""

from collections.abc import Callable
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.frames import CTRL_OPCODES, Frame


class CountedWebSocket(ServerConnection):
    """Tells of its socket before the handshake, and after each read how many bytes are held in it."""

    def __init__(
        self,
        arrived: Callable[[Any], None],
        left: Callable[[Any], None],
        rate: Callable[[], Callable[[], bool]],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._on_arrived, self._on_left = arrived, left
        self._may_control = rate()
        self.on_received: Callable[[], None] = lambda: None

    @property
    def held_bytes(self) -> int:
        """Bytes of frames that nobody has taken, and of the one that is not yet complete."""
        # Undocumented names (docs/decisions/0017).
        waiting = sum(len(frame.data) for frame in self.recv_messages.frames.queue)
        return waiting + len(self.protocol.reader.buffer)

    def connection_made(self, transport: Any) -> None:
        """The socket was accepted."""
        super().connection_made(transport)
        self._on_arrived(transport)

    def process_event(self, event: Any) -> None:
        """A frame came, or the handshake's request."""
        if isinstance(event, Frame) and event.opcode in CTRL_OPCODES and not self._may_control():
            self.transport.abort()
            return
        super().process_event(event)

    def data_received(self, data: bytes) -> None:
        """Bytes came; they are counted before more are read."""
        super().data_received(data)
        self.on_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._on_left(self.transport)
        super().connection_lost(exc)
