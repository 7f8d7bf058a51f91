"""The manager's database: all SQL is here."""

from .changes import Cause, Changes
from .engine import Store
from .files import StoreRefusedError, check
from .reads import Reads
from .tx import Tx

__all__ = ["Cause", "Changes", "Reads", "Store", "StoreRefusedError", "Tx", "check"]
