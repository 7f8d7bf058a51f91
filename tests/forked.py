"""Short commands of `busbar`, each a process of its own, forked from one that has imported what all share.

Two thirds of what a command takes are Python's start and imports. What a fork shares is only that: arguments,
environment, folder, streams, exit code and signals are those of any process, and the module of a command is
imported when it is called. A service is started as a program: that is part of what it does.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

ROOT = Path(__file__).parent.parent
SHARED = (
    "cli.app",
    "cli.calls.connect",
    "cli.calls.watching",
    "cli.arguments.selectors",
    "cli.printing.output",
    "cli.documents.documents",
    "bus.client.connect",
    "bus.connection.mqtt_link",
)
"""What most commands import; no module of a command is among it."""
SERVICES = frozenset({"agent", "broker", "manager", "up", "web"})
NUMBER = struct.Struct("i")


class Call(NamedTuple):
    """What a command is given."""

    arguments: list[str]
    env: dict[str, str]
    folder: str


class Forker:
    """Forks a process for each call, and tells how it ended."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._tell: dict[int, int] = {}
        """Where the end of each living process is told."""
        self._woken, self._wake = os.pipe()
        for fd in (self._woken, self._wake):
            os.set_blocking(fd, False)

    def serve(self) -> Call | None:
        """Return in each new process with its call, and with None once nobody can ask any more."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake)
        while True:
            ready, _, _ = select.select([self._control, self._woken], [], [])
            if self._woken in ready:
                os.read(self._woken, 4096)
                self._bury()
            if self._control in ready:
                data, fds, _, _ = socket.recv_fds(self._control, 1 << 20, 4)
                if not data:
                    return None
                if (pid := os.fork()) == 0:
                    return self._become(Call(*json.loads(data)), fds)
                self._tell[pid] = fds.pop()
                self._say(self._tell[pid], pid)
                for fd in fds:
                    os.close(fd)

    def _bury(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                fd = self._tell.pop(ended[0])
                self._say(fd, os.waitstatus_to_exitcode(ended[1]))
                os.close(fd)

    @staticmethod
    def _say(fd: int, number: int) -> None:
        with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
            os.write(fd, NUMBER.pack(number))

    def _become(self, call: Call, fds: list[int]) -> Call:
        """Be as a new process would be."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number, fd in enumerate(fds[:3]):
            os.dup2(fd, number)
        self._control.close()
        for fd in (*fds, *self._tell.values(), self._woken, self._wake):
            os.close(fd)
        os.environ.clear()
        os.environ.update(call.env)
        time.tzset()
        os.chdir(call.folder)
        return call


class Commands:
    """Starts the process that forks, and asks it."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("BUSBAR_", "XDG_"))}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forked", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd=ROOT,
            env={**clean, "PYTHONUNBUFFERED": "1"},
        )
        theirs.close()
        atexit.register(self.end)

    def end(self) -> None:
        self._control.close()
        self._process.wait()

    def run(self, call: Call, timeout: float) -> subprocess.CompletedProcess[str]:
        """As subprocess.run does with text and captured output; nothing is to be read on its stdin."""
        read, write = os.pipe()
        with open(os.devnull) as none, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            try:
                streams = [stream.fileno() for stream in (none, out, err)]
                socket.send_fds(self._control, [json.dumps(call).encode()], [*streams, write])
            finally:
                os.close(write)
            try:
                code = self._wait(read, call, timeout)
            finally:
                os.close(read)
            return subprocess.CompletedProcess(call.arguments, code, _text(out), _text(err))

    @staticmethod
    def _wait(read: int, call: Call, timeout: float) -> int:
        (pid,) = NUMBER.unpack(os.read(read, NUMBER.size))
        if select.select([read], [], [], timeout)[0]:
            (code,) = NUMBER.unpack(os.read(read, NUMBER.size))
            return int(code)
        os.kill(pid, signal.SIGKILL)
        raise subprocess.TimeoutExpired(call.arguments, timeout)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode().replace("\r\n", "\n")


def _noun(arguments: Sequence[str]) -> str:
    """The first word that is neither an option of all commands nor its value."""
    words = list(arguments)
    while words and words[0].startswith("-"):
        words = words[2:]
    return words[0] if words else ""


_commands: list[Commands] = []
_lock = threading.Lock()


def run(
    *arguments: str, env: Mapping[str, str], timeout: float, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """`busbar` with these arguments; for a service, as a program. `timeout`: seconds, as they are."""
    if _noun(arguments) in SERVICES:
        return subprocess.run(
            [sys.executable, "-m", "busbar.cli.app", *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            cwd=folder,
        )
    with _lock:
        if not _commands:
            _commands.append(Commands())
    return _commands[0].run(Call(list(arguments), dict(env), str(folder or Path.cwd())), timeout)


def main() -> None:
    for name in SHARED:
        importlib.import_module(f"busbar.{name}")
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as control:
        call = Forker(control).serve()
    if call is not None:
        sys.argv = ["busbar", *call.arguments]
        from busbar.cli.app import main as busbar

        busbar()


if __name__ == "__main__":
    main()
