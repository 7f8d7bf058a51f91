"""`busbar` as a process of its own, forked from one that has imported what all share.

Two thirds of what a command takes, and half of a service's start, are Python's start and imports. What a fork
shares is only that: arguments, environment, folder, streams, exit code and signals are those of any process.
Commands and services come from different processes, so that a command can't do without an import of its own.
`busbar up` starts its services as programs, and tests of the start itself start programs.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import select
import shlex
import shutil
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

from tests.ending import end_on_sigterm

ROOT = Path(__file__).parent.parent
PROGRAM = Path(__file__).with_name("forked_program.py")
COMMANDS = (
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
SERVICES = ("cli.app", "cli.services.run", "agent.service", "bus.broker", "manager.service")
NOUNS_OF_SERVICES = frozenset({"agent", "broker", "manager", "up", "web"})
NUMBER = struct.Struct("i")


class Call(NamedTuple):
    """What a command is given."""

    arguments: list[str]
    env: dict[str, str]
    folder: str


class Forker:
    """Forks a process for each call that comes by the socket `calls`, and tells how it ended."""

    def __init__(self, control: socket.socket, calls: socket.socket) -> None:
        self._control = control
        self._calls = calls
        self._tell: dict[int, int] = {}
        """Where the end of each living process is told."""
        self._woken, self._wake = os.pipe()
        for fd in (self._woken, self._wake):
            os.set_blocking(fd, False)

    def serve(self) -> Call | None:
        """Return in each new process with its call, and with None once `control` is closed."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake)
        while True:
            ready, _, _ = select.select([self._control, self._calls, self._woken], [], [])
            if self._woken in ready:
                os.read(self._woken, 4096)
                self._bury()
            if self._calls in ready:
                data, fds, _, _ = socket.recv_fds(self._calls, 1 << 20, 4)
                if (pid := os.fork()) == 0:
                    return self._become(Call(*json.loads(data)), fds)
                self._tell[pid] = fds.pop()
                self._say(self._tell[pid], pid)
                for fd in fds:
                    os.close(fd)
            if self._control in ready:
                return None

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
        for changed in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(changed, signal.SIG_DFL)
        for number, fd in enumerate(fds[:3]):
            os.dup2(fd, number)
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            setattr(sys, name, _opened_as(getattr(sys, name), number))
        self._control.close()
        self._calls.close()
        for fd in (*fds, *self._tell.values(), self._woken, self._wake):
            os.close(fd)
        os.environ.clear()
        os.environ.update(call.env)
        time.tzset()
        os.chdir(call.folder)
        return call


