"""Names of files below a folder that a node's operator configured. Pure."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from .errors import BusError

PathText = Annotated[str, Meta(max_length=1024)]


def check_reference(reference: str, pointer: str) -> None:
    """Refuse what can't be the name of a file below a node's folder. The text is not repeated: it might be
    the secret itself.

    Raises:
        BusError: `invalid_configuration` with `pointer`.
    """
    detail = "names a file below the node's secrets_root: "
    if not reference or any(ord(char) < 32 or char == "\x7f" for char in reference):
        raise BusError("invalid_configuration", f"{detail}not empty, no control characters", [pointer])
    if ".." in reference.split("/"):
        raise BusError("invalid_configuration", f"{detail}without '..'", [pointer])
