"""Where the page is: the origins that browsers may have it from. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from busbar.bus.addresses import is_loopback, netloc

_PORTS: Final = {"http": 80, "https": 443}


class Origins:
    """The origins that are answered, and no other: a name that somebody else points here is refused.

    Raises:
        ValueError: one of `more` is no origin.
    """

    def __init__(self, host: str, port: int, *, tls: bool, more: Iterable[str] = ()) -> None:
        scheme = "https" if tls else "http"
        names = {netloc(host, port)}
        if is_loopback(host):
            names.add(f"localhost:{port}")
        if port == _PORTS[scheme]:
            names |= {name.rpartition(":")[0] for name in names}
        self._known = {name: f"{scheme}://{name}" for name in names}
        for text in more:
            found = urlsplit(text)
            plain = text == f"{found.scheme}://{found.netloc}" and found.username is None
            if found.scheme not in _PORTS or not found.hostname or not plain:
                raise ValueError(f"{text!r} is no origin: say https://HOST, or https://HOST:PORT")
            self._known[found.netloc.lower()] = text.lower()

    def of(self, host: str) -> str | None:
        """The origin that a Host header names; None: it is not ours."""
        return self._known.get(host.lower())

    def is_ours(self, origin: str) -> bool:
        """Whether an Origin header names one of ours."""
        return origin.lower() in self._known.values()
