"""The manager's database: the only room with SQL."""

from manager.store.changes import Cause, Changes
from manager.store.engine import Store
from manager.store.files import StoreRefusedError, check
from manager.store.reads import Reads
from manager.store.tx import Tx

__all__ = ["Cause", "Changes", "Reads", "Store", "StoreRefusedError", "Tx", "check"]
