"""Options behave as people expect, in every command that has one of their kind."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import os
import typing
from collections.abc import Iterator
from typing import Any, Literal

import pytest
import typer
import yaml
from busbar.bus.routers.transport import Transport
from busbar.cli import lazy
from busbar.cli.arguments import common_options
from busbar.cli.errors import ExitCode
from busbar.cli.printing import output

from .realm import Line, Realm, leaves, result_of
from .realm import line as line
from .table import CALLS, LOCAL, VERDICTS


def enums() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Every option or argument with few values: command, parameter, values."""
    for name, (module, _) in lazy.COMMANDS.items():
        plain = typer.main.get_command(importlib.import_module(module).app)
        for path, command in [*leaves(plain, name), (name, plain)]:
            if command.callback is None:
                continue
            hints = typing.get_type_hints(inspect.unwrap(command.callback), include_extras=True)
            for param in command.params:
                values = literals(hints.get(param.name))
                if values:
                    yield path, param.opts[0], values


def literals(kind: Any) -> tuple[str, ...]:
    if typing.get_origin(kind) is Literal:
        return typing.get_args(kind)
    return next((found for each in typing.get_args(kind) if (found := literals(each))), ())


def test_there_are_such_options() -> None:
    found = {(path, option) for path, option, _ in enums()}
    assert {("worker list", "--status"), ("principal role", "role"), ("manager", "--mqtt")} <= found


@pytest.mark.fault(99, "U")
@pytest.mark.parametrize(("path", "option", "values"), sorted(set(enums())))
def test_a_wrong_value_is_refused_with_those_that_are_valid(
    line: Line, capsys: pytest.CaptureFixture[str], path: str, option: str, values: tuple[str, ...]
) -> None:
    known = {**CALLS, **LOCAL}.get(path, ())
    wrong = values[0].swapcase() + "x"
    given = [option, wrong] if option.startswith("-") else []
    arguments = known if given else tuple(wrong if word in values else word for word in known)
    with pytest.raises(typer.BadParameter) as caught:
        line.run(*path.split(), *arguments, *given)
    said = caught.value.format_message()
    assert wrong in said
    assert all(value in said for value in values)
    assert capsys.readouterr().out == ""


def test_the_types_of_a_transport_are_those_of_the_contract() -> None:
    kinds = typing.get_type_hints(Transport)["type"]
    assert set(literals(common_options.TransportType)) == set(typing.get_args(kinds))


@pytest.mark.fault(99, "U")
@pytest.mark.parametrize("form", ["json", "yaml"])
def test_every_command_of_this_machine_honours_the_format(
    line: Line, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Any, form: str
) -> None:
    monkeypatch.chdir(tmp_path)
    read = json.loads if form == "json" else yaml.safe_load
    for command, arguments in LOCAL.items():
        code = line.run(*command.split(), *arguments, "-o", form)
        shown = capsys.readouterr()
        if code in (0, ExitCode.PROBLEMS):  # problems that were found are the result
            assert isinstance(read(shown.out), (dict, list)), command
        else:
            assert read(shown.err)["error"]["exit_code"] == code, command


@pytest.mark.fault(99, "U")
@pytest.mark.parametrize("command", [*CALLS, *LOCAL])
def test_an_unknown_format_is_refused_by_every_command(
    line: Line, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert line.run(*command.split(), *{**CALLS, **LOCAL}[command], "-o", "xml") == ExitCode.USAGE
    assert "table, wide, json, yaml" in capsys.readouterr().err


@pytest.mark.fault(99, "U")
@pytest.mark.parametrize(
    "command", [*(each for each in CALLS if each not in VERDICTS), "context add", "principal password"]
)
def test_a_broker_that_is_no_url_is_refused_by_every_command(
    line: Line, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """`busbar check` says it as a plugin does: tests/unit/cli/commands/test_check.py."""
    words = {**CALLS, **LOCAL}[command]
    assert line.run(*command.split(), *words, "--broker", "foo") == ExitCode.USAGE
    assert "mqtt://foo" in capsys.readouterr().err


@pytest.mark.fault(99, "U")
@pytest.mark.parametrize(
    ("env", "painted"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_no_colour_means_no_escape_sequence(
    line: Line, monkeypatch: pytest.MonkeyPatch, env: dict[str, str], painted: bool
) -> None:
    def answer(operation: str, given: dict[str, Any]) -> Any:
        return result_of(operation, lambda member: "RUNNING" if member == "status" else "x")

    monkeypatch.setenv("TERM", "xterm")
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    for command in ("status", "cluster list", "cluster stat", "node show", "worker list"):
        ours, theirs = os.openpty()
        terminal = os.fdopen(theirs, "w")
        with monkeypatch.context() as patched, terminal:
            patched.setattr("sys.stdout", terminal)
            patched.setattr("sys.stderr", terminal)
            assert line.against(Realm(answer)).run(*command.split(), *CALLS[command]) == 0
        shown = b""
        with contextlib.suppress(OSError):  # its end
            while data := os.read(ours, 65536):
                shown += data
        os.close(ours)
        assert (b"\x1b[" in shown) == painted, command


def test_a_context_says_what_it_did(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    for name, said in (("lab", "is current"), ("two", "is stored; 'busbar context use two'")):
        assert line.run("context", "add", name, "--broker", "mqtt://h:1") == 0
        assert said in capsys.readouterr().out
    assert output.output_format() == "table"
