"""How a service logs: level and format from options, environment and config file; everything to stderr."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Final, cast

from busbar.bus.system.log_lines import FORMATS, LEVELS, JsonFormatter, LogFormat, formatter

from ..context import HomelessError, config_path, load_config
from ..errors import CliError, usage

if TYPE_CHECKING:
    from .specs import ServiceSpec

LEVEL_VARIABLE: Final = "BUSBAR_LOG_LEVEL"
FORMAT_VARIABLE: Final = "BUSBAR_LOG_FORMAT"
JOURNAL_VARIABLE: Final = "JOURNAL_STREAM"
DEFAULT_LEVEL: Final = "info"

log = logging.getLogger("busbar.service")


@dataclass(frozen=True, slots=True)
class LogOptions:
    """What is logged, and how."""

    level: str
    form: LogFormat


def start(level: str | None, form: str | None, members: Mapping[str, str] | None = None) -> LogOptions:
    """Log from now on as these options say; returns what is in force. `members`: of every JSON object.

    Raises:
        CliError: as `log_options`.
    """
    found = log_options(level, form)
    log_to_stderr(found, members)
    log_the_uncaught()
    return found


def log_options(level: str | None, form: str | None) -> LogOptions:
    """The options given, else the environment's, else those of `[log]` in the config file.

    The format is that of journald where none is said and stderr is the journal.

    Raises:
        CliError: there is no such level or format.
    """
    env = os.environ
    stored = _stored(env)
    found = (
        _one_of("--log-level", level, LEVELS)
        or _one_of(LEVEL_VARIABLE, env.get(LEVEL_VARIABLE), LEVELS)
        or _one_of("log.level in the config file", stored.get("level"), LEVELS)
    )
    return LogOptions(found or DEFAULT_LEVEL, _format(form, env, stored))


def log_refusal(service: str, form: str | None, text: str) -> bool:
    """Log why a service does not start; False in the plain format, which people read.

    `form`: what the command line says of the format. Where that, or the config file, is at fault, the next
    that says something holds.
    """
    chosen = _format_at_any_rate(form, os.environ)
    if chosen != "plain":
        log_to_stderr(LogOptions("error", chosen), {"service": service})
        log.error("%s: %s", service, text)
    return chosen != "plain"


def _format_at_any_rate(form: str | None, env: Mapping[str, str]) -> LogFormat:
    sources: tuple[Callable[[], LogFormat], ...] = (
        lambda: _format(form, env, _stored(env)),
        lambda: _format(form, env, {}),
        lambda: _format(None, env, {}),
    )
    for source in sources:
        with contextlib.suppress(CliError):
            return source()
    return "plain"


def _format(form: str | None, env: Mapping[str, str], stored: Mapping[str, str]) -> LogFormat:
    how = (
        _one_of("--log-format", form, FORMATS)
        or _one_of(FORMAT_VARIABLE, env.get(FORMAT_VARIABLE), FORMATS)
        or _one_of("log.format in the config file", stored.get("format"), FORMATS)
        or ("journald" if is_journal(sys.stderr, env) else "plain")
    )
    return cast(LogFormat, how)


def _stored(env: Mapping[str, str]) -> Mapping[str, str]:
    """`[log]` of the config file; a service needs no home, and may have that of another user."""
    try:
        path = config_path(env)
    except HomelessError:
        return {}
    return load_config(path).log if os.access(path, os.R_OK) else {}


def _one_of(name: str, value: str | None, known: tuple[str, ...]) -> str | None:
    if value and value.lower() not in known:
        raise usage(f"{name} {value}: use {', '.join(known[:-1])} or {known[-1]}")
    return value.lower() if value else None


def is_journal(stream: IO[str], env: Mapping[str, str]) -> bool:
    """Whether a stream is the one that systemd has connected to the journal: the variable has its inode."""
    device, _, inode = env.get(JOURNAL_VARIABLE, "").partition(":")
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):  # closed, or in memory alone
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


def log_to_stderr(options: LogOptions, members: Mapping[str, str | None] | None = None) -> None:
    """Log to stderr, one line per event, what libraries log included.

    `members` are those of every JSON object.
    """
    handler = _Handler(sys.stderr)
    handler.setFormatter(formatter(options.form, members))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("busbar").setLevel(options.level.upper())


def log_the_uncaught() -> None:
    """Have warnings, and errors that nobody catches, logged as everything else is."""
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread
    sys.unraisablehook = _unraisable


def log_as(spec: ServiceSpec) -> None:
    """From now on, name the service in what is logged as JSON."""
    members = {"service": spec.kind, "realm": spec.realm, "node": getattr(spec, "node", None)}
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, JsonFormatter):
            handler.setFormatter(JsonFormatter(members))


class _Handler(logging.StreamHandler[IO[str]]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Where stderr can't be written there is nowhere to say so; logging would try, in several lines."""


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    log.critical("uncaught: %s", error, exc_info=(kind, error, trace))


def _uncaught_in_thread(caught: threading.ExceptHookArgs) -> None:
    if caught.exc_value is not None:
        name = caught.thread.name if caught.thread is not None else "unknown"
        info = (caught.exc_type, caught.exc_value, caught.exc_traceback)
        log.critical("uncaught in thread %s: %s", name, caught.exc_value, exc_info=info)


def _unraisable(caught: Any) -> None:
    info = None if caught.exc_value is None else (caught.exc_type, caught.exc_value, caught.exc_traceback)
    log.error("%s: %r", caught.err_msg or "ignored", caught.exc_value, exc_info=info)
