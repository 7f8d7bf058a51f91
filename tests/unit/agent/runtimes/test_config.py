"""The `[runtimes]` table: what is accepted, and which key an error names."""

from __future__ import annotations

import os
import signal
import tomllib
from typing import Any

import pytest
from busbar.agent.processes.process_limits import ProcessLimits, as_bytes
from busbar.agent.runtimes import HttpProbe, LogProbe, RuntimesError, TcpProbe, load_runtimes
from busbar.agent.runtimes.crossbar import CrossbarRuntime
from busbar.agent.runtimes.exec import ExecRuntime
from hypothesis import given
from hypothesis import strategies as st

EXAMPLE = """
[crossbar]
program = "/opt/crossbar/bin/crossbar"
[echo]
argv = ["/usr/bin/echod", "--port", "{port}", "--config", "{folder}/echo.conf"]
config_file = "echo.conf"
config_template = "bind {host}:{port} {{kept}} {transport}"
scheme = "echo"
types = ["tcp"]
ready = {type = "log", pattern = "listening on \\\\d+", regex = true}
live = {type = "http", path = "/healthz", expect = [200]}
stop_signal = "SIGINT"
grace = 2.5
start_deadline = 12
env = {MODE = "quiet", HOME_OF = "{folder}"}
"""


def exec_runtime(**table: Any) -> ExecRuntime:
    runtime = load_runtimes({"x": {"argv": ["/bin/x"], **table}}, environ={})["x"]
    assert isinstance(runtime, ExecRuntime)
    return runtime


def test_built_in_runtimes_are_always_there() -> None:
    assert list(load_runtimes({}, environ={})) == ["amqtt", "mosquitto", "crossbar", "nats"]
    assert load_runtimes({}, environ={})["amqtt"].unavailable() is None


def test_a_full_example() -> None:
    runtimes = load_runtimes(tomllib.loads(EXAMPLE), environ={"BUSBAR_CROSSBAR": "/elsewhere"})
    crossbar, echo = runtimes["crossbar"], runtimes["echo"]
    assert isinstance(crossbar, CrossbarRuntime) and crossbar.program == "/opt/crossbar/bin/crossbar"
    assert isinstance(echo, ExecRuntime)
    assert echo.ready == LogProbe(r"listening on \d+", regex=True)
    assert echo.live == HttpProbe("/healthz", (200,))
    assert (echo.stop_signal, echo.grace_s, echo.start_deadline_s) == (signal.SIGINT, 2.5, 12.0)
    assert echo.unavailable() == "program not found: /usr/bin/echod"


def test_crossbar_program_from_the_environment() -> None:
    crossbar = load_runtimes({}, environ={"BUSBAR_CROSSBAR": "/elsewhere"})["crossbar"]
    assert crossbar.unavailable() == "program not found: /elsewhere"


def test_defaults_of_an_exec_runtime() -> None:
    runtime = exec_runtime()
    assert runtime.ready == runtime.live == TcpProbe()
    logged = exec_runtime(ready={"type": "log", "pattern": "up"})
    assert logged.live is None
    assert exec_runtime(port=False, ready={"type": "log", "pattern": "up"}).ports_needed(None) == {}


