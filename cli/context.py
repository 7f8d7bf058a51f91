"""Which broker, which realm, as whom: options, environment, contexts of a file, local `busbar up`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from busbar.bus.options import split_urls
from busbar.bus.system.files import write_atomically
from busbar.bus.system.password import read_password as password_in

from .errors import CliError, ExitCode, usage

DEFAULT_REALM: Final = "default"
DEFAULT_ROOT: Final = "busbar"
UP_FILE: Final = "up.json"
BROKER_HELP: Final = "Broker URL: mqtt(s)://, ws(s)://; several, comma-separated, for a cluster."


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of one source, or those in force; None where it says nothing.

    `password` only ever comes from the environment.
    """

    broker: str | None = None
    realm: str | None = None
    root: str | None = None
    username: str | None = None
    password_file: str | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    password: str | None = field(default=None, repr=False)


MEMBERS: Final = tuple(f.name for f in fields(Settings) if f.name != "password")
"""What a context in the config file may hold."""


@dataclass(frozen=True, slots=True)
class Config:
    """The config file: named contexts, and which is used when none is asked for."""

    contexts: Mapping[str, Settings] = field(default_factory=dict)
    current: str | None = None
    log: Mapping[str, str] = field(default_factory=dict)
    """`level` and `format` of what services log."""


@dataclass(frozen=True, slots=True)
class GlobalOptions:
    """The global options of one command line."""

    context: str | None = None
    broker: str | None = None
    realm: str | None = None
    username: str | None = None
    password_file: str | None = None
    output: str | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    headers: bool = True

    def merged(self, later: Mapping[str, str | None]) -> GlobalOptions:
        """These options with those given later on the line."""
        given: dict[str, Any] = {name: value for name, value in later.items() if value is not None}
        return replace(self, **given)


# --- where things are --------------------------------------------------------------------------------------


def config_path(env: Mapping[str, str]) -> Path:
    """The config file: below XDG_CONFIG_HOME, else ~/.config."""
    base = env.get("XDG_CONFIG_HOME") or str(_home(env) / ".config")
    return Path(base) / "busbar" / "config.toml"


def state_path(env: Mapping[str, str]) -> Path:
    """The state folder of `busbar up`: BUSBAR_STATE, else below XDG_STATE_HOME, else ~/.local/state."""
    if env.get("BUSBAR_STATE"):
        return Path(env["BUSBAR_STATE"]).absolute()
    base = env.get("XDG_STATE_HOME") or str(_home(env) / ".local" / "state")
    return Path(base) / "busbar"


def _home(env: Mapping[str, str]) -> Path:
    """Raises CliError where there is none: HOME is not set, and the user has no entry."""
    try:
        return Path(env["HOME"]) if env.get("HOME") else Path.home()
    except RuntimeError:
        raise HomelessError from None


class HomelessError(CliError):
    """There is no home folder, and a folder below it is needed."""

    def __init__(self) -> None:
        text = "this user has no home folder: set HOME, or BUSBAR_STATE and XDG_CONFIG_HOME"
        super().__init__(text, ExitCode.USAGE, "usage")


# --- the config file ---------------------------------------------------------------------------------------


def load_config(path: Path) -> Config:
    """Read the config file; a missing one is empty.

    Raises:
        CliError: it is not TOML, or holds what no context has.
    """
    import tomllib

    try:
        text = path.read_text(encoding="utf-8")
        tomllib.loads(text)
    except FileNotFoundError:
        return Config()
    except (OSError, ValueError, RecursionError) as error:
        raise usage(f"config file {path} can't be read: {error}") from None
    try:
        return _parsed(text)
    except (TypeError, AttributeError, ValueError) as error:
        raise usage(f"config file {path}: {error}; a context holds {', '.join(MEMBERS)}") from None


def _parsed(text: str) -> Config:
    """The text's meaning. Raises ValueError, TypeError or AttributeError."""
    import tomllib

    table = tomllib.loads(text)
    contexts = {name: Settings(**_checked(row)) for name, row in table.get("contexts", {}).items()}
    current = table.get("current")
    return Config(contexts, current if isinstance(current, str) else None, _log(table.get("log", {})))


def _log(table: Mapping[str, Any]) -> dict[str, str]:
    """Raises CliError for what `[log]` has not."""
    if not isinstance(table, dict) or not set(table) <= {"level", "format"}:
        raise usage("config file: [log] holds level and format")
    return {name: str(value) for name, value in table.items()}


def _checked(row: Mapping[str, Any]) -> dict[str, str]:
    for name, value in row.items():
        if name not in MEMBERS or not isinstance(value, str):
            raise ValueError(f"'{name}' is not a setting of a context, or not text")
    return dict(row)


def members_of(settings: Settings) -> dict[str, str]:
    """What a context in the file says: the settings that are not None."""
    return {key: value for key in MEMBERS if (value := getattr(settings, key)) is not None}


def save_config(path: Path, config: Config, renamed: tuple[str, str] | None = None) -> None:
    """Make the config file say this, mode 0600; comments and the order of what stays survive.

    Args:
        renamed: the old and the new name of a context, which keeps its place.
    """
    from . import config_file

    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    contexts = {name: members_of(settings) for name, settings in config.contexts.items()}
    text = config_file.edited(before, contexts, config.current, renamed) if before.strip() else None
    if text is None or not _says(text, config):
        text = config_file.rendered(contexts, config.current)
    write_atomically(path, text)


