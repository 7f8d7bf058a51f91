"""Runtimes: the kinds of program that workers run. Renders configuration to a launch spec."""

from .base import (
    AllProbes,
    HttpProbe,
    LaunchSpec,
    ListenerSpec,
    LogProbe,
    MqttProbe,
    Ports,
    Probe,
    Runtime,
    RuntimeConfigError,
    TcpProbe,
    Transport,
    WorkerSpec,
)
from .config import RuntimesError, load_runtimes
from .programs import prepare, rewrite_peers

__all__ = [
    "AllProbes",
    "HttpProbe",
    "LaunchSpec",
    "ListenerSpec",
    "LogProbe",
    "MqttProbe",
    "Ports",
    "Probe",
    "Runtime",
    "RuntimeConfigError",
    "RuntimesError",
    "TcpProbe",
    "Transport",
    "WorkerSpec",
    "load_runtimes",
    "prepare",
    "rewrite_peers",
]
