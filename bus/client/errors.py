"""What can go wrong in the client beyond `bus.errors`; light to import. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import BusOfflineError

if TYPE_CHECKING:
    from ..messages import Status


class LoginRefusedError(BusOfflineError):
    """The broker was reached and refused the user."""


class ResultError(Exception):
    """A reply that does not have the contract's form: the manager is probably of another version."""


class EventsLostError(Exception):
    """Events between two sequences can't be had any more: the manager has deleted them.

    The watch goes on behind the gap: iterate over it again.
    """

    def __init__(self, after: int, before: int) -> None:
        super().__init__(f"the events between sequence {after} and {before} are lost")
        self.after = after
        self.before = before


class WaitError(Exception):
    """What was waited for did not come.

    `subject` is the object for people, `wanted` what was waited for, `reason` why it did not come, `status`
    the last status (None: none was seen, or the object was deleted), `conditions` that status's.
    """

    def __init__(
        self, subject: str, wanted: str, reason: str, status: Status | None, text: str | None = None
    ) -> None:
        super().__init__(text or f"{subject} is not {wanted}: {reason}")
        self.subject = subject
        self.wanted = wanted
        self.reason = reason
        self.status = status
        self.conditions = tuple(status.conditions) if status is not None else ()


class WaitTimeoutError(WaitError):
    """It did not come in time."""


class GoalLostError(WaitError):
    """It can no longer come: the object was deleted, or somebody ordered something else."""
