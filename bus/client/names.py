"""Names and object ids, as people write them. Pure."""

from __future__ import annotations

import re
from typing import Final

from ..topics import is_name

_OID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def is_oid(text: str) -> bool:
    """Whether this is an object id, not a name."""
    return _OID.fullmatch(text) is not None


def split_reference(reference: str, cluster: str | None = None) -> tuple[str, str]:
    """The cluster and the name in `edge/web`, or in `web` with the cluster given apart.

    Raises:
        ValueError: the cluster is missing, or given twice and differently.
    """
    where, slash, name = reference.rpartition("/")
    if slash and cluster and where != cluster:
        raise ValueError(f"'{reference}' names cluster '{where}', not '{cluster}'")
    if not (where or cluster):
        raise ValueError(f"which cluster? Write CLUSTER/{reference or 'NAME'}, or name the cluster apart")
    return where or str(cluster), name


def checked(name: str) -> str:
    """The name itself.

    Raises:
        ValueError: it is none.
    """
    if not is_name(name):
        raise ValueError(f"{name!r} is not a name: use [a-z0-9][a-z0-9_-]{{0,63}}")
    return name
