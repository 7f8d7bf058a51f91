"""The server of metrics and health: bounded, on the event loop's word alone, and what it is not asked for."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator

import pytest
from busbar.bus.addresses import parse_listener
from busbar.bus.system import metrics
from busbar.bus.system.metrics import Family, MetricsServer, Source
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from tests.pace import bound


class Service:
    """What is served of: the test sets it."""

    def __init__(self) -> None:
        self.families: list[Family] = []
        self.unready: str | None = None

    def now(self) -> Iterator[Family]:
        yield from self.families


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
async def server(service: Service) -> AsyncIterator[MetricsServer]:
    source = Source(service.now, lambda: service.unready, service="test")
    made = MetricsServer("127.0.0.1", 0, source, CollectorRegistry())
    yield made
    await asyncio.to_thread(made.close)


async def get(server: MetricsServer, path: str, method: str = "GET") -> tuple[int, str]:
    url = f"http://127.0.0.1:{server.port}{path}"

    def ask() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, method=method), timeout=bound(5)
            ) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    return await asyncio.to_thread(ask)


async def samples(server: MetricsServer) -> dict[str, float]:
    _, text = await get(server, "/metrics")
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_metrics_health_and_what_there_is_not(service: Service, server: MetricsServer) -> None:
    service.families = [
        Family("busbar_workers", "x", ("state",), [(("running",), 3.0)]),
        Family("busbar_cpu_seconds_total", "x", ("worker",), [(('a"\n\\b',), 1.5)], "counter"),
    ]
    found = await samples(server)
    assert found["busbar_workers[('state', 'running')]"] == 3.0
    assert found["busbar_cpu_seconds_total[('worker', 'a\"\\n\\\\b')]"] == 1.5
    assert await get(server, "/healthz") == (200, "ok\n")
    assert await get(server, "/readyz") == (200, "ready\n")
    service.unready = "not connected"
    assert await get(server, "/readyz") == (503, "not connected\n")
    assert (await get(server, "/"))[0] == 404
    assert (await get(server, "/metrics", "POST"))[0] == 405


async def test_what_users_name_is_bounded(service: Service, server: MetricsServer) -> None:
    many = [((f"n{i}",), 1.0) for i in range(metrics.MAX_SERIES + 7)]
    service.families = [Family("busbar_node_up", "x", ("node",), many)]
    found = await samples(server)
    assert sum(name.startswith("busbar_node_up") for name in found) == metrics.MAX_SERIES
    assert found["busbar_metrics_dropped_series[]"] == 7


async def test_a_loop_that_does_not_turn_is_not_healthy(
    server: MetricsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "LOOP_S", 0.05)
    monkeypatch.setattr(server, "_loop", asyncio.new_event_loop())  # it never runs
    status, text = await get(server, "/healthz")
    assert (status, "has not answered" in text) == (503, True)
    server._loop.close()
    assert (await get(server, "/healthz"))[0] == 503


async def test_a_family_that_fails_is_one_answer_and_no_end(service: Service, server: MetricsServer) -> None:
    service.families = [Family("busbar_x", "x", ("a",), map(float, "x"))]  # type: ignore[arg-type]
    assert (await get(server, "/metrics"))[0] == 500
    service.families = []
    assert (await get(server, "/metrics"))[0] == 200


async def test_slow_clients_keep_nobody_out(server: MetricsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as are answered at once; each sends a little now and then, which is never a whole request."""
    monkeypatch.setattr(metrics, "CLIENT_S", 0.5)
    slow = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(metrics.MAX_ANSWERS)]

    async def drip() -> None:
        while True:
            for _, writer in slow:
                writer.write(b"G")
            await asyncio.sleep(0.1)

    dripping = asyncio.create_task(drip())
    try:
        assert await get(server, "/healthz") == (200, "ok\n")
    finally:
        dripping.cancel()
        await asyncio.wait([dripping])
        for _, writer in slow:
            writer.close()


async def test_a_port_that_is_taken_is_told(service: Service, server: MetricsServer) -> None:
    with pytest.raises(OSError, match=f"metrics on 127.0.0.1:{server.port}: Address already in use"):
        MetricsServer("127.0.0.1", server.port, Source(service.now, lambda: None), CollectorRegistry())


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("9100", ("127.0.0.1", 9100)),
        ("0.0.0.0:9100", ("0.0.0.0", 9100)),
        ("[::1]:9100", ("::1", 9100)),
        ("::1:9100", ("::1", 9100)),
        (":9100", ("127.0.0.1", 9100)),
    ],
)
def test_where_to_listen(text: str, address: tuple[str, int]) -> None:
    assert parse_listener(text) == address


@pytest.mark.parametrize("text", ["", "x", "70000", "host:9100", "1.2.3.4", "-1", "1:2:3", "٣"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError):
        parse_listener(text)
