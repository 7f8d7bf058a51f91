"""The rules of the house, as tests: who may import whom, what is pure, and what only one file may do."""

from __future__ import annotations

import ast
import gc
import importlib
import importlib.util
import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("bus", "manager", "agent", "cli")
MUST_BE_PURE = {
    *(f"bus/{name}.py" for name in (
        "topics", "states", "errors", "messages", "params", "contract", "events", "decode", "options",
        "backoff", "roles", "printable", "routers/transport", "access/acl", "system/log_lines",
        "connection/broker_rotation", "client/errors", "client/goals", "client/names")),
    "manager/rate_limit.py",
    "manager/slices.py",
    "manager/ingest/node_session.py",
    "manager/ingest/report_diff.py",
    "manager/publish/render.py",
    "manager/leader/link_watchdog.py",
}  # fmt: skip
PURE_WINGS = ("manager/planner/", "manager/explain/", "agent/planner/")
WINGS = {
    "manager": {
        "planner": set(),
        "store": set(),
        "state": {"planner", "store"},
        "leader": {"publish", "store"},
        "publish": {"planner", "store"},
        "explain": {"planner", "store"},
        "api": {"explain", "planner", "publish", "state", "store"},
        "ingest": {"state", "store"},
        "metrics": {"api", "planner", "publish", "state", "store"},
        "control": {"planner", "state", "store"},
        "rehearsal": {"control", "planner", "state", "store"},
    },
    "agent": {
        "planner": set(),
        "processes": set(),
        "reporting": {"planner", "processes"},
        "routers": {"processes"},
        "runtimes": {"processes"},
        "workers": {"planner", "processes", "runtimes"},
    },
    "cli": {
        "printing": set(),
        "importers": set(),
        "documents": {"printing"},
        "calls": {"documents", "printing"},
        "arguments": {"calls"},
        "guards": {"arguments", "calls"},
        "doctor": {"calls"},
        "web": {"calls"},
        "services": {"calls", "printing", "web"},
        "commands": {
            "arguments", "calls", "doctor", "documents", "guards", "importers", "printing", "services"
        },
        "demo": {"commands", "printing"},
    },
    "bus": {
        "system": set(),
        "routers": set(),
        "access": set(),
        "connection": {"system"},
        "broker": {"access", "system"},
        "client": {"access", "connection", "system"},
    },
}  # fmt: skip
"""Which wing of a room imports which others; a new folder takes its place here."""
COMPOSITION_ROOTS = {
    "manager/service.py", "agent/service.py", "agent/supervisor.py", "bus/testing.py", "cli/app.py",
    "cli/lazy.py",
}  # fmt: skip
"""Files beside the wings that may import them; every other file beside them is below them."""
IMPURE_MODULES = {
    "asyncio", "os", "random", "secrets", "socket", "subprocess", "time", "threading", "uuid", "sqlite3",
    "sqlite_utils", "paho", "amqtt", "shutil",
}  # fmt: skip
TOUCHES_FILES = {
    "read_text", "read_bytes", "write_text", "write_bytes", "open", "exists", "mkdir", "unlink", "stat",
}  # fmt: skip


@cache
def files() -> list[Path]:
    return sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


@cache
def parsed(path: Path) -> ast.Module:
    # A collection in the middle may format a traceback, which parses too: then 3.11 raises SystemError.
    gc.disable()
    try:
        return ast.parse(path.read_text())
    finally:
        gc.enable()


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    return list(ast.walk(parsed(path)))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def of_every(paths: Callable[[], list[Path]]) -> Callable[[Callable[[Path], None]], Callable[[], None]]:
    """One test for all files, which names those that break the rule: a test for each would take longer."""

    def decorate(rule: Callable[[Path], None]) -> Callable[[], None]:
        def test() -> None:
            broken = []
            for path in paths():
                try:
                    rule(path)
                except AssertionError as error:
                    broken.append(f"{name_of(path)}: {error}")
            assert not broken, "\n".join(broken)

        test.__doc__ = rule.__doc__
        return test

    return decorate


