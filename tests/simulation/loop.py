"""An asyncio loop in virtual time; programs on it can be killed or frozen between any two of their steps."""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from itertools import count
from random import Random
from typing import Any

SPIN_LIMIT = 200_000
"""Steps at one instant: beyond it something spins without time passing."""
START = 1000.0


class Crash(BaseException):
    """The program that runs now is dead: unwinds to the loop, and nothing of it runs ever again."""


class SpinError(Exception):
    """Time does not pass any more."""


class Program:
    """One simulated process of ours: manager, agent or client. `crash_in` counts steps until it is killed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self.frozen = False
        self.crash_in: int | None = None
        self.on_crash: Callable[[], None] = lambda: None
        self.parked: list[Handle] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.context = contextvars.copy_context()
        self.context.run(OWNER.set, self)

    def run(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Call something as this program would."""
        return self.context.copy().run(fn, *args)

    def crash(self) -> None:
        """Die here and now, in the middle of whatever is being done."""
        self.on_crash()
        raise Crash(self.name)


OWNER: contextvars.ContextVar[Program | None] = contextvars.ContextVar("owner", default=None)
"""Whose step runs now; inherited by every task and callback that it makes."""


def owner() -> Program:
    """The program that runs now."""
    found = OWNER.get()
    assert found is not None, "no program runs now"
    return found


class Handle:
    __slots__ = ("_when", "args", "callback", "context", "gone")

    def __init__(self, callback: Any, args: Any, context: contextvars.Context | None, when: float) -> None:
        self.callback, self.args = callback, args
        self.context = context if context is not None else contextvars.copy_context()
        self.gone = False
        self._when = when

    def cancel(self) -> None:
        self.gone = True
        self.callback = self.args = None

    def cancelled(self) -> bool:
        return self.gone

    def when(self) -> float:
        return self._when


_numbers = count()


class SimTask(asyncio.Task):  # type: ignore[type-arg]
    """A task whose place in a set does not depend on its address."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._number = next(_numbers)
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self._number


class SimLoop(asyncio.AbstractEventLoop):
    """Runs what is ready; when nothing is, time jumps to the next timer."""

    def __init__(self, random: Random, failed: Callable[[str, BaseException | None], None]) -> None:
        global _numbers
        _numbers = count()
        self.now = START
        self.steps = 0
        self._random = random
        self._failed = failed
        self._ready: deque[Handle] = deque()
        self._timers: list[tuple[float, int, Handle]] = []
        self._count = 0
        self._stop = False

    # --- what asyncio asks of a loop

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Coroutine[Any, Any, Any], **kwargs: Any) -> asyncio.Task[Any]:  # type: ignore[override]
        task: asyncio.Task[Any] = SimTask(coro, loop=self, **kwargs)
        program = OWNER.get()
        if program is not None:
            program.tasks.append(task)
            if len(program.tasks) > 512:
                program.tasks = [each for each in program.tasks if not each.done()]
        return task

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
        handle = Handle(callback, args, context, self.now)
        self._ready.append(handle)
        return handle

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> Any:
        return self.call_soon(callback, *args, context=context)

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> Any:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:
        handle = Handle(callback, args, context, when)
        self._count += 1
        heapq.heappush(self._timers, (when, self._count, handle))
        return handle

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        """The threads' work takes a moment, and is done in one piece."""
        future = self.create_future()
        self.call_later(self._random.uniform(0.0005, 0.01), self._execute, future, func, args)
        return future

    def _execute(self, future: asyncio.Future[Any], func: Any, args: Any) -> None:
        if future.cancelled():
            return
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, Crash) and not self._stop:
            self._failed(str(context.get("message")), error)

    # --- running

    def run_until(self, end: float) -> None:
        """Run until virtual time `end`.

        Raises:
            SpinError: time stands still though there is always something to do.
        """
        asyncio._set_running_loop(self)
        ready, step = self._ready, self._step
        try:
            while self._next(end):
                for _ in range(SPIN_LIMIT):
                    step(ready.popleft())
                    if not ready:
                        break
                else:
                    raise SpinError(f"{SPIN_LIMIT} steps at one instant")
        finally:
            asyncio._set_running_loop(None)

    def abandon(self) -> None:
        """The simulation is over: whatever is left is dropped in silence."""
        self._stop = True
        self._ready.clear()
        self._timers.clear()

    def _next(self, end: float) -> bool:
        """Whether there is a step to do before `end`; moves time to it."""
        if self._ready:
            return True
        timers = self._timers
        while timers and timers[0][2].gone:
            heapq.heappop(timers)
        if not timers or timers[0][0] > end:
            self.now = max(self.now, end)
            return False
        self.now = max(self.now, timers[0][0])
        while timers and timers[0][0] <= self.now:
            self._ready.append(heapq.heappop(timers)[2])
        return True

    def _step(self, handle: Handle) -> None:
        if handle.gone:
            return
        program = handle.context.get(OWNER)
        if program is not None and not self._may_run(program, handle):
            return
        self.steps += 1
        try:
            handle.context.run(handle.callback, *handle.args)
        except Crash:
            pass
        except Exception as error:
            self._failed("a callback raised", error)

    def _may_run(self, program: Program, handle: Handle) -> bool:
        if program.dead:
            return False
        if program.frozen:
            program.parked.append(handle)
            return False
        if program.crash_in is not None:
            program.crash_in -= 1
            if program.crash_in <= 0:
                program.crash_in = None
                program.on_crash()
                return False
        return True

    def thaw(self, program: Program) -> None:
        """Let a frozen program go on: all that came meanwhile, in its order."""
        program.frozen = False
        parked, program.parked = program.parked, []
        self._ready.extend(parked)


class SimClock:
    """One host's clock: its wall may jump."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop
        self.jump = 0.0

    def monotonic(self) -> float:
        return self._loop.now

    def time_ns(self) -> int:
        return 1_700_000_000_000_000_000 + int((self._loop.now - START + self.jump) * 1e9)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))
