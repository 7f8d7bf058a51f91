"""Text that others chose, in the log: it stays on its line and moves no cursor."""

import logging
import subprocess
import sys

import pytest
from busbar.bus.broker.limits import LIMITS, LineRate
from busbar.bus.log_lines import LineFormatter
from busbar.bus.printable import printable
from hypothesis import given
from hypothesis import strategies as st


def line_of(message: str, error: str = "") -> str:
    info = None
    if error:
        try:
            raise ValueError(error)
        except ValueError:
            info = sys.exc_info()
    record = logging.LogRecord("busbar.x", logging.WARNING, "f.py", 1, "said %s", (message,), info)
    return LineFormatter("%(levelname)s %(name)s: %(message)s").format(record)


@pytest.mark.fault(82, "S")
@given(st.text() | st.text(st.characters(categories=["Cc", "Cf", "Zl", "Zp", "Zs"])))
def test_a_record_is_one_line_of_printable_characters(text: str) -> None:
    line = line_of(text)
    assert line.isprintable()
    assert line.startswith("WARNING busbar.x: said ")
    assert printable(text) == text or not text.isprintable()


@pytest.mark.fault(82, "S")
@given(st.text())
def test_lines_of_a_traceback_cannot_pass_for_records(text: str) -> None:
    first, *rest = line_of("x", error=f"e{text}").split("\n")
    assert first == "WARNING busbar.x: said x"
    assert rest
    assert all(line.startswith(" | ") and line.isprintable() for line in rest)


def test_lines_are_limited_per_cause_and_those_left_out_are_counted() -> None:
    rate = LineRate()
    assert [rate.admit("a", 0.0) for _ in range(LIMITS.log_lines)] == [0] * LIMITS.log_lines
    assert [rate.admit("a", 0.0) for _ in range(7)] == [None] * 7
    assert rate.admit("b", 0.0) == 0
    assert rate.admit("a", LIMITS.log_line_s) == 7


@pytest.mark.fault(82, "S")
def test_a_line_is_written_also_when_no_file_can_be_opened() -> None:
    code = (
        "import resource, sys; from busbar.bus.printable import json_text, printable;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3)); print(printable('a\\n'), json_text('\\u202e'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ('a\\n "\\u202e"\n', "")
