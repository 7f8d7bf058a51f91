"""-o jsonpath=..., -o template=... and -o wide."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from busbar.cli.errors import CliError, ExitCode
from busbar.cli.printing import expressions
from hypothesis import given
from hypothesis import strategies as st

from tests.pace import bound

from ..realm import Line, Realm
from ..realm import line as line
from ..table import CALLS, LOCAL
from .test_formats import answer

ROWS = [
    {"name": "edge", "tags": ["a", "b"], "labels": {"rack-1": "x"}, "n": 1, "on": True, "reason": None},
    {"name": "core", "tags": None, "labels": {}, "n": 2.5, "on": False, "reason": "two\nlines\x1b[2J"},
]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("{.items[*].name}", ["edge", "core"]),
        ("$.items[*].name", ["edge", "core"]),
        (".items[*].name", ["edge", "core"]),
        ("items[*].name", ["edge", "core"]),
        ("{@.items[-1:].name}", ["core"]),
        ("$['items'][0]['n','on']", ["1", "true"]),
        ("$[*].n", ["1", "2.5"]),
        ("{[0].tags}", ['["a", "b"]']),
        ("{..name}", ["edge", "core"]),
        ('{.items[?(@.name=="core")].n}', ["2.5"]),
        ("$.items[?@.n > 1].on", ["false"]),
        ("{.items[*].reason}", ["", r"two\nlines\x1b[2J"]),
        ("{.items[*].labels['rack-1']}", ["x"]),
        ("{.items[9].name}", []),
    ],
)
def test_an_expression_prints_a_line_for_each_match(text: str, lines: list[str]) -> None:
    assert expressions.text_of(f"jsonpath={text}", ROWS).splitlines() == lines


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("{name} {n}", ["edge 1", "core 2.5"]),
        ("{{.name}}: {{ on }}", ["edge: true", "core: false"]),
        (r"{name}\t{tags[*]}|{tags}", ['edge\ta b|["a", "b"]', "core\t|"]),
        (r'{"{"}{name}{"}"}\\n', ["{edge}\\n", "{core}\\n"]),
        ("{labels['rack-1']}", ["x", ""]),
        ("{reason}!", ["!", r"two\nlines\x1b[2J!"]),
    ],
)
def test_a_template_is_printed_for_each_object(text: str, lines: list[str]) -> None:
    assert expressions.text_of(f"template={text}", ROWS).splitlines() == lines
    assert expressions.text_of(f"template={text}", ROWS[0], stream=True).splitlines() == lines[:1]


WRONG = {
    "jsonpath=": "needs an expression",
    "jsonpath={}": "needs an expression",
    "jsonpath={.items[": "has no partner",
    "jsonpath={.items[}": "unexpected end of query",
    "jsonpath={.name} {.status}": "use -o template=",
    "jsonpath={range .items[*]}{.name}{end}": "use -o template=",
    "jsonpath=$.items.length()": "unexpected token '(' at character 15",
    "jsonpath=$[?@.name == 'x]": "x",
    f"jsonpath=${'.a' * 3000}": "longer than",
    "template=name": "names members in braces",
    "template={name": "'{' at character 1 has no partner",
    "template=name} {x}": "'}' at character 5 has no partner",
    "template={}": "needs an expression",
    "template={range .items[*]}{.name}{end}": "printed for each object",
    "template={{if .x}}": "printed for each object",
    'template={"\\q"}': "no text in quotes",
    "template={name.}": "name.",
}


@pytest.mark.parametrize(("form", "what"), WRONG.items())
def test_a_wrong_expression_is_refused_before_anything_is_asked(
    line: Line, capsys: pytest.CaptureFixture[str], form: str, what: str
) -> None:
    realm = Realm(answer)
    for command in ("cluster list", "cluster create"):
        assert line.against(realm).run(*command.split(), *CALLS[command], "-o", form) == ExitCode.USAGE
        said = capsys.readouterr()
        assert what in said.err and said.err.count("\n") == 1 and said.out == ""
    assert realm.calls == []


@given(st.text(alphabet=st.sampled_from("{}[]()$.*?@'\"\\ namex1,:<=~|&#\n"), max_size=40))
def test_whatever_is_written_is_carried_out_or_refused(text: str) -> None:
    for form in (f"jsonpath={text}", f"template={text}"):
        try:
            expressions.check(form)
        except CliError as error:
            assert error.exit_code == ExitCode.USAGE
            continue
        try:
            assert expressions.text_of(form, ROWS).isprintable() or "\n" in expressions.text_of(form, ROWS)
        except CliError as error:
            assert error.message


@pytest.mark.parametrize(
    ("command", "form", "what"),
    [
        ("cluster list", "jsonpath={.items[*].nmae}", "no member 'nmae'; did you mean 'name'?"),
        ("cluster list", "jsonpath={.name}", "say {.items[*].name}"),
        ("cluster list", "jsonpath=$[*].nmae", "did you mean 'name'?"),
        ("cluster show", "jsonpath={.Status}", "did you mean 'status'?"),
        ("cluster list", "template={{.Name}}", "did you mean 'name'?"),
        ("worker show", "template={zzz}", "there are address, "),
    ],
)
def test_a_member_that_no_object_has_is_refused(
    line: Line, capsys: pytest.CaptureFixture[str], command: str, form: str, what: str
) -> None:
    assert line.against(Realm(answer)).run(*command.split(), *CALLS[command], "-o", form) == ExitCode.USAGE
    assert what in capsys.readouterr().err


def test_every_list_and_show_has_them_and_the_variable_too(
    line: Line, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line.against(Realm(answer))
    line.run("context", *("add", "lab", "--broker", "mqtt://127.0.0.1:1"))
    capsys.readouterr()
    some = [
        name for name in {**CALLS, **LOCAL} if re.search(" (list|show|stat|nodes)$|^(status|top|why)$", name)
    ]
    assert len(some) > 15
    for command in some:
        words = [*command.split(), *{**CALLS, **LOCAL}[command]]
        assert line.run(*words, "-o", "jsonpath={$}") == 0, command
        whole = capsys.readouterr().out
        assert line.run(*words, "-o", "json") == 0
        assert json.loads(whole) == json.loads(capsys.readouterr().out), command
        monkeypatch.setenv("BUSBAR_OUTPUT", "template={@}")
        assert line.run(*words) == 0
        assert capsys.readouterr().out.count("\n") == (len(json.loads(whole)) if whole[0] == "[" else 1)
        monkeypatch.delenv("BUSBAR_OUTPUT")


def test_wide_has_more_columns_and_what_may_be_long_stays_the_last(
    line: Line, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line.against(Realm(answer))
    line.run("context", *("add", "lab", "--broker", "mqtt://127.0.0.1:1"))
    lists = [name for name in {**CALLS, **LOCAL} if name.endswith(" list")]
    assert len(lists) > 6
    for command in (*lists, "cluster nodes", "audit", "history cluster"):
        words = [*command.split(), *{**CALLS, **LOCAL}[command]]
        capsys.readouterr()
        assert line.run(*words) == 0
        narrow = re.split("  +", capsys.readouterr().out.splitlines()[0])
        monkeypatch.setenv("BUSBAR_OUTPUT", "wide")
        assert line.run(*words) == 0
        wide = re.split("  +", capsys.readouterr().out.splitlines()[0])
        monkeypatch.delenv("BUSBAR_OUTPUT")
        assert set(narrow) < set(wide), command
        assert wide[-1] == narrow[-1] or narrow[-1] not in ("REASON", "CONDITIONS")
    assert line.run("cluster", "show", "edge", "-o", "wide") == 0
    assert line.run("export", "-o", "wide") == 0


def test_wide_clusters_and_groups_tell_what_their_statistics_say(
    line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    line.against(Realm(answer))
    for command in ("cluster list", "group list"):
        assert line.run(*command.split(), "-o", "wide", "--no-headers") == 0
        assert "3/3" in capsys.readouterr().out


def test_the_libraries_are_loaded_only_where_an_expression_is_given() -> None:
    program = (
        "import sys; from busbar.cli.printing import formats; from busbar.cli.commands import cluster; "
        "formats.choose('wide', {}, has_names=True); sys.exit('jsonpath' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=bound(60), check=False).returncode == 0


def test_an_object_of_this_machine_may_lack_a_member(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    line.run("context", "add", "lab", "--broker", "mqtt://127.0.0.1:1")
    capsys.readouterr()
    assert line.run("context", "list", "-o", "template={name} {username}") == 0
    assert capsys.readouterr().out == "lab \n"