class Process:
    """One of these processes, as `subprocess.Popen` has it; its streams are files of the caller."""

    def __init__(self, call: Call, read: int) -> None:
        self.args = call.arguments
        self.returncode: int | None = None
        self._read = read
        self.pid = self._number()

    def _number(self) -> int:
        data = os.read(self._read, NUMBER.size)
        if not data:
            raise RuntimeError(f"busbar {' '.join(self.args)}: the process that forks has ended")
        return int(NUMBER.unpack(data)[0])

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """`timeout`: seconds."""
        if self.returncode is None:
            if not select.select([self._read], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = self._number()
            os.close(self._read)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Source:
    """Starts the process that forks, and asks it; `path` is where it takes calls, from programs as well."""

    def __init__(self, modules: Sequence[str]) -> None:
        self.path = tempfile.mkdtemp(prefix="busbar-forked-") + "/calls"  # it is removed by who forks
        self._control, theirs = socket.socketpair()
        calls = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        calls.bind(self.path)
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("BUSBAR_", "XDG_"))}
        fds = [theirs.fileno(), calls.fileno()]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forked", *map(str, fds), *modules],
            pass_fds=fds,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd=ROOT,
            env=clean,
        )
        theirs.close()
        calls.close()
        atexit.register(self.end)

    def end(self) -> None:
        self._control.close()
        self._process.wait()

    def start(self, call: Call, out: IO[bytes], err: IO[bytes], given: str = "") -> Process:
        """A process that writes to these open files; `given` is what it can read."""
        read, write = os.pipe()
        with tempfile.TemporaryFile() as text, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            text.write(given.encode())
            text.seek(0)
            streams = [file.fileno() for file in (text, out, err)]
            try:
                sender.connect(self.path)
                socket.send_fds(sender, [json.dumps(call).encode()], [*streams, write])
            finally:
                os.close(write)
        return Process(call, read)

    def run(self, call: Call, timeout: float, given: str = "") -> subprocess.CompletedProcess[str]:
        """As subprocess.run does with text and captured output."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            process = self.start(call, out, err, given)
            try:
                code = process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
            return subprocess.CompletedProcess(call.arguments, code, _text(out), _text(err))


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode().replace("\r\n", "\n")


def _opened_as(before: io.TextIOWrapper, fd: int) -> io.TextIOWrapper:
    """A standard stream of what the descriptor is now, as Python opens it."""
    mode, buffering = "w" if before.writable() else "r", 1 if fd == 2 else -1
    return open(fd, mode, buffering, encoding=before.encoding, errors=before.errors, closefd=False)


def _noun(arguments: Sequence[str]) -> str:
    """The first word that is neither an option of all commands nor its value."""
    words = list(arguments)
    while words and words[0].startswith("-"):
        words = words[2:]
    return words[0] if words else ""


_sources: dict[tuple[str, ...], Source] = {}
_lock = threading.Lock()


def source(modules: tuple[str, ...]) -> Source:
    """The one of this process for these modules."""
    with _lock:
        if modules not in _sources:
            _sources[modules] = Source(modules)
    return _sources[modules]


def run(
    *arguments: str, env: Mapping[str, str], timeout: float, folder: Path | None = None, given: str = ""
) -> subprocess.CompletedProcess[str]:
    """`busbar` with these arguments, to its end. `timeout`: seconds, as they are; `given`: its input."""
    modules = SERVICES if _noun(arguments) in NOUNS_OF_SERVICES else COMMANDS
    return source(modules).run(_call(arguments, env, folder), timeout, given)


def start(*arguments: str, env: Mapping[str, str], output: IO[bytes], folder: Path | None = None) -> Process:
    """A service, as `busbar` with these arguments; what it says goes to `output`."""
    return source(SERVICES).start(_call(arguments, env, folder), output, output)


def _call(arguments: Sequence[str], env: Mapping[str, str], folder: Path | None) -> Call:
    return Call(list(arguments), dict(env), str(folder or Path.cwd()))


def program(folder: Path, real: str) -> Path:
    """Make a program `busbar` in the folder, and return that. Its short commands are forked, with the streams
    of whoever calls it; for the others it is `real`."""
    script, made = folder / "busbar.py", folder / "busbar"
    script.write_text(
        f"CALLS, REAL, SERVICES = {source(COMMANDS).path!r}, {real!r}, {set(NOUNS_OF_SERVICES)!r}\n"
        + PROGRAM.read_text()
    )
    made.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -IS {shlex.quote(str(script))} "$@"\n')
    made.chmod(0o755)
    return folder


def main() -> None:
    control, calls, *modules = sys.argv[1:]
    for name in modules:
        importlib.import_module(f"busbar.{name}")
    gc.freeze()
    with socket.socket(fileno=int(control)) as life, socket.socket(fileno=int(calls)) as asked:
        me, folder = os.getpid(), Path(asked.getsockname()).parent
        end_on_sigterm()
        try:
            call = Forker(life, asked).serve()
        finally:
            if os.getpid() == me:
                shutil.rmtree(folder, ignore_errors=True)
    if call is not None:
        sys.argv = ["busbar", *call.arguments]
        from busbar.cli.app import main as busbar

        busbar()


if __name__ == "__main__":
    main()
