"""What the documentation shows, run: generated pages, the console blocks of README and quickstart."""

from __future__ import annotations

import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from busbar.cli import app, lazy

from tests import forked
from tests.brokers import lacking, need_mosquitto
from tests.pace import bound
from tests.test_layers import WINGS

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")),
    *ROOT.glob("docs/**/*.md"),
]
FILE_BLOCK = re.compile(r"^```(?:toml|yaml)\n# ([\w.]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_reference_is_up_to_date() -> None:
    result = subprocess.run([sys.executable, ROOT / "docs" / "generate.py"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_files_named_by_the_architecture_and_the_rules_exist() -> None:
    for name in ("docs/explanation/architecture.md", "CONTRIBUTING.md"):
        named = re.findall(r"`((?:bus|manager|agent|cli|tests|docs)/[^`\s]*)`", (ROOT / name).read_text())
        missing = [path for path in named if not (ROOT / path).exists()]
        assert named and not missing, f"{name} names {missing}"


def test_names_that_the_architecture_places_in_a_file_are_in_it() -> None:
    text = (ROOT / "docs" / "explanation" / "architecture.md").read_text()
    placed = re.findall(r"`([\w.-]+)` (?:in|of)\s+`(\w+/[^`\s]*\.py)`", text)
    assert len(placed) > 5
    assert not [pair for pair in placed if pair[0].rpartition(".")[2] not in (ROOT / pair[1]).read_text()]


def test_the_architecture_has_a_row_for_every_wing() -> None:
    text = (ROOT / "docs" / "explanation" / "architecture.md").read_text()
    rows = set(re.findall(r"^\| `(\w+/\w+)/` \|", text, re.MULTILINE))
    assert rows == {f"{package}/{wing}" for package, wings in WINGS.items() for wing in wings}


def test_the_manual_pages_are_sound_and_have_the_options_of_the_how_tos() -> None:
    pages = {path.stem: path for path in (ROOT / "docs" / "man").iterdir()}
    assert set(pages) == {"busbar", *(f"busbar-{name}" for name in lazy.COMMANDS)}
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    command = ["groff", "-man", "-ww", "-z", "-Tascii", *sorted(map(str, pages.values()))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=bound(30))
    assert (done.returncode, done.stderr) == (0, "")
    of_all = pages["busbar"].read_text()
    for words, options in busbar_commands().items():
        text = (of_all + pages[f"busbar-{words.split()[0]}"].read_text()).replace("\\-", "-")
        missing = {option for option in options - {"--help", "-h"} if f"\\fB{option}\\fR" not in text}
        assert not missing, f"{words}: {missing}"


def test_no_text_installs_the_package_index_s_busbar() -> None:
    """That name belongs to another project: ours is installed from the clone, or as busbar-mqtt."""
    wrong = re.compile(r"(?:pip|pipx|uv tool) install [^\n`]*(?<![\w/.-])busbar(?![\w-])")
    texts = [*PAGES, *(path for room in WINGS for path in (ROOT / room).rglob("*.py"))]
    found = [path for path in texts if wrong.search(path.read_text())]
    assert not found


def glossary() -> dict[str, str]:
    """Its rows: the word, and the rest of the row."""
    rows = re.findall(r"^\| \*\*(.+?)\*\* \| (.*) \|$", (ROOT / "docs" / "glossary.md").read_text(), re.M)
    return dict(rows)


def test_the_glossary_is_in_order() -> None:
    words = list(glossary())
    assert len(words) > 20 and words == sorted(words, key=str.casefold)


@pytest.mark.parametrize("word", glossary())
def test_a_word_of_the_glossary_is_used(word: str) -> None:
    """Somewhere else than in the glossary: a page, or the code."""
    texts = [page for page in PAGES if page.name != "glossary.md"]
    texts += [path for room in WINGS for path in (ROOT / room).rglob("*.py")]
    used = re.compile(rf"(?<![a-z]){re.escape(word)}", re.IGNORECASE)
    assert any(used.search(path.read_text()) for path in texts)


def plain(line: str) -> str:
    """A line without what differs from run to run: numbers and the width of columns."""
    return " ".join(re.sub(r"\d+(?:\.\d+)?", "#", line).split())


def missing_line(shown: list[str], said: list[str]) -> str | None:
    """The first shown line that was not said, in order; a shown line may be the beginning of a longer one."""
    rest = iter(said)
    for line in shown:
        if not any(plain(other).startswith(plain(line)) for other in rest):
            return line
    return None


def steps(page: Path) -> list[tuple[str, list[str]]]:
    """Commands of a page with the lines shown below each."""
    found: list[tuple[str, list[str]]] = []
    for block in BLOCK.findall(page.read_text()):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            elif line.startswith("> ") and found and not found[-1][1]:
                found[-1] = (f"{found[-1][0]}\n{line[2:]}", [])
            else:
                found[-1][1].append(line)
    return found


@contextmanager
def shell(folder: Path, *programs: Path, prefix: Sequence[str] = ()) -> Iterator[subprocess.Popen[str]]:
    """A shell of a new user: an empty home, and these folders of programs first on the path."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("BUSBAR_", "XDG_"))}
    env["BUSBAR_TIMEOUT"] = str(bound(10))
    env |= {"HOME": str(folder), "PATH": ":".join([*map(str, programs), env["PATH"]]), "COLUMNS": "160"}
    with subprocess.Popen(
        [*prefix, "bash"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        cwd=folder, env=env, bufsize=1, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            # What it has in the background would hold its output open.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


class Terminal:
    """Types commands and reads what they print."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin and process.stdout
        self.stdin = process.stdin
        self.lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, args=(process.stdout,), daemon=True).start()

    def _read(self, stdout: Iterator[str]) -> None:
        for line in stdout:
            self.lines.put(line.rstrip("\n"))

    def type(self, command: str, until: str, timeout: float) -> list[str]:
        """Run a command; the lines up to one that begins with `until`."""
        self.stdin.write(command + "\n")
        self.stdin.flush()
        said: list[str] = []
        end = time.monotonic() + bound(timeout)
        while not (said and said[-1].startswith(until)):
            try:
                said.append(self.lines.get(timeout=max(0.01, end - time.monotonic())))
            except queue.Empty:
                pytest.fail(
                    f"$ {command}\ndid not end within {bound(timeout):g} s; it said:\n" + "\n".join(said)
                )
        return said


CROSSBAR_PAGES = [f"docs/howto/{name}.md" for name in ("runtimes", "wamp-auth", "browser", "rawsocket")]


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "docs/quickstart.md",
        *(
            f"docs/howto/{n}.md"
            for n in ("rolling-updates", "placement", "declarative", "runtimes", "own-program", "browser")
        ),
        *(
            f"docs/howto/{n}.md"
            for n in ("listeners", "rawsocket", "load-balancing", "mqtt-tls", "wamp-auth")
        ),
    ],
)
def test_a_page_runs_as_shown(name: str, tmp_path: Path) -> None:
    programs, home = Path(sys.executable).parent, tmp_path / "home"
    home.mkdir()
    for file, text in FILE_BLOCK.findall((ROOT / name).read_text()):
        (home / file).write_text(text)
    if name in CROSSBAR_PAGES and find_spec("crossbar") is None:
        lacking("crossbar is not installed")
    if name in ("README.md", "docs/howto/mqtt-tls.md", "docs/howto/listeners.md"):
        need_mosquitto()
        if shutil.which("mosquitto_pub") is None:
            lacking("the programs mosquitto_pub and mosquitto_sub are not installed")
    run_steps(steps(ROOT / name), home, forked.program(tmp_path, str(programs / "busbar")), programs)