@cache
def imports(path: Path, *, top: bool) -> frozenset[str]:
    """Modules that a file imports: everywhere, or only where it is itself imported."""
    nodes = parsed(path).body if top else nodes_of(path)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = absolute(path, node)
            names = {f"{module}.{alias.name}" for alias in node.names}
            modules = {name for name in names if (ROOT / (name.replace(".", "/") + ".py")).exists()}
            found |= names
            if not names <= modules:
                found.add(module)
    return frozenset(found)


def absolute(path: Path, node: ast.ImportFrom) -> str:
    """The module that is imported from, as `room.wing.file`: this package's own name is left out."""
    if not node.level:
        return (node.module or "").removeprefix("busbar.")
    package = path.relative_to(ROOT).parent.parts
    base = package[: len(package) - node.level + 1]
    return ".".join((*base, node.module) if node.module else base)


@cache
def pure() -> list[str]:
    """The files whose docstring claims it."""
    claims = re.compile(r"(?:^|\. |\n)Pure(?: values)?[.:]")
    return [name_of(p) for p in files() if claims.search(ast.get_docstring(parsed(p)) or "")]


def test_what_decides_claims_to_be_pure() -> None:
    inside = {name_of(p) for p in files() if name_of(p).startswith(PURE_WINGS) and p.name != "__init__.py"}
    assert set(pure()) >= MUST_BE_PURE | inside


@of_every(files)
def test_imports_are_relative_within_a_room_and_full_across_rooms(path: Path) -> None:
    """An import tells at a glance whether it leaves the room, and each module has one name."""
    room = path.relative_to(ROOT).parts[0]
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            assert not {alias.name.split(".")[0] for alias in node.names} & {*ROOMS, "busbar"}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            assert (node.module or "").split(".")[0] not in ROOMS
            assert not f"{node.module}.".startswith(f"busbar.{room}."), "import it relatively"


def wing_of(module: str, room: str) -> str | None:
    """The wing that a module of a room belongs to; None beside the wings."""
    parts = module.split(".")
    return parts[1] if parts[0] == room and len(parts) > 1 and (ROOT / room / parts[1]).is_dir() else None


