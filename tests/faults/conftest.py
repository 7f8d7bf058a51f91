"""One system for all tests here; each restores it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.faults.yard import Yard, yard


@pytest.fixture(scope="package")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    """Broker, manager and two nodes, shared by all tests, since a start takes five seconds."""
    with yard(tmp_path_factory.mktemp("yard")) as made:
        yield made


@pytest.fixture
def here(place: Yard) -> Iterator[Yard]:
    """The same; before and after each test all services run without a fault."""
    place.census.doubles.clear()
    place.census.watch_doubles = True
    yield place
    for proxy in place.proxies.values():
        proxy.heal()
    if "broker" not in place.stack.processes and place.stack.port:
        place.start_broker()
    if "manager" not in place.stack.processes:
        place.start_manager()
    for node in place.oids:
        if node not in place.stack.processes:
            place.start_agent(node)
    place.all_online()


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and mounts")
