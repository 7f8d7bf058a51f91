"""What a connection costs before it says something: nothing but its socket."""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from busbar.bus.broker import EmbeddedBroker
from busbar.bus.broker.acceptor import Acceptor, Silent, speaks

from tests.brokers import until
from tests.integration.bus.broker.kit import Raw, broker_in, connect_bytes


@asynccontextmanager
async def with_acceptor(folder: Path) -> AsyncIterator[tuple[EmbeddedBroker, Acceptor]]:
    async with broker_in(folder) as broker:
        assert broker._broker is not None
        (acceptor,) = broker._broker._listeners
        assert isinstance(acceptor, Acceptor)
        yield broker, acceptor


def test_what_a_socket_tells_before_it_is_read() -> None:
    near, far = socket.socketpair()
    near.setblocking(False)
    assert speaks(near) is None
    far.sendall(b"x")
    assert speaks(near) is True and near.recv(9) == b"x", "and it is still there"
    far.close()
    assert speaks(near) is False
    near.close()
    assert speaks(near) is False


@pytest.mark.fault(83, "S")
async def test_nothing_is_made_for_who_closes_or_is_silent(tmp_path: Path) -> None:
    async with with_acceptor(tmp_path) as (broker, acceptor):
        spoke: list[Any] = []
        let_speak = acceptor.let_speak
        acceptor.let_speak = lambda sock: (spoke.append(sock), let_speak(sock))[1]  # type: ignore[method-assign]
        guests = acceptor.doorway._guests
        silent = [await asyncio.open_connection("127.0.0.1", broker.port) for _ in range(20)]
        await until(lambda: len(guests) == 20)
        assert all(isinstance(each, Silent) for each in guests)
        for _, writer in silent[:10]:
            writer.close()
        await until(lambda: len(guests) == 10)
        with socket.socket() as gone:
            gone.connect(("127.0.0.1", broker.port))
        assert spoke == []
        for part in (connect_bytes("alice")[:5], connect_bytes("alice")[5:]):
            silent[10][1].write(part)
            await silent[10][1].drain()
            await until(lambda: len(spoke) == 1)
        assert await silent[10][0].readexactly(4) == b"\x20\2\0\0"
        assert (await Raw.connect(broker.port, "bob")).code == 0
        await broker.stop()
        for reader, _ in silent[11:]:
            with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                await reader.readexactly(1)
    assert not guests


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM, errno.EPERM, errno.ENETDOWN, errno.EPROTO])
async def test_whatever_accepting_fails_with_it_waits_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    """accept(2) tells of errors that were a connection's, of the network, and of the machine."""
    monkeypatch.setattr("busbar.bus.broker.acceptor._PAUSE_S", 0.01)
    async with with_acceptor(tmp_path) as (broker, acceptor):
        for name in ("alice", "bob"):
            acceptor._pause(OSError(number, "it failed"))
            assert (await Raw.connect(broker.port, name)).code == 0
            assert acceptor._paused is None
    told = [record.getMessage() for record in caplog.records]
    assert told.count("no connection can be accepted: it failed") == 1
