"""Where Home Assistant is told of a realm over MQTT, who it is there, and what that takes of an ACL. Pure."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from ..topics import is_name

PREFIX: Final = "homeassistant"
"""Home Assistant's own default."""
_PREFIX: Final = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*", re.ASCII)
_ANY: Final = "+"


@dataclass(frozen=True, slots=True)
class HomeAssistant:
    """`user` is Home Assistant's user at the broker, `prefix` its discovery prefix.

    Raises:
        ValueError: the user is no name, or the prefix is more than plain topic levels.
    """

    user: str
    prefix: str = PREFIX

    def __post_init__(self) -> None:
        if not is_name(self.user):
            raise ValueError(f"Home Assistant's user {self.user!r}: use [a-z0-9][a-z0-9_-]{{0,63}}")
        if _PREFIX.fullmatch(self.prefix) is None:
            raise ValueError(
                f"discovery prefix {self.prefix!r}: use plain levels of letters, digits, '_', '.' and '-'"
            )

    def check_root(self, root: str) -> None:
        """Raises ValueError where its topics would be among those of the contract."""
        if f"{self.prefix}/".startswith(f"{root}/") or f"{root}/".startswith(f"{self.prefix}/"):
            raise ValueError(f"discovery prefix '{self.prefix}' and topic root '{root}' must be apart")

    @property
    def birth(self) -> str:
        """Where Home Assistant says that it is `online` or, by its will, `offline`."""
        return f"{self.prefix}/status"

    def config(self, component: str, root: str, realm: str, object_id: str) -> str:
        """The topic of one discovery message."""
        return f"{self.prefix}/{component}/{node_id(root, realm)}/{object_id}/config"

    def configs(self, root: str, realm: str) -> str:
        """The filter of all discovery messages of a realm; realm `+`: of all realms."""
        own = _ANY if realm == _ANY else node_id(root, realm)
        return f"{self.prefix}/+/{own}/+/config"

    def filters(self, kind: str, user: str, access: str, root: str, realm: str) -> list[str]:
        """What an account needs beyond the contract, to `read` or to `write`."""
        if kind == "manager":
            configs = self.configs(root, realm)
            return [configs, self.birth] if access == "read" else [configs]
        if kind == "person" and user == self.user:
            return [f"{self.prefix}/#"] if access == "read" else [self.birth]
        return []


def parse(text: str | None) -> HomeAssistant | None:
    """Read `USER[@PREFIX]`; None: it is told nothing. Raises ValueError, as `HomeAssistant` does."""
    if text is None:
        return None
    user, found, prefix = text.partition("@")
    return HomeAssistant(user, prefix) if found else HomeAssistant(user)


def node_id(root: str, realm: str) -> str:
    """A realm's own level of discovery topics; a name has no capital, so that no two are the same."""
    if root == "busbar":
        return f"busbar-{realm}"
    return f"busbar-{realm}-R{hashlib.sha256(root.encode()).hexdigest()[:16]}"
