"""One signed-in person: a bus client of their own, and the board that it keeps up to date."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Coroutine
from typing import Any, Final

from busbar.bus.client.client import CALL_S, BusClient
from busbar.bus.client.connect import CONNECT_S, connect_with
from busbar.bus.client.errors import EventsLostError, ResultError
from busbar.bus.client.managers import ManagerWatch
from busbar.bus.clock import Clock
from busbar.bus.errors import BusError, BusOfflineError, CallTimeoutError
from busbar.bus.options import ConnectOptions
from busbar.bus.topics import Topics

from .board import EVENTS, Board
from .history import History
from .rows import key_of, line_of, row_of, shown

AGAIN_S: Final = 2.0
"""Pause before the manager is asked again that did not answer."""

FAILED = (BusError, CallTimeoutError, BusOfflineError, ResultError)
"""What a call may raise."""

log = logging.getLogger("busbar.web")


class Session:
    """Runs until it is cancelled. `started` is set, or has the error, once the broker has decided.

    `token` goes with every change that a page asks for, so that no other page can.
    """

    def __init__(
        self,
        user: str,
        options: ConnectOptions,
        topics: Topics,
        clock: Clock,
        history: History,
        timeout: float = CALL_S,
    ) -> None:
        self.user, self.topics = user, topics
        self.token = secrets.token_urlsafe(32)
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.began = self.used = clock.monotonic()
        self.streams = 0
        """Connections that are held open: pages and logs."""
        self.ended = False
        self._options, self._clock, self._history, self._timeout = options, clock, history, timeout
        self._bus: BusClient | None = None
        self._asking = asyncio.Event()
        state: dict[str, Any] = {
            "realm": topics.realm,
            "user": user,
            "role": None,
            "connected": True,
            "managers": {},
        }
        self.board = Board({**state, "manager": None, "problem": None})

    @property
    def bus(self) -> BusClient:
        """Its client.

        Raises:
            BusOfflineError: it is not connected.
        """
        if self._bus is None or not self._bus.connected:
            raise BusOfflineError("there is no connection to the broker now")
        return self._bus

    @property
    def connected(self) -> bool:
        """Whether there is a connection to a broker now."""
        return self._bus is not None and self._bus.connected

    @property
    def role(self) -> str | None:
        """What the manager says that this person is; None: not known yet, or nobody."""
        role: str | None = self.board.state["role"]
        return role

    async def run(self) -> None:
        """Sign in, and keep the board up to date."""
        try:
            # Who asked for more patience than the default has it with a slow connection too.
            limit = self._timeout if self._timeout > CALL_S else CONNECT_S
            async with connect_with(self._options, self.topics, self._timeout, limit) as bus:
                self._bus = bus
                await self._watch(bus)
        except Exception as error:
            if self.started.done():
                log.exception("the session of %s has failed", self.user)
            else:
                self.started.set_exception(error)
        finally:
            self._bus, self.ended = None, True
            self.board.wake_all()

    async def _watch(self, bus: BusClient) -> None:
        managers = bus.watch_managers()
        loops: list[Coroutine[Any, Any, None]] = [
            self._statuses(bus),
            self._reports(bus),
            self._managers(managers),
            self._events(bus),
            self._ask(bus, managers),
        ]
        tasks = [asyncio.create_task(loop, name="web session") for loop in loops]
        self.started.set_result(None)
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    # --- what comes

    async def _statuses(self, bus: BusClient) -> None:
        async with bus.watch_statuses() as updates:
            async for update in updates:
                key = key_of(update.kind, update.cluster, update.name)
                row = None
                if update.status is not None:
                    row = row_of(update.kind, update.cluster, update.name, update.status)
                self.board.put(key, row)

    async def _reports(self, bus: BusClient) -> None:
        async with bus.watch_reports() as reports:
            async for found in reports:
                used = self._history.report(found.node, found.report, self._clock.monotonic())
                for key, (cpu, rss) in used.items():
                    self.board.use(key, {"cpu": round(cpu, 4), "rss": rss})

    async def _managers(self, watch: ManagerWatch) -> None:
        async with watch:
            async for update in watch:
                known = {
                    **self.board.state["managers"],
                    update.manager: shown(update.state and update.state.state),
                }
                self.board.set(managers={name: state for name, state in known.items() if state})
                self._asking.set()

    async def _events(self, bus: BusClient) -> None:
        """The last events, and from there on all of them."""
        stored = await self._patiently(lambda: bus.get_events(limit=EVENTS, last=True))
        for event in stored:
            self.board.add(line_of(event))
        last = int(stored[-1].sequence) if stored else 0
        async with bus.watch_events(since=last) as events:
            while True:
                try:
                    event = await anext(events)
                except EventsLostError as error:
                    log.info("%s: %s", self.user, error)
                except (CallTimeoutError, BusOfflineError, BusError) as error:
                    log.debug("%s: %s", self.user, error)
                    await self._clock.sleep(AGAIN_S)
                else:
                    self.board.add(line_of(event))
                    if event.type.startswith(("busbar.on_principal_", "busbar.on_manager_")):
                        self._asking.set()

    # --- what is asked

    async def _ask(self, bus: BusClient, managers: ManagerWatch) -> None:
        """Who this is and how the manager is: at first, and whenever that may have changed."""
        swept = managers.connections
        while True:
            self._asking.clear()
            connections = managers.connections
            if await self._look(bus) and (connections == swept or await self._sweep(bus)):
                swept = connections
                await self._asking.wait()
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(AGAIN_S):
                        await self._asking.wait()

    async def _look(self, bus: BusClient) -> bool:
        """Whether the manager has answered."""
        try:
            principals = await bus.list_principals()
            manager = await bus.get_manager()
        except BusError as error:
            self.board.set(role=None, manager=None, problem=shown(str(error)))
            return not error.row.retryable
        except (CallTimeoutError, BusOfflineError, ResultError) as error:
            self.board.set(problem=shown(str(error)) if bus.connected else None)
            return False
        role = next((each.role for each in principals if each.name == self.user), None)
        about = {
            "manager": manager.manager,
            "version": manager.version,
            "brake": manager.brake,
            "conditions": manager.conditions,
        }
        self.board.set(role=role, manager=shown(about), problem=None)
        return True

    async def _sweep(self, bus: BusClient) -> bool:
        """Forget what was deleted while there was no connection: no message tells. Whether it is done."""
        mark = self.board.mark
        try:
            clusters = await bus.list_routerclusters()
            oids = {*clusters, *await bus.list_nodes(), *await bus.list_workers()}
            for cluster in clusters:
                oids |= {*await bus.list_routercluster_workergroups(routercluster_oid=cluster)}
        except FAILED as error:
            log.debug("%s: %s", self.user, error)
            return False
        self.board.keep(oids, mark)
        return True

    async def _patiently(self, call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        while True:
            try:
                return await call()
            except FAILED as error:
                log.debug("%s: %s", self.user, error)
                await self._clock.sleep(AGAIN_S)

    def look(self) -> None:
        """Note whether there is a connection; called over and over."""
        if self.board.state["connected"] != self.connected and not self.ended:
            if not self.connected:
                self.board.set(managers={})
            self.board.set(connected=self.connected)
            self._asking.set()
