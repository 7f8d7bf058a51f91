"""What nodes report of their workers, as it comes: the usage of processor and memory, which no status has."""

from __future__ import annotations

import logging
from typing import Final

from msgspec import Struct

from ..connection.link import Message
from ..decode import MAX_REPORT, read
from ..errors import BusError
from ..messages import Reported
from ..topics import Topics
from .subscriptions import Subscriptions, Watch

log = logging.getLogger("busbar.client")

NODES: Final = 10_000
"""Nodes whose reports were not read yet; reports of those beyond are dropped: the next come in seconds."""


class NodeReport(Struct, frozen=True):
    """A report of a node."""

    node: str
    report: Reported


class ReportWatch(Watch[NodeReport]):
    """Reports of nodes, about every 10 s from one with workers; of those not read yet, each node's last."""

    def __init__(self, subscriptions: Subscriptions, topics: Topics) -> None:
        self._topics = topics
        self._waiting: dict[str, Reported] = {}
        super().__init__(subscriptions, topics.all_nodes("reported"), 0)

    def note(self, message: Message) -> None:
        """Keep a report until it is read."""
        topic = self._topics.parse_node(message.topic)
        if topic is None or (topic.node not in self._waiting and len(self._waiting) >= NODES):
            return
        try:
            self._waiting[topic.node] = read(message.payload, Reported, MAX_REPORT)
        except BusError as error:
            log.warning("a report on %s was not understood: %s", message.topic, error)
            return
        self._news.set()

    def take(self) -> NodeReport | None:
        """The last report of the node that waits longest."""
        if not self._waiting:
            return None
        node = next(iter(self._waiting))
        return NodeReport(node, self._waiting.pop(node))
