"""The files that decide, with the unit tests that hold each."""

from __future__ import annotations

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent.parent
_MANAGER: Final = "tests/unit/manager"
_PLANNER: Final = f"{_MANAGER}/planner"
_AGENT: Final = "tests/unit/agent/planner"
AREAS: Final[dict[str, tuple[str, ...]]] = {
    "agent/planner/lifecycle.py": (f"{_AGENT}/test_lifecycle.py", f"{_AGENT}/test_plan.py", _AGENT),
    "agent/planner/plan.py": (f"{_AGENT}/test_plan.py", _AGENT),
    "agent/planner/restart.py": (f"{_AGENT}/test_restart.py", _AGENT),
    "agent/routers/amqtt_acl.py": ("tests/unit/agent/test_amqtt_acl.py",),
    "bus/states.py": ("tests/unit/bus/test_states.py",),
    "manager/api/requests.py": (f"{_MANAGER}/api",),
    "manager/control/apply.py": (f"{_MANAGER}/control",),
    "manager/ingest/node_session.py": (f"{_MANAGER}/ingest/test_node_session.py",),
    "manager/ingest/report_diff.py": (f"{_MANAGER}/ingest/test_report_diff.py",),
    "manager/leader/fencing.py": (f"{_MANAGER}/leader",),
    "manager/planner/admission.py": (f"{_PLANNER}/test_admission.py", f"{_PLANNER}/test_placement.py"),
    "manager/planner/draining.py": (f"{_PLANNER}/test_draining.py", f"{_PLANNER}/test_plan.py"),
    "manager/planner/liveness.py": (f"{_PLANNER}/test_liveness.py", f"{_PLANNER}/test_plan.py"),
    "manager/planner/placement.py": (f"{_PLANNER}/test_placement.py", f"{_PLANNER}/test_plan.py"),
    "manager/planner/rolling.py": (f"{_PLANNER}/test_rolling.py", f"{_PLANNER}/test_status.py"),
    "manager/planner/scaling.py": (
        f"{_PLANNER}/test_plan.py",
        f"{_PLANNER}/test_rolling.py",
        f"{_PLANNER}/test_draining.py",
    ),
    "manager/rate_limit.py": (f"{_MANAGER}/test_rate_limit.py",),
}
"""By file; its tests in the order in which they are tried."""
EQUIVALENT: Final = Path(__file__).with_name("equivalent.txt")
"""`file: fault` a line, each below the reason why it changes nothing that matters."""


def equivalents() -> set[tuple[str, str]]:
    """The faults that change nothing: (file, name of the mutant)."""
    lines = (line for line in EQUIVALENT.read_text().splitlines() if line and not line.startswith("#"))
    return {(file, name) for file, _, name in (line.partition(": ") for line in lines)}
