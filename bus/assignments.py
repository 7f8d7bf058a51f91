"""Assignments as they are sent: each distinct definition once, and workers that refer to it. Pure.

An agent announces with `capacity.shared_definitions` that it reads them; others get every worker's whole
definition.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from .errors import BusError
from .messages import AssignedWorker, Assignment

SHARES: Final = "shared_definitions"
"""The member of a node's `capacity` by which its agent announces this form."""


def shares(capacity: Mapping[str, Any] | None) -> bool:
    """Whether the agent that reported this capacity reads shared definitions."""
    return (capacity or {}).get(SHARES) is True


def shared(assignment: Assignment) -> Assignment:
    """The same assignment with each distinct definition once. Workers of one digest have the same one."""
    keys: dict[str, str] = {}
    definitions: dict[str, dict[str, Any]] = {}

    def refer(worker: AssignedWorker) -> AssignedWorker:
        if worker.transport is None:
            return worker
        key = keys.setdefault(worker.digest, str(len(keys) + 1))
        definitions[key] = worker.transport
        return replace(worker, transport=None, definition=key)

    return replace(assignment, workers=[refer(each) for each in assignment.workers], definitions=definitions)


def expanded(assignment: Assignment) -> Assignment:
    """The same assignment with every worker's whole definition; equal ones are one object.

    Raises:
        BusError: `invalid_argument`: a worker refers to a definition that is not there.
    """
    definitions = assignment.definitions
    if isinstance(definitions, UnsetType):
        definitions = {}

    def resolve(worker: AssignedWorker) -> AssignedWorker:
        if isinstance(worker.definition, UnsetType):
            return worker
        if worker.definition not in definitions:
            raise BusError("invalid_argument", f"worker {worker.worker}: no definition {worker.definition!r}")
        return replace(worker, transport=definitions[worker.definition], definition=UNSET)

    return replace(assignment, workers=[resolve(each) for each in assignment.workers], definitions=UNSET)
