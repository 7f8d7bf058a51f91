"""MQTT 5 properties of replies (contract, section 8). Pure."""

from __future__ import annotations

import base64
import json
from functools import lru_cache

from busbar.bus.connection.link import NO_PROPERTIES, Properties
from busbar.bus.errors import BusError

JSON_TYPE = "application/json"


def reply_properties(request: Properties, error: BusError | None) -> Properties:
    """A reply's properties: the request's correlation data, content type, status and code."""
    status, code = (error.row.status, error.code) if error else (200, "ok")
    return Properties(
        correlation=request.correlation,
        content_type=JSON_TYPE,
        user=(("status", str(status)), ("code", code)),
    )


@lru_cache(maxsize=64)  # replies without correlation data are alike
def properties_to_text(properties: Properties) -> str | None:
    """Properties as the outbox stores them; None for none."""
    if properties == NO_PROPERTIES:
        return None
    facts: dict[str, object] = {"content_type": properties.content_type, "user": properties.user}
    if properties.correlation is not None:
        facts["correlation"] = base64.b64encode(properties.correlation).decode()
    return json.dumps(facts)


@lru_cache(maxsize=64)
def properties_from_text(text: str | None) -> Properties:
    """The inverse of `properties_to_text`."""
    if text is None:
        return NO_PROPERTIES
    facts = json.loads(text)
    correlation = facts.get("correlation")
    return Properties(
        correlation=base64.b64decode(correlation) if correlation is not None else None,
        content_type=facts.get("content_type"),
        user=tuple((str(name), str(value)) for name, value in facts.get("user", ())),
    )
