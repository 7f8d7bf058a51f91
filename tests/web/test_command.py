"""`busbar web`: what it refuses to begin with."""

from __future__ import annotations

from pathlib import Path

import pytest
from busbar.cli.errors import CliError, sentence
from busbar.cli.services import web
from busbar.cli.services.web import web_spec

from tests.unit.cli.realm import Line
from tests.unit.cli.realm import line as line

PEM = Path("page.pem")


def spec(
    host: str | None = None, origins: tuple[str, ...] = (), cert: Path | None = None, key: Path | None = None
) -> web.WebSpec:
    return web_spec(host, 8780, origins, cert, key, "info")


def test_the_page_has_no_user_of_its_own(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUSBAR_PASSWORD", "of a person")
    monkeypatch.setenv("BUSBAR_TLS_CERT", "of-a-person.pem")
    found = spec()
    connect = found.connect
    assert (connect.username, connect.password_file, connect.tls_cert) == (None, None, None)
    assert connect.broker == "mqtt://127.0.0.1:1" and found.host in ("127.0.0.1", "::1")


@pytest.mark.parametrize("host", ["192.0.2.7", "0.0.0.0", "::"])
def test_no_password_passes_in_the_clear_between_machines(line: Line, host: str) -> None:
    with pytest.raises(CliError, match="passwords would pass in the clear"):
        spec(host, ("http://busbar.example.org",))
    assert spec(host, ("https://busbar.example.org",), PEM, PEM).cert == str(PEM.absolute())


def test_options_that_do_not_go_together_are_told(line: Line) -> None:
    with pytest.raises(CliError, match="go together"):
        spec(None, (), PEM)
    with pytest.raises(CliError, match="where browsers have the page from"):
        spec("0.0.0.0", (), PEM, PEM)


def test_without_the_extra_it_says_how_to_get_it(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "find_spec", lambda name: None)
    with pytest.raises(CliError) as caught:
        spec()
    assert "pip install 'busbar-mqtt[web]'" in sentence(caught.value)
