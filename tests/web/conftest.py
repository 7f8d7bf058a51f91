"""Without the libraries of the extra there is no page to test; in CI they may not be missing."""

from __future__ import annotations

import os
from importlib.util import find_spec

LIBRARIES = ("starlette", "uvicorn", "jinja2", "selenium")
collect_ignore_glob: list[str] = []
if not os.environ.get("CI") and any(find_spec(name) is None for name in LIBRARIES):
    collect_ignore_glob.append("test_*.py")
