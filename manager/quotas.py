"""How much an operator may own: names go to whoever comes first, and all pay for the planning. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from busbar.bus.errors import BusError


@dataclass(frozen=True, slots=True)
class Quotas:
    """What one operator may own at a time: paired nodes, clusters, and the groups in its clusters. Realm
    owners have no quota."""

    nodes: int = 100
    clusters: int = 100
    groups: int = 1_000

    def figures(self) -> Mapping[str, int]:
        """As clients see them."""
        return {f"operator_{kind}": most for kind, most in asdict(self).items()}

    def check(self, name: str, kind: str, owned: int) -> None:
        """Raises BusError `quota_exceeded` when the operator `name` may not own one more of a kind."""
        most: int = getattr(self, kind)
        if owned >= most:
            raise BusError("quota_exceeded", f"'{name}' owns {owned} {kind}; an operator may own {most}")
