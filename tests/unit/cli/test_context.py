"""Where the command line's settings come from, and which source goes before which."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from busbar.cli.context import (
    Config,
    GlobalOptions,
    Settings,
    choose_context,
    config_path,
    environment,
    load_config,
    local,
    merge,
    read_password,
    save_config,
    settings_in_force,
    state_path,
)
from busbar.cli.errors import CliError, ExitCode
from hypothesis import given
from hypothesis import strategies as st

from .realm import Line
from .realm import line as line

LAB = Settings("mqtts://lab.example:8883", "lab", "site", "alice", "/secret/alice", "/ca.pem")
UP = Settings("mqtt://127.0.0.1:1883", "default", "busbar", "admin", "/state/secrets/admin")
NOTHING = Settings()


def test_options_go_before_environment_before_context_before_local_state() -> None:
    env = environment({"BUSBAR_REALM": "from-env", "BUSBAR_USERNAME": "bob", "BUSBAR_PASSWORD_FILE": "/bob"})
    found = merge(GlobalOptions(realm="from-option"), env, LAB, UP)
    assert (found.realm, found.username, found.password_file) == ("from-option", "bob", "/bob")
    assert merge(GlobalOptions(), env, LAB, UP).realm == "from-env"
    assert merge(GlobalOptions(), NOTHING, LAB, UP).realm == "lab"
    assert merge(GlobalOptions(), NOTHING, None, UP) == UP


def test_local_state_says_nothing_about_another_broker() -> None:
    found = merge(GlobalOptions(broker="mqtt://elsewhere"), NOTHING, None, UP)
    assert found == Settings(broker="mqtt://elsewhere")
    assert merge(GlobalOptions(), NOTHING, LAB, UP) == LAB


@pytest.mark.parametrize("env", [NOTHING, Settings(broker="mqtt://elsewhere")])
def test_stored_credentials_go_to_no_other_broker(env: Settings) -> None:
    given = GlobalOptions() if env.broker else GlobalOptions(broker="mqtt://elsewhere")
    found = merge(given, env, LAB, UP)
    assert (found.username, found.password_file, found.password) == (None, None, None)
    assert found.realm == "lab", "what is no secret still counts"


def test_the_same_broker_named_again_keeps_its_credentials() -> None:
    assert merge(GlobalOptions(broker=UP.broker), NOTHING, None, UP).password_file == UP.password_file


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ("mqtts://b", True),
        ("mqtts://b, mqtts://a", True),
        ("mqtts://a,mqtts://elsewhere", False),
        ("mqtts://elsewhere", False),
    ],
)
def test_credentials_of_a_cluster_go_to_its_brokers_alone(asked: str, kept: bool) -> None:
    stored = Settings("mqtts://a,mqtts://b", "lab", None, "alice", "/secret/alice")
    found = merge(GlobalOptions(broker=asked), NOTHING, stored, UP)
    assert found.password_file == ("/secret/alice" if kept else None)


def test_a_password_is_never_taken_from_below_the_user() -> None:
    found = merge(GlobalOptions(username="bob"), NOTHING, LAB, UP)
    assert (found.username, found.password_file) == ("bob", None)
    above = merge(GlobalOptions(password_file="/mine"), NOTHING, LAB, UP)
    assert (above.username, above.password_file) == ("alice", "/mine")


def test_a_password_in_the_environment_is_used_and_not_shown() -> None:
    env = environment({"BUSBAR_PASSWORD": "s3cret", "BUSBAR_USERNAME": "bob", "BUSBAR_BROKER": "mqtt://b"})
    found = merge(GlobalOptions(), env, None, NOTHING)
    assert found.password == "s3cret"
    assert "s3cret" not in repr(found)
    assert merge(GlobalOptions(password_file="/f"), env, None, NOTHING).password is None


def test_an_empty_variable_says_nothing() -> None:
    assert environment({"BUSBAR_BROKER": ""}) == NOTHING


def test_an_unknown_context_is_a_usage_error_that_names_the_known_ones() -> None:
    config = Config({"lab": LAB}, None)
    with pytest.raises(CliError, match=r"no context 'nope'.*known: lab") as caught:
        choose_context(GlobalOptions(context="nope"), {}, config, Path("config.toml"))
    assert caught.value.exit_code == ExitCode.USAGE


def test_the_option_chooses_before_the_variable_before_the_current_context() -> None:
    config = Config({"a": Settings("mqtt://a"), "b": Settings("mqtt://b"), "c": Settings("mqtt://c")}, "c")
    path = Path("config.toml")
    assert (
        choose_context(GlobalOptions(context="a"), {"BUSBAR_CONTEXT": "b"}, config, path)
        == config.contexts["a"]
    )
    assert choose_context(GlobalOptions(), {"BUSBAR_CONTEXT": "b"}, config, path) == config.contexts["b"]
    assert choose_context(GlobalOptions(), {}, config, path) == config.contexts["c"]
    assert choose_context(GlobalOptions(), {}, Config(config.contexts), path) is None


def test_the_config_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    strange = Settings('mqtt://h"\\', "r", None, "ü\u007f", "/a b/\U0001f50c", None, None, "/k")
    config = Config({"lab": LAB, "strange": strange, 'quo"te': NOTHING}, "lab")
    path = tmp_path / "deep" / "config.toml"
    save_config(path, config)
    assert load_config(path) == config
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["config.toml"]


def test_no_password_is_ever_written_to_the_config_file(tmp_path: Path) -> None:
    save_config(tmp_path / "config.toml", Config({"a": Settings(broker="mqtt://a", password="s3cret")}))
    assert "s3cret" not in (tmp_path / "config.toml").read_text()


@pytest.mark.parametrize(
    "text", ["= broken", "[contexts.a]\npassword = 'x'", "[contexts.a]\nbroker = 3", "contexts = 3"]
)
def test_a_broken_config_file_is_a_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(CliError, match=r"config\.toml"):
        load_config(path)


def test_the_folders_follow_the_environment() -> None:
    home = {"HOME": "/h"}
    assert config_path(home) == Path("/h/.config/busbar/config.toml")
    assert config_path({**home, "XDG_CONFIG_HOME": "/x"}) == Path("/x/busbar/config.toml")
    assert state_path(home) == Path("/h/.local/state/busbar")
    assert state_path({**home, "XDG_STATE_HOME": "/x"}) == Path("/x/busbar")
    assert state_path({**home, "XDG_STATE_HOME": "/x", "BUSBAR_STATE": "/s"}) == Path("/s")


def test_everything_together(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "BUSBAR_STATE": str(tmp_path / "state")}
    assert settings_in_force(GlobalOptions(), env) == Settings(realm="default", root="busbar")
    (tmp_path / "state").mkdir()
    up = {"broker": "mqtt://127.0.0.1:7", "realm": "r", "username": "admin", "pids": {"up": 1}, "port": 7}
    (tmp_path / "state" / "up.json").write_text(json.dumps(up))
    assert settings_in_force(GlobalOptions(), env) == local(up).__class__(
        "mqtt://127.0.0.1:7", "r", "busbar", "admin"
    )
    (tmp_path / "state" / "up.json").write_text("[half")
    assert settings_in_force(GlobalOptions(), env).broker is None
    save_config(config_path(env), Config({"lab": LAB}, "lab"))
    assert settings_in_force(GlobalOptions(), env) == LAB


def test_a_password_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("s3cret\n")
    path.chmod(0o644)
    with pytest.raises(CliError, match="chmod 600"):
        read_password(Settings(password_file=str(path)))
    path.chmod(0o600)
    assert read_password(Settings(password_file=str(path))) == "s3cret"
    with pytest.raises(CliError, match="No such file"):
        read_password(Settings(password_file=str(tmp_path / "none")))


FILE = """# My realms.
current = "lab"  # where I work

