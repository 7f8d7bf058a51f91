"""What others write into any field moves no cursor and forges no line, whatever command shows it."""

from __future__ import annotations

import inspect
import json
import logging
from typing import Any

import msgspec
import pytest
import yaml
from busbar.bus import messages, params
from busbar.bus.errors import BusError
from busbar.bus.printable import json_text
from busbar.bus.system.log_lines import LineFormatter
from busbar.cli.context import GlobalOptions, set_global_options
from busbar.cli.printing import output
from hypothesis import given
from hypothesis import strategies as st

from .realm import OID, TOPICS, Line, Realm, filled, result_of
from .realm import line as line
from .table import CALLS, LOCAL, VERDICTS, all_commands

C0 = "".join(map(chr, [*range(0x20), 0x7F]))
C1 = "".join(map(chr, range(0x80, 0xA0)))
BIDI = "\u061c\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff\U000e0041"
ENDS = "\u2028\u2029\x85"
HOSTILE = f"a\x1b]0;x\x07\x1b[2J{C0}{C1}{BIDI}{ENDS}\n! forged"
FORMS = ("table", "json", "yaml")
STRUCTS = [
    kind
    for module in (messages, params)
    for _, kind in inspect.getmembers(module, inspect.isclass)
    if issubclass(kind, msgspec.Struct) and kind is not msgspec.Struct
]


def hostile(member: str) -> str:
    """Hostile, but for that by which a command finds what belongs together, which the manager checks."""
    names = {
        "name": "edge",
        "cluster": "edge",
        "node": "n1",
        "worker": "web-1",
        "sequence": "2",
        "topic": "t",
    }
    return names.get(member, OID if member == "oid" else HOSTILE)


def everywhere(member: str) -> str:
    return "2" if member == "sequence" else HOSTILE


def is_clean(text: str) -> bool:
    return text.replace("\n", "").isprintable()


def answers(operation: str, given: dict[str, Any]) -> Any:
    found = result_of(operation, hostile)
    if operation == "get_manager":
        return found | {"sequence": 2}
    return found


def a_realm() -> Realm:
    """One that reports hostile text in replies, statuses, events and worker output."""
    realm = Realm(answers)
    status = filled(messages.Status, hostile)
    for kind, cluster, name in (("routercluster", "edge", "edge"), ("workergroup", "edge", "edge")):
        running = status | {"status": "RUNNING", "scale": 3, "ready": 3, "version": 9, "name": name}
        del running["draining"], running["drained"], running["surplus"]
        realm.retain(TOPICS.status(cluster, kind, name), running)
    realm.retain(TOPICS.status("edge", "worker", "edge"), status | {"status": "RUNNING", "name": "edge"})
    realm.retain(TOPICS.status("_", "node", "edge"), status | {"status": "online", "name": "edge"})
    chunk = filled(messages.LogChunk, hostile) | {"cluster": "edge", "lines": [HOSTILE], "dropped": 2}

    def after(operation: str) -> None:
        if operation == "follow_worker":
            reader = realm.calls[-1][1].get("reader")
            realm.publish(TOPICS.node_log("n1", "edge"), chunk | {"worker": "edge", "reader": reader})

    realm.after = after
    return realm


def test_the_table_has_every_command() -> None:
    assert set(all_commands()) == {*CALLS, *LOCAL}


@pytest.mark.fault(81, "U")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("command", CALLS)
def test_a_command_prints_no_control_characters(
    line: Line, capsys: pytest.CaptureFixture[str], command: str, form: str
) -> None:
    code = line.against(a_realm()).run(*command.split(), *CALLS[command], "-o", form)
    shown = capsys.readouterr()
    assert code in (0, 8, VERDICTS.get(command)), shown.err
    assert shown.out
    assert is_clean(shown.out)
    assert is_clean(shown.err)
    lines = (shown.out + shown.err).splitlines()
    assert not any(text.startswith("! forged") for text in lines)
    if form == "json":
        many = command in ("event watch", "logs", "worker logs")
        assert [json.loads(text) for text in (shown.out.splitlines() if many else [shown.out])]
    elif form == "yaml":
        assert list(yaml.safe_load_all(shown.out))