@pytest.mark.parametrize(
    ("table", "where"),
    [
        ({"argv": "x"}, "runtimes.x.argv"),
        ({"argv": []}, "runtimes.x.argv"),
        ({"argv": ["x", 1]}, "runtimes.x.argv.1"),
        ({"argv": ["{worker}"]}, "runtimes.x.argv"),
        ({"argv": ["x", "{transport}"]}, "runtimes.x.argv"),
        ({"argv": ["x", "{nonsense}"]}, "runtimes.x.argv"),
        ({"argv": ["x", "a\0"]}, "runtimes.x.argv"),
        ({"nonsense": 1}, "runtimes.x.nonsense"),
        ({"port": 1}, "runtimes.x.port"),
        ({"port": False}, "runtimes.x.ready"),
        ({"port": False, "ready": {"type": "tcp"}}, "runtimes.x.ready.type"),
        ({"ready": "tcp"}, "runtimes.x.ready"),
        ({"ready": {}}, "runtimes.x.ready.type"),
        ({"ready": {"type": "ping"}}, "runtimes.x.ready.type"),
        ({"ready": {"type": "tcp", "path": "/"}}, "runtimes.x.ready.path"),
        ({"ready": {"type": "http", "path": "x"}}, "runtimes.x.ready.path"),
        ({"ready": {"type": "http", "path": "/ HTTP/1.1\r\nX: y"}}, "runtimes.x.ready.path"),
        ({"ready": {"type": "http", "expect": [True]}}, "runtimes.x.ready.expect.0"),
        ({"ready": {"type": "log"}}, "runtimes.x.ready.pattern"),
        ({"ready": {"type": "log", "pattern": "(", "regex": True}}, "runtimes.x.ready.pattern"),
        ({"live": {"type": "log", "pattern": "x"}}, "runtimes.x.live"),
        ({"config_file": "/etc/passwd"}, "runtimes.x.config_file"),
        ({"config_file": "../x"}, "runtimes.x.config_file"),
        ({"config_file": "x", "config_template": "{nonsense}"}, "runtimes.x.config_template"),
        ({"config_template": "x"}, "runtimes.x.config_template"),
        ({"env": {"BUSBAR_WORKER_TOKEN": "x"}}, "runtimes.x.env.BUSBAR_WORKER_TOKEN"),
        ({"env": {"A=B": "x"}}, "runtimes.x.env.A=B"),
        ({"env": {"A": 1}}, "runtimes.x.env.A"),
        ({"env": {"A": "{transport}"}}, "runtimes.x.env.A"),
        ({"stop_signal": "TERM"}, "runtimes.x.stop_signal"),
        ({"grace": 0}, "runtimes.x.grace"),
        ({"grace": True}, "runtimes.x.grace"),
        ({"start_deadline": 1e9}, "runtimes.x.start_deadline"),
        ({"scheme": "a b"}, "runtimes.x.scheme"),
        ({"limits": 1}, "runtimes.x.limits"),
        ({"limits": {"nonsense": 1}}, "runtimes.x.limits.nonsense"),
        ({"limits": {"nofile": 3}}, "runtimes.x.limits.nofile"),
        ({"limits": {"memory": "much"}}, "runtimes.x.limits.memory"),
        ({"limits": {"memory": "512"}}, "runtimes.x.limits.memory"),
        ({"limits": {"nice": 20}}, "runtimes.x.limits.nice"),
        ({"limits": {"cpus": []}}, "runtimes.x.limits.cpus"),
        ({"limits": {"cpus": [4095]}}, "runtimes.x.limits.cpus"),
    ],
)
def test_an_error_names_the_key(table: dict[str, Any], where: str) -> None:
    with pytest.raises(RuntimesError) as caught:
        exec_runtime(**table)
    assert caught.value.where == where


@pytest.mark.parametrize("runtime", ["amqtt", "mosquitto", "crossbar", "nats", "x"])
def test_limits_of_any_runtime(runtime: str) -> None:
    table = {"argv": ["/bin/x"]} if runtime == "x" else {}
    limits = {"nofile": 64, "memory": "512M", "nice": 5, "cpus": sorted(os.sched_getaffinity(0))[:1]}
    found = load_runtimes({runtime: {**table, "limits": limits}}, environ={})[runtime].limits
    assert found == ProcessLimits(64, 512 << 20, 5, tuple(sorted(os.sched_getaffinity(0))[:1]))


@given(st.integers(1, 1 << 30), st.sampled_from(["M", "m", "MiB", "MB", "G", "g", "T"]))
def test_sizes(size: int, unit: str) -> None:
    assert as_bytes(f" {size}{unit}") == size << {"m": 20, "g": 30, "t": 40}[unit[0].lower()]


@pytest.mark.parametrize("text", ["", "M", "0", "1K", "-1M", "1.5G", "1P", "１M", "9" * 40])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="512M"):
        as_bytes(text)


@pytest.mark.parametrize(
    ("config", "where"),
    [
        ({"x": 1}, "runtimes.x"),
        ({"x": {}}, "runtimes.x.argv"),
        ({"Bad Name": {"argv": ["x"]}}, "runtimes.Bad Name"),
        ({"amqtt": {"argv": ["x"]}}, "runtimes.amqtt.argv"),
        ({"mosquitto": {"secrets_root": "relative"}}, "runtimes.mosquitto.secrets_root"),
        ({"crossbar": {"static_root": "/a/../b"}}, "runtimes.crossbar.static_root"),
        ({"crossbar": {"program": ""}}, "runtimes.crossbar.program"),
        ({"x": {"argv": ["x"], "transport_schema": "/dev/zero"}}, "runtimes.x.transport_schema"),
        ({"x": {"argv": ["x"], "transport_schema": "/"}}, "runtimes.x.transport_schema"),
    ],
)
def test_errors_in_tables(config: dict[str, Any], where: str) -> None:
    with pytest.raises(RuntimesError) as caught:
        load_runtimes(config, environ={})
    assert caught.value.where == where
