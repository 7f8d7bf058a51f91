"""Accepts TCP connections. One that says nothing stays a mere socket, and one that is closed costs little:
who connects and closes, or is silent, as often as it can must not make others wait for asyncio's streams.
"""

import asyncio
import logging
import socket
from typing import Any, Final, cast

from ..buckets import Buckets
from ..clock import Clock
from .doorway import Doorway, Guest

_CLOSED_A_TURN: Final = 512
"""Connections accepted per turn of the loop that turn out to be closed again."""
_PAUSE_S: Final = 1.0
"""Where accepting fails, as without a descriptor left, it waits for so long."""
_TELL_S: Final = 300.0
"""How often that is told, while it lasts."""

log = logging.getLogger(__name__)


def speaks(sock: socket.socket) -> bool | None:
    """Whether there is something to read; None while there is not, False when it is closed."""
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except (BlockingIOError, InterruptedError):
        return None
    except OSError:
        return False


class Silent:
    """An accepted connection that has said nothing; for the doorway a guest, and its own transport."""

    first: Final = None

    def __init__(self, acceptor: "Acceptor", sock: socket.socket, address: Any) -> None:
        self._acceptor, self._sock, self._address = acceptor, sock, address

    @property
    def transport(self) -> asyncio.Transport:
        """What ends it, and says where it comes from."""
        return cast("asyncio.Transport", self)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As of a transport."""
        return self._address if name == "peername" else default

    def wait(self) -> None:
        """Until it speaks, or is ended."""
        self._acceptor.doorway.arrived(self)
        if self._sock.fileno() >= 0:  # else it was ended at once, as one too many
            asyncio.get_running_loop().add_reader(self._sock, self._readable)

    def _readable(self) -> None:
        found = speaks(self._sock)
        if found is None:
            return
        asyncio.get_running_loop().remove_reader(self._sock)
        self._acceptor.doorway.left(self)
        if found:
            self._acceptor.let_speak(self._sock)
        else:
            self._sock.close()

    def abort(self) -> None:
        """End it."""
        if self._sock.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._sock)
            self._sock.close()
            self._acceptor.doorway.left(self)


class Acceptor:
    """Accepts on a listening socket until it is closed: per turn at most `most` that are silent, or speak."""

    def __init__(self, sock: socket.socket, doorway: Doorway, most: int, clock: Clock) -> None:
        self.doorway = doorway
        self._sock, self._most, self._clock = sock, most, clock
        self._loop = asyncio.get_running_loop()
        self._speaking: set[asyncio.Task[object]] = set()
        self._paused: asyncio.Task[None] | None = None
        self._told = Buckets(1, 1 / _TELL_S)
        self._resume()

    def close(self) -> None:
        """Accept no more."""
        if self._paused is not None:
            self._paused.cancel()
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._sock.close()

    async def wait_closed(self) -> None:
        """Until nothing is left of it; after `close`."""
        if self._speaking:
            await asyncio.wait(self._speaking)

    def let_speak(self, sock: socket.socket) -> None:
        """It has said something, which its first packet may be: now it has a transport."""
        opening = self._loop.connect_accepted_socket(lambda: Guest(self.doorway), sock)
        task: asyncio.Task[object] = self._loop.create_task(self._open(opening, sock))
        self._speaking.add(task)
        task.add_done_callback(self._speaking.discard)

    async def _open(self, opening: Any, sock: socket.socket) -> None:
        try:
            await opening
        except OSError as error:
            log.debug("a connection could not be opened: %s", error)
            sock.close()

    async def _resume_later(self) -> None:
        await self._clock.sleep(_PAUSE_S)
        self._resume()

    def _resume(self) -> None:
        self._paused = None
        self._loop.add_reader(self._sock, self._accept)

    def _accept(self) -> None:
        left, closed = self._most, _CLOSED_A_TURN
        while left and closed:
            try:
                sock, address = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause(error)
                return
            sock.setblocking(False)
            found = speaks(sock)
            if found is False:
                closed -= 1
                sock.close()
                continue
            left -= 1
            if found:
                self.let_speak(sock)
            else:
                Silent(self, sock, address).wait()

    def _pause(self, error: OSError) -> None:
        """Whatever is the matter, it may be over soon; to try at once would leave time for nothing else."""
        if self._told.take(error.errno, self._clock.monotonic()):
            log.error("no connection can be accepted: %s", error.strerror)
        self._loop.remove_reader(self._sock)
        self._paused = self._loop.create_task(self._resume_later())
