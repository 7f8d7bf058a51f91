"""A router's membership in its cluster: it leaves before it is stopped for good, and removes others that are
gone for good. By the system account of nats-server, which the router's own folder has the password of."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec
from busbar.bus.clock import Clock
from busbar.bus.routers.router_options import NATS_MONITORING, NATS_SYSTEM, tail
from busbar.bus.system.regular_files import read_regular
from msgspec import Struct

from ..planner.members import gone
from ..runtimes.base import Question
from ..runtimes.nats import SYSTEM, SYSTEM_USER
from ..state import WorkerRecord
from .mesh import ask
from .nats_request import NoAnswerError, request

log = logging.getLogger("busbar.agent")

LEAVE_S: Final = 120.0
"""Within which one that leaves has handed over its messages, seconds; then it is stopped all the same."""
NO_LEADER_S: Final = 20.0
"""After so long without an answer it does not wait for its cluster, which has no majority."""
AGAIN_S: Final = 3.0
"""It asks again to be evacuated: what is handed to another one that leaves has to go on."""
AWAY_S: Final = 10.0
POLL_S: Final = 0.25
_EVACUATE: Final = "$JS.API.SERVER.EVACUATE"
_REMOVE: Final = "$JS.API.SERVER.REMOVE"
_NOT_A_MEMBER: Final = 10044
_MAX_SYSTEM: Final = 4096
_PASSWORD: Final = re.compile(r'^password: "([0-9a-f]+)"$', re.M)


class _Error(msgspec.Struct):
    description: str = ""
    err_code: int = 0


class _Answer(msgspec.Struct):
    success: bool = False
    error: _Error | None = None


class _Replica(msgspec.Struct):
    name: str = ""
    current: bool = False
    active: int = 0

    @property
    def away(self) -> bool:
        """Its leader has not heard it for long, or never (`active`, nanoseconds, is then 0). `offline` comes
        minutes after a kill."""
        return not self.current and (self.active == 0 or self.active > AWAY_S * 1e9)


class _Meta(msgspec.Struct):
    leader: str = ""
    replicas: list[_Replica] = []


class _State(msgspec.Struct):
    """The answer of nats-server's `/jsz`, of which this matters."""

    disabled: bool = False
    streams: int = 0
    meta_cluster: _Meta | None = None


class Membership(Struct, frozen=True):
    """A router's name in its cluster, and where and as whom it is asked."""

    name: str
    system: tuple[str, int]
    monitoring: tuple[str, int]
    password: str

    async def remove(self, name: str) -> None:
        """Have the cluster no longer count on a member. One that is none is no error.

        Raises:
            NoAnswerError: with the reason.
        """
        await self._ask(_REMOVE, name)

    async def gone(self, members: Collection[str]) -> set[str]:
        """The routers that do not answer and belong to none of these workers (oids); none unless this one
        leads, and therefore knows."""
        state = await self._state()
        meta = state.meta_cluster if state is not None else None
        if meta is None or meta.leader != self.name:
            return set()
        return gone((each.name for each in meta.replicas if each.away), members)

    async def leave(self, clock: Clock) -> str | None:
        """Hand over all messages to the other members, and be one no longer; else why that is not so."""
        begun = answered = clock.monotonic()
        asked, problem = -AGAIN_S, "it does not answer"
        while (now := clock.monotonic()) - begun < LEAVE_S and now - answered < NO_LEADER_S:
            try:
                state = await self._state()
                if state is not None and state.disabled:
                    return None  # it is removed already
                if state is not None and asked >= begun and state.streams == 0:
                    await self.remove(self.name)
                    return None
                if now - asked >= AGAIN_S:
                    await self._ask(_EVACUATE, self.name)
                    asked = answered = clock.monotonic()
                    problem = "its messages are not handed over yet"
            except NoAnswerError as error:
                problem = str(error)
            await clock.sleep(POLL_S)
        return problem

    async def _state(self) -> _State | None:
        return await ask(Question(self.monitoring, "/jsz"), _State)

    async def _ask(self, subject: str, name: str) -> None:
        payload = json.dumps({"peer": name}).encode()
        text = await request(self.system, SYSTEM_USER, self.password, subject, payload)
        try:
            answer = msgspec.json.decode(text, type=_Answer)
        except (msgspec.DecodeError, RecursionError) as error:
            raise NoAnswerError(f"an answer that is none: {error}") from None
        if answer.error is not None and answer.error.err_code != _NOT_A_MEMBER:
            raise NoAnswerError(answer.error.description)


def membership_of(record: WorkerRecord | None, folder: Path) -> Membership | None:
    """That of a worker with this folder; None for one that is no member of a cluster."""
    if record is None or NATS_SYSTEM not in record.listeners:
        return None
    at = []
    for name in (NATS_SYSTEM, NATS_MONITORING):
        listener = record.listeners.get(name)
        host = urlsplit(listener.address).hostname if listener is not None else None
        if listener is None or host is None:
            return None
        at.append((host, listener.port))
    try:
        found = _PASSWORD.search(read_regular(folder / SYSTEM, _MAX_SYSTEM).decode())
    except (OSError, ValueError):
        return None
    return Membership(f"{record.worker}.{tail(record.oid)}", at[0], at[1], found[1]) if found else None


async def leave(record: WorkerRecord, folder: Path, clock: Clock) -> None:
    """Have a worker leave its cluster, if it is a member of one. What fails is left to the others."""
    membership = membership_of(record, folder)
    if membership is None:
        return
    log.info("worker %s: it hands over its messages, and leaves its cluster", record.full_name)
    problem = await membership.leave(clock)
    if problem is not None:
        log.warning("worker %s: stopped before it has left its cluster: %s", record.full_name, problem)
