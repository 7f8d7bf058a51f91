"""How a service that can't run ends: `busbar up` restarts a crash, and reports a refusal."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from busbar.agent.state import StateError
from busbar.cli.errors import CliError, ExitCode
from busbar.cli.services import run
from busbar.cli.services.specs import BrokerSpec
from busbar.manager.store import StoreRefusedError


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
