"""Values in nats-server's configuration. Pure."""

import json
from typing import Any, Final

_ESCAPES: Final = ("\\u", "\\b", "\\f")
"""Escapes of JSON that nats-server does not read."""


def nats_text(value: Any) -> str:
    """A value as nats-server's configuration has it: JSON, but for its escapes of characters.

    Raises:
        ValueError: it has a control character.
    """
    text = json.dumps(value, ensure_ascii=False)
    if any(escape in text.replace("\\\\", "") for escape in _ESCAPES):
        raise ValueError("a control character")
    return text
