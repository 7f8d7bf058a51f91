"""How a service that can't run ends: `busbar up` restarts a crash, and reports a refusal."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from busbar.agent.state import StateError
from busbar.cli.errors import CliError, ExitCode
from busbar.cli.services import run, signals
from busbar.cli.services.specs import BrokerSpec
from busbar.manager.store import StoreRefusedError

from tests.pace import bound


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """A service takes the signals of its process, which is the one of these tests."""
    before = {each: signal.getsignal(each) for each in signals.ALL}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


def serve(monkeypatch: pytest.MonkeyPatch, error: Exception) -> int:
    async def fail(spec: Any, ready: Any) -> None:
        raise error

    monkeypatch.setattr(run, "run_broker", fail)
    return run.serve(BrokerSpec(accounts="", port=0, root="busbar"))


@pytest.mark.parametrize("error", [StateError("in use"), StoreRefusedError("corrupt")], ids=repr)
def test_a_service_that_refuses_to_run_exits_as_refused_without_a_traceback(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "busbar.service"):
        assert serve(monkeypatch, error) == run.REFUSED
    assert [entry.exc_info for entry in caplog.records] == [None]


def test_a_usage_error_keeps_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    assert serve(monkeypatch, CliError("wrong", ExitCode.USAGE)) == ExitCode.USAGE


def test_an_unexpected_error_exits_as_failed_with_its_traceback(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "busbar.service"):
        assert serve(monkeypatch, RuntimeError("a bug")) == ExitCode.FAILED
    assert caplog.records[0].exc_info


@pytest.mark.fault(67, "L")
@pytest.mark.parametrize(
    "signum", [*signals.STOP, signal.SIGHUP, *signals.IGNORED], ids=lambda each: each.name
)
def test_a_signal_before_the_event_loop_is_delivered_in_it(signum: signal.Signals) -> None:
    made = signals.Signals()
    os.kill(os.getpid(), signum)

    async def taken() -> signal.Signals:
        got = asyncio.get_running_loop().create_future()
        made.deliver(got.set_result)
        return await asyncio.wait_for(got, bound(5))

    assert asyncio.run(taken()) is signum
    os.kill(os.getpid(), signum)  # after the loop was closed


def test_a_signal_that_was_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signals.Signals()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
