"""Numbers on the command line: relative ones are computed on the version that was read, the rest is plain."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
from busbar.bus.backoff import Backoff
from busbar.bus.errors import BusError
from busbar.bus.params import Group
from busbar.cli.arguments.scale import ScaleChange, read_scale
from busbar.cli.calls.connect import call_timeout
from busbar.cli.documents.definition import read_object, transport
from busbar.cli.errors import CliError, ExitCode
from busbar.cli.guards import fenced
from busbar.cli.guards.fenced import change_fenced
from busbar.cli.typer_fastparse import converter

ODD = ["+1", " 4", "4 ", "1_0", "1e1", "0x10", "4s", "10M", "٤", "", "-", "--1", "nan", "inf", "1,5"]
"""What `int` or `float` would take, or people might write."""


class FakeGroup:
    """A group that others may change between a read and a write."""

    def __init__(self, scale: int) -> None:
        self.scale, self.version = scale, 1
        self.interfere = 0

    async def find(self) -> Group:
        found = Group(
            0, "c", None, None, "web", "g", self.scale, "RUNNING", None, "amqtt", None, 1, 1, self.version
        )
        if self.interfere > 0:
            self.interfere -= 1
            self.scale, self.version = self.scale + 1, self.version + 1
        return found

    async def write(self, _: Group, scale: int, expect_version: int | None) -> Group:
        if expect_version not in (None, self.version):
            raise BusError("version_conflict", f"it is at {self.version}")
        self.scale, self.version = scale, self.version + 1
        return await FakeGroup.find(self)


def changed(group: FakeGroup, text: str, expect_version: int | None = None) -> tuple[int, int]:
    change = read_scale(text)

    async def write(found: Group, fence: int | None) -> Group:
        return await group.write(found, change.of(found.scale), fence)

    before, after = asyncio.run(change_fenced(group.find, write, expect_version, computed=change.relative))
    return before.scale, after.scale


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fenced, "PAUSE", Backoff(base=0.0))


@pytest.mark.fault(93, "U")
@pytest.mark.parametrize(("text", "wanted"), [("+1", (4, 5)), ("-1", (4, 3)), ("-4", (4, 0)), ("1", (4, 1))])
def test_a_signed_scale_is_relative(text: str, wanted: tuple[int, int]) -> None:
    assert changed(FakeGroup(4), text) == wanted


@pytest.mark.fault(93, "U A")
def test_a_relative_scale_counts_from_what_others_made_of_it() -> None:
    group = FakeGroup(4)
    group.interfere = 3
    assert changed(group, "+1") == (7, 8)
    group.interfere = 10**6
    with pytest.raises(BusError, match="version_conflict"):
        changed(group, "+1")


@pytest.mark.fault(93, "A")
def test_a_version_that_the_caller_expects_is_not_replaced() -> None:
    with pytest.raises(BusError, match="version_conflict"):
        changed(FakeGroup(4), "+1", 99)


@pytest.mark.fault(93, "U")
def test_there_are_never_fewer_than_no_workers() -> None:
    with pytest.raises(CliError, match="-2 workers") as caught:
        changed(FakeGroup(4), "-6")
    assert caught.value.exit_code == ExitCode.USAGE


@pytest.mark.fault(93, "U")
def test_a_scale_is_read_or_refused_whole() -> None:
    pick = random.Random(93)
    for _ in range(2000):
        number = pick.randrange(10**6)
        for sign in ("", "+", "-"):
            amount = -number if sign == "-" else number
            assert read_scale(f"{sign}{number}") == ScaleChange(amount, relative=bool(sign))
        text = "".join(pick.choice("+-_ 01٤.eEx%s") for _ in range(pick.randrange(5)))
        if (
            not text.lstrip("+-").isascii()
            or not text.lstrip("+-").isdigit()
            or len(text) - len(text.lstrip("+-")) > 1
        ):
            with pytest.raises(CliError):
                read_scale(text)


@pytest.mark.fault(93, "U")
@pytest.mark.parametrize("kind", [int, float])
@pytest.mark.parametrize("text", ODD)
def test_every_other_number_is_plain(kind: type, text: str) -> None:
    convert = converter(kind)
    assert convert is not None
    with pytest.raises(ValueError, match="is not a"):
        convert(text)
    assert (convert("12"), convert("-3"), convert(4)) == (12, -3, 4)


@pytest.mark.fault(93, "U")
@pytest.mark.parametrize("text", [*ODD, "+80-90", "80-", "80 - 90", "80-90-100", "80:80"])
def test_ports_are_plain(text: str) -> None:
    with pytest.raises(CliError, match="--port"):
        transport(None, None, text)


@pytest.mark.fault(93, "U")
@pytest.mark.parametrize("text", ["nan", "inf", "1_0", "+5", "5s"])
def test_the_timeout_of_calls_is_plain(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUSBAR_TIMEOUT", text)
    with pytest.raises(CliError, match="BUSBAR_TIMEOUT"):
        call_timeout()


@pytest.mark.fault(93, "U")
@pytest.mark.parametrize("text", ["+1", "010", "1_0", "1:30", "0x10", "0b11"])
def test_yaml_numbers_that_people_read_otherwise_are_refused(text: str, tmp_path: Path) -> None:
    """`+1` is 1 to YAML, `010` is 8: also in the parameters of `busbar call`."""
    file = tmp_path / "p.yaml"
    file.write_text(f"scale: {text}\n")
    with pytest.raises(CliError, match="no plain number"):
        read_object(str(file), "PARAMS")
    file.write_text(f"scale: 4\nlow: -1\nzero: 0\ntext: '{text}'\n")
    wanted: dict[str, Any] = {"scale": 4, "low": -1, "zero": 0, "text": text}
    assert read_object(str(file), "PARAMS") == wanted
