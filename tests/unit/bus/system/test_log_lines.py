"""Text that others chose, in the log: it stays on its line and moves no cursor."""

import json
import logging
import re
import subprocess
import sys
from typing import Any

import pytest
from busbar.bus.broker.limits import LIMITS, LineRate
from busbar.bus.printable import printable
from busbar.bus.system.log_lines import (
    FORMATS,
    LINE_MAX,
    LineFormatter,
    LogFormat,
    formatter,
    read,
    relayed,
    serious,
)
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
    line = line_of("x", error=f"e{text}")
    assert line.startswith("WARNING busbar.x: said x | Traceback (most recent call last): | ")
    assert line.isprintable()


class Unruly:
    """Has no text at all."""

    def __str__(self) -> str:
        raise RuntimeError("\n")

    __repr__ = __str__


def raised(error: BaseException) -> Any:
    try:
        raise error
    except BaseException:
        return sys.exc_info()


hostile = st.text() | st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp", "Zs"]))
whole = hostile.filter(lambda text: not any("\ud800" <= char <= "\udfff" for char in text))
"""Without halves of a character, which JSON joins."""
texts = hostile | st.builds(lambda text, times: text * times, hostile, st.sampled_from([1, 10_000]))
errors = st.one_of(
    st.none(), st.builds(lambda text: raised(ValueError(text)), texts), st.just((None, None, None))
)
records = st.builds(
    logging.LogRecord,
    name=hostile,
    level=st.integers(0, 60),
    pathname=st.just("f.py"),
    lineno=st.just(1),
    msg=texts | st.just(Unruly()),
    args=st.one_of(st.just(()), st.tuples(texts), st.just((Unruly(),)), st.tuples(st.integers(), texts)),
    exc_info=errors,
    sinfo=st.none() | texts,
)


@pytest.mark.fault(82, "S")
@given(records)
def test_any_record_is_exactly_one_line_in_every_format(record: logging.LogRecord) -> None:
    for form in FORMATS:
        line = formatter(form, {"service": "manager", "node": None}).format(record)
        assert line.isprintable()
        assert len(line) <= LINE_MAX + len("<6>")
        if form == "journald":
            assert re.match("<[2-7]>", line)
        if form == "json":
            row = json.loads(line)
            assert set(row) - {"error", "traceback"} == {"time", "level", "logger", "message", "service"}


@given(whole, whole)
def test_json_reads_back_as_what_was_said(text: str, name: str) -> None:
    record = logging.LogRecord(name, logging.ERROR, "f.py", 1, "%s", (text,), raised(KeyError("a\nb")))
    row = json.loads(formatter("json").format(record))
    assert (row["message"], row["logger"], row["level"], row["error"]) == (text, name, "error", "KeyError")
    assert row["traceback"].splitlines()[-1] == "KeyError: 'a\\nb'"


def test_what_a_record_looks_like() -> None:
    record = logging.LogRecord("busbar.x", logging.WARNING, "f.py", 1, "a\nb", (), None)
    record.created = 1_795_808_721.2459
    assert formatter("json", {"service": "web"}).format(record) == (
        '{"time": "2026-11-27T19:45:21.245Z", "level": "warning", "logger": "busbar.x", "message": "a\\nb",'
        ' "service": "web"}'
    )
    assert formatter("journald").format(record) == "<4>busbar.x: a\\nb"
    assert formatter("plain").format(record).endswith(" WARNING busbar.x: a\\nb")


@pytest.mark.parametrize("form", FORMATS)
@given(line=whole)
def test_a_line_that_a_service_wrote_is_relayed_as_one(form: LogFormat, line: str) -> None:
    shown = relayed(line, form, "agent-n1", "2026-11-27T19:45:21.245Z")
    assert shown.isprintable()
    if form == "json":
        assert json.loads(shown)["message"] == line


@pytest.mark.parametrize("level", ["WARNING", "ERROR", "CRITICAL"])
def test_problems_are_found_in_what_a_service_wrote(level: str) -> None:
    number = logging.getLevelNamesMapping()[level]
    record = logging.LogRecord("busbar.x", number, "f.py", 1, "disk: full", (), raised(OSError("no")))
    for form in ("plain", "json"):
        line = formatter(form).format(record)
        assert serious(line) == (level, "disk: full")
        assert relayed(line, form, "manager", "now") == line
        assert relayed(line, "journald", "manager", "now")[:3] == {"WARNING": "<4>", "ERROR": "<3>"}.get(
            level, "<2>"
        )
    record.levelno, record.levelname = logging.INFO, "INFO"
    assert serious(formatter("plain").format(record)) == serious(formatter("json").format(record)) == ("", "")
    assert read("{}") is read("{") is read("text") is None


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
