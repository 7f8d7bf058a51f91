"""Runs one service in this process: broker, manager, agent or page, from its spec.

`busbar up` starts `python -m busbar.cli.services.run KIND FILE`, without the imports of the command line.
Standard input is a socket to `up`: the service writes `ready` to it, and exits when it is closed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypedDict

import msgspec
from busbar.bus.access import home_assistant
from busbar.bus.addresses import netloc
from busbar.bus.clock import SystemClock
from busbar.bus.system.service_status import ServiceStatus

from . import open_files
from .logs import LogOptions, log_as, log_the_uncaught, log_to_stderr
from .signals import IGNORED, Signals, has_terminal, leave_terminal, note_ignored
from .specs import (
    REFUSED,
    SPEC_TYPES,
    AgentSpec,
    BrokerProgramSpec,
    BrokerSpec,
    ManagerSpec,
    MqttVersion,
    ServiceSpec,
    WebSpec,
)

if TYPE_CHECKING:
    from busbar.bus.options import ConnectOptions

Ready = Callable[[], None]

STOP_S: Final = 60.0
"""Bound of a clean stop, seconds; `up` sends SIGKILL earlier."""
READY: Final = b"ready\n"

log = logging.getLogger("busbar.service")


async def run_broker(spec: BrokerSpec, ready: Ready) -> None:
    """Run the embedded broker until cancelled."""
    from busbar.bus.broker import BrokerConfig, EmbeddedBroker

    config = BrokerConfig(
        Path(spec.accounts),
        spec.host,
        spec.port,
        spec.ws_port,
        spec.root,
        spec.realm,
        origins=tuple(spec.ws_origins),
        home_assistant=home_assistant.parse(spec.home_assistant),
    )
    async with EmbeddedBroker(config) as broker:
        log.info("broker listens on mqtt://%s", netloc(config.host, broker.port))
        if broker.ws_port:
            log.info("broker listens on ws://%s/mqtt", netloc(config.host, broker.ws_port))
        ready()
        await asyncio.get_running_loop().create_future()


class _Protocol(TypedDict, total=False):
    protocol: Literal[4, 5]
    falls_back: bool


_PROTOCOLS: Final[Mapping[MqttVersion, _Protocol]] = {
    "auto": {"protocol": 5, "falls_back": True},
    "5": {"protocol": 5},
    "3.1.1": {"protocol": 4},
}
"""What `--mqtt` means."""


async def run_manager(spec: ManagerSpec, ready: Ready, status: ServiceStatus) -> None:
    """Run the manager until cancelled."""
    from busbar.manager.quotas import Quotas
    from busbar.manager.service import ManagerConfig, run

    config = ManagerConfig(
        state=Path(spec.state),
        realm=spec.realm,
        connect=connect_options(spec),
        root=spec.root,
        manager_id=spec.manager_id,
        heartbeat_s=spec.heartbeat_s,
        offline_after_s=spec.offline_after_s,
        principals=spec.principals,
        adopt_realm=spec.adopt_realm,
        quotas=Quotas(**spec.quotas),
        metrics=spec.metrics,
        home_assistant=home_assistant.parse(spec.home_assistant),
    )
    await run(config, ready, status.say)


async def run_agent(spec: AgentSpec, ready: Ready, reload: asyncio.Event, status: ServiceStatus) -> None:
    """Run the agent of one node until cancelled; it reads its file again whenever `reload` is set."""
    from busbar.agent.service import AgentConfig, run

    config = AgentConfig(
        state=Path(spec.state),
        node=spec.node,
        realm=spec.realm,
        connect=connect_options(spec),
        root=spec.root,
        runtimes=Path(spec.runtimes) if spec.runtimes else None,
        host=spec.host,
        max_workers=spec.max_workers,
        labels=spec.labels,
        stop_workers=spec.stop_workers,
        static_roots=tuple(map(Path, spec.static_roots)),
        adopt_store=spec.adopt_store,
        log_level=spec.log_level,
        metrics=spec.metrics,
    )
    await run(config, ready, reload, status.say)


def run_service(
    spec: ServiceSpec, ready: Ready, reload: asyncio.Event, status: ServiceStatus
) -> Awaitable[None]:
    """Run a service until cancelled; `ready` is called once it works. An agent heeds `reload`."""
    match spec:
        case BrokerSpec():
            return run_broker(spec, ready)
        case BrokerProgramSpec():
            from .broker_program import run_program

            return run_program(spec, ready)
        case ManagerSpec():
            return run_manager(spec, ready, status)
        case AgentSpec():
            return run_agent(spec, ready, reload, status)
        case WebSpec():
            from .web import run_web

            return run_web(spec, ready)


def connect_options(spec: ManagerSpec | AgentSpec) -> ConnectOptions:
    """The connection of a manager or an agent; its secret comes from a file or from the environment.

    Raises:
        CliError: the password file can't be read, or others can read it.
    """
    from ..calls.connect import options_of

    options = options_of(spec.connect.settings(os.environ.get("BUSBAR_PASSWORD")))
    return replace(
        options,
        client_id=f"busbar-{options.username}-{os.urandom(4).hex()}",
        max_packet=spec.max_packet or options.max_packet,
        **_PROTOCOLS[spec.mqtt],
    )


def serve(spec: ServiceSpec, parent: socket.socket | None = None) -> int:
    """Run a service until a signal stops it (see `signals`) or its parent exits; return the exit code."""
    from ..errors import exit_code, sentence

    log_as(spec)
    signals = Signals()
    try:
        open_files.ensure(spec.kind)
        return asyncio.run(_run_until_stopped(spec, parent, signals))
    except Exception as error:
        # What a user can fix is one sentence; everything else needs its traceback.
        ours = type(error).__module__.startswith("busbar.")
        known = ours or isinstance(error, (OSError, ValueError))
        log.error("%s: %s", spec.kind, sentence(error), exc_info=None if known else error)
        return REFUSED if ours and exit_code(error) == 1 else int(exit_code(error))


async def _run_until_stopped(spec: ServiceSpec, parent: socket.socket | None, signals: Signals) -> int:
    kind = spec.kind
    stop, reload = asyncio.Event(), asyncio.Event()
    asyncio.get_running_loop().set_exception_handler(open_files.on_loop_error(SystemClock().monotonic))
    signals.deliver(partial(_on_signal, kind, has_terminal(), stop, reload))
    if parent is not None:
        asyncio.get_running_loop().add_reader(parent, _on_parent, parent, spec, stop)
    status = ServiceStatus.taken_from()

    def ready() -> None:
        status.started()
        _notify_ready(kind, parent)

    work = run_service(spec, ready, reload, status)
    service = asyncio.create_task(_as_task(work), name=kind)
    stopped = asyncio.create_task(stop.wait(), name="stop")
    beside = [asyncio.create_task(_reap(), name="reaper")]
    beside.append(asyncio.create_task(status.beat(SystemClock()), name="watchdog"))
    if kind == ManagerSpec.kind:
        # It may stand by for another manager or wait for its broker, for as long as it takes.
        status.started()
    await asyncio.wait({service, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not service.done():
        log.info("%s stops", kind)
        status.stopping()
        service.cancel()
        await asyncio.wait({service}, timeout=STOP_S)
    for task in beside:
        task.cancel()
    if service.done() and not service.cancelled():
        service.result()
        if not stop.is_set():
            log.error("%s ended by itself", kind)
            return 1
    return 0


def _on_signal(
    kind: str, terminal: bool, stop: asyncio.Event, reload: asyncio.Event, signum: signal.Signals
) -> None:
    if signum in IGNORED:
        note_ignored(signum)
    elif signum is not signal.SIGHUP or terminal:
        if signum is signal.SIGHUP:
            leave_terminal()
        log.info("%s: %s", kind, signum.name)
        stop.set()
    elif kind == AgentSpec.kind:
        reload.set()
    else:
        log.info("SIGHUP: the %s has nothing to reload, and goes on", kind)


async def _reap() -> None:
    from busbar.bus.system.reaper import Reaper

    await Reaper().run(SystemClock())


async def _as_task(work: Awaitable[None]) -> None:
    await work


def _notify_ready(kind: str, parent: socket.socket | None) -> None:
    log.info("%s is ready", kind)
    if parent is not None:
        try:
            parent.send(READY)
        except OSError:
            log.info("the parent is gone")


def _on_parent(parent: socket.socket, spec: ServiceSpec, stop: asyncio.Event) -> None:
    """`up` never writes: end of file means that it died without an orderly stop, so the workers are kept."""
    try:
        closed = parent.recv(64) == b""
    except BlockingIOError:
        return
    except OSError:
        closed = True
    if not closed:
        return
    asyncio.get_running_loop().remove_reader(parent)
    log.warning("the supervisor is gone: exiting, the workers go on")
    if isinstance(spec, AgentSpec) and (spec.stop_workers or spec.runtimes):
        # A clean exit of this agent would stop its workers (its file may say so), which was not requested.
        os._exit(1)
    stop.set()


def main(arguments: list[str]) -> int:
    """Run a child of `busbar up`; the arguments are KIND and the file of its spec."""
    kind, path = arguments
    spec = msgspec.json.decode(Path(path).read_bytes(), type=SPEC_TYPES[kind])
    log_to_stderr(LogOptions(spec.log_level, spec.log_format))
    log_the_uncaught()
    parent = socket.socket(fileno=os.dup(0))
    parent.setblocking(False)
    # Child processes must not inherit the socket.
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    return serve(spec, parent)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
