"""A manager's configuration. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from busbar.bus.access.home_assistant import HomeAssistant
from busbar.bus.decode import MAX_PAYLOAD
from busbar.bus.options import ConnectOptions
from busbar.bus.roles import READ_ROLES, in_words
from busbar.bus.topics import Topics, is_name

from .quotas import Quotas


@dataclass(frozen=True)
class ManagerConfig:
    """One manager. `state` is its own folder, `heartbeat_s` the agents' interval. Workers that an agent left
    running at its goodbye are moved after `offline_after_s`. `rate`, `burst` and `in_flight` limit each
    caller: requests per second, size of a burst, changes not yet answered.
    `adopt_realm`: serve the realm even if it was another store's. `metrics`: where to serve them.
    `home_assistant`: tell it of nodes and clusters.
    """

    state: Path
    realm: str
    connect: ConnectOptions
    root: str = "busbar"
    manager_id: str = "m1"
    heartbeat_s: float = 5.0
    offline_after_s: float = 86_400.0
    principals: Mapping[str, str] = field(default_factory=dict)
    rate: float = 400.0
    burst: int = 4000
    in_flight: int = 256
    adopt_realm: bool = False
    quotas: Quotas = field(default_factory=Quotas)
    metrics: tuple[str, int] | None = None
    home_assistant: HomeAssistant | None = None

    def limits(self) -> dict[str, int]:
        """The limits as clients see them."""
        return {
            "rate": int(self.rate),
            "burst": self.burst,
            "in_flight": self.in_flight,
            "max_payload": MAX_PAYLOAD,
            **self.quotas.figures(),
        }


def checked(config: ManagerConfig) -> Topics:
    """Validate a configuration; returns its topics.

    Raises:
        ValueError: a name, a role or a number is invalid.
    """
    for name in (config.manager_id, *config.principals):
        if not is_name(name):
            raise ValueError(f"{name!r} is not a name: use [a-z0-9][a-z0-9_-]{{0,63}}")
    unknown = set(config.principals.values()) - READ_ROLES
    if unknown:
        raise ValueError(f"unknown role {', '.join(sorted(unknown))}: use {in_words()}")
    if min(config.quotas.figures().values()) < 0:
        raise ValueError("a quota is zero or more")
    if not 0.05 <= config.heartbeat_s <= 3600 or min(config.rate, config.burst, config.in_flight) <= 0:
        raise ValueError("heartbeat_s is 0.05 to 3600 seconds; rate, burst and in_flight are above zero")
    if not 0 <= config.offline_after_s <= 10**9:
        raise ValueError("offline_after_s is 0 to 1000000000 seconds")
    if config.home_assistant is not None:
        config.home_assistant.check_root(config.root)
    return Topics(config.realm, config.root)
