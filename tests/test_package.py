"""What pip installs: one import package, complete, beside anybody's `cli`, and usable outside the clone."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email.message import Message
from email.parser import BytesParser
from importlib.util import find_spec
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.pace import bound
from tests.test_docs import ROOT, run_steps, steps

ROOMS = ("bus", "manager", "agent", "cli")
PARTS = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "CHANGELOG.md", ".src", "docs/man", *ROOMS)
BORROWED = ("starlette", "msgspec")
"""Packages beside which those are that ours depends on, with the extra `web`."""
COMMIT = "0123456789ab-modified"
PROGRAM = "from busbar.bus.topics import Topics\n\ntopics: {} = Topics('lab')\n"


def build(folder: Path, url: str) -> Path:
    """A source distribution, and from it a wheel; both from a copy, so that the clone stays as it is."""
    source = folder / "source"
    source.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / part, source / part, symlinks=True, ignore=skip)
        else:
            shutil.copy2(ROOT / part, source / part)
    # No isolation: setuptools is there, and nothing is downloaded.
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(source)]
    env = {**os.environ, "BUSBAR_REPOSITORY_URL": url, "BUSBAR_COMMIT": COMMIT}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(folder.glob("busbar_mqtt-*.tar.gz"))
    (wheel,) = folder.glob("busbar_mqtt-*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("build"), "https://example.org/team/busbar")


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and somebody else's package `cli`; what we depend on is borrowed."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    command = [sys.executable, "-m", "pip", "--python", str(folder / "bin/python"), "install", "--quiet",
               "--no-deps", "--no-index", str(wheel)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    # Folders named in a .pth file are searched, but .pth files in them (this clone's own) are not read.
    borrowed = [spec.origin for name in BORROWED if (spec := find_spec(name)) and spec.origin]
    (site / "borrowed.pth").write_text("".join(f"{Path(origin).parents[1]}\n" for origin in borrowed))
    (site / "cli").mkdir()
    (site / "cli" / "__init__.py").write_text("OWNER = 'somebody else'\n")
    return folder


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return BytesParser().parsebytes(archive.read(name))


@pytest.mark.timeout(180)
def test_the_wheel_has_one_name_at_its_top_and_holds_every_file(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name.split("/")[0] for name in names if not re.match(r"[^/]+\.(dist-info|data)/", name)} == {
        "busbar"
    }
    ours = {f"busbar/{p.relative_to(ROOT)}" for room in ROOMS for p in (ROOT / room).rglob("*.py")}
    ours |= {
        f"busbar/{p.relative_to(ROOT)}"
        for part in ("static", "templates")
        for p in (ROOT / "cli/web" / part).iterdir()
    }
    assert ours | {f"busbar/{name}" for name in ("__init__.py", "py.typed", "commit.txt")} == {
        n for n in names if n.startswith("busbar/")
    }


@pytest.mark.timeout(180)
def test_the_manual_pages_are_where_man_looks_for_them(fresh: Path) -> None:
    installed = {path.name for path in (fresh / "share/man/man1").iterdir()}
    assert installed == {path.name for path in (ROOT / "docs/man").iterdir()}


@pytest.mark.timeout(180)
def test_the_metadata_links_to_documentation_that_exists(wheel: Path) -> None:
    found, base = metadata(wheel), "https://example.org/team/busbar"
    links = dict(str(line).split(", ") for line in found.get_all("Project-URL", []))
    assert links.pop("Source") == base
    assert set(links) == {"Documentation", "Changelog"}
    for link in links.values():
        assert (ROOT / link.removeprefix(f"{base}/blob/HEAD/")).is_file()
    assert found["License-Expression"] == "MIT" and found["Author"]
    readme = str(found.get_payload())
    assert f"]({base}/raw/HEAD/docs/pictures/page.png)" in readme
    assert "](docs/" not in readme and f"]({base}/blob/HEAD/docs/quickstart.md)" in readme


@pytest.mark.timeout(180)
def test_an_index_would_take_both_distributions(wheel: Path) -> None:
    pytest.importorskip("twine", reason="twine, of the extra dev, is not installed")
    both = sorted(str(path) for path in wheel.parent.glob("busbar_mqtt-*"))
    assert len(both) == 2
    command = [sys.executable, "-m", "twine", "check", "--strict", *both]
    done = subprocess.run(command, capture_output=True, text=True, timeout=bound(60))
    assert done.returncode == 0 and done.stdout.count("PASSED") == 2, done.stdout + done.stderr


@pytest.mark.timeout(180)
def test_it_says_the_commit_that_it_was_built_from(wheel: Path, fresh: Path, tmp_path: Path) -> None:
    (made,) = wheel.parent.glob("busbar_mqtt-*.tar.gz")
    with tarfile.open(made) as archive:
        (name,) = (name for name in archive.getnames() if name.endswith("/commit.txt"))
        record = archive.extractfile(name)
        assert record is not None and record.read().decode().strip() == COMMIT
    said = subprocess.check_output([fresh / "bin/busbar", "--version"], text=True, cwd=tmp_path)
    assert said == f"busbar {metadata(wheel)['Version']} (commit {COMMIT})\n"


def test_without_a_repository_there_is_no_link_that_leads_nowhere() -> None:
    setup = runpy.run_path(str(ROOT / "setup.py"))
    assert setup["links"](None) == {}
    assert setup["rendered"]("[a](docs/a.md) [b](https://b)", None) == "a [b](https://b)"
    assert setup["rendered"]("![a](docs/a.png) ![b](https://b)", None) == " ![b](https://b)"


@pytest.mark.timeout(180)
def test_it_works_beside_a_foreign_package_of_the_same_name_as_a_folder_of_ours(
    fresh: Path, tmp_path: Path
) -> None:
    code = "import busbar, busbar.manager, cli; print(busbar.__file__); print(cli.OWNER)"
    said = subprocess.check_output([fresh / "bin/python", "-c", code], text=True, cwd=tmp_path)
    assert said.splitlines()[0].startswith(str(fresh)) and said.splitlines()[1] == "somebody else"
    # The quickstart's commands up to a running cluster.
    first = steps(ROOT / "docs" / "quickstart.md")
    end = next(i for i, (command, _) in enumerate(first) if command.startswith("busbar worker list"))
    run_steps(first[: end + 1], tmp_path, fresh / "bin")


@pytest.mark.timeout(180)
def test_it_serves_the_page_with_all_that_the_page_needs(fresh: Path, tmp_path: Path) -> None:
    pytest.importorskip("starlette")
    command = [fresh / "bin/busbar", "web", "--port", "0", "--broker", "mqtt://127.0.0.1:1"]
    env = {**os.environ, "HOME": str(tmp_path), "BUSBAR_STATE": str(tmp_path)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env, cwd=tmp_path) as process:
        assert process.stderr is not None
        try:
            line = next(text for text in process.stderr if "is at http" in text)
            form = urlopen(f"{line.split()[-1]}signin", timeout=bound(20)).read().decode()
            for path in re.findall(r'(?:href|src)="/([^"]+)"', form):
                assert urlopen(f"{line.split()[-1]}{path}", timeout=bound(20)).status == 200
        finally:
            process.terminate()
        assert process.wait(bound(20)) == 0


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("kind", "wrong"), [("Topics", False), ("int", True)])
def test_its_types_are_seen_by_a_program_that_uses_it(
    fresh: Path, tmp_path: Path, kind: str, wrong: bool
) -> None:
    (tmp_path / "program.py").write_text(PROGRAM.format(kind))
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(fresh / "bin/python"),
               "--cache-dir", str(tmp_path / "cache"), "program.py"]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=170)
    assert done.returncode == (1 if wrong else 0), done.stdout + done.stderr
    assert ("Incompatible types in assignment" in done.stdout) == wrong
