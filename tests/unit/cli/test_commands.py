"""Every operation has its command, help is quick, options are read, an error is one sentence and a code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from busbar.bus.client.errors import GoalLostError, ResultError, WaitTimeoutError
from busbar.bus.client.names import is_oid
from busbar.bus.contract import OPERATIONS
from busbar.bus.errors import ERRORS, BusError, BusOfflineError, CallTimeoutError
from busbar.cli import app, lazy
from busbar.cli.calls.connect import split_reference
from busbar.cli.context import GlobalOptions, set_global_options
from busbar.cli.documents.definition import label_changes, or_unset, pairs, read_object, transport
from busbar.cli.errors import BY_CODE, CliError, ExitCode, as_object, exit_code, sentence
from busbar.cli.typer_fastparse import PlainParam, converter

from tests.pace import bound

HEAVY = (
    "paho", "amqtt", "sqlite_utils", "msgspec", "pydantic", "asyncio", "rich", "yaml", "ssl",
    "starlette", "uvicorn", "jinja2",
)  # fmt: skip
HEAVY_OF_OURS = ("busbar.manager.", "busbar.agent.", "busbar.bus.connection.mqtt_link")


@pytest.fixture(autouse=True)
def _no_options_left_over() -> Iterator[None]:
    set_global_options(GlobalOptions())
    yield
    set_global_options(GlobalOptions())


def leaves(command: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", {})
    for name, child in children.items():
        yield from leaves(child, f"{path} {name}".strip())
    if not children:
        yield path, command


def commands() -> dict[str, Any]:
    app.command()
    return dict(leaf for name in lazy.COMMANDS for leaf in leaves(lazy.load(name, lazy.LazyGroup), name))


def operations_of() -> dict[str, set[str]]:
    """Which commands stand for each operation, as the commands themselves declare it."""
    import importlib

    import typer

    found: dict[str, set[str]] = {}
    for name, (module, _) in lazy.COMMANDS.items():
        plain = typer.main.get_command(importlib.import_module(module).app)
        for path, command in leaves(plain, name):
            for operation in getattr(command.callback, "operations", ()):
                found.setdefault(operation, set()).add(path)
    return found


def test_help_speaks_of_the_command_not_of_the_operations_behind_it() -> None:
    known = commands()
    assert known["worker logs"].help.startswith("Print a worker's last output lines")
    assert known["node token"].help.startswith("Print a new line")


def test_every_operation_of_the_contract_has_a_command() -> None:
    found = operations_of()
    assert set(found) == set(OPERATIONS)


def test_commands_use_the_operations_they_declare() -> None:
    """A declaration without a call in the command's own source would prove nothing."""
    import importlib
    import inspect

    from busbar.bus.client import client, references
    from busbar.cli.calls import dry_run

    for operation, paths in operations_of().items():
        modules = [importlib.import_module(lazy.COMMANDS[path.split()[0]][0]) for path in paths]
        sources = [inspect.getsource(module) for module in (*modules, client, references, dry_run)]
        text = "\n".join(
            line for source in sources for line in source.splitlines() if "n.subcommand" not in line
        )
        assert re.search(rf"\b(?:bus|self)\.{operation}\b", text), operation


@pytest.mark.parametrize("name", list(lazy.COMMANDS))
def test_every_command_has_help_and_the_global_options(name: str) -> None:
    app.command()
    for path, command in leaves(lazy.load(name, lazy.LazyGroup), name):
        assert command.help, path
        names = {option for param in command.params for option in param.opts}
        assert {"--context", "--broker", "--realm", "--output"} <= names, path
        assert len([n for param in command.params for n in param.opts]) == len(names), f"{path}: one twice"


def run_cli(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "busbar.cli.app", *arguments],
        capture_output=True,
        text=True,
        timeout=bound(30),
        env=env,
    )


