"""What the Debian package and the image are made from; `make try-deb` tries the package itself."""

from __future__ import annotations

import re
import runpy
import subprocess
from pathlib import Path

import pytest
from busbar.cli.app import HELP
from busbar.cli.services import systemd

from tests.pace import bound
from tests.test_docs import ROOT, the_command

PACKAGING = ROOT / "docs" / "packaging"
KINDS = ("manager", "agent", "broker")


@pytest.fixture
def units(tmp_path: Path) -> dict[str, Path]:
    runpy.run_path(str(PACKAGING / "units.py"))["main"](tmp_path)
    return {kind: tmp_path / f"busbar.busbar-{kind}.service" for kind in KINDS}


def test_its_units_are_those_of_install_with_settings_from_files(units: dict[str, Path]) -> None:
    for kind, unit in units.items():
        rows = unit.read_text().splitlines()
        state = "/var/lib/busbar" if kind == "broker" else f"/var/lib/busbar/{kind}"
        assert f"ExecStart=/usr/bin/busbar {kind} --state {state} $BUSBAR_OPTIONS" in rows
        assert {f"EnvironmentFile=-/etc/busbar/{kind}.env", "User=busbar", "Type=notify"} <= set(rows)
        assert f"StateDirectory={state.removeprefix('/var/lib/')}" in rows
        assert (PACKAGING / "etc" / f"{kind}.env").exists()


def test_systemd_takes_its_units(units: dict[str, Path], tmp_path: Path) -> None:
    files = []
    for kind, unit in units.items():
        file = tmp_path / f"busbar-{kind}.service"  # with a program that is here
        file.write_text(unit.read_text().replace("/usr/bin/busbar", systemd.program()[0]))
        files.append(file)
    command = ["systemd-analyze", "verify", "--man=no", *map(str, files)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=bound(60))
    except FileNotFoundError:
        pytest.skip("systemd-analyze is not installed")
    assert not [file for file in files if file.name in done.stderr], done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_the_settings_that_it_shows_exist(kind: str) -> None:
    found = re.findall(r"^#(BUSBAR_\w+)=(.*)$", (PACKAGING / "etc" / f"{kind}.env").read_text(), re.MULTILINE)
    settings = dict(found)
    options = {word for word in settings.pop("BUSBAR_OPTIONS").split() if word.startswith("--")}
    assert options <= {option for param in the_command([kind]).params for option in param.opts}
    assert all(name in HELP for name in settings)


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({}, "The Busbar authors <busbar@example.org>"),
        ({"DEBEMAIL": "a@b.example"}, "The Busbar authors <a@b.example>"),
        ({"DEBFULLNAME": "A & B", "DEBEMAIL": "a@b.example"}, "A & B <a@b.example>"),
        ({"DEBFULLNAME": "other", "DEBEMAIL": "A B <a@b.example>"}, "A B <a@b.example>"),
    ],
)
def test_who_builds_it_is_its_maintainer(env: dict[str, str], said: str) -> None:
    """In the file control and in the changelog, by the variables of debchange(1)."""
    done = subprocess.run(
        [PACKAGING / "maintainer.sh"], env=env, capture_output=True, text=True, timeout=bound(10), check=True
    )
    assert done.stdout == f"{said}\n"
    script = (PACKAGING / "deb.sh").read_text()
    assert " -- $maintainer  " in script and "example.org" not in script


def test_its_scripts_parse() -> None:
    scripts = [*PACKAGING.glob("*.sh"), *PACKAGING.glob("debian/busbar.p*")]
    assert len(scripts) >= 6
    for script in scripts:
        subprocess.run(["sh", "-n", str(script)], check=True, timeout=bound(20))


def test_the_image_s_command_is_one_of_the_agent_s() -> None:
    words = re.findall(r"^CMD \[(.*)\]$", (PACKAGING / "Containerfile").read_text(), re.MULTILINE)[-1]
    kind, *rest = (word.strip().strip('"') for word in words.split(","))
    known = {option for param in the_command([kind]).params for option in param.opts}
    assert {word for word in rest if word.startswith("--")} <= known