def _says(text: str, config: Config) -> bool:
    try:
        return _parsed(text) == config
    except (ValueError, TypeError, AttributeError):
        return False


def read_up(state: Path) -> dict[str, Any]:
    """What the last `busbar up` of a state folder wrote down; empty when there was none, or it is damaged."""
    try:
        found = json.loads((state / UP_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


# --- precedence --------------------------------------------------------------------------------------------


def environment(env: Mapping[str, str]) -> Settings:
    """The settings in the environment (BUSBAR_BROKER, BUSBAR_REALM …); an empty variable counts as unset."""
    found = {f.name: env.get(f"BUSBAR_{f.name.upper()}") or None for f in fields(Settings)}
    return Settings(**found)


def local(up: Mapping[str, Any]) -> Settings:
    """The settings that `busbar up` left in its state folder."""
    return Settings(**{name: up[name] for name in MEMBERS if isinstance(up.get(name), str)})


def choose_context(
    options: GlobalOptions, env: Mapping[str, str], config: Config, path: Path
) -> Settings | None:
    """The context in force, or None.

    Raises:
        CliError: it does not exist.
    """
    name = options.context or env.get("BUSBAR_CONTEXT") or config.current
    if not name:
        return None
    if name not in config.contexts:
        known = ", ".join(sorted(config.contexts)) or "none"
        raise usage(f"there is no context '{name}' in {path} (known: {known})")
    return config.contexts[name]


def merge(options: GlobalOptions, env: Settings, context: Settings | None, up: Settings) -> Settings:
    """Options over environment over context over local state: the settings of this command.

    Stored credentials go to the brokers they are stored with and to no other, and a password is never taken
    from a source below the one that names the user.
    """
    sources = [_asked(options), env]
    stored = context or Settings()
    broker = _first("broker", [*sources, stored, up])
    if stored.broker is not None and not _among(broker, stored.broker):
        stored = replace(stored, username=None, password_file=None, tls_cert=None, tls_key=None)
    sources.append(stored)
    if up.broker == broker:
        sources.append(up)
    plain = {name: _first(name, sources) for name in MEMBERS}
    return replace(Settings(**plain), broker=broker, **_credentials(sources))


def _among(asked: str | None, known: str) -> bool:
    """Whether each broker that is asked for is one of a known list."""
    return asked is not None and set(split_urls(asked)) <= set(split_urls(known))


def _asked(options: GlobalOptions) -> Settings:
    return Settings(**{name: getattr(options, name) for name in MEMBERS if name != "root"})


def _first(name: str, sources: Sequence[Settings]) -> str | None:
    return next((value for source in sources if (value := getattr(source, name))), None)


def _credentials(sources: Sequence[Settings]) -> dict[str, str | None]:
    named = next((i for i, source in enumerate(sources) if source.username), len(sources) - 1)
    found = {"username": sources[named].username, "password_file": None, "password": None}
    for source in sources[: named + 1]:
        if source.password_file or source.password:
            secret = "password_file" if source.password_file else "password"
            return {**found, secret: getattr(source, secret)}
    return found


def stored_context(options: GlobalOptions, env: Mapping[str, str]) -> Settings | None:
    """The context in force from the config file; None too where there is no home folder for one."""
    try:
        path = config_path(env)
    except HomelessError:
        path = Path("(no home folder)")
    config = load_config(path)
    chosen = choose_context(options, env, config, path)
    global _used
    _used = None if chosen is None else options.context or env.get("BUSBAR_CONTEXT") or config.current
    return chosen


def stored_up(env: Mapping[str, str]) -> dict[str, Any]:
    """As `read_up` of the state folder; empty too where there is no home folder for one."""
    try:
        return read_up(state_path(env))
    except HomelessError:
        return {}


def settings_in_force(options: GlobalOptions, env: Mapping[str, str]) -> Settings:
    """The settings in force, with defaults for realm and root; the broker may still be None."""
    chosen = stored_context(options, env)
    found = merge(options, environment(env), chosen, local(stored_up(env)))
    return with_defaults(found)


def with_defaults(found: Settings) -> Settings:
    """The settings, with a realm and a root where they have none."""
    return replace(found, realm=found.realm or DEFAULT_REALM, root=found.root or DEFAULT_ROOT)


def read_password(settings: Settings) -> str | None:
    """The password: from its file, else from the environment.

    Raises:
        CliError: the file can't be read, or others can read it.
    """
    if not settings.password_file:
        return settings.password
    try:
        return password_in(Path(settings.password_file).expanduser())
    except ValueError as error:
        raise usage(str(error)) from None


# --- the command line's own global options, of one run -----------------------------------------------------

_options = GlobalOptions()
_used: str | None = None


def used_context() -> str | None:
    """The context whose settings this run has used, for its errors; None where it used none."""
    return _used


def global_options() -> GlobalOptions:
    """The global options of this run."""
    return _options


def set_global_options(value: GlobalOptions) -> None:
    """Set at the start of a run, and again when a command brings options of its own."""
    global _options, _used
    _options, _used = value, None