# The laboratory.
[contexts.lab]
broker = "mqtt://lab"  # behind the # VPN
# To be changed soon.
realm = "lab"

# Production: careful!
[contexts.'prod']
broker = "mqtts://prod"
"""


@pytest.mark.parametrize(
    ("words", "gone", "new"),
    [
        (("use", "prod"), ['current = "lab"'], ['current = "prod"  # where I work']),
        (("unset",), ['current = "lab"  # where I work'], []),
        (
            ("rename", "lab", "site"),
            ["[contexts.lab]", 'current = "lab"'],
            ["[contexts.site]", 'current = "site"  # where I work'],
        ),
        (("remove", "prod"), ["[contexts.'prod']", 'broker = "mqtts://prod"'], []),
        (
            ("remove", "lab"),
            [
                "[contexts.lab]",
                'current = "lab"',
                'broker = "mqtt://lab"',
                "# To be changed",
                'realm = "lab"',
            ],
            [],
        ),
        (
            ("add", "lab", "--broker", "mqtt://new", "--username", "alice", "--replace"),
            ['broker = "mqtt://lab"', 'realm = "lab"'],
            ['broker = "mqtt://new"  # behind the # VPN', 'username = "alice"'],
        ),
        (("add", "other", "--broker", "mqtt://other"), [], ["[contexts.other]", 'broker = "mqtt://other"']),
    ],
)
def test_a_change_keeps_comments_and_order(
    line: Line, tmp_path: Path, words: tuple[str, ...], gone: list[str], new: list[str]
) -> None:
    path = tmp_path / "config" / "busbar" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text(FILE)
    assert line.run("context", *words) == 0
    before, after = FILE.splitlines(), path.read_text().splitlines()
    kept = [each for each in before if each.strip() and not any(each.startswith(old) for old in gone)]
    assert [each for each in after if each in kept and each not in new] == kept
    assert all(each in after for each in new), after
    assert [each for each in after if each.strip() and each not in before] == [e for e in after if e in new]


names = st.text("ab.\"' #]=", min_size=1, max_size=4)
settings = st.builds(Settings, broker=st.text(max_size=6), realm=st.none() | st.text(max_size=6))
configs = st.builds(Config, st.dictionaries(names, settings, max_size=3), st.none() | names)


@given(configs, configs)
def test_a_file_says_what_was_saved_whatever_it_said_before(before: Config, after: Config) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.toml"
        save_config(path, before)
        save_config(path, after)
        found = load_config(path)
    assert (found.contexts, found.current or None) == (dict(after.contexts), after.current or None)


def test_the_context_in_force_is_named_in_errors(
    line: Line, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BUSBAR_BROKER", "BUSBAR_USERNAME"):
        monkeypatch.delenv(name)
    assert line.run("context", "add", "lab", "--broker", "mqtt://127.0.0.1:1", "--username", "alice") == 0
    assert line.run("context", "test") == ExitCode.UNREACHABLE
    assert capsys.readouterr().err.rstrip().endswith("(context 'lab')")
    assert line.run("cluster", "list", "-o", "json") == ExitCode.UNREACHABLE
    assert json.loads(capsys.readouterr().err)["error"]["context"] == "lab"
    assert line.run("context", "test", "lab", "--broker", "mqtt://127.0.0.1:2") == ExitCode.UNREACHABLE
    told = capsys.readouterr().err
    assert "127.0.0.1:1 " in f"{told} ".replace(":1:", ":1 ") and ":2" not in told, "the context's own alone"
    assert line.run("context", "rename", "lab", "site") == line.run("context", "unset") == 0
    assert line.run("context", "test", "lab") == ExitCode.NOT_FOUND
    assert "(context" not in capsys.readouterr().err
