"""Files of definitions: read with their lines, written for editors, the same in every format."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from busbar.cli.documents.documents import read_document, render, toml
from busbar.cli.errors import CliError, ExitCode
from hypothesis import given, settings
from hypothesis import strategies as st

from ..realm import Line
from ..realm import line as line

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    TEXT | st.integers(-9, 9) | st.booleans() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


LAUGHS = "k0: &k0 [x]\n" + "".join(f"k{n + 1}: &k{n + 1} [{', '.join([f'*k{n}'] * 8)}]\n" for n in range(8))
"""Aliases of aliases: 450 bytes that stand for 19 million values."""


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(TEXT, VALUES, max_size=4))
def test_every_format_reads_back_as_it_was_written(value: dict[str, Any]) -> None:
    for ascii_only in (False, True):
        assert tomllib.loads(render(value, "toml", ascii_only=ascii_only)) == value
        assert yaml.safe_load(render(value, "yaml", ascii_only=ascii_only)) == value
        written = json.loads(render(value, "json", ascii_only=ascii_only))
        assert written == {"$schema": "./busbar.schema.json", **value}


def test_toml_is_laid_out_in_tables_and_knows_no_null() -> None:
    value = {
        "busbar": 1,
        "clusters": {"edge": {"groups": {"web": {"scale": 2, "tags": ["a"]}}, "nodes": {"n1": {}}}},
    }
    assert toml(value) == (
        'busbar = 1\n\n[clusters.edge.groups.web]\nscale = 2\ntags = ["a"]\n\n[clusters.edge.nodes.n1]\n'
    )
    with pytest.raises(CliError, match="no null"):
        toml({"a": None})


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.yaml", "busbar: 1\nclusters:\n  edge:\n    groups:\n      web: {scale: x}\n", ":5: /clusters/e"),
        ("a.json", '{"busbar": 1,\n "clusters": {"edge": {"bogus": 1}}}', ":2: /clusters/edge/bogus"),
        ("a.toml", "busbar = 1\n[clusters.edge]\nbogus = 1\n", ": /clusters/edge/bogus"),
        ("a.yaml", "busbar: 1\nclusters: {on: {}}\n", "True is no text"),
        ("a.yaml", "busbar: 1\nclusters: {edge: {label: 2026-01-01}}\n", "text needs quotes"),
        ("a.yaml", "busbar: 1\nbusbar: 1\n", "line 2: 'busbar' stands here for the second time"),
        ("a.json", '{"busbar": 1, "busbar": 1}', "twice"),
        ("a.yaml", "- 1\n", "it is no object"),
        ("a.yaml", "a: &a [*a]\n", "nested too deeply"),
        ("a.yaml", LAUGHS, "more than 200000 values"),
        ("a.yaml", "{", "while parsing"),
        ("a.toml", "x", "Expected"),
    ],
)  # fmt: skip
def test_validate_says_where_what_is_wrong(
    line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, said: str
) -> None:
    (tmp_path / name).write_text(text)
    assert line.run("validate", "-f", str(tmp_path / name)) == ExitCode.USAGE
    assert said in capsys.readouterr().err


def test_validate_in_json_has_the_errors_of_the_wire(
    line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("busbar: 1\nowner: x\nclusters: {edge: {nodes: {n1: }, groups: {web: {scale: 1}}}}\n")
    assert line.run("validate", "-f", str(file), "-o", "json") == 0
    assert json.loads(capsys.readouterr().out) == {"valid": True, "errors": [], "objects": 3}
    file.write_text("busbar: 1\nx: 1\n")
    assert line.run("validate", "-f", str(file), "-o", "json") == ExitCode.USAGE
    (error,) = json.loads(capsys.readouterr().out)["errors"]
    assert error["code"] == "invalid_argument" and error["errors"] == [{"pointer": "/x"}]
    assert read_document(str(file)).line("/x") == 2
