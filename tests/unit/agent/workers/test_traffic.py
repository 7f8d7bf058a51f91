"""What a worker says of its clients, and what becomes of an answer that is none."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from busbar.agent.planner import lifecycle
from busbar.agent.reporting.reporter import NodeSnapshot, report_of, shortened, snapshot_digest
from busbar.agent.runtimes.base import Question
from busbar.agent.workers import mesh
from busbar.agent.workers.process_runner import Instance, ProcessRunner
from busbar.agent.workers.traffic import traffic
from busbar.bus.messages import MAX_COUNT, ReportedWorker, Traffic
from msgspec import UNSET

from tests.unit.agent.workers.test_mesh import HEAD, server

FIGURES = Traffic(3, 20, 40, 200, 400, 1)
VARZ = {
    "server_id": "N1", "cluster": {"name": "edge-web"}, "connections": 3, "total_connections": 9,
    "in_msgs": 21, "in_client_msgs": 20, "out_client_msgs": 40, "in_client_bytes": 200,
    "out_client_bytes": 400, "slow_consumers": 1,
}  # fmt: skip
"""As nats-server 2.15 has it."""
DEEP = b'{"x": ' + b"[" * 200_000


def answer(**more: Any) -> bytes:
    return HEAD + json.dumps(VARZ | more).encode()


async def test_the_figures_are_those_of_its_clients() -> None:
    async with server(answer()) as question:
        assert await traffic(question) == FIGURES
    assert await traffic(question) is None, "it is gone"


@pytest.mark.parametrize(
    "given",
    [
        b"",
        HEAD,
        HEAD + b"ok",
        HEAD + b"[]",
        HEAD + b"{}",
        HEAD + DEEP,
        b"HTTP/1.1 401 No\r\n\r\n" + json.dumps(VARZ).encode(),
        answer(connections="3"),
        answer(connections=None),
        answer(in_client_msgs=-1),
        answer(in_client_bytes=1.5),
        answer(out_client_msgs=MAX_COUNT + 1),
        answer(slow_consumers=10**40),
        answer(more=" " * mesh.MAX_ANSWER),
        HEAD + b" " * (2 * mesh.MAX_ANSWER) + b"{}",
    ],
)
async def test_an_answer_that_is_none_says_nothing(given: bytes) -> None:
    async with server(given) as question:
        assert await traffic(question) is None


@pytest.mark.parametrize("said", [b"", b" "])
async def test_one_that_does_not_come_to_an_end_is_not_waited_for(
    said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mesh, "TIMEOUT_S", 0.1)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        while not reader.at_eof() and not writer.is_closing():
            writer.write(said)
            await asyncio.sleep(0.01)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as found:
        assert await traffic(Question(found.sockets[0].getsockname()[:2], "/varz")) is None


async def test_an_answer_of_a_former_process_is_not_that_of_the_next() -> None:
    instance = Instance(lifecycle.admitted("o1", "web-1", "edge", 1, "d", 0.0))
    instance.spec, instance.process = SimpleNamespace(traffic="question"), object()  # type: ignore[assignment]

    async def at_once(question: object) -> Traffic:
        return FIGURES

    async def too_late(question: object) -> Traffic:
        instance.process = object()  # type: ignore[assignment]
        return FIGURES

    for told, expected in ((too_late, None), (at_once, FIGURES)):
        runner: Any = SimpleNamespace(host=SimpleNamespace(traffic=told))
        await ProcessRunner.look_at_traffic(runner, instance)
        assert instance.traffic == expected


def test_it_is_reported_as_usage_is() -> None:
    worker = ReportedWorker("web-1", "RUNNING")
    told, silent = (
        NodeSnapshot([msgspec.structs.replace(worker, traffic=each)]) for each in (FIGURES, UNSET)
    )
    assert snapshot_digest(told) == snapshot_digest(silent), "no change that a report is sent for"
    report = report_of(told, "b1", 1)
    assert report.workers[0].traffic == FIGURES and shortened(report).workers[0].traffic is UNSET
    assert b"traffic" not in msgspec.json.encode(report_of(silent, "b1", 1))