@of_every(files)
def test_a_wing_imports_only_the_wings_below_it(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    mine = wing_of(name_of(path).removesuffix(".py").replace("/", "."), room)
    found = {wing_of(module, room) for module in imports(path, top=mine is not None)} - {None, mine}
    if mine is not None:
        assert found <= WINGS[room][mine], f"{mine} may import {sorted(WINGS[room][mine])}"
    elif name_of(path) not in COMPOSITION_ROOTS:
        assert not found, "only a composition root imports wings"


def test_every_wing_is_known_and_none_is_above_itself() -> None:
    for room, wings in WINGS.items():
        folders = {p.name for p in (ROOT / room).iterdir() if p.is_dir() and any(p.glob("*.py"))}
        assert folders == set(wings)
        placed: set[str] = set()
        while placed != folders:
            ready = {wing for wing in folders - placed if wings[wing] <= placed}
            assert ready, f"wings of {room} import each other in a circle: {sorted(folders - placed)}"
            placed |= ready


@of_every(files)
def test_rooms_import_the_bus_alone(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    top = {name.split(".")[0] for name in imports(path, top=True)}
    everywhere = {name.split(".")[0] for name in imports(path, top=False)}
    others = set(ROOMS) - {room, "bus"}
    assert not top & others
    if room != "cli":
        assert not everywhere & others


def test_the_command_line_talks_to_the_bus_through_the_client_alone() -> None:
    """The demonstration plays a user's own MQTT program, which talks to workers, not to the bus."""
    for path in files():
        found = {name for name in imports(path, top=False) if name.startswith("bus.")}
        if name_of(path).startswith("cli/") and name_of(path) != "cli/demo/clients.py":
            assert not {name for name in found if name.startswith("bus.connection")}, name_of(path)
        if name_of(path).startswith(("manager/", "agent/")):
            assert not {name for name in found if name.startswith("bus.client")}, name_of(path)


@of_every(lambda: [ROOT / name for name in pure()])
def test_pure_files_do_no_input_or_output(path: Path) -> None:
    found = {module.split(".")[0] for module in imports(path, top=False)}
    assert not found & IMPURE_MODULES
    nodes = nodes_of(path)
    calls = {
        node.func.attr
        for node in nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    assert not calls & TOUCHES_FILES
    if name_of(path) != "bus/connection/link.py":  # a protocol of coroutines, without one
        assert not [node for node in nodes if isinstance(node, ast.AsyncFunctionDef | ast.Await)]
    mates = {module for module in imports(path, top=False) if module.split(".")[0] in ROOMS}
    files_of = {mate: mate.replace(".", "/") + ".py" for mate in mates if mate != "bus.clock"}
    assert {file for file in files_of.values() if (ROOT / file).exists()} <= set(pure())


ONLY = {
    "paho": {"bus/connection/mqtt_connection.py", "bus/connection/paho_client.py"},
    "sqlite3": {"manager/store"},
    "sqlite_utils": {"manager/store/sqlite.py"},
    "subprocess": {
        "agent/routers/brief_start.py",
        "agent/processes/cgroups.py",
        "agent/processes/process.py",
        "bus/system/version.py",
        "cli",
    },
    "time": {"bus/clock.py"},
    "datetime": {"bus/clock.py"},
    "amqtt": {"bus/broker", "agent/routers"},
}


@pytest.mark.parametrize("module", ONLY)
def test_one_file_does_it(module: str) -> None:
    users = {
        name_of(path)
        for path in files()
        if module in {name.split(".")[0] for name in imports(path, top=False)}
    }
    assert users, f"nobody imports {module}: is the rule stale?"
    assert not [user for user in users if not any(user.startswith(allowed) for allowed in ONLY[module])]


FILE_CALLS = {"replace": {"os"}, "rename": {"os"}, "renames": {"os"}, "fsync": {"os"}, "fdatasync": {"os"}}


def test_only_one_file_renames_flushes_and_locks() -> None:
    """`bus/system/files.py` does it for all: SQLite's own files aside, which nobody else may touch."""
    for path in files():
        if name_of(path) == "bus/system/files.py":
            continue
        assert "fcntl" not in imports(path, top=False), name_of(path)
        for node in nodes_of(path):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                where = f"{name_of(path)}:{node.lineno}"
                owner = node.func.value
                named = isinstance(owner, ast.Name) and owner.id in FILE_CALLS.get(node.func.attr, ())
                # `Path.replace` takes one argument, `str.replace` two, `datetime.replace` names them.
                moved = node.func.attr in ("replace", "rename") and len(node.args) == 1 and not node.keywords
                assert not named and not moved, f"{where}: use bus.system.files"


PRIVATE_NAMES = {
    "bus/connection/paho_client.py": {
        "_do_on_publish", "_handle_pubackcomp", "_in_packet", "_inflight_messages", "_mid_generate",
        "_out_message_mutex", "_out_messages", "_out_packet", "_packet_queue", "_packet_read",
        "_raise_for_invalid_topic", "_send_publish", "_sock_recv",
    },
}  # fmt: skip
"""Files that use private names of a library's class, with those names (docs/decisions/0017)."""
_OWN = {"self", "cls"}
_PUBLIC_PRIVATE = {"_replace", "_asdict", "_fields", "_make", "_exit"}
"""Documented names that begin with an underscore."""


def library_bases(path: Path) -> list[tuple[ast.ClassDef, type]]:
    """Classes of a file with each base that comes from an installed library."""
    known: dict[str, str] = {}
    for node in nodes_of(path):
        if isinstance(node, ast.ImportFrom) and not node.level and node.module:
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            known |= {alias.asname or alias.name: alias.name for alias in node.names}
    found = []
    for node in nodes_of(path):
        for base in node.bases if isinstance(node, ast.ClassDef) else ():
            head, _, rest = ast.unparse(base).partition(".")
            module, _, name = f"{known.get(head, '')}{'.' * bool(rest)}{rest}".rpartition(".")
            root = module.split(".")[0]
            if root and root != "busbar" and root not in sys.stdlib_module_names:
                found.append((node, getattr(importlib.import_module(module), name)))
    return found


def private_names(kind: type) -> set[str]:
    """The private names of a library's class and of its bases: of methods and of attributes."""
    names: set[str] = set()
    for each in kind.__mro__:
        if each.__module__.split(".")[0] in sys.stdlib_module_names:
            continue
        try:
            names |= set(vars(each)) | set(re.findall(r"self\.(_[a-z]\w*)", inspect.getsource(each)))
        except (OSError, TypeError):  # compiled
            names |= set(vars(each))
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


@of_every(files)
def test_private_names_of_libraries_are_used_in_one_file_each(path: Path) -> None:
    used = set()
    for node, base in library_bases(path):
        ours = {n.name for n in ast.walk(node) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
        ours |= {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
        used |= ours & private_names(base)
    assert used == PRIVATE_NAMES.get(name_of(path), set())


@of_every(files)
def test_nobody_reaches_into_another_object(path: Path) -> None:
    """A private name belongs to `self`: those of others, libraries above all, change without a word."""
    for node in nodes_of(path):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            own = isinstance(node.value, ast.Name) and node.value.id in _OWN
            inherited = isinstance(node.value, ast.Call) and ast.unparse(node.value) == "super()"
            assert own or inherited or node.attr in _PUBLIC_PRIVATE, (
                f"line {node.lineno}: {ast.unparse(node)}"
            )
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr"):
            name = node.args[1] if len(node.args) > 1 else None
            private = isinstance(name, ast.Constant) and str(name.value).startswith("_")
            assert not private, f"line {node.lineno}: {ast.unparse(node)}"


CLOCK_READERS = {
    "bus/clock.py",
}
"""Files that may read time or set timers; all others are given a clock (`asyncio.timeout` is fine)."""
CLOCK_MAKERS = {
    "manager/service.py",
    "agent/service.py",
    "bus/broker/__init__.py",
    "bus/client/connect.py",
    "cli/",
}
"""Entry points, where the machine's clock is chosen."""


def calls_of(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call in a file, with the dotted name of what is called."""
    for node in nodes_of(path):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@of_every(files)
def test_only_the_clock_reads_time(path: Path) -> None:
    if name_of(path) not in CLOCK_READERS:
        for called, call in calls_of(path):
            assert called.rpartition(".")[2] not in {"call_later", "call_at", "utcnow", "perf_counter"}, (
                called
            )
            assert not called.endswith(("loop.time", "loop().time", "datetime.now", "date.today")), called
            yields = called == "asyncio.sleep" and ast.unparse(call.args[0]) == "0"
            assert called != "asyncio.sleep" or yields, "only 0, which is a turn of the loop"
    if not name_of(path).startswith(tuple(CLOCK_MAKERS)):
        assert "SystemClock" not in {called for called, _ in calls_of(path)}, "let the caller pass its clock"


def test_the_exceptions_of_the_clock_rule_are_needed() -> None:
    for name in CLOCK_READERS | CLOCK_MAKERS:
        used = {part for path in files() if name_of(path).startswith(name) for part, _ in calls_of(path)}
        timed = {part for part in used if part.endswith(("call_later", "asyncio.sleep", "monotonic"))}
        assert "SystemClock" in used or (name in CLOCK_READERS and timed), name


def test_in_the_manager_only_the_publish_wing_publishes() -> None:
    for path in files():
        if not name_of(path).startswith("manager/") or name_of(path).startswith("manager/publish/"):
            continue
        for called, _ in calls_of(path):
            owner, _, verb = called.rpartition(".")
            assert verb not in {"publish", "post"}, f"{name_of(path)}: {called}"
            assert verb != "send" or not owner.endswith("link"), f"{name_of(path)}: {called}"


def test_only_one_file_of_the_command_line_prints() -> None:
    """It lets no control character of others through; the demo prints what it ran."""
    found = set()
    for path in files():
        name = name_of(path)
        if not name.startswith("cli/") or name.startswith("cli/demo/"):
            continue
        for node in nodes_of(path):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "print", "typer.echo", "typer.secho", "sys.stdout.write", "sys.stderr.write"
            ):  # fmt: skip
                found.add(name)
    assert found == {"cli/printing/output.py", "cli/printing/streams.py"}


def test_only_the_store_has_sql() -> None:
    statement = re.compile(
        r"\s*(SELECT .+ FROM|INSERT INTO|UPDATE \w+ SET|DELETE FROM|(CREATE|ALTER|DROP) TABLE|PRAGMA"
        r"|BEGIN( IMMEDIATE)?$|COMMIT$|ROLLBACK|SAVEPOINT)"
    )
    found = 0
    for path in files():
        name = name_of(path)
        if name.startswith("manager/store/"):
            texts = (node.value for node in nodes_of(path) if isinstance(node, ast.Constant))
            found += sum(isinstance(text, str) and bool(statement.match(text)) for text in texts)
            continue
        inner = {"manager.store.sql", "manager.store.sqlite", "manager.store.migrations"}
        assert not imports(path, top=False) & inner, name
        for called, _ in calls_of(path):
            assert called.rpartition(".")[2] not in {"execute", "executemany", "executescript"}, name
        for node in nodes_of(path):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not statement.match(node.value), f"{name}: {node.value[:60]}"
    assert found > 20, "does the pattern still match the store's statements?"


def test_no_import_cycles() -> None:
    graph: dict[str, set[str]] = {}
    for path in files():
        name = name_of(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        graph[name] = {found for found in imports(path, top=True) if found.split(".")[0] in ROOMS} - {name}
    done: set[str] = set()

    def walk(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name in done or name not in graph:
            return
        for after in graph[name]:
            walk(after, (*trail, name))
        done.add(name)

    for name in graph:
        walk(name, ())


def test_no_topic_is_spelt_outside_the_topics_file() -> None:
    allowed = {"bus/topics.py", "bus/access/acl.py"}
    spelt = re.compile(r"[\"']?busbar/v1|/(?:request|response|assignment|heartbeat)/")
    for path in files():
        if name_of(path) in allowed:
            continue
        code = re.sub(r'""".*?"""|#[^\n]*', "", path.read_text(), flags=re.DOTALL)
        assert not spelt.search(code), name_of(path)


@of_every(files)
def test_files_and_functions_stay_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 500
    for node in nodes_of(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            assert node.end_lineno - node.body[0].lineno < 60, node.name


@of_every(files)
def test_public_things_have_a_docstring(path: Path) -> None:
    tree = parsed(path)
    assert ast.get_docstring(tree), "the file has none"
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            public = not node.name.startswith("_") and not node.decorator_list
            if name_of(path).startswith("manager/api/operations/"):
                public = isinstance(node, ast.ClassDef)  # a handler's help stands in its contract row
            long = (node.end_lineno or 0) - node.lineno > 6
            assert not (public and long) or ast.get_docstring(node), node.name


def test_nothing_is_raised_within_except_star() -> None:
    """Before Python 3.11.4 (Debian 12 has 3.11.2) it would come out in a group, which no `except` awaits."""
    for path in files():
        for handler in (h for node in nodes_of(path) if isinstance(node, ast.TryStar) for h in node.handlers):
            raised = [n.lineno for n in ast.walk(handler) if isinstance(n, ast.Raise) and n.exc is not None]
            assert not raised, f"{name_of(path)}: remember it, and raise it after the statement"


def test_the_manager_starts_without_numpy() -> None:
    """The crossbar extra brings it, and sqlite-utils would import it: a third of its imports, 13 MB."""
    if importlib.util.find_spec("numpy") is None:
        pytest.skip("numpy is not installed")
    code = "import sys, busbar.manager.service; print('numpy' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True) == "False\n"
