"""The npm packages of `tests/foreign`: whatever npm does, `make test` goes on, and says why."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.foreign.install import WHY, install

INSTALLS = "import pathlib; pathlib.Path('node_modules').mkdir(); pathlib.Path('asked').open('a').write('x')"


def npm(folder: Path, script: str) -> str:
    program = folder / "npm"
    program.write_text(f"#!{sys.executable}\n{script}\n")
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        # Its child holds the output open, as those that npm starts do.
        (
            "import os, time; os.fork(); time.sleep(600)",
            "npm install is not through within 0.5 s",
        ),
        (
            "import sys; sys.exit('\\nnpm error code E503\\nnpm error more')",
            "npm install failed: npm error code E503",
        ),
        ("import sys; sys.exit(1)", "npm install failed: no message"),
    ],
)
def test_a_failure_is_told_and_leaves_nothing_half_installed(tmp_path: Path, script: str, why: str) -> None:
    folder = tmp_path / "packages"
    (folder / "node_modules" / "mqtt").mkdir(parents=True)
    assert install(folder, 0.5 if "sleep" in script else 60.0, npm(tmp_path, script)) == why
    assert (folder / WHY).read_text() == f"{why}\n"
    assert not (folder / "node_modules").exists()


def test_it_is_installed_once(tmp_path: Path) -> None:
    folder = tmp_path / "packages"
    program = npm(tmp_path, INSTALLS)
    assert install(folder, npm=str(tmp_path / "none")) == "npm can't be run: No such file or directory"
    for _ in range(2):
        assert install(folder, npm=program) is None
        assert not (folder / WHY).exists()
    assert (folder / "asked").read_text() == "x"