def loaded_by(*arguments: str) -> set[str]:
    code = (
        "import sys, atexit, json\n"
        "atexit.register(lambda: print('\\n' + json.dumps(sorted(sys.modules))))\n"
        f"sys.argv = ['busbar', *{list(arguments)!r}]\n"
        "from busbar.cli.app import main\nmain()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=bound(30))
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


@pytest.mark.parametrize("arguments", [("--help",), ("--version",)])
def test_the_top_of_the_command_line_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    loaded = loaded_by(*arguments)
    assert "typer" in loaded
    assert not loaded.intersection(HEAVY)
    assert not any(name.startswith(HEAVY_OF_OURS) for name in loaded)


def test_contexts_are_listed_without_the_mqtt_library_or_pydantic() -> None:
    loaded = loaded_by("context", "list")
    assert not loaded.intersection({"paho", "amqtt", "sqlite_utils", "pydantic", "asyncio"})


def test_a_misspelt_command_is_a_usage_error_with_a_hint() -> None:
    result = run_cli("clster")
    assert result.returncode == ExitCode.USAGE
    assert "'cluster'" in result.stderr


# --- errors ------------------------------------------------------------------------------------------------


def test_every_code_of_the_contract_has_its_exit_code() -> None:
    assert set(BY_CODE) == set(ERRORS)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BusError("no_such_object", "no"), 3),
        (BusError("already_exists", "no"), 4),
        (BusError("version_conflict", "no"), 4),
        (BusError("not_authorized", "no"), 5),
        (BusError("invalid_argument", "no"), 2),
        (BusError("internal", "no"), 1),
        (BusError("of_a_newer_manager", "no"), 1),
        (CallTimeoutError("late"), 6),
        (BusOfflineError("gone"), 7),
        (WaitTimeoutError("it", "RUNNING", "late", None), 6),
        (GoalLostError("it", "RUNNING", "gone", None), 4),
        (ResultError("odd"), 1),
        (KeyboardInterrupt(), 130),
        (OSError("disk"), 1),
    ],
)
def test_exit_codes(error: BaseException, code: int) -> None:
    assert exit_code(error) == code
    assert as_object(error)["exit_code"] == code


def test_a_wait_that_failed_says_so_in_json_too() -> None:
    late = as_object(WaitTimeoutError("cluster 'edge'", "RUNNING", "late", None))
    assert (late["code"], late["detail"]) == ("timeout", "cluster 'edge' is not RUNNING: late")
    assert as_object(GoalLostError("it", "RUNNING", "gone", None))["code"] == "superseded"


def test_an_error_is_one_sentence_with_code_and_place() -> None:
    error = BusError("already_exists", "router cluster 'edge' exists", ["/params/routercluster/name"])
    assert sentence(error) == "router cluster 'edge' exists (already_exists at /params/routercluster/name)"
    assert "\n" not in sentence(OSError("two\nlines"))


def test_an_error_as_json_is_that_of_the_wire(capsys: pytest.CaptureFixture[str]) -> None:
    set_global_options(GlobalOptions(output="json"))
    error = BusError("not_stopped", "it runs", ["/params/routercluster_oid"])
    assert app.report(error) == 4
    shown = json.loads(capsys.readouterr().err)["error"]
    assert shown["code"] == "not_stopped"
    assert shown["uri"] == "crossbar.error.not_stopped"
    assert shown["errors"] == [{"pointer": "/params/routercluster_oid"}]


def test_a_defect_keeps_its_traceback() -> None:
    def defect() -> None:
        raise AssertionError("a defect")

    with pytest.raises(AssertionError):
        app.guard(defect)


# --- references and definitions ----------------------------------------------------------------------------


def test_references_name_cluster_and_group_together_or_apart() -> None:
    assert split_reference("edge/web", None, "group") == ("edge", "web")
    assert split_reference("web", "edge", "group") == ("edge", "web")
    assert split_reference("edge/web", "edge", "group") == ("edge", "web")
    with pytest.raises(CliError, match="--cluster"):
        split_reference("web", None, "group")
    with pytest.raises(CliError, match="says 'core'"):
        split_reference("edge/web", "core", "group")


def test_oids_are_told_from_names() -> None:
    assert is_oid("3eccb1fd-251b-4eda-bee9-06b3d24b1c5e")
    assert not is_oid("edge")
    assert not is_oid("3eccb1fd-251b-4eda-bee9-06b3d24b1c5e\n")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ((None, None, None), None),
        ((None, "mqtt", None), {"type": "mqtt"}),
        ((None, "mqtt", "1884"), {"type": "mqtt", "endpoint": {"type": "tcp", "port": 1884}}),
        ((None, "web", "8080-8090"), {"type": "web", "endpoint": {"type": "tcp", "port": "8080-8090"}}),
        (
            ('{"type": "web", "endpoint": {"type": "tcp", "shared": true}}', None, "80"),
            {"type": "web", "endpoint": {"type": "tcp", "shared": True, "port": 80}},
        ),
    ],
)
def test_the_transport_options(given: tuple[Any, ...], wanted: Any) -> None:
    assert transport(*given) == wanted


