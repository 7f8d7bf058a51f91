"""Which manager events revoke an account of the embedded broker: those of an unpaired or
forgotten node and of a removed principal, so that it is gone as the operation commits. Pure.

Only a manager may publish events (bus.access.acl), and it resends each until the broker has acknowledged it,
so no request, no second channel and no shared file is needed between the two (docs/decisions/0011).
"""

from typing import Final, NamedTuple

from ..access.acl import NODE, PERSON
from ..decode import parse
from ..errors import BusError
from ..topics import parse_event

_KINDS: Final = {("node", "unpaired"): NODE, ("node", "forgotten"): NODE, ("principal", "removed"): PERSON}
_ENDINGS: Final = tuple(f"/{verb}" for _, verb in _KINDS)


class Revocation(NamedTuple):
    """The account to revoke: its name, and the kind that it must have."""

    name: str
    kind: str


def revocation_of(topic: str, payload: bytes, root: str) -> Revocation | None:
    """The account that an event revokes; None for everything else.

    The topic alone decides; of the payload it is read whether the node is to keep its account for a while.
    """
    if not topic.endswith(_ENDINGS):
        return None
    event = parse_event(topic, root)
    kind = _KINDS.get((event.kind, event.verb)) if event is not None else None
    if event is None or kind is None or _is_kept(payload):
        return None
    return Revocation(event.name, kind)


def _is_kept(payload: bytes) -> bool:
    try:
        data = parse(payload).get("data")
    except BusError:
        return False
    return isinstance(data, dict) and data.get("keep_account") is True
