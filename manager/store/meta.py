"""Keys of the table `meta` beyond the engine's own: the brake, discovery, and a restore not reported yet."""

from __future__ import annotations

import json
from typing import Final

from .backup import RESTORED
from .tx import Tx

BRAKE_KEY: Final = "brake"
"""The brake's key in the table `meta`: JSON with `reason` and `nodes`."""
DISCOVERY_KEY: Final = "home_assistant"
"""JSON: the discovery prefixes below which messages of this realm may be retained."""


def read_brake(value: str | None) -> tuple[str | None, frozenset[str]]:
    """The brake's reason and nodes from `meta`."""
    if not value:
        return None, frozenset()
    stored = json.loads(value)
    return stored.get("reason"), frozenset(stored.get("nodes", ()))


def record_restored(tx: Tx, manager_id: str) -> None:
    """Record the event of a take-over, once, at the first start after it."""
    reason = tx.meta(RESTORED)
    if reason:
        tx.set_meta(RESTORED, "")
        facts = {"reason": reason, "store": tx.context.store}
        tx.event("manager", "restored", cluster=None, name=manager_id, data=facts)