def run_steps(
    steps: list[tuple[str, list[str]]], folder: Path, *programs: Path, prefix: Sequence[str] = ()
) -> None:
    """Type a page's commands as a new user would, with `busbar up` in a terminal of its own."""
    shells = [shell(folder, *programs, prefix=prefix) for _ in range(2)]
    with shells[0] as first, shells[1] as second:
        stage, terminal = Terminal(first), Terminal(second)
        try:
            for command, shown in steps:
                if command.startswith("busbar up"):
                    said = stage.type(f"exec {command}", plain(shown[-1]), 30)
                else:
                    said = terminal.type(command + "\necho done:$?", "done:", 60)
                    assert said.pop() == "done:0", f"$ {command}\n" + "\n".join(said)
                line = missing_line(shown, said)
                assert line is None, f"$ {command}\ndid not print: {line}\nbut:\n" + "\n".join(said)
        finally:
            first.send_signal(signal.SIGINT)
            first.wait(bound(40))


SECRET_ARGUMENT = r"mosquitto_passwd [^\n#]*-b\b|--password[ =](?!-file)|--token [^-\s/]"


def test_no_page_shows_a_secret_in_an_argument() -> None:
    for page in PAGES:
        shown = "\n".join(re.findall(r"^```\w*\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL))
        assert not re.search(SECRET_ARGUMENT, shown), page


def busbar_commands() -> dict[str, set[str]]:
    """Every command of ours that a how-to shows, with the options it is given."""
    found: dict[str, set[str]] = {}
    for page in sorted((ROOT / "docs" / "howto").glob("*.md")):
        for block in re.findall(r"^```\w*\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                command = re.split(r"[|>&;]", line.partition("#")[0].strip().removeprefix("$ "))[0]
                words = command.split()
                if words[:1] == ["busbar"]:
                    nouns, options = command_of(words[1:])
                    found.setdefault(nouns, set()).update(options)
    return found


def command_of(words: list[str]) -> tuple[str, set[str]]:
    """`group add` and its options from the words after `busbar`; those before the noun are everybody's."""
    while words and words[0].startswith("-"):
        words = words[2:]
    return " ".join(words[:2]), {word.partition("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)}


def the_command(words: Sequence[str]) -> Any:
    """The command that these words name, the further ones being its arguments."""
    app.command()
    found = lazy.load(words[0], lazy.LazyGroup) if words[0] in lazy.COMMANDS else None
    nested = getattr(found, "commands", {})
    return nested.get(words[1]) if nested and len(words) > 1 and not words[1].startswith("-") else found


@pytest.mark.parametrize("command", sorted(busbar_commands()))
def test_the_commands_of_the_how_tos_exist_with_their_options(command: str) -> None:
    found = the_command(command.split())
    assert found is not None, f"there is no busbar {command}"
    known = {option for param in found.params for option in (*param.opts, *param.secondary_opts)} | {"--help"}
    missing = busbar_commands()[command] - known
    assert not missing, f"busbar {command} does not know {missing}"
