"""busbar up: broker, manager and agents on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from ..arguments.common_options import (
    House,
    LogFormat,
    LogLevel,
    MaxPacket,
    Metrics,
    Mqtt,
    house,
    metrics_address,
)
from ..context import DEFAULT_REALM, DEFAULT_ROOT, Settings, global_options, settings_in_force, state_path
from ..errors import CliError, ExitCode
from ..printing import output

if TYPE_CHECKING:
    from ..services.signals import Signals
    from ..services.up_plan import Plan

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

READY_S: Final = 60.0
"""Seconds until all services must be ready."""
ONLINE_S: Final = 15.0

log = logging.getLogger("busbar.up")


Agents = Annotated[int | None, typer.Option("--agents", "-a", min=0, help="Number of nodes: n1, n2 ...")]
Node = Annotated[list[str] | None, typer.Option("--node", help="A node of this name; may be repeated.")]
State = Annotated[Path | None, typer.Option("--state", help="State folder (BUSBAR_STATE).")]
Host = Annotated[
    str | None, typer.Option("--host", help="Loopback address of the broker; default 127.0.0.1, or ::1.")
]
Port = Annotated[
    int | None,
    typer.Option(
        "--port", min=0, max=65535, help="Port of the broker; default: the last one, 1883, or a free one."
    ),
]
Realm = Annotated[str | None, typer.Option("--realm", help="Management realm.")]
Broker = Annotated[
    str | None, typer.Option("--broker", help="An outside broker instead of the embedded one.")
]
BrokerProgram = Annotated[
    Literal["embedded", "nats", "mosquitto"] | None,
    typer.Option("--broker-program", help="The broker that it runs; default: the last one, or embedded."),
]
StopWorkers = Annotated[
    bool, typer.Option("--stop-workers/--keep-workers", help="Whether workers stop with it.")
]
Heartbeat = Annotated[
    float | None, typer.Option("--heartbeat", min=0.1, help="Heartbeat interval in seconds; default 5.")
]
Runtimes = Annotated[Path | None, typer.Option("--runtimes", help="The nodes' runtimes, TOML.")]
StaticRoot = Annotated[list[Path] | None, typer.Option("--static-root", help="Folder of static paths.")]
AdoptRealm = Annotated[
    bool, typer.Option("--adopt-realm", help="Serve the realm even if it was another manager store's.")
]
Web = Annotated[
    bool, typer.Option("--web", help="Serve a page of the realm too: on the last port of it, 8780, or any.")
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the services' logs here too.")]


@app.command(help="Run broker, manager and agents on this machine, each a process of its own, supervised.")
def up(
    agents: Agents = None,
    node: Node = None,
    state: State = None,
    host: Host = None,
    port: Port = None,
    realm: Realm = None,
    broker: Broker = None,
    broker_program: BrokerProgram = None,
    stop_workers: StopWorkers = False,
    heartbeat: Heartbeat = None,
    runtimes: Runtimes = None,
    static_root: StaticRoot = None,
    mqtt: Mqtt = "auto",
    max_packet: MaxPacket = None,
    adopt_realm: AdoptRealm = False,
    metrics: Metrics = None,
    home_assistant: House = None,
    web: Web = False,
    verbose: Verbose = False,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
) -> None:
    from busbar.bus.clock import SystemClock

    from ..services import logs, open_files, up_plan
    from ..services.signals import Signals

    logged = logs.start(log_level, log_format, {"service": "up"})
    signals = Signals()
    started, env = SystemClock().monotonic(), os.environ
    folder = (state or state_path(env)).expanduser().absolute()
    with up_plan.locked(folder):
        last_up = up_plan.read_last_up(folder)
        outside = _outside(broker or global_options().broker)
        plan = up_plan.Plan(
            state=folder,
            nodes=up_plan.choose_nodes(agents, node or (), last_up) if agents != 0 else (),
            realm=realm
            or global_options().realm
            or env.get("BUSBAR_REALM")
            or last_up.get("realm")
            or DEFAULT_REALM,
            root=env.get("BUSBAR_ROOT") or last_up.get("root") or DEFAULT_ROOT,
            outside=outside,
            program=up_plan.choose_program(broker_program, last_up, outside is not None),
            heartbeat=heartbeat or last_up.get("heartbeat") or 5.0,
            stop_workers=stop_workers,
            runtimes=_absolute(runtimes),
            static_roots=tuple(path.expanduser().absolute() for path in static_root or ()),
            adopt_realm=adopt_realm,
            log_level=logged.level,
            log_format=logged.form,
            mqtt=mqtt,
            max_packet=max_packet,
            metrics=metrics_address(metrics),
            home_assistant=house(home_assistant, env.get("BUSBAR_ROOT") or last_up.get("root")),
        )
        if plan.outside is None:
            at = up_plan.choose_host(host, last_up)
            plan = replace(plan, host=at, port=up_plan.choose_port(at, port, last_up))
        if web:
            plan = replace(plan, web_port=up_plan.choose_web_port(plan.host, last_up))
        open_files.ensure_for_up([service.kind for service in up_plan.services(plan)])
        code = asyncio.run(Up(plan, started, verbose).run(signals))
    raise typer.Exit(code)


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.expanduser().absolute()


def _outside(broker: str | None) -> Settings | None:
    """The external broker: the given one, else that of a given context or of the environment."""
    if broker is None and not global_options().context and not os.environ.get("BUSBAR_BROKER"):
        return None
    return settings_in_force(global_options().merged({"broker": broker}), os.environ)


class Up:
    """One run: start, announce, wait for a signal, stop."""

    def __init__(self, plan: Plan, started: float, verbose: bool) -> None:
        from busbar.bus.clock import SystemClock

        self._plan, self._started, self._verbose = plan, started, verbose
        self._clock = SystemClock()
        self._stop = asyncio.Event()
        self._announced = False

    async def run(self, signals: Signals) -> int:
        """Run until a signal; return the exit code."""
        from random import Random

        from busbar.bus.system.reaper import Reaper

        from ..services import up_plan
        from ..services.supervise import ServiceSupervisor

        up_plan.prepare(self._plan)
        self._supervisor = ServiceSupervisor(self._plan, self._clock, Random(), self._changed, self._verbose)
        signals.deliver(self._on_signal)
        self._supervisor.start()
        reaping = asyncio.create_task(Reaper().run(self._clock), name="reaper")
        try:
            code = await self._serve()
        finally:
            if self._announced:
                say("stopping" + (", with the workers" if self._plan.stop_workers else "; workers are kept"))
            await self._supervisor.stop()
            reaping.cancel()
            self._write({})
        return code

    async def _serve(self) -> int:
        starting = asyncio.create_task(self._start())
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait({starting})
            return ExitCode.INTERRUPTED
        try:
            starting.result()
            await stopping
        finally:
            stopping.cancel()
        return ExitCode.OK

    def _on_signal(self, signum: signal.Signals) -> None:
        """The first signal stops in order, the next one kills. A closed terminal sends several SIGHUP."""
        from ..services.signals import IGNORED, leave_terminal, note_ignored

        if signum in IGNORED:
            note_ignored(signum)
            return
        if signum is signal.SIGHUP:
            leave_terminal()
        elif self._stop.is_set():
            self._supervisor.kill_now.set()
        self._stop.set()

    def _changed(self) -> None:
        self._write({"up": os.getpid(), **self._supervisor.pids})

    def _write(self, pids: dict[str, int]) -> None:
        from ..services import up_plan

        try:
            if self._announced:
                up_plan.write_up(self._plan, pids)
        except OSError as error:
            # On a full disk the services go on.
            log.warning("up.json was not written: %s", error)

    async def _start(self) -> None:
        """Wait until all services are ready, pair the nodes, announce it.

        Raises:
            CliError: it takes too long.
        """
        try:
            async with asyncio.timeout(READY_S):
                # Imported while the children start.
                from ..services import pairing

                await self._supervisor.ready()
                states = await pairing.pair(self._plan, self._clock, ONLINE_S)
        except TimeoutError:
            late = "; ".join(self._supervisor.not_ready()) or "the nodes"
            raise CliError(f"not up after {READY_S:g} s: {late}", ExitCode.TIMEOUT, "timeout") from None
        self._announced = True
        self._changed()
        announce(self._plan, states, self._clock.monotonic() - self._started)


def say(text: str) -> None:
    """Print a line; a closed standard output is no error."""
    with contextlib.suppress(OSError):
        output.say(text, flush=True)


def announce(plan: Plan, states: dict[str, str], seconds: float) -> None:
    """Print the summary once all services are ready."""
    kind = "outside" if plan.outside else plan.program or "embedded"
    nodes = ", ".join(f"{name} {state}" for name, state in states.items()) or "none"
    rows = {
        "broker": f"{plan.url} ({kind})",
        "realm": plan.realm,
        "nodes": nodes,
        **({"page": page} if (page := plan.page) else {}),
        "state": str(plan.state),
        "workers": "stopped at the end"
        if plan.stop_workers
        else "kept at the end (--stop-workers stops them)",
    }
    if plan.metrics is not None:
        from busbar.bus.addresses import netloc

        rows["metrics"] = f"http://{netloc(*plan.metrics)}/metrics, those of the nodes on the next ports"
    if output.output_format() != "table":
        with contextlib.suppress(OSError):
            output.dump({"ready_s": round(seconds, 1), **rows, "nodes": states}, stream=True)
        return
    say(f"ready in {seconds:.1f} s")
    for name, value in rows.items():
        say(f"  {name:<8} {value}")
    say("Ctrl-C ends it. In another terminal: busbar status")
