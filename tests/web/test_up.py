"""`busbar up --web`: the page is one of its services."""

from __future__ import annotations

import re
import signal
import urllib.error
import urllib.request
from http.cookiejar import CookieJar
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.integration.cli.harness import stack
from tests.pace import bound


@pytest.mark.timeout(120)
def test_up_serves_the_page_and_ends_it(tmp_path: Path) -> None:
    with stack(tmp_path) as up:
        up.up("--agents", "0", "--port", "0", "--web")
        url = re.search(r"http://\S+/", up.hear("page"))
        up.ready()
        assert url is not None and up.written()["page"] == url[0] and up.pid("web")
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        form = browser.open(f"{url[0]}signin", timeout=bound(20)).read().decode()
        token = re.search(r'name="token" value="([\w-]+)"', form)
        assert token is not None and f"<strong>{up.realm}</strong>" in form
        secret = (up.state / "secrets" / "admin").read_text().strip()
        fields = urlencode({"user": "admin", "password": secret, "token": token[1]}).encode()
        page = browser.open(f"{url[0]}signin", fields, timeout=bound(20))
        assert page.url == url[0] and 'id="clusters"' in page.read().decode()
        with browser.open(f"{url[0]}live", timeout=bound(20)) as live:
            assert live.readline() == b"retry: 1000\n"
            up.signal(signal.SIGINT)
            assert up.wait() == 0, "an open page does not hold it up"
        assert up.left() == []
        with pytest.raises(urllib.error.URLError):
            browser.open(url[0], timeout=bound(5))
