"""What the table `meta` holds beyond the engine's own keys: the brake, and that a store was restored."""

from __future__ import annotations

import json
from typing import Final

from .backup import RESTORED
from .tx import Tx

BRAKE_KEY: Final = "brake"
"""The brake's key in the table `meta`: JSON with `reason` and `nodes`."""


def read_brake(value: str | None) -> tuple[str | None, frozenset[str]]:
    """The brake's reason and nodes from `meta`."""
    if not value:
        return None, frozenset()
    stored = json.loads(value)
    return stored.get("reason"), frozenset(stored.get("nodes", ()))


def tell_restored(tx: Tx, manager_id: str) -> None:
    """Record the event of a take-over, once, at the first start after it."""
    told = tx.meta(RESTORED)
    if told:
        tx.set_meta(RESTORED, "")
        facts = {"reason": told, "store": tx.frame.store}
        tx.event("manager", "restored", cluster=None, kind="manager", name=manager_id, data=facts)
