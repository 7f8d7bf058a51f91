"""What can go wrong in a command, as one sentence and an exit code that scripts can use. Light to import."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final

from busbar.bus.client.errors import EventsLostError, GoalLostError, ResultError, WaitTimeoutError
from busbar.bus.errors import BusError, BusOfflineError, CallTimeoutError, MissingRightError


class ExitCode(IntEnum):
    """The exit codes of every command (also in `busbar --help`)."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    NOT_AUTHORIZED = 5
    TIMEOUT = 6
    UNREACHABLE = 7
    PROBLEMS = 8
    INTERRUPTED = 130


EXIT_HELP: Final = (
    "Exit codes: 0 done, 1 failed, 2 wrong usage or invalid argument, 3 not found, 4 refused by the present "
    "state, 5 not authorised, 6 timed out, 7 broker unreachable, 8 problems "
    "(status --check, doctor), 130 interrupted."
)

BY_CODE: Final[dict[str, ExitCode]] = {
    "malformed_request": ExitCode.USAGE,
    "invalid_argument": ExitCode.USAGE,
    "invalid_configuration": ExitCode.USAGE,
    "payload_too_large": ExitCode.USAGE,
    "not_authorized": ExitCode.NOT_AUTHORIZED,
    "quota_exceeded": ExitCode.NOT_AUTHORIZED,
    "no_such_principal": ExitCode.NOT_AUTHORIZED,
    "no_such_procedure": ExitCode.NOT_FOUND,
    "no_such_object": ExitCode.NOT_FOUND,
    "already_exists": ExitCode.CONFLICT,
    "not_stopped": ExitCode.CONFLICT,
    "cannot_start": ExitCode.CONFLICT,
    "cannot_stop": ExitCode.CONFLICT,
    "version_conflict": ExitCode.CONFLICT,
    "request_id_reused": ExitCode.CONFLICT,
    "expired": ExitCode.TIMEOUT,
    "busy": ExitCode.FAILED,
    "internal": ExitCode.FAILED,
}
"""The exit code for each error code of the contract."""


EXPECTED: Final = (
    BusError, BusOfflineError, CallTimeoutError, EventsLostError, GoalLostError, OSError, ResultError,
    WaitTimeoutError,
)  # fmt: skip
"""Expected failures besides CliError; anything else is a defect and keeps its traceback."""


EARLIER: Final = ": a manager of an earlier version does not know it"


class CliError(Exception):
    """A failure reported as one sentence; `code` is a stable identifier for `-o json`."""

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.FAILED, code: str = "failed") -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
        self.code = code


def usage(message: str) -> CliError:
    """The command line itself is at fault."""
    return CliError(message, ExitCode.USAGE, "usage")


def exit_code(error: BaseException) -> ExitCode:
    """Which exit code an error ends the command with."""
    if isinstance(error, CliError):
        return error.exit_code
    if isinstance(error, BusError):
        return BY_CODE.get(error.code, ExitCode.FAILED)
    if isinstance(error, (CallTimeoutError, WaitTimeoutError)):
        return ExitCode.TIMEOUT
    if isinstance(error, GoalLostError):
        return ExitCode.CONFLICT
    if isinstance(error, MissingRightError):
        return ExitCode.NOT_AUTHORIZED
    if isinstance(error, BusOfflineError):
        return ExitCode.UNREACHABLE
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    return ExitCode.FAILED


def sentence(error: BaseException) -> str:
    """The error in one line for people."""
    if isinstance(error, BusError):
        at = f" at {', '.join(error.pointers)}" if error.pointers else ""
        more = f", correlation {error.correlation}" if error.correlation else ""
        hint = EARLIER if error.code == "no_such_procedure" else ""
        return f"{error.detail or error.row.title} ({error.code}{at}{more}){hint}"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return " ".join(str(error).split()) or type(error).__name__


def as_object(error: BaseException) -> dict[str, Any]:
    """The error for `-o json`: the wire format for errors of the manager."""
    if isinstance(error, BusError):
        return {**error.to_wire(), "exit_code": int(exit_code(error))}
    words = {
        ExitCode.NOT_AUTHORIZED: "not_authorized",
        ExitCode.TIMEOUT: "timeout",
        ExitCode.CONFLICT: "superseded",
        ExitCode.UNREACHABLE: "unreachable",
        ExitCode.INTERRUPTED: "interrupted",
    }
    code = error.code if isinstance(error, CliError) else words.get(exit_code(error), "failed")
    return {"code": code, "detail": sentence(error), "exit_code": int(exit_code(error))}
