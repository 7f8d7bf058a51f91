"""Every relative link and picture of the pages leads to a file that exists, and to a heading that it has."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(r"^ *(```|~~~).*?^ *\1[^\n]*$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]+`")
INLINE = re.compile(r"\]\(<?([^)>\s]+)>?(?:\s+\"[^\"]*\")?\)")
DEFINED = re.compile(r"^\[[^\]^]+\]:\s*(\S+)", re.MULTILINE)
TAG = re.compile(r"<(?:a|img)\b[^>]*\b(?:href|src)=\"([^\"]+)\"")
HEADING = re.compile(r"^#{1,6} +(.+?)#*$", re.MULTILINE)
NAMED = re.compile(r"<\w+[^>]*\b(?:id|name)=\"([^\"]+)\"")


def links(text: str) -> Iterator[str]:
    """Where a page's links and pictures lead, those to other hosts left out."""
    shown = FENCE.sub("", text)
    for found in (INLINE, DEFINED, TAG):
        yield from (each for each in found.findall(CODE.sub("``", shown)) if not re.match(r"\w+:", each))


def anchors(text: str) -> set[str]:
    """The anchors of a page: of its headings, as forges and the site make them, and of its HTML."""
    shown = FENCE.sub("", text)
    found: set[str] = set()
    for heading in HEADING.findall(shown):
        words = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        number = 0
        while (anchor := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(anchor)
    return found | set(NAMED.findall(shown))


@cache
def anchors_of(page: Path) -> set[str]:
    """Those of a file."""
    return anchors(page.read_text())


def wrong(page: Path, text: str, root: Path = ROOT) -> list[str]:
    """The links of a page that lead nowhere."""
    found = []
    for link in links(text):
        target, _, anchor = link.partition("#")
        path = page.parent / target if target else page
        if not path.exists() or not path.resolve().is_relative_to(root):
            found.append(f"{link}: no such file")
        elif (
            anchor and path.suffix == ".md" and anchor not in (anchors_of(path) if target else anchors(text))
        ):
            found.append(f"{link}: no such heading")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_anchors_lead_somewhere(page: Path) -> None:
    assert not wrong(page, page.read_text())


def test_a_link_that_leads_nowhere_is_found() -> None:
    text = (
        "# One\n## The `x`: a & b\n## One\n[here](#one) [twice](#one-1) [there](#the-x-a--b) "
        "[page](howto/daily.md) [heading](howto/daily.md#output-for-scripts) [site](https://example.org/#x)\n"
        "`[code](nowhere.md)`\n```\n# Two\n[code](nowhere.md)\n```\n![p](pictures/page.png)\n"
        "[r]: glossary.md\n"
    )
    page = DOCS / "quickstart.md"
    assert not wrong(page, text)
    more = (
        "[a](nowhere.md) [b](#two) [c](howto/daily.md#nowhere) ![d](pictures/nowhere.png) [e](../../x)\n"
        '[f]: nowhere\n<img src="nowhere.svg">\n'
    )
    assert len(wrong(page, text + more)) == 7


@pytest.fixture(scope="module")
def website() -> Any:
    """docs/website.py."""
    spec = importlib.util.spec_from_file_location("website", DOCS / "website.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_site_has_every_page_once_and_its_links_lead_somewhere(website: Any, tmp_path: Path) -> None:
    """What `make site` gives zensical: pages stand elsewhere, and links to other files are text alone."""
    website.gather(tmp_path)
    config = yaml.load((tmp_path / "mkdocs.yml").read_text(), Loader=yaml.BaseLoader)
    assert config["validation"]["invalid_links"] == config["validation"]["invalid_link_anchors"] == "true"
    shown = list(leaves(config["nav"]))
    pages = sorted((tmp_path / "pages").rglob("*.md"))
    assert sorted(shown) == [page.relative_to(tmp_path / "pages").as_posix() for page in pages]
    assert len(shown) > 60 and (tmp_path / "pages" / "reference" / "asyncapi.json").exists()
    for page in pages:
        assert not wrong(page, page.read_text(), tmp_path), page


@pytest.mark.timeout(180)
def test_zensical_builds_the_site_and_refuses_an_anchor_that_has_gone(
    website: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One build tells both: that anchor is all that it finds wrong."""
    if importlib.util.find_spec("zensical") is None:
        pytest.skip("zensical is not installed: the extra docs")
    website.gather(tmp_path)
    with (tmp_path / "pages" / "quickstart.md").open("a") as file:
        file.write("\n[gone](howto/daily.md#no-such-heading)\n")
    code, said = website.build(tmp_path), "".join(capfd.readouterr())
    assert code != 0 and "1 issue found" in said, said
    page = (tmp_path / "html" / "reference" / "contract" / "index.html").read_text()
    assert 'id="3-request-and-response"' in page and not re.search(r'<(?:script|link)[^>]*="https?://', page)


def leaves(found: Any) -> Iterator[str]:
    """The pages of a navigation."""
    if isinstance(found, str):
        yield found
    else:
        for each in found.values() if isinstance(found, dict) else found:
            yield from leaves(each)
