"""Token buckets by key, a bounded number of them. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable


class Buckets:
    """Token buckets by key: `burst` tokens, `per_s` more each second.

    At most `keys` are kept; the one used longest ago is dropped first, and starts full again.
    """

    def __init__(self, burst: float, per_s: float, keys: int = 4096) -> None:
        self._burst, self._per_s, self._keys = burst, per_s, keys
        self._rows: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def level(self, key: Hashable, now: float) -> float:
        """The tokens that the key has."""
        tokens, at = self._rows.get(key, (self._burst, now))
        return min(self._burst, tokens + max(0.0, now - at) * self._per_s)

    def take(self, key: Hashable, now: float) -> bool:
        """Take a token; False when there is none."""
        level = self.level(key, now)
        if level < 1:
            return False
        self._set(key, level - 1, now)
        return True

    def give_back(self, key: Hashable, now: float) -> None:
        """Undo `take`."""
        self._set(key, self.level(key, now) + 1, now)

    def spend(self, key: Hashable, tokens: float, now: float) -> None:
        """Take tokens that need not be there: down to a debt of as many as a full bucket has."""
        self._set(key, max(-self._burst, self.level(key, now) - tokens), now)

    def wait(self, key: Hashable, now: float) -> float:
        """Seconds until the key has a token; 0 when it has one."""
        return max(0.0, (1 - self.level(key, now)) / self._per_s)

    def forget(self, key: Hashable) -> None:
        """Let the key start full again."""
        self._rows.pop(key, None)

    def __len__(self) -> int:
        return len(self._rows)

    def short(self, key: Hashable, now: float) -> float:
        """Seconds until the key is out of debt."""
        return max(0.0, -self.level(key, now) / self._per_s)

    def _set(self, key: Hashable, tokens: float, now: float) -> None:
        self._rows[key] = (tokens, now)
        self._rows.move_to_end(key)
        if len(self._rows) > self._keys or tokens >= self._burst:
            self._rows.pop(key if tokens >= self._burst else next(iter(self._rows)))
