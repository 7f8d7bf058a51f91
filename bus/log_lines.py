"""The format of our services' logs: one line per event, whatever the text is that others chose. Pure."""

from __future__ import annotations

import logging

from .printable import printable


class LineFormatter(logging.Formatter):
    """One line per record; a traceback's lines follow, each behind ` | `, and can't pass for records."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        text, bar, rest = super().format(_bare(record)), "", ""
        if record.exc_info:
            rest = self.formatException(record.exc_info)
            bar = "\n | "
        # A traceback holds messages of errors, and so what others have sent.
        return printable(text) + bar + bar.join(printable(line) for line in rest.split("\n"))


def _bare(record: logging.LogRecord) -> logging.LogRecord:
    """The record without its traceback, which logging would add as it is."""
    bare = logging.makeLogRecord(record.__dict__)
    bare.exc_info, bare.exc_text, bare.stack_info = None, None, None
    return bare
