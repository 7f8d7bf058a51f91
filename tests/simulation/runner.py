"""Sets a world up, lets it run, and takes it down again."""

from __future__ import annotations

import asyncio
import gc
import logging
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.simulation.disk import Disk
from tests.simulation.faults import Schedule
from tests.simulation.loop import SpinError
from tests.simulation.world import Violation, World


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a schedule. `digest` is that of its trace; `converged` seconds after healing.

    `activity` counts what happened, by kind.
    """

    schedule: Schedule
    violations: tuple[Violation, ...]
    digest: str
    steps: int
    converged: float
    trace: tuple[str, ...]
    activity: Mapping[str, int]


class Base:
    """A fleet that was set up and runs: its database, its agents' folders, and the processes."""

    def __init__(self, world: World) -> None:
        folder = world.folder
        paths = [path for path in folder.rglob("*") if path.is_file()]
        self._folders = [path.relative_to(folder) for path in folder.rglob("*") if path.is_dir()]
        self._files = {path.relative_to(folder): path.read_bytes() for path in paths}
        self._database = world.disk.dump() if world.disk is not None else None
        # Who watched them would keep the whole world with all its tasks.
        self._processes = {
            name: [replace(each, watchers=[]) for each in host.machine.living()]
            for name, host in world.agents.items()
        }

    def put(self, world: World) -> None:
        folder = world.folder
        folder.mkdir(mode=0o700)
        for path in self._folders:
            (folder / path).mkdir(mode=0o700)
        for path, content in self._files.items():
            (folder / path).write_bytes(content)
        if world.disk is not None and self._database is not None:
            world.disk.load(self._database)
        for name, host in world.agents.items():
            host.machine.inherit(self._processes[name])
        world.warm = True


_bases: dict[tuple[object, ...], Base | None] = {}
_disk: list[Disk] = []


def _base(schedule: Schedule, folder: Path, files: bool) -> Base | None:
    """What a warm schedule begins with; made once for each setup, by a schedule without faults.

    None when not even that converges: then the setup is part of the schedule, and shows why.
    """
    key = (schedule.nodes, schedule.setup, files)
    if key not in _bases:
        quiet = replace(schedule, seed=0, timeline=(), warm=False)
        world, took = _simulate(quiet, folder, None, files, False)
        _bases[key] = Base(world) if took >= 0 else None
    return _bases[key]


def _memory() -> Disk:
    if not _disk:
        _disk.append(Disk())
    return _disk[0]


def scratch() -> Path:
    """A new folder in memory where there is one."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="busbar-sim-", dir=memory if memory.is_dir() else None))


@contextmanager
def dedicated() -> Iterator[Path]:
    """A new folder for a process that does nothing but run schedules.

    It has to collect garbage itself: what was killed is not to unwind in the middle of a schedule.
    """
    sys.unraisablehook = lambda _: None  # what was killed unwinds when it is collected
    warnings.simplefilter("ignore", RuntimeWarning)  # … or was never awaited
    logging.getLogger().addHandler(logging.NullHandler())
    gc.freeze()
    gc.disable()
    folder = scratch()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def simulate(schedule: Schedule, folder: Path, *, files: bool = False, keep_trace: bool = False) -> Result:
    """Carry out one schedule; `folder` is emptied before and after.

    `files`: with the manager's database in a file, as it is in earnest; else in memory, which is faster.
    """
    base = _base(schedule, folder, files) if schedule.warm else None
    world, took = _simulate(schedule, folder, base, files, keep_trace)
    world.activity.asked(world.history)
    return Result(
        schedule,
        tuple(world.violations),
        world.hash.hexdigest(),
        world.loop.steps,
        took,
        tuple(world.lines or ()),
        world.activity.counts,
    )


def _simulate(
    schedule: Schedule, folder: Path, base: Base | None, files: bool, keep_trace: bool
) -> tuple[World, float]:
    here = folder / "now"
    shutil.rmtree(here, ignore_errors=True)
    root = logging.getLogger()
    level, handlers = root.level, root.handlers
    root.setLevel(logging.ERROR)
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        world = World(schedule, here, None if files else _memory(), keep_trace)
        root.handlers = [world.observer]
        if base is not None:
            base.put(world)
        else:
            _begin(world)
        took = _run(world)
        _bury(world)
    finally:
        root.setLevel(level)
        root.handlers = handlers
        sys.unraisablehook = hook
    return world, took


def _begin(world: World) -> None:
    """With nothing."""
    world.manager.folder.mkdir(parents=True, mode=0o700)
    if world.disk is not None:
        world.disk.load(world.disk.empty)


def _run(world: World) -> float:
    try:
        asyncio._set_running_loop(world.loop)
        return world.run()
    except SpinError as error:
        world.violation("L", str(error))
        return -1.0
    finally:
        asyncio._set_running_loop(None)


def _bury(world: World) -> None:
    """Let go of everything without letting anything of it act again."""
    world.loop.abandon()
    world.manager.kill()
    for host in world.agents.values():
        host.kill()
    for client in world.clients.values():
        client.program.dead = True
    world.loop.abandon()


def describe(result: Result) -> str:
    """What a person wants to see of a failing schedule."""
    lines = [f"seed {result.schedule.seed}: {len(result.violations)} violation(s)"]
    lines += [f"  {each.invariant} at {each.at:.3f}: {each.text}" for each in result.violations]
    lines += [f"  setup  {' '.join(map(str, step))}" for step in result.schedule.setup]
    lines += [f"  {entry}" for entry in result.schedule.timeline]
    return "\n".join(lines)
