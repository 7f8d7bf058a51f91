"""Tokens of `busbar join`: what a word says is what was put into it, and every other text is refused."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec
import pytest
from busbar.cli.errors import CliError, ExitCode
from busbar.cli.services.agent_join import check_folder
from busbar.cli.services.join import _why, read_token
from busbar.cli.services.join_file import JOINED, Joined, JoinFile
from busbar.cli.services.join_token import LONGEST, PREFIX, describe_authority, from_word, secret_of, to_word
from hypothesis import given
from hypothesis import strategies as st

NAMES = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,63}", fullmatch=True)
SECRETS = st.text("abcXYZ019_-", min_size=1, max_size=60)
HOSTS = st.sampled_from(["127.0.0.1:1883", "broker.example:8883", "[2001:db8::1]:1884"])
DERS = st.lists(st.binary(min_size=1, max_size=600), max_size=2)


def pem(der: bytes) -> str:
    import base64

    return f"-----BEGIN CERTIFICATE-----\n{base64.encodebytes(der).decode()}-----END CERTIFICATE-----\n"


@st.composite
def join_files(draw: st.DrawFn) -> JoinFile:
    scheme = draw(st.sampled_from(["mqtt", "mqtts", "ws", "wss"]))
    hosts = draw(st.lists(HOSTS, min_size=1, max_size=3, unique=True))
    path = "/mqtt" if scheme.startswith("ws") else ""
    token = draw(st.none() | SECRETS)
    return JoinFile(
        busbar_join=1,
        node=draw(NAMES),
        broker=",".join(f"{scheme}://{host}{path}" for host in hosts),
        realm=draw(NAMES),
        root=draw(st.sampled_from(["busbar", "site/a"])),
        ca="".join(map(pem, draw(DERS))) or None,
        password=draw(SECRETS) if token is None else None,
        token=token,
        until=None if token is None else draw(st.integers(0, 2**40)),
    )


@given(join_files())
def test_a_word_says_what_was_put_into_it(file: JoinFile) -> None:
    word = to_word(file)
    found = from_word(f" {word}\n")
    assert msgspec.structs.replace(found, ca=None) == msgspec.structs.replace(file, ca=None)
    assert "".join((found.ca or "").split()) == "".join((file.ca or "").split())
    assert (describe_authority(found) is None) == (file.ca is None)
    assert word.isascii() and not set(word) & set(" \t\n'\"$`\\;|&<>*?"), "one word of every shell"


@given(join_files(), st.data())
def test_a_word_that_was_not_copied_as_it_is_is_told(file: JoinFile, data: st.DataObject) -> None:
    word = to_word(file)
    text, _, broker = word.partition("@")
    at = data.draw(st.integers(len(PREFIX), len(text) - 1))
    changed = text[:at] + data.draw(st.sampled_from("aA0_-é %")) + text[at + 1 :]
    for wrong in (text[:at], changed if changed != text else text + "AA"):
        with pytest.raises(CliError, match="copy the whole line"):
            from_word(f"{wrong}@{broker}")


@given(st.text(max_size=80) | st.binary(max_size=60).map(lambda raw: f"{PREFIX}{raw.hex()}@b.example:1"))
def test_any_other_text_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(CliError) as refused:
        from_word(text)
    assert refused.value.exit_code == ExitCode.USAGE


FILE = JoinFile(
    busbar_join=1,
    node="n4",
    broker="mqtts://b.example:8883",
    realm="lab",
    root="busbar",
    ca=pem(b"authority"),
    password="wonder",
)


@pytest.mark.parametrize(
    ("broker", "told"),
    [
        ("", "address is missing"),
        ("mqtt://b.example:1883", "with TLS"),
        ("ws://b.example:1883", "with TLS"),
        ("b.example:99999", "65535"),
        ("b.example:1,mqtt://c.example:1", "all with TLS"),
        ("alice@b.example:1", "name no user"),
        ("alice:secret@b.example:1", "no password"),
    ],
)
def test_the_broker_s_address_may_be_changed_but_not_to_one_without_tls(broker: str, told: str) -> None:
    text = to_word(FILE).partition("@")[0]
    assert from_word(f"{text}@other.example:1").broker == "mqtts://other.example:1"
    with pytest.raises(CliError, match=told):
        from_word(f"{text}@{broker}")


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("/root/n4.join", "busbar agent join"),
        ("bb2-abc@b.example:1", "newer version"),
        ("Zm9v", "busbar node token"),
        ("", "busbar node token"),
    ],
)
def test_what_is_no_token_says_what_to_do(word: str, told: str) -> None:
    with pytest.raises(CliError, match=told):
        from_word(word)


def test_authorities_that_do_not_fit_on_a_line_go_into_a_file() -> None:
    many = msgspec.structs.replace(FILE, ca=pem(b"x" * 1500) * 2)
    with pytest.raises(CliError, match="--join-file"):
        to_word(many)
    assert len(to_word(FILE)) < LONGEST


def test_where_a_token_alone_is_asked_for_the_word_serves_too(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(to_word(msgspec.structs.replace(FILE, password=None, token="t0k")) + "\n")
    assert read_token(str(tmp_path / "token")) == "t0k" == secret_of("t0k")
    with pytest.raises(CliError, match="holds a password") as refused:
        secret_of(to_word(FILE))
    assert "wonder" not in str(refused.value)


@pytest.mark.parametrize(
    ("refused", "until", "told"),
    [
        ("the broker refused: Bad user name or password", 1.0, "used before"),
        ("the broker refused: Not authorized", 1.0, "it expired"),
        ("the broker refused: Not authorized", 1e12, "a newer one was made"),
        ("the broker refused: Not authorized", None, "has expired, is another"),
    ],
)
def test_why_a_token_was_refused(refused: str, until: float | None, told: str) -> None:
    assert told in _why("n4", refused, until)


def test_a_folder_that_is_another_s_or_can_t_be_written_is_told(tmp_path: Path) -> None:
    assert check_folder(tmp_path / "new" / "folder", FILE) is None
    mine, other, run = (tmp_path / name for name in ("mine", "other", "run"))
    for folder in (mine, other, run):
        folder.mkdir()
    joined = Joined(node="n4", broker="mqtt://elsewhere", realm="lab", root="busbar")
    (mine / JOINED).write_bytes(msgspec.json.encode(joined))
    assert check_folder(mine, FILE) == joined, "the same node, whose broker has moved"
    (other / JOINED).write_bytes(msgspec.json.encode(msgspec.structs.replace(joined, realm="live")))
    (run / "owner.json").write_text('{"realm": "lab", "node": "n5", "path": "/x", "host": "h"}')
    (tmp_path / "file").touch()
    for folder, code, told in (
        (other, ExitCode.CONFLICT, "of realm 'live', not 'n4' of 'lab'"),
        (run, ExitCode.CONFLICT, "as node 'n5'"),
        (tmp_path / "file", ExitCode.USAGE, "is no folder"),
    ):
        with pytest.raises(CliError, match=told) as refused:
            check_folder(folder, FILE)
        assert refused.value.exit_code == code


def test_a_folder_without_write_rights_is_told_before_the_token_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)  # as for everybody but root
    with pytest.raises(CliError, match="can't be written by this user") as refused:
        check_folder(tmp_path / "new", FILE)
    assert refused.value.exit_code == ExitCode.USAGE


def test_openssl_s_certificate_comes_through(tmp_path: Path) -> None:
    made = tmp_path / "ca.crt"
    command = (
        f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=ca -keyout {tmp_path}/k"
    )
    subprocess.run(["openssl", *command.split(), "-out", str(made)], check=True, capture_output=True)
    file = msgspec.structs.replace(FILE, ca=made.read_text())
    assert from_word(to_word(file)) == file
