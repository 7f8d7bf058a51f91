"""Long work in slices: between two of them the event loop is everyone else's. Pure."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")
Slices = Generator[None, None, T]
"""Runs to its next `yield` without a pause, some 10 ms, and returns its result at the end.

What it reads must not change between two slices: it works on a copy of its own.
"""


def whole(slices: Slices[T]) -> T:
    """All slices at once; returns their result."""
    while True:
        try:
            next(slices)
        except StopIteration as end:
            result: T = end.value
            return result