@pytest.mark.fault(81, "U")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("command", sorted(CALLS.keys() - VERDICTS.keys()))
def test_an_error_of_the_manager_prints_none(
    line: Line, capsys: pytest.CaptureFixture[str], command: str, form: str
) -> None:
    def refuse(operation: str, given: dict[str, Any]) -> Any:
        raise BusError("invalid_argument", HOSTILE, [HOSTILE], correlation=HOSTILE)

    assert line.against(Realm(refuse)).run(*command.split(), *CALLS[command], "-o", form) == 2
    shown = capsys.readouterr()
    assert is_clean(shown.out + shown.err)
    if form == "table":
        assert len(shown.err.splitlines()) == 1
    else:
        assert yaml.safe_load(shown.err)["error"]["code"] == "invalid_argument"


@pytest.mark.fault(81, "U")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("on_terminal", [False, True])
def test_a_wait_that_fails_prints_none(
    line: Line,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    form: str,
    on_terminal: bool,
) -> None:
    realm = a_realm()
    topic = TOPICS.status("edge", "routercluster", "edge")
    realm.retain(topic, json.loads(realm.broker.retained[topic]) | {"status": "STARTING", "ready": 1})
    if on_terminal:
        monkeypatch.setattr(output, "has_colours", lambda to: to.isatty())
    assert line.against(realm).run("cluster", "start", "edge", "--wait", "--timeout", "0.1", "-o", form) == 6
    shown = capsys.readouterr()
    assert "forged" in shown.err
    assert is_clean(shown.err)
    assert not any(text.startswith("! forged") for text in shown.err.splitlines())


@pytest.mark.fault(81, "U")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", STRUCTS, ids=lambda kind: kind.__name__)
def test_every_field_of_every_message_is_printed_clean(
    capsys: pytest.CaptureFixture[str], kind: type[msgspec.Struct], form: str
) -> None:
    value = filled(kind, everywhere)
    set_global_options(GlobalOptions(output=form))
    try:
        output.show_object(value)
        output.show_list([value], [("all", lambda row: row), *((n, lambda row, n=n: row[n]) for n in value)])
    finally:
        set_global_options(GlobalOptions())
    shown = capsys.readouterr().out
    assert is_clean(shown)
    if form == "table":
        assert not any(text.startswith("! forged") for text in shown.splitlines())


@pytest.mark.fault(81, "U")
@given(st.text() | st.text(st.characters(categories=["Cc", "Cf", "Zl", "Zp", "Co"])))
def test_json_and_yaml_are_printable_and_read_back_the_same(text: str) -> None:
    value = {text: [text, {"a": text}]}
    for ascii_only in (False, True):
        shown = json_text(value, ascii_only=ascii_only)
        assert shown.isprintable()
        assert json.loads(shown) == value
        written = output.document(value, "yaml", ascii_only=ascii_only)
        assert is_clean(written)
        assert yaml.safe_load(written) == value


@pytest.mark.fault(81, "U")
def test_the_terminal_and_the_log_share_their_rule(capsys: pytest.CaptureFixture[str]) -> None:
    output.say(HOSTILE)
    record = logging.LogRecord("busbar.x", logging.WARNING, "f.py", 1, HOSTILE, None, None)
    assert capsys.readouterr().out == LineFormatter("%(message)s").format(record) + "\n"


@pytest.mark.fault(81, "U")
def test_a_terminal_shows_states_in_colour_and_nothing_of_others(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "has_colours", lambda to: True)
    output.say("a ", output.State("RUNNING"), output.State(HOSTILE))
    shown = capsys.readouterr().out
    assert shown.startswith("a \x1b[32mRUNNING\x1b[0m")
    assert "\x1b" not in shown.removeprefix("a \x1b[32mRUNNING\x1b[0m")
