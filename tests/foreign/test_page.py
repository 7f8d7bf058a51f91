"""The page of docs/howto/browser.md as its visitors have it, but for the browser."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from busbar.agent.runtimes import load_runtimes

from tests.foreign import clients
from tests.integration.agent.runtimes.test_real import Run, crossbar_program, run

__all__ = ["run"]
PAGE = Path(__file__).parent.parent.parent / "docs" / "howto" / "browser.md"


def here_document(text: str, name: str) -> str:
    """What the page has the reader write into a file of that name."""
    found = re.search(rf"^\$ cat > \S*{re.escape(name)} <<'END'\n(.*?)^> END$", text, re.M | re.S)
    assert found is not None
    return "\n".join(line.removeprefix("> ") for line in found[1].splitlines())


@pytest.mark.crossbar
@pytest.mark.timeout(120)
async def test_the_page_shows_what_the_shop_publishes(run: Run, tmp_path: Path) -> None:
    clients.need("ws")
    text = PAGE.read_text()
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "index.html").write_text(here_document(text, "index.html"))
    runtime = load_runtimes({"crossbar": {**crossbar_program(), "static_root": str(tmp_path)}})["crossbar"]
    worker = await run(runtime, json.loads(here_document(text, "shop.json")))
    await worker.ready()
    asked = {
        "url": f"http://127.0.0.1:{worker.launch.port}/",
        "topic": "com.example.news",
        "text": "open at nine",
    }
    found = await clients.outcome("page.mjs", "ws", **asked)
    assert found == {"shown": ["waiting for news", "open at nine"]}
    elsewhere = await clients.outcome("page.mjs", "ws", **asked, origin="https://evil.example")
    assert elsewhere == {"shown": ["closed"]}, "its script runs on another page"
