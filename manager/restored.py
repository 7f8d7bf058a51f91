"""Tells everybody that this store was restored from a backup: what came after it is not known here."""

from __future__ import annotations

from manager.store import Tx
from manager.store.backup import RESTORED


def tell_restored(tx: Tx, manager_id: str) -> None:
    """Record the event of a take-over, once, at the first start after it."""
    told = tx.meta(RESTORED)
    if told:
        tx.set_meta(RESTORED, "")
        facts = {"reason": told, "store": tx.frame.store}
        tx.event("manager", "restored", cluster=None, kind="manager", name=manager_id, data=facts)
