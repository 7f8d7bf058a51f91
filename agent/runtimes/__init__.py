"""Runtimes: the kinds of program that workers run. Configuration in, argument list and readiness out."""

from .base import (
    AllProbes,
    HttpProbe,
    Launch,
    LogProbe,
    MqttProbe,
    Probe,
    Runtime,
    RuntimeConfigError,
    TcpProbe,
    Transport,
    WorkerSpec,
)
from .config import RuntimesError, load_runtimes
from .programs import prepare

__all__ = [
    "AllProbes",
    "HttpProbe",
    "Launch",
    "LogProbe",
    "MqttProbe",
    "Probe",
    "Runtime",
    "RuntimeConfigError",
    "RuntimesError",
    "TcpProbe",
    "Transport",
    "WorkerSpec",
    "load_runtimes",
    "prepare",
]
