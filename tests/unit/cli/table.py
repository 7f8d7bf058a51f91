"""Every command with arguments that let it run: what must hold for all of them goes through this table."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from busbar.cli import app, lazy

from .realm import OID, leaves

FILE: Final = str(Path(__file__).with_name("definitions.yaml"))
CALLS: Final[dict[str, tuple[str, ...]]] = {
    "status": (),
    "why": ("edge/web-3",),
    "check": (),
    "cluster create": ("edge", "--port", "24000"),
    "cluster list": (),
    "cluster show": ("edge",),
    "cluster update": ("edge", "--port", "24001"),
    "cluster start": ("edge", "--wait"),
    "cluster stop": ("edge",),
    "cluster delete": ("edge",),
    "cluster stat": ("edge",),
    "cluster nodes": ("edge",),
    "cluster add-node": ("edge", "n1"),
    "cluster remove-node": ("edge", "n1"),
    "group add": ("edge/web",),
    "group list": (),
    "group show": ("edge/web",),
    "group scale": ("edge/web", "3", "--wait"),
    "group update": ("edge/web", "--runtime", "amqtt"),
    "group remove": ("edge/web",),
    "group start": ("edge/web",),
    "group stop": ("edge/web",),
    "group restart": ("edge/web",),
    "group stat": ("edge/web",),
    "endpoints": ("edge/web",),
    "node list": (),
    "node show": ("n1",),
    "node pair": ("n1",),
    "node drain": ("n1",),
    "node undrain": ("n1",),
    "node cordon": ("n1",),
    "node uncordon": ("n1",),
    "node label": ("n1", "zone=a", "rack-"),
    "node unpair": ("n1",),
    "node forget": ("n1",),
    "worker list": (),
    "worker show": (OID,),
    "worker restart": (OID,),
    "worker logs": (OID,),
    "logs": (OID,),
    "event list": ("--type", "worker", "--object", "edge/web-1", "--since", "5m"),
    "top": (),
    "wait cluster": ("edge",),
    "wait group": ("edge/edge",),
    "wait worker": (OID,),
    "wait node": ("edge",),
    "event watch": ("--count", "1", "--since", "1"),
    "principal list": (),
    "principal add": ("p1", "viewer"),
    "principal role": ("p1", "viewer"),
    "principal remove": ("p1",),
    "principal transfer": ("p1", "--from", "p2"),
    "audit": ("--who", "alice", "--op", "add_principal", "--since", "1h"),
    "history cluster": ("edge",),
    "rollback cluster": ("edge", "--to", "1"),
    "export": (),
    "diff": ("-f", FILE),
    "apply": ("-f", FILE),
    "rebalance": ("edge/edge", "--yes"),
    "call": ("get_manager",),
    "manager show": (),
}
"""The commands that ask the manager."""
VERDICTS: Final = {"check": 2}
"""Commands whose exit code is their answer: that for the realm of `a_realm`, which is all problems."""

LOCAL: Final[dict[str, tuple[str, ...]]] = {
    "context add": ("lab", "--broker", "mqtt://127.0.0.1:1883"),
    "context list": (),
    "context show": (),
    "context use": ("lab",),
    "context remove": ("lab",),
    "context unset": (),
    "context rename": ("lab", "lab2"),
    "context test": ("lab",),
    "doctor": (),
    "acl": ("--broker", "mosquitto"),
    "import": ("no-such-file",),
    "validate": ("-f", "no-such-file"),
    "schema file": (),
    "schema example": (),
    "schema transport": ("--runtime", "mosquitto"),
    "broker add-account": ("p9", "person"),
    "principal password": ("p1",),
    "broker limits": (),
    "broker remove-account": ("p9",),
    "manager check": (),
    "agent join": ("no-such-file",),
    "join": ("bb1-none@127.0.0.1:1",),
    "install manager": ("--print",),
    "install agent": ("--node", "n1", "--print"),
    "install broker": ("--print",),
    "agent reset": ("--node", "n1"),
    "backup": ("copy.db",),
    "restore": ("copy.db",),
    "manager take-over": (),
    "node token": ("n1",),
    "node join": ("n1", "--token", "no-such-file"),
}
"""The commands of this machine's files alone, and those that need an embedded broker."""

NOT_RUN: Final = frozenset({"up", "manager", "agent", "broker", "web"})
"""Services: they run until they are stopped."""


def all_commands() -> dict[str, Any]:
    """Every command that there is."""
    app.command()
    found = dict(leaf for name in lazy.COMMANDS for leaf in leaves(lazy.load(name, lazy.LazyGroup), name))
    return {path: command for path, command in found.items() if path not in NOT_RUN}
