"""What a node reports of its runtimes: the schema of their transports, and where their version comes from."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from busbar.bus.json_schema import MAX_SCHEMA
from busbar.bus.routers.transport_schema import known_schemas, runtime_schema
from busbar.bus.system.programs import find_program

from ..processes.users import RunAs
from .amqtt import AmqttRuntime
from .base import Runtime
from .crossbar import CrossbarRuntime
from .exec import ExecRuntime
from .mosquitto import MosquittoRuntime
from .nats import NatsRuntime

Identity = tuple[str, int, int, int]
"""A program file: its path, inode, size and time of change."""


class VersionQuestion(NamedTuple):
    """What prints a program's version, as which user."""

    argv: tuple[str, ...]
    user: RunAs | None


def schema_of(runtime: Runtime) -> Mapping[str, Any] | None:
    """The JSON Schema of a runtime's transports; None where it accepts any."""
    if isinstance(runtime, ExecRuntime):
        if runtime.transport_schema is not None:
            return runtime.transport_schema
        kinds = list(runtime.types)
        return {"properties": {"type": {"enum": kinds}}} if kinds and len(str(kinds)) < MAX_SCHEMA else None
    return runtime_schema(runtime.name) if runtime.name in known_schemas() else None


def program_of(runtime: Runtime) -> str | None:
    """The file that says by its identity whether the version may have changed."""
    match runtime:
        case AmqttRuntime():
            return runtime.python
        case MosquittoRuntime():
            return find_program(runtime.program)
        case CrossbarRuntime() | NatsRuntime():
            return find_program(runtime.program, beside=sys.executable)
        case ExecRuntime() if runtime.version:
            return find_program(runtime.version[0])
    return None


def identity_of(program: str) -> Identity | None:
    """None where there is no such file."""
    try:
        found = os.stat(program)
    except OSError:
        return None
    return program, found.st_ino, found.st_size, found.st_mtime_ns


def version_question(runtime: Runtime, program: str) -> VersionQuestion | str | None:
    """What to run, the version itself where it is written down, or None."""
    match runtime:
        case AmqttRuntime():
            return _of_package("amqtt")
        case CrossbarRuntime():
            # `crossbar version` takes seconds of CPU.
            ours = Path(program).parent == Path(sys.executable).parent
            return _beside(program, "crossbar") or (_of_package("crossbar") if ours else None)
        case MosquittoRuntime():
            return VersionQuestion((program, "-h"), runtime.run_as)
        case NatsRuntime():
            return VersionQuestion((program, "-v"), runtime.run_as)
        case ExecRuntime():
            return VersionQuestion((program, *runtime.version[1:]), runtime.run_as)
    return None


def _of_package(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _beside(program: str, package: str) -> str | None:
    """The version of a package in the virtual environment that a program was installed into."""
    prefix = Path(os.path.realpath(program)).parent.parent
    for folder in (Path(program).absolute().parent.parent, prefix):
        found = sorted(folder.glob(f"lib/python3*/site-packages/{package}-*.dist-info"))
        if found:
            return found[-1].name.removeprefix(f"{package}-").removesuffix(".dist-info")[:64]
    return None
