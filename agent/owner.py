"""Whom a state folder was made for: a copy must not run, since it would act on the original's workers."""

from __future__ import annotations

import logging
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

from msgspec import Struct

log = logging.getLogger("busbar.agent.state")

_INITIAL_PID_NAMESPACE: Final = 0xEFFFFFFC
"""Inode of the host's own PID namespace (PROC_PID_INIT_INO); in a container it is another."""


class FolderOwner(Struct, frozen=True, kw_only=True):
    """Node, host and place of a state folder. `host` and `machine_id` are empty where they mean nothing: in a
    container both change with each image and pod, and may be those of other containers."""

    realm: str
    node: str
    path: str
    host: str = ""
    machine_id: str = ""


def owner_here(realm: str, node: str, folder: Path) -> FolderOwner:
    """The owner of a folder that is made here and now."""
    place = {"realm": realm, "node": node, "path": str(folder.resolve())}
    if _in_container():
        return FolderOwner(**place)
    return FolderOwner(**place, host=_host_name(), machine_id=_text(Path("/etc/machine-id")))


def why_foreign(made_for: FolderOwner, here: FolderOwner, original_exists: bool) -> str | None:
    """Why the folder isn't ours; None when it is. A host or machine id that one side does not know counts as
    equal. `original_exists`: its original is still at `made_for.path`, which is another folder."""
    node = (made_for.realm, made_for.node) != (here.realm, here.node)
    host = bool(made_for.host and here.host and made_for.host != here.host)
    known = made_for.machine_id and here.machine_id
    machine = bool(known and made_for.machine_id != here.machine_id)
    if not (node or host or machine or original_exists):
        return None
    on = f" on host {made_for.host}" if made_for.host else ""
    text = f"made for node {made_for.node} of realm {made_for.realm}{on} at {made_for.path}"
    differs = [name for name, other in (("machine id", machine), ("host name", host)) if other]
    if differs and not node:
        text += f" (another {' and '.join(differs)})"
    renamed = "" if node or original_exists else "; with --keep if that host was renamed or replaced"
    return f"{text}: if this is a copy, run `busbar agent reset --state {here.path}`{renamed}"


def _in_container() -> bool:
    with suppress(OSError):
        return os.stat("/proc/self/ns/pid").st_ino != _INITIAL_PID_NAMESPACE
    return False


def _host_name() -> str:
    """Empty without a static host name: then DHCP may change it at any time."""
    static = _text(Path("/etc/hostname"))
    return socket.gethostname() if static and not static.startswith("localhost") else ""


def _text(path: Path) -> str:
    with suppress(OSError):
        text = path.read_text(errors="replace").strip()
        return "" if text == "uninitialized" else text
    return ""
