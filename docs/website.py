"""The documentation as a site: gathers pages and navigation below build/site, and has zensical build it.

python docs/website.py           builds build/site/html; fails for a link or an anchor that leads nowhere
python docs/website.py --serve   serves it on the loopback address
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

DOCS: Final = Path(__file__).parent
ROOT: Final = DOCS.parent
SITE: Final = ROOT / "build" / "site"
PAGES: Final = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Pages of the root, which stand beside those of docs/ on the site."""
SECTIONS: Final = {
    "Tutorial": ["quickstart.md"],
    "How to": ["howto/"],
    "Reference": ["reference/", "glossary.md"],
    "Explanation": ["explanation/"],
    "Decisions": ["decisions/"],
    "Project": ["changelog.md", "contributing.md"],
}
"""The navigation: pages, and folders of which every page is shown."""
LINK: Final = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def sources() -> dict[str, Path]:
    """What the site is made of, by the path below its root: pages, pictures, files that pages link to."""
    found = {path.relative_to(DOCS).as_posix(): path for path in sorted(DOCS.rglob("*")) if path.is_file()}
    ours = {name: path for name, path in found.items() if "__pycache__" not in name}
    ours = {name: path for name, path in ours.items() if path.suffix not in (".py", ".1") and "/" in name}
    pages = {name: path for name, path in found.items() if path.suffix == ".md"}
    return ours | pages | {name: ROOT / page for page, name in PAGES.items()}


def order() -> list[str]:
    """The pages in the order in which the README names them."""
    named = re.findall(r"\]\(docs/([^)#]+\.md)", (ROOT / "README.md").read_text())
    return list(dict.fromkeys(named))


def title(path: Path) -> str:
    """A page's first heading."""
    found = re.search(r"^# (.+)$", path.read_text(), re.MULTILINE)
    return found[1].replace("`", "") if found else path.stem


def navigation(found: dict[str, Path]) -> list[Any]:
    """Every page, in its section; within a folder as the README names them, then by their names."""
    first = {name: number for number, name in enumerate(order())}
    nav: list[Any] = [{"Busbar": "index.md"}]
    for section, parts in SECTIONS.items():
        pages: list[Any] = []
        for part in parts:
            inside = [name for name in found if name.startswith(part) and name.endswith(".md")]
            inside.sort(key=lambda name: (Path(name).name != "README.md", first.get(name, len(first)), name))
            pages += [{title(found[name]): name} for name in inside]
        if section == "Reference":
            pages.append({"AsyncAPI document": "reference/asyncapi.md"})
        nav.append({section: pages})
    return nav


def rewritten(name: str, text: str, found: dict[str, Path]) -> str:
    """A page's text with links as they are on the site; what is not on it stays as text alone."""
    here = {path.resolve(): target for target, path in found.items()}
    source = found[name]

    def link(match: re.Match[str]) -> str:
        target, _, anchor = match[3].partition("#")
        if not target or ":" in target:
            return match[0]
        on_site = here.get((source.parent / target).resolve())
        if on_site is None:
            # A file of the repository; one that does not exist keeps its link, which the build refuses.
            return match[2] if (source.parent / target).exists() else match[0]
        up = "../" * name.count("/")
        return f"{match[1]}[{match[2]}]({up}{on_site}{'#' if anchor else ''}{anchor})"

    return "\n".join(_indented(LINK.sub(link, part)) if plain else part for plain, part in _parts(text))


def _parts(text: str) -> Iterator[tuple[bool, str]]:
    """A page's blocks in order: whether it is prose, and its lines; the others are fenced code."""
    prose, lines = True, []
    for line in text.split("\n"):
        if line.startswith("```") and prose:
            yield True, "\n".join(lines)
            prose, lines = False, [line]
        elif line.startswith("```"):
            yield False, "\n".join([*lines, line])
            prose, lines = True, []
        else:
            lines.append(line)
    yield prose, "\n".join(lines)


def _indented(prose: str) -> str:
    """Lists within lists have four spaces where Python-Markdown reads them."""
    return re.sub(r"^(?: {2})+(?=\S)", lambda found: found[0] * 2, prose, flags=re.MULTILINE)


ASYNCAPI: Final = """# AsyncAPI document

The [contract](contract.md) for machines: [asyncapi.json](asyncapi.json) has every topic with its payload's
JSON Schema, and every operation with its reply and its errors, as AsyncAPI 3.
"""


def gather(folder: Path) -> None:
    """Write pages, files and configuration for zensical below a folder."""
    found = sources()
    shutil.rmtree(folder / "pages", ignore_errors=True)
    for name, path in found.items():
        target = folder / "pages" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            target.write_text(rewritten(name, path.read_text(), found))
        else:
            shutil.copyfile(path, target)
    (folder / "pages" / "reference" / "asyncapi.md").write_text(ASYNCAPI)
    nav = yaml.safe_dump({"nav": navigation(found)}, sort_keys=False, allow_unicode=True)
    (folder / "mkdocs.yml").write_text(f"{(DOCS / 'website.yml').read_text()}{nav}")


def zensical(folder: Path, *words: str) -> int:
    """Run zensical on what was gathered; its exit code."""
    command = [sys.executable, "-m", "zensical", *words, "--config-file", "mkdocs.yml"]
    return subprocess.run(command, cwd=folder, check=False).returncode


def build(folder: Path) -> int:
    """Build the site in a folder's `html`; fails for a link or an anchor that leads nowhere."""
    return zensical(folder, "build", "--clean", "--strict")


def main() -> int:
    """Build or serve."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--serve", action="store_true", help="serve it on the loopback address")
    serve = parser.parse_args().serve
    gather(SITE)
    return zensical(SITE, "serve") if serve else build(SITE)


if __name__ == "__main__":
    sys.exit(main())
