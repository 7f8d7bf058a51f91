"""What pyproject.toml can't say: the README with absolute links, the links of the metadata, and the commit.

The links need the repository's address: that of the clone's remote `origin`, or BUSBAR_REPOSITORY_URL.
Without one there are no such links, rather than links that lead nowhere. The commit, which `busbar --version`
tells, is that of the clone, or BUSBAR_COMMIT. A source distribution keeps what it was made with.
"""

from __future__ import annotations

import os
import re
import runpy
import subprocess
from email import message_from_string
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).parent
PACKAGE = Path(".src/busbar")
PICTURE = re.compile(r"!\[([^\]]*)\]\((?!https?://)([^)]+)\)")
LINK = re.compile(r"(?<!\!)\[([^\]]+)\]\((?!https?://|#)([^)]+)\)")


def repository() -> str | None:
    """The https address of the repository, without `.git`; None where none is known."""
    url = os.environ.get("BUSBAR_REPOSITORY_URL", "")
    if not url:
        git = ["git", "-C", str(ROOT), "config", "--get", "remote.origin.url"]
        try:
            url = subprocess.run(git, capture_output=True, text=True, check=False, timeout=10).stdout.strip()
        except OSError:
            return None
    url = re.sub(r"^(?:ssh://)?git@([^:/]+)[:/]", r"https://\1/", url).removesuffix(".git")
    return url if re.fullmatch(r"https://[^\s@]+", url) else None


def rendered(readme: str, url: str | None) -> str:
    """The README as a package index shows it: relative links made absolute, or turned into plain text.

    Pictures likewise; without an address they are left out.
    """
    readme = PICTURE.sub(rf"![\1]({url}/raw/HEAD/\2)" if url else "", readme)
    return LINK.sub(rf"[\1]({url}/blob/HEAD/\2)" if url else r"\1", readme)


def links(url: str | None) -> dict[str, str]:
    """The project's links."""
    pages = {"Documentation": "docs/quickstart.md", "Changelog": "CHANGELOG.md"}
    return {"Source": url} | {name: f"{url}/blob/HEAD/{page}" for name, page in pages.items()} if url else {}


def metadata() -> tuple[str, dict[str, str]]:
    """Long description and links: of the clone, or those that the source distribution was made with."""
    made = ROOT / "PKG-INFO"
    if made.exists():
        said = message_from_string(made.read_text())
        urls = dict(line.split(", ", 1) for line in said.get_all("Project-URL", []))
        return str(said.get_payload()), urls
    url = repository()
    return rendered((ROOT / "README.md").read_text(), url), links(url)


def write_commit(package: Path) -> None:
    """Record the commit in a package, where it is known."""
    version = runpy.run_path(str(ROOT / PACKAGE / "bus/system/version.py"))
    # The record of a source distribution is in the package; a clone's root is where the links lead.
    recorded = ROOT / PACKAGE / version["RECORD"]
    known = recorded.read_text().strip() if recorded.exists() else version["commit"]()
    commit = os.environ.get("BUSBAR_COMMIT") or known
    if commit and not version["COMMIT"].fullmatch(commit):
        raise SystemExit(f"BUSBAR_COMMIT: {commit!r} is no commit")
    if commit:
        target = package / version["RECORD"]
        target.unlink(missing_ok=True)  # it may be a hard link to another's
        target.write_text(f"{commit}\n")


class BuildPy(build_py):
    """As setuptools', with the commit."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:  # there it is the clone that is asked
            write_commit(Path(self.build_lib, "busbar"))


class Sdist(sdist):
    """As setuptools', with the commit."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        write_commit(Path(base_dir, PACKAGE))


if __name__ == "__main__":
    description, urls = metadata()
    setup(
        long_description=description,
        long_description_content_type="text/markdown",
        project_urls=urls,
        cmdclass={"build_py": BuildPy, "sdist": Sdist},
    )
