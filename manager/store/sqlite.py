"""The only import of sqlite-utils, without numpy.

sqlite-utils imports numpy and pandas where they are installed (the crossbar extra brings numpy) to store
their types. Busbar has none: importing them took a third of the manager's import time and 13 MB.
"""

from __future__ import annotations

import sys
from typing import Final

__all__ = ["Database", "Migrations"]

_HIDDEN: Final = [name for name in ("numpy", "pandas") if name not in sys.modules]

sys.modules.update(dict.fromkeys(_HIDDEN))  # type: ignore[arg-type]  # None: the import fails
try:
    from sqlite_utils import Database, Migrations
finally:
    for name in _HIDDEN:
        sys.modules.pop(name, None)