@pytest.mark.parametrize(("suffix", "text"), [("json", '{"type": "mqtt"}'), ("yaml", "type: mqtt\n")])
def test_a_transport_from_a_file(tmp_path: Any, suffix: str, text: str) -> None:
    file = tmp_path / f"t.{suffix}"
    file.write_text(text)
    assert transport(str(file), None, None) == {"type": "mqtt"}


@pytest.mark.parametrize("given", [("{half", None, None), ("/no/such/file", None, None)])
def test_a_transport_that_can_not_be_read_is_a_usage_error(given: tuple[Any, ...]) -> None:
    with pytest.raises(CliError) as caught:
        transport(*given)
    assert caught.value.exit_code == ExitCode.USAGE


@pytest.mark.parametrize("text", ["[]", ' ["a"]', '"{}"'])
def test_json_that_is_no_object_is_told_so_and_not_looked_for_as_a_file(text: str) -> None:
    with pytest.raises(CliError, match="PARAMS expects an object"):
        read_object(text, "PARAMS")


def test_a_port_alone_means_mqtt() -> None:
    assert transport(None, None, "80") == {"type": "mqtt", "endpoint": {"type": "tcp", "port": 80}}


def test_options_that_were_not_given_change_nothing_and_zero_counts() -> None:
    from msgspec import UNSET

    assert (or_unset(None), or_unset(0), or_unset("")) == (UNSET, 0, "")


def test_pairs() -> None:
    assert pairs(["site=ship-7", "empty=", "a=b=c"], "--label") == {"site": "ship-7", "empty": "", "a": "b=c"}
    assert pairs([], "--label") is None
    with pytest.raises(CliError):
        pairs(["site"], "--label")


def test_labels_are_set_and_taken_away() -> None:
    asked = ["zone=a", "rack-", "empty=", "a=b=c", "x-=1", "y--", "z=-"]
    assert label_changes(asked) == {
        "zone": "a", "rack": None, "empty": "", "a": "b=c", "x-": "1", "y-": None, "z": "-"
    }  # fmt: skip
    for wrong in (["zone"], ["=a"], ["-"], ["zone=a", "zone-"]):
        with pytest.raises(CliError):
            label_changes(wrong)


# --- plain converters --------------------------------------------------------------------------------------


class Parameter:
    multiple, nargs = False, 1


def test_values_are_read_without_pydantic() -> None:
    import typer

    number = converter(int)
    assert number is not None
    plain = PlainParam(number, None, 0, 10)
    assert plain.coerce("7", Parameter, None) == 7
    assert plain.coerce(None, Parameter, None) is None
    for wrong in ("x", "-1", "11", "1.5"):
        with pytest.raises(typer.BadParameter):
            plain.coerce(wrong, Parameter, None)


def test_unknown_types_are_left_to_typer() -> None:
    assert converter(complex) is None
    assert converter(dict) is None


@pytest.mark.parametrize(
    "arguments",
    [
        ("group", "scale", "edge/web", "many"),
        ("group", "scale", "edge/web", "--1"),
        ("group", "scale", "edge/web", "-1", "--wiat"),
        ("group", "add", "edge/web", "--scale", "+1"),
        ("group", "update", "edge/web"),
        ("group", "update", "edge/web", "--max-surge", "-1"),
        ("principal", "add", "bob", "king"),
        ("cluster", "list", "-o", "xml"),
        ("node", "list", "--status", "asleep"),
        ("worker", "list", "--status", "running"),
        ("cluster", "create"),
        ("context", "add", "x", "--broker", "gopher://x"),
        ("up", "--agents", "2", "--node", "x"),
        ("up", "--node", "admin"),
        ("agent", "--node", "No Name", "--broker", "mqtt://127.0.0.1"),
        ("acl", "--broker", "rabbit"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_no_traceback(arguments: tuple[str, ...], tmp_path: Any) -> None:
    import os

    env = {**os.environ, "HOME": str(tmp_path), "BUSBAR_STATE": str(tmp_path / "state")}
    result = run_cli(*arguments, env={**env, "BUSBAR_BROKER": "mqtt://127.0.0.1:1", "BUSBAR_USERNAME": "me"})
    assert result.returncode == ExitCode.USAGE, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.strip()
