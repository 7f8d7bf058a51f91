"""Runs one service in this process: broker, manager or agent, from a plain specification.

`python -m busbar.cli.services.run KIND FILE` is what `busbar up` starts; it spares its children the command
line's imports. Their standard input is a socket to `up`: they say `ready` on it, and when it ends they end.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

Spec = Mapping[str, Any]
Ready = Callable[[], None]
Service = Callable[[Spec, Ready], Awaitable[None]]

STOP_S: Final = 60.0
"""Bound of a clean stop, seconds; `up` is less patient."""
READY: Final = b"ready\n"
REFUSED: Final = 4
"""Exit code of a service that says itself why it can't run: a locked folder, a corrupt database, a newer
manager. Starting it again does not help."""

log = logging.getLogger("busbar.service")


async def run_broker(spec: Spec, ready: Ready) -> None:
    """The embedded broker, until cancelled."""
    from busbar.bus.broker import BrokerConfig, EmbeddedBroker

    config = BrokerConfig(
        Path(spec["accounts"]),
        spec.get("host", "127.0.0.1"),
        spec["port"],
        spec.get("ws_port"),
        spec["root"],
        spec.get("realm"),
    )
    async with EmbeddedBroker(config) as broker:
        log.info("broker listens on mqtt://%s:%s", config.host, broker.port)
        if broker.ws_port:
            log.info("broker listens on ws://%s:%s/mqtt", config.host, broker.ws_port)
        ready()
        await asyncio.get_running_loop().create_future()


_SPOKEN: Final[Mapping[str, Mapping[str, Any]]] = {
    "auto": {"protocol": 5, "falls_back": True},
    "5": {"protocol": 5},
    "3.1.1": {"protocol": 4},
}
"""What `busbar manager --mqtt` means."""


async def run_manager(spec: Spec, ready: Ready) -> None:
    """The manager, until cancelled."""
    from busbar.manager.service import ManagerConfig, run

    config = ManagerConfig(
        state=Path(spec["state"]),
        realm=spec["realm"],
        connect=replace(connect_options(spec), **_SPOKEN[spec.get("mqtt", "auto")]),
        root=spec["root"],
        manager_id=spec.get("manager_id", "m1"),
        heartbeat_s=spec["heartbeat_s"],
        principals=spec["principals"],
    )
    await run(config, ready)


async def run_agent(spec: Spec, ready: Ready) -> None:
    """The agent of one node, until cancelled."""
    from busbar.agent.service import AgentConfig, run

    config = AgentConfig(
        state=Path(spec["state"]),
        node=spec["node"],
        realm=spec["realm"],
        connect=connect_options(spec),
        root=spec["root"],
        runtimes=Path(spec["runtimes"]) if spec.get("runtimes") else None,
        host=spec.get("host"),
        max_workers=spec.get("max_workers"),
        labels=spec.get("labels", {}),
        stop_workers=spec["stop_workers"],
        static_roots=tuple(map(Path, spec.get("static_roots", ()))),
        adopt_store=spec.get("adopt_store", False),
    )
    await run(config, ready)


SERVICES: Final[Mapping[str, Service]] = {"broker": run_broker, "manager": run_manager, "agent": run_agent}


def connect_options(spec: Spec) -> Any:
    """The connection of a manager or an agent; its secret comes from a file, or from the environment.

    Raises:
        CliError: the password file can't be read, or others can read it.
    """
    from ..connect import options_of
    from ..context import Layer

    layer = Layer(**spec["connect"], password=os.environ.get("BUSBAR_PASSWORD"))
    options = options_of(layer)
    return replace(options, client_id=f"busbar-{options.username}-{os.urandom(4).hex()}")


def log_to_stderr(level: str) -> None:
    """One line per important thing, with time and level.

    Raises:
        CliError: there is no such level.
    """
    if not isinstance(logging.getLevelName(level.upper()), int):
        from ..errors import usage

        raise usage(f"--log-level {level}: use debug, info, warning or error")
    form = logging.Formatter(
        "%(asctime)s.%(msecs)03d %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S"
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(form)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("busbar").setLevel(level.upper())


def serve(kind: str, spec: Spec, parent: socket.socket | None = None) -> int:
    """Run a service until SIGTERM, SIGINT or the parent's end; return the exit code."""
    from ..errors import exit_code, sentence

    try:
        return asyncio.run(_life(kind, spec, parent))
    except Exception as error:
        # What a user can fix is one sentence; everything else needs its traceback.
        ours = type(error).__module__.startswith("busbar.")
        known = ours or isinstance(error, (OSError, ValueError))
        log.error("%s: %s", kind, sentence(error), exc_info=None if known else error)
        return REFUSED if ours and exit_code(error) == 1 else int(exit_code(error))


async def _life(kind: str, spec: Spec, parent: socket.socket | None) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    if parent is not None:
        loop.add_reader(parent, _on_parent, parent, spec, stop)
    service = asyncio.create_task(_as_task(SERVICES[kind](spec, lambda: _say_ready(kind, parent))), name=kind)
    ordered = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait({service, ordered}, return_when=asyncio.FIRST_COMPLETED)
    ordered.cancel()
    if not service.done():
        log.info("%s stops", kind)
        service.cancel()
        await asyncio.wait({service}, timeout=STOP_S)
    if service.done() and not service.cancelled():
        service.result()
        if not stop.is_set():
            log.error("%s ended by itself", kind)
            return 1
    return 0


async def _as_task(work: Awaitable[None]) -> None:
    await work


def _say_ready(kind: str, parent: socket.socket | None) -> None:
    log.info("%s is ready", kind)
    if parent is not None:
        try:
            parent.send(READY)
        except OSError:
            log.info("nobody to tell")


def _on_parent(parent: socket.socket, spec: Spec, stop: asyncio.Event) -> None:
    """`up` has nothing to say; that it can be read means its end, unordered: workers are always kept then."""
    try:
        ended = parent.recv(64) == b""
    except BlockingIOError:
        return
    except OSError:
        ended = True
    if not ended:
        return
    asyncio.get_running_loop().remove_reader(parent)
    log.warning("the supervisor is gone; ending, with the workers left running")
    if spec.get("stop_workers") or spec.get("runtimes"):
        # A clean exit of this agent would (or might, by its file) stop its workers: nobody has ordered that.
        os._exit(1)
    stop.set()


def main(arguments: list[str]) -> int:
    """A child of `busbar up`: KIND and the file of its specification."""
    kind, path = arguments
    with open(path, encoding="utf-8") as file:
        spec = json.load(file)
    log_to_stderr(spec.get("log_level", "info"))
    parent = socket.socket(fileno=os.dup(0))
    parent.setblocking(False)
    # What this service starts must not inherit its standard input.
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    return serve(kind, spec, parent)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
