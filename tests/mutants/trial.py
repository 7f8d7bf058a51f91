"""Runs unit tests against a module with a fault in it, in a process of its own."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Final

import hypothesis
import msgspec
import pytest
import sqlite_utils

from tests.mutants.areas import ROOT

_LOADED: Final = (hypothesis, msgspec, sqlite_utils)
"""Loaded once, and inherited by each trial; nothing of the product is."""
CPU_S: Final = 90
"""A fault that makes the tests compute for longer is noticed."""
WALL_S: Final = 900
MEMORY: Final = 2 << 30


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self._code = compile(source, path, "exec")

    def get_code(self, fullname: str) -> CodeType:
        return self._code


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, name: str, path: str, source: str) -> None:
        self._name, self._loader = name, _Loader(name, path, source)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        return importlib.util.spec_from_loader(fullname, self._loader)


def noticed(file: str, source: str, tests: Sequence[str]) -> bool:
    """Whether the tests fail when a file of the product has this source."""
    assert not any(name.partition(".")[0] == "busbar" for name in sys.modules)
    child = os.fork()
    if not child:
        code = 70
        try:
            code = _run(file, source, tests)
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return status != 0


def _run(file: str, source: str, tests: Sequence[str]) -> int:
    os.setsid()
    signal.alarm(WALL_S)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    name = "busbar." + file.removesuffix(".py").replace("/", ".")
    sys.meta_path.insert(0, _Finder(name, str(ROOT / ".src/busbar" / file), source))
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-seed=0"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # hypothesis is loaded already
    there = [test for test in tests if (ROOT / test).exists()]
    return int(pytest.main([*options, *there]))


def source_of(file: str) -> str:
    """The product's file as it is."""
    return Path(ROOT / file).read_text()
