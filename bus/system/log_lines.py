"""The formats of our services' logs: one line per event, whatever the text is that others chose. Pure."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any, Final, Literal

from ..clock import rfc3339
from ..printable import json_text, printable

LogFormat = Literal["plain", "json", "journald"]
LEVELS: Final = ("debug", "info", "warning", "error")
FORMATS: Final[tuple[LogFormat, ...]] = ("plain", "json", "journald")
LINE_MAX: Final = 10_000
"""Characters of a line; journald splits what has more than 48 KiB."""
FOLD: Final = " | "
"""Between the lines of a traceback."""
RECORD: Final = "%(asctime)s.%(msecs)03d %(levelname)s %(name)s: %(message)s"
TIME: Final = "%Y-%m-%dT%H:%M:%S"
OUTPUT: Final = "output"
"""The logger's name of a line that a program wrote, and not our logging."""
_FEWEST: Final = 300
_WORST: Final = 12
"""Characters that one of a text takes in JSON at most."""
_SERIOUS: Final = frozenset({"WARNING", "ERROR", "CRITICAL"})


class LineFormatter(logging.Formatter):
    """One line per record: its text, then the lines of its traceback, each behind ` | `."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        return cut(printable(super().format(_bare(record))) + self._folded(record))

    def _folded(self, record: logging.LogRecord) -> str:
        return "".join(FOLD + printable(line) for line in _traceback(self, record).split("\n") if line)


class JournaldFormatter(LineFormatter):
    """As journald takes it from stderr: the priority in front (sd-daemon(3)), and no time, which it adds."""

    def __init__(self) -> None:
        super().__init__("%(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        return f"<{priority(record.levelno)}>{super().format(record)}"


class JsonFormatter(logging.Formatter):
    """One object per record: time, level, logger, message, `members`, an error's kind and traceback."""

    def __init__(self, members: Mapping[str, str | None] | None = None) -> None:
        super().__init__()
        self.members = {name: value for name, value in (members or {}).items() if value is not None}

    def format(self, record: logging.LogRecord) -> str:
        """The record as an object in printable characters."""
        row: dict[str, Any] = {
            "time": rfc3339(int(record.created * 1_000_000_000)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
            **self.members,
        }
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            row["error"] = type(error).__name__
        if text := _traceback(self, record):
            row["traceback"] = text
        return _fitted(row)


def formatter(form: LogFormat, members: Mapping[str, str | None] | None = None) -> logging.Formatter:
    """The formatter of a format; `members` are those of every JSON object."""
    if form == "json":
        return JsonFormatter(members)
    return JournaldFormatter() if form == "journald" else LineFormatter(RECORD, TIME)


def priority(level: int) -> int:
    """A level of logging as one of syslog."""
    steps = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
    return next((found for least, found in steps if level >= least), 7)


def relayed(line: str, form: LogFormat, service: str, time: str) -> str:
    """A line that a service wrote, as its supervisor writes it: JSON and priorities stay what they are.

    Other lines, such as those of a broker's program, become records of the logger `output`.
    """
    text = printable(line)
    if form == "json" and read(line) is None:
        row = {"time": time, "level": "info", "logger": OUTPUT, "message": line, "service": service}
        return _fitted(row)
    if form == "journald":
        level = logging.getLevelNamesMapping().get(serious(line)[0], logging.INFO)
        return f"<{priority(level)}>{service}: {text}"
    return text


def serious(line: str) -> tuple[str, str]:
    """Level and message of a line about a problem, in plain format or JSON; empty texts for all others."""
    row = read(line)
    if row is not None:
        level = str(row.get("level")).upper()
        return (level, str(row.get("message"))) if level in _SERIOUS else ("", "")
    for level in ("ERROR", "CRITICAL", "WARNING"):
        _, mark, after = line.partition(f" {level} ")
        if mark:
            return level, (after.partition(": ")[2] or line).partition(f"{FOLD}Traceback ")[0]
    return "", ""


def read(line: str) -> dict[str, Any] | None:
    """A line of JSON as an object with a level; None for every other."""
    if not line.startswith("{"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and "level" in row else None


def cut(line: str) -> str:
    """A line of bounded length."""
    return line if len(line) <= LINE_MAX else f"{line[: LINE_MAX - _FEWEST]}… {len(line)} characters"


def _fitted(row: dict[str, Any]) -> str:
    """A row as JSON of bounded length: long texts lose their middle."""
    text = json_text(row)
    for limit in (LINE_MAX // 4, LINE_MAX // (4 * _WORST)):
        if len(text) <= LINE_MAX:
            break
        text = json_text({name: _shortened(value, limit) for name, value in row.items()})
    return text


def _shortened(value: Any, limit: int) -> Any:
    if not isinstance(value, str) or len(value) <= limit:
        return value
    return f"{value[: limit // 2]}…{value[-limit // 2 :]}"


def _bare(record: logging.LogRecord) -> logging.LogRecord:
    """The record with its message made, and without the traceback, which logging would add as it is."""
    bare = logging.makeLogRecord(record.__dict__)
    bare.msg, bare.args = _message(record), None
    bare.exc_info, bare.exc_text, bare.stack_info = None, None, None
    return bare


def _message(record: logging.LogRecord) -> str:
    """The record's message; where its arguments do not fit, what it was made of."""
    try:
        return record.getMessage()
    except Exception as error:  # of any __str__: a line must come of it all the same
        return f"{_shown(record.msg)} ({_shown(record.args)}: {type(error).__name__})"


def _shown(value: object) -> str:
    try:
        return repr(value)
    except Exception:
        return f"<{type(value).__name__}>"


def _traceback(form: logging.Formatter, record: logging.LogRecord) -> str:
    """The traceback or the stack of a record, as text of several lines."""
    if record.exc_info and record.exc_info[1] is not None:
        try:
            return form.formatException(record.exc_info)
        except Exception:
            return f"{record.exc_info[0]}"
    return record.exc_text or record.stack_info or ""
