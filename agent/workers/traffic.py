"""Asks routers how many clients they have, and how many messages these have sent and got."""

from __future__ import annotations

import msgspec
from busbar.bus.messages import Count, Traffic

from ..runtimes.base import Question
from .mesh import ask


class _Varz(msgspec.Struct):
    """The answer of nats-server's `/varz`, of which this matters.

    Of messages those of clients: what comes by a route was counted by the member whose client has sent it.
    """

    connections: Count
    in_client_msgs: Count
    in_client_bytes: Count
    out_client_msgs: Count
    out_client_bytes: Count
    slow_consumers: Count


async def traffic(question: Question) -> Traffic | None:
    """A router's figures; None when it does not say."""
    found = await ask(question, _Varz)
    return None if found is None else _traffic(found)


def _traffic(found: _Varz) -> Traffic:
    return Traffic(
        connections=found.connections,
        messages_in=found.in_client_msgs,
        messages_out=found.out_client_msgs,
        bytes_in=found.in_client_bytes,
        bytes_out=found.out_client_bytes,
        slow_consumers=found.slow_consumers,
    )
